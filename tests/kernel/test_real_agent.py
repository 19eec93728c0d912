"""Debian's own guest agent: what it tells, quiesced snapshots, sleep, shutdown and reboot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.errors import ToolsError
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.machine.facts import PowerState
from casemate.machine.power import Operation

from .realguest import write_ext4, write_guest
from .vmbench import MIB, Host, RefusedTaskError, disk, make, printed

pytestmark = [pytest.mark.host, pytest.mark.guest]


async def until(true: Callable[[], bool], seconds: float = 200.0) -> None:
    for _ in range(int(seconds / 0.1)):
        if true():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it did not happen in time")


async def told(host: Host, request: object) -> None:
    await host.handlers[type(request)](request, LOCAL_ROOT)


async def heard(host: Host, vm: str) -> None:
    """Wait until the agent answers."""
    for _ in range(2000):
        await host.guests.look()
        if host.vm(vm).guest.agent:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"no agent: {host.console(vm)[-500:]!r}")


def test_a_guest_with_debians_agent_tells_keeps_still_sleeps_and_starts_anew(on):
    async def body(host: Host) -> None:
        root = disk(64 * MIB, controller="virtio0")
        vm = await make(host, memory_mib=256, disks=(root,), code=b"")
        place = host.datastore / "one"
        write_ext4(place / "one-flat.vmdk")
        before = host.vm(vm).config
        after = replace(before, extra=(*before.extra, *write_guest(place)))
        await host.ask(c.ReconfigureVm("", vm, before, after))
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm, b"guest is up")
        await heard(host, vm)
        assert host.vm(vm).guest.host_name == "real"
        # A snapshot for which the guest keeps still says so; the guest then goes on.
        assert await host.ask(c.CreateSnapshot("", vm, "still", quiesce=True)) == "1"
        assert host.vm(vm).snapshots[0].quiesced
        await printed(host, vm, b"hook thaw")
        said = host.console(vm)
        assert 0 < said.find(b"hook freeze") < said.find(b"hook thaw")
        await heard(host, vm)
        # Asleep until a reset, which wakes it up.
        qmp = await host.cells.control(vm, Operation.RESET)
        await told(host, c.StandbyGuest("", vm))
        for _ in range(2000):
            if await qmp.status() == "suspended":
                break
            await asyncio.sleep(0.1)
        assert await qmp.status() == "suspended"
        ups = host.console(vm).count(b"guest is up")
        await host.cells.reset(vm)
        assert await qmp.status() == "running"
        await heard(host, vm)
        assert host.console(vm).count(b"guest is up") == ups
        await told(host, c.RebootGuest("", vm))
        await until(lambda: host.console(vm).count(b"guest is up") > ups)
        await heard(host, vm)
        await told(host, m.ShutdownGuest("", vm))
        await until(lambda: host.vm(vm).power is PowerState.POWERED_OFF)
        await host.ask(c.RemoveSnapshot("", vm, 0))

    on(body)


def test_without_an_agent_a_guest_neither_keeps_still_nor_sleeps_and_nothing_stays(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        files, config = host.files("one"), host.vm(vm).config
        with pytest.raises(RefusedTaskError) as raised:
            await host.ask(c.CreateSnapshot("", vm, "still", quiesce=True))
        assert raised.value.fault.fault == "ToolsUnavailable"
        assert (host.files("one"), host.vm(vm).config) == (files, config)
        with pytest.raises(ToolsError):
            await told(host, c.StandbyGuest("", vm))
        assert await host.cells.status(vm) == "running"
        # Off, there is nothing that would have to keep still.
        await host.ask(m.PowerOff("", vm))
        assert await host.ask(c.CreateSnapshot("", vm, "off", quiesce=True)) == "1"
        assert not host.vm(vm).snapshots[0].quiesced

    on(body)
