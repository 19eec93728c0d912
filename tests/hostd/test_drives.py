"""Drives over SOAP: CDs without a disc, filled, emptied, removed; disks with a limit."""

from __future__ import annotations

import asyncio
import re

from casemate.machine.facts import DriveSpec
from casemate.vim25.values import MoRef

VM = MoRef("VirtualMachine", "1")
ISO = '<backing xsi:type="VirtualCdromIsoBackingInfo"><fileName>{}</fileName></backing>'
REMOTE = (
    '<backing xsi:type="VirtualCdromRemotePassthroughBackingInfo">'
    "<deviceName>cdrom</deviceName><useAutoDetect>false</useAutoDetect>"
    "<exclusive>false</exclusive></backing>"
)
STATE = (
    "<connectable><startConnected>{0}</startConnected><allowGuestControl>true</allowGuestControl>"
    "<connected>{0}</connected></connectable>"
)


def spec(operation: str, key: int, inner: str) -> str:
    return (
        f"<spec><deviceChange><operation>{operation}</operation>"
        f'<device xsi:type="VirtualCdrom"><key>{key}</key>{inner}</device></deviceChange></spec>'
    )


def test_a_drive_is_made_filled_emptied_and_removed(play) -> None:
    async def story(host) -> None:
        async def change(operation: str, key: int, inner: str) -> None:
            body = spec(operation, key, inner)
            reply = await host.root.call("ReconfigVM_Task", VM, body)
            (task,) = re.findall(r'<returnval type="Task">([^<]*)<', reply.text)
            # When the task's end can be read, so can what it did.
            for _ in range(10_000):
                shown = await host.root.call("Fetch", MoRef("Task", task), "<prop>info</prop>")
                if "<state>success</state>" in shown.text:
                    return
                await asyncio.sleep(0.01)
            raise AssertionError(shown.text)

        place = "<controllerKey>201</controllerKey><unitNumber>0</unitNumber>"
        await change("add", -1, REMOTE + STATE.format("false") + place)
        assert host.kernel.vm("1").config.drives == (DriveSpec("ide1", 0),)
        config = (await host.root.call("Fetch", VM, "<prop>config</prop>")).text
        assert "<summary>No disc</summary>" in config
        key = 3002
        assert f"<key>{key}</key>" in config
        await change("edit", key, ISO.format("[datastore1] vm1/seed.iso") + STATE.format("true"))
        held = host.kernel.vm("1").config
        assert held.drives == ()
        assert (held.disks[-1].file_name, held.disks[-1].controller) == ("seed.iso", "ide1")
        await change("edit", key, ISO.format("[datastore1] vm1/seed.iso") + STATE.format("false"))
        assert host.kernel.vm("1").config.drives == (DriveSpec("ide1", 0),)
        await change("remove", key, "")
        assert host.kernel.vm("1").config.drives == ()
        for wrong in (2000, 4000, 77):
            reply = await host.root.call("ReconfigVM_Task", VM, spec("edit", wrong, REMOTE))
            assert reply.fault == "InvalidArgument"

    play(story)


def limit(value: int, shares: str = "normal", count: int = 1000) -> str:
    return (
        '<spec><deviceChange><operation>edit</operation><device xsi:type="VirtualDisk">'
        "<key>2000</key><controllerKey>1000</controllerKey><unitNumber>0</unitNumber>"
        "<capacityInKB>4194304</capacityInKB>"
        f"<storageIOAllocation><limit>{value}</limit><shares><shares>{count}</shares>"
        f"<level>{shares}</level></shares></storageIOAllocation>"
        "</device></deviceChange></spec>"
    )


def test_a_disk_has_a_limit_of_requests_a_second_and_shares(play) -> None:
    async def story(host) -> None:
        for value in (500, -1):
            reply = await host.root.call("ReconfigVM_Task", VM, limit(value))
            assert reply.status == 200, reply.text
            await host.until(lambda value=value: host.kernel.vm("1").config.disks[0].iops == value)
            for _ in range(10_000):
                config = (await host.root.call("Fetch", VM, "<prop>config</prop>")).text
                if f"<storageIOAllocation><limit>{value}</limit>" in config:
                    break
                await asyncio.sleep(0.01)
            else:
                raise AssertionError(config)
        for level, count, held in (("high", 0, 2000), ("custom", 700, 700), ("normal", 7, 1000)):
            reply = await host.root.call("ReconfigVM_Task", VM, limit(-1, level, count))
            assert reply.status == 200, reply.text
            await host.until(lambda held=held: host.kernel.vm("1").config.disks[0].shares == held)
            for _ in range(10_000):
                config = (await host.root.call("Fetch", VM, "<prop>config</prop>")).text
                if f"<shares>{held}</shares><level>{level}</level>" in config:
                    break
                await asyncio.sleep(0.01)
            else:
                raise AssertionError(config)
        for wrong in (limit(15), limit(-1, "custom", 0), limit(-1, "custom", 2_000_000)):
            assert (await host.root.call("ReconfigVM_Task", VM, wrong)).fault == "InvalidArgument"
        denied = await host.reader.call("ReconfigVM_Task", VM, limit(100))
        assert denied.fault == "NoPermission"

    play(story)
