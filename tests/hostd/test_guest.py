"""What guests say of themselves, over SOAP."""

from __future__ import annotations

from dataclasses import replace

from casemate.machine.facts import GuestFacts, GuestInterface, PowerState
from casemate.testing.fakefacts import fake_vm
from casemate.testing.fakekernel import FakeKernel
from casemate.vim25.values import MoRef

VM = MoRef("VirtualMachine", "1")
INDEX = MoRef("SearchIndex", "ha-searchindex")
EVIL = "<b>&amp;"


def kernel() -> FakeKernel:
    made = FakeKernel()
    vm = fake_vm(1)
    addresses = ("fe80::9/64", "2001:db8::9/64", "192.0.2.9/24")
    guest = GuestFacts(True, EVIL, (GuestInterface(vm.config.nics[0].mac, addresses),))
    made.state(replace(vm, power=PowerState.POWERED_ON, guest=guest))
    return made


def test_names_and_addresses_are_shown_as_text_and_found(play) -> None:
    async def story(host) -> None:
        guest = (await host.root.call("Fetch", VM, "<prop>guest</prop>")).text
        assert "<hostName>&lt;b&gt;&amp;amp;</hostName>" in guest
        assert "<ipAddress>192.0.2.9</ipAddress><net>" in guest.replace("\n", "")
        assert "<toolsRunningStatus>guestToolsRunning</toolsRunningStatus>" in guest
        assert "<deviceConfigId>4000</deviceConfigId>" in guest
        assert "<prefixLength>64</prefixLength>" in guest
        summary = (await host.root.call("Fetch", VM, "<prop>summary</prop>")).text
        assert "<guestHeartbeatStatus>green</guestHeartbeatStatus>" in summary
        for kind, given in (("ip", "2001:db8::9"), ("dnsName", "&lt;B&gt;&amp;amp;")):
            method = {"ip": "FindByIp", "dnsName": "FindByDnsName"}[kind]
            inner = f"<{kind}>{given}</{kind}><vmSearch>true</vmSearch>"
            for name in (method, method.replace("Find", "FindAll")):
                found = (await host.root.call(name, INDEX, inner)).text
                assert found.count('type="VirtualMachine"') == 1, name
        none = await host.root.call(
            "FindByIp", INDEX, "<ip>192.0.2.1</ip><vmSearch>true</vmSearch>"
        )
        assert "returnval" not in none.text
        assert (await host.root.call("RebootGuest", VM)).status == 200
        assert (await host.reader.call("RebootGuest", VM)).fault == "NoPermission"

    play(story, kernel())


def test_without_an_agent_nothing_is_known_and_reboot_is_refused(play) -> None:
    async def story(host) -> None:
        assert (await host.root.call("RebootGuest", VM)).fault == "InvalidPowerState"
        host.kernel.state(replace(fake_vm(1), power=PowerState.POWERED_ON))
        await host.until(lambda: host.kernel.vm("1").power is PowerState.POWERED_ON)
        assert (await host.root.call("RebootGuest", VM)).fault == "ToolsUnavailable"
        guest = (await host.root.call("Fetch", VM, "<prop>guest</prop>")).text
        assert "hostName" not in guest
        assert "guestToolsNotRunning" in guest

    play(story)
