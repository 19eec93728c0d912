"""The host's software, certificate and power over the API."""

from __future__ import annotations

import re
from collections.abc import Callable

from casemate.calls import certificates
from casemate.calls import software as s
from casemate.calls.console import EndHost
from casemate.calls.messages import Empty
from casemate.testing.fakekernel import FakeKernel
from casemate.vim25.values import MoRef

HOST = MoRef("HostSystem", "ha-host")
IMAGE = MoRef("HostImageConfigManager", "ha-image-config-manager")
PATCH = MoRef("HostPatchManager", "ha-host-patch-manager")
CERTIFICATES = MoRef("HostCertificateManager", "ha-certificate-manager")
CHANGED = s.ChangeReply("done <&>", ("a_b_1",), (), (), reboot_required=True)


def kernel() -> FakeKernel:
    made = FakeKernel()
    made.answer(EndHost, lambda _: Empty())
    made.answer(s.AcceptanceSet, lambda request: s.LevelReply(request.level))
    made.answer(s.SoftwareChange, lambda _: CHANGED)
    made.answer(certificates.SigningRequest, lambda _: certificates.PemReply("pem"))
    made.answer(certificates.InstallCertificate, lambda _: Empty())
    return made


def told(host, kind: type) -> list:
    return [one for one in host.kernel.asked if type(one) is kind]


def test_the_machine_ends_in_maintenance_or_by_force_only(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        refused = await host.root.call("RebootHost_Task", HOST, "<force>false</force>")
        assert refused.fault == "InvalidState"
        assert not told(host, EndHost)
        reply = await host.root.call("RebootHost_Task", HOST, "<force>true</force>")
        assert reply.status == 200
        await host.root.call("ShutdownHost_Task", HOST, "<force>true</force>")
        assert [one.restart for one in told(host, EndHost)] == [True, False]

    play(story, kernel())


def test_the_acceptance_level_is_set_by_the_api_s_own_names(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        name = "newAcceptanceLevel"
        for level in ("partner", "vmware_certified"):
            text = f"<{name}>{level}</{name}>"
            reply = await host.root.call("UpdateHostImageAcceptanceLevel", IMAGE, text)
            assert reply.status == 200
        assert [one.level for one in told(host, s.AcceptanceSet)] == [
            "PartnerSupported",
            "VMwareCertified",
        ]
        wrong = f"<{name}>PartnerSupported</{name}>"
        reply = await host.root.call("UpdateHostImageAcceptanceLevel", IMAGE, wrong)
        assert reply.fault == "InvalidArgument"

    play(story, kernel())


def test_packages_come_from_datastores_and_from_nowhere_else(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        good = "<vibUrls>/vmfs/volumes/datastore1/a.vib</vibUrls>"
        reply = await host.root.call("InstallHostPatchV2_Task", PATCH, good)
        task = MoRef("Task", re.search(r'type="Task"[^>]*>([^<]+)<', reply.text)[1])
        info = await host.root.call("Fetch", task, "<prop>info</prop>")
        assert "<state>success" in info.text
        assert "a_b_1" in info.text
        (change,) = told(host, s.SoftwareChange)
        assert (change.action, change.vibs) == ("install", ("[datastore1] a.vib",))
        assert not change.dry_run
        for bad in ("http://192.0.2.1/a.vib", "/etc/a.vib", "/vmfs/volumes/datastore1/../a.vib"):
            text = f"<vibUrls>{bad}</vibUrls>"
            refused = await host.root.call("InstallHostPatchV2_Task", PATCH, text)
            assert refused.fault == "InvalidDatastorePath"
        assert len(told(host, s.SoftwareChange)) == 1

    play(story, kernel())


def test_a_certificate_is_asked_for_and_put_in(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        use = "<useIpAddressAsCommonName>false</useIpAddressAsCommonName>"
        reply = await host.root.call("GenerateCertificateSigningRequest", CERTIFICATES, use)
        assert ">pem<" in reply.text
        reply = await host.root.call("InstallServerCertificate", CERTIFICATES, "<cert>x</cert>")
        assert reply.status == 200
        assert [one.pem for one in told(host, certificates.InstallCertificate)] == ["x"]

    play(story, kernel())


def test_modules_and_their_options_are_seen_and_set_over_the_api(play: Callable[..., None]) -> None:
    modules = MoRef("HostKernelModuleSystem", "kernelModuleSystem")

    async def story(host) -> None:
        reply = await host.root.call("QueryModules", modules, "")
        assert reply.status == 200
        names = set(re.findall(r"<name>([^<]*)</name>", reply.text))
        booted = {one.file_name.partition(".")[0] for one in host.kernel.proof.components}
        assert names == {"acme_net"} | booted
        assert "<optionString>debug=1</optionString>" in reply.text
        name = "<name>acme_net</name>"
        options = f"{name}<options>debug=2  rings=4</options>"
        assert (await host.root.call("UpdateModuleOptionString", modules, options)).status == 200
        reply = await host.root.call("QueryConfiguredModuleOptionString", modules, name)
        assert "debug=2 rings=4" in reply.text
        unknown = "<name>none</name>"
        reply = await host.root.call("QueryConfiguredModuleOptionString", modules, unknown)
        assert reply.fault == "NotFound"
        unknown += "<options>a=1</options>"
        reply = await host.root.call("UpdateModuleOptionString", modules, unknown)
        assert reply.fault == "NotFound"

    play(story)
