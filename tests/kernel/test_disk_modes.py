"""Disks that stay out of snapshots, and disks that are after every run what they were before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.errors import NotSupportedError, PowerStateError, StateError
from casemate.machine.facts import PowerState

from .vmbench import COUNTING_SECTOR, MIB, Host, disk, make, printed

pytestmark = pytest.mark.host
FORGETS = "independent_nonpersistent"
INDEPENDENT = "independent_persistent"


async def counted(host: Host, vm: str, number: int) -> None:
    """Run the guest once: it adds one to a byte of its disk and prints that."""
    host.cells.console_log(vm).unlink(missing_ok=True)
    await host.ask(m.PowerOn("", vm))
    await printed(host, vm, b"%d\n" % number)


async def moded(host: Host, vm: str, mode: str) -> None:
    before = host.vm(vm).config
    disks = tuple(replace(one, mode=mode) for one in before.disks)
    await host.ask(c.ReconfigureVm("", vm, before, replace(before, disks=disks)))


def test_a_nonpersistent_disk_forgets_every_run_and_leaves_no_file(on):
    async def body(host: Host) -> None:
        vm = await make(host, code=COUNTING_SECTOR)
        await counted(host, vm, 1)
        with pytest.raises(PowerStateError):
            await moded(host, vm, FORGETS)
        await host.ask(m.PowerOff("", vm))
        await moded(host, vm, FORGETS)
        files = host.files("one")
        for _ in range(2):
            await counted(host, vm, 2)
            assert host.files("one") == files
            before = host.vm(vm).config
            after = replace(before, disks=(replace(before.disks[0], capacity=16 * MIB),))
            with pytest.raises(PowerStateError):
                await host.ask(c.ReconfigureVm("", vm, before, after))
            await host.ask(m.PowerOff("", vm))
        await moded(host, vm, "persistent")
        await counted(host, vm, 2)
        await host.ask(m.PowerOff("", vm))
        await counted(host, vm, 3)

    on(body)


def test_a_suspended_vm_keeps_what_a_nonpersistent_disk_was_written_until_its_power_off(on):
    async def body(host: Host) -> None:
        vm = await make(host, code=COUNTING_SECTOR, disks=(disk(mode=FORGETS),))
        files = host.files("one")
        await counted(host, vm, 1)
        await host.ask(c.SuspendVm("", vm))
        redo = [name for name in host.files("one") if name.endswith(".REDO")]
        assert len(redo) == 1
        host.cells.console_log(vm).unlink(missing_ok=True)
        await host.ask(m.PowerOn("", vm))
        assert host.files("one") == files
        # A reset reads the disk again: it goes on with what was written before the sleep.
        await host.cells.reset(vm)
        await printed(host, vm, b"2\n")
        await host.ask(c.SuspendVm("", vm))
        await host.ask(m.PowerOff("", vm))
        assert host.files("one") == files
        await counted(host, vm, 1)
        await host.ask(c.SuspendVm("", vm))
        await host.ask(c.DestroyVm("", vm))
        assert list(host.datastore.iterdir()) == []

    on(body)


def test_an_independent_disk_is_in_no_snapshot_and_keeps_what_is_written_through_a_revert(on):
    async def body(host: Host) -> None:
        vm = await make(host, code=COUNTING_SECTOR, disks=(disk(mode=INDEPENDENT),))
        await host.ask(c.CreateSnapshot("", vm, "empty"))
        assert host.vm(vm).snapshots[0].disks == ()
        with pytest.raises(StateError, match="snapshots"):
            await moded(host, vm, "persistent")
        await counted(host, vm, 1)
        with pytest.raises(NotSupportedError):
            await host.ask(c.CreateSnapshot("", vm, "memory", memory=True))
        await host.ask(c.CreateSnapshot("", vm, "running"))
        await host.ask(c.RevertToSnapshot("", vm))
        assert host.vm(vm).power is PowerState.POWERED_OFF
        assert host.vm(vm).config.disks[0].mode == INDEPENDENT
        await counted(host, vm, 2)

    on(body)
