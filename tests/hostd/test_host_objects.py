"""What clients read of the host beside its VMs: devices, systems, who may do what."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import Callable
from dataclasses import replace

from casemate.machine.facts import PowerState
from casemate.testing.fakefacts import HARDWARE
from casemate.testing.fakefacts import HOST as FAKE_HOST
from casemate.vim25.values import MoRef

HOST = MoRef("HostSystem", "ha-host")
STORAGE = MoRef("HostStorageSystem", "storageSystem")
VM = MoRef("VirtualMachine", "1")


async def changed(host, ref: MoRef, name: str, wanted: str) -> str:
    """Return a property once it shows something."""
    for _ in range(10_000):
        reply = await host.root.call("Fetch", ref, f"<prop>{name}</prop>")
        if wanted in reply.text:
            return reply.text
        await asyncio.sleep(0.005)
    raise AssertionError(wanted)


def test_the_machines_devices_are_shown_and_follow_the_facts(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        async def read(ref: MoRef, name: str) -> str:
            return (await host.root.call("Fetch", ref, f"<prop>{name}</prop>")).text

        hardware = await read(HOST, "hardware")
        assert "<vendorId>-32634</vendorId>" in hardware
        assert "<bus>-128</bus>" in hardware
        assert "<biosVersion>1.0</biosVersion>" in hardware
        assert "<model>Fake 1</model>" in await read(HOST, "summary")
        disks = await read(STORAGE, "storageDeviceInfo")
        assert "<canonicalName>sda</canonicalName>" in disks
        assert "<device>vmhba0</device>" in disks
        fewer = replace(HARDWARE, disks=(), bios_version="2.0")
        host.kernel.state(fewer)
        await changed(host, HOST, "hardware", "<biosVersion>2.0</biosVersion>")
        assert "canonicalName" not in await read(STORAGE, "storageDeviceInfo")

    play(story)


def test_the_name_servers_that_the_machine_asks_are_shown(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        host.kernel.state(replace(FAKE_HOST, name_servers=("192.0.2.53", "192.0.2.54")))
        manager = MoRef("HostNetworkSystem", "networkSystem")
        shown = await changed(host, manager, "dnsConfig", "<address>192.0.2.54</address>")
        assert "<hostName>fake</hostName><domainName>example</domainName>" in shown

    play(story)


def test_every_manager_that_the_host_names_exists(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        content = await host.root.call("RetrieveServiceContent", MoRef(*["ServiceInstance"] * 2))
        managers = await host.root.call("Fetch", HOST, "<prop>configManager</prop>")
        found = re.findall(r'type="([A-Z]\w+)"[^>]*>([^<]+)<', content.text + managers.text)
        refs = {MoRef(kind, key) for kind, key in found}
        assert len(refs) > 40
        for ref in refs:
            reply = await host.root.call("Fetch", ref, "<prop>nothing</prop>")
            assert (ref, reply.fault) == (ref, "InvalidProperty")

    play(story)


def test_the_role_shown_is_the_askers_own(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        shown = {}
        for who, client in (("root", host.root), ("reader", host.reader)):
            reply = await client.call("Fetch", VM, "<prop>effectiveRole</prop>")
            shown[who] = reply.text
        assert ">-1</int>" in shown["root"]
        assert ">-2</int>" in shown["reader"]
        held = MoRef("Folder", "ha-folder-root")
        reply = await host.root.call("Fetch", held, "<prop>permission</prop>")
        assert "<principal>root</principal>" in reply.text

    play(story)


def test_methods_that_would_fail_now_are_named(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        off = await host.root.call("Fetch", VM, "<prop>disabledMethod</prop>")
        assert "PowerOffVM_Task" in off.text
        host.kernel.state(replace(host.kernel.vm("1"), power=PowerState.POWERED_ON))
        on = await changed(host, VM, "disabledMethod", "PowerOnVM_Task")
        assert "PowerOffVM_Task" not in on

    play(story)


def test_the_hardening_audit_is_read_like_a_log(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        diagnostics = MoRef("DiagnosticManager", "ha-diagnosticmgr")

        async def browse(more: str = "") -> str:
            said = f"<key>hardening</key>{more}"
            return (await host.root.call("BrowseDiagnosticLog", diagnostics, said)).text

        whole = await browse()
        assert json.loads(lines_of(whole)[0]) == {"score": 70}
        assert "<lineStart>1</lineStart><lineEnd>6</lineEnd>" in whole
        assert sorted(next(iter(json.loads(line))) for line in lines_of(whole)) == [
            *("component", "entropy", "finding", "platform", "process", "score")
        ]
        assert lines_of(await browse("<start>3</start><lines>1</lines>")) == lines_of(whole)[2:3]
        assert lines_of(await browse("<start>9</start>")) == []
        listed = await host.root.call("QueryDescriptions", diagnostics, "")
        assert "<key>hardening</key>" in listed.text

    play(story)


def lines_of(answer: str) -> list[str]:
    found = re.findall(r"<lineText>(.*?)</lineText>", answer)
    return [html.unescape(line) for line in found]


def test_a_rescan_finds_what_is_there_and_changes_nothing(play: Callable[..., None]) -> None:
    system = MoRef("HostStorageSystem", "storageSystem")

    async def story(host) -> None:
        devices = "<prop>storageDeviceInfo</prop>"
        before = await host.root.call("Fetch", system, devices)
        for name in ("RescanAllHba", "RescanVmfs", "RefreshStorageSystem"):
            assert (await host.root.call(name, system)).status == 200
            assert (await host.reader.call(name, system)).fault == "NoPermission"
        one = "<hbaDevice>{}</hbaDevice>"
        assert (await host.root.call("RescanHba", system, one.format("vmhba0"))).status == 200
        assert (await host.root.call("RescanHba", system, one.format("vmhba9"))).fault == "NotFound"
        assert (
            await host.root.call("Fetch", system, "<prop>storageDeviceInfo</prop>")
        ).text == before.text

    play(story)
