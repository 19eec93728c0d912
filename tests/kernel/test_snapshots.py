"""Snapshots bring back what was, lose nothing that is needed, and leave no delta behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.errors import ArgumentError, NotFoundError, PowerStateError
from casemate.formats import qcow2
from casemate.machine.facts import PowerState

from .vmbench import COUNTING_SECTOR, Host, RefusedTaskError, disk, make, printed

pytestmark = pytest.mark.host
PLAIN = ["one-flat.vmdk", "one.vmdk", "one.vmsd", "one.vmx"]


async def boot(host: Host, vm: str, digit: int) -> None:
    """Power on, see the guest count to ``digit``, and power off."""
    host.cells.console_log(vm).unlink(missing_ok=True)
    await host.ask(m.PowerOn("", vm))
    await printed(host, vm, b"%d\n" % digit)
    await host.ask(m.PowerOff("", vm))


async def take(host: Host, vm: str, name: str, *, memory: bool = False) -> int:
    return int(await host.ask(c.CreateSnapshot("", vm, name, "why", memory=memory)))


def test_going_back_and_forth_between_snapshots_of_a_vm_that_is_off(on):
    async def body(host: Host) -> None:
        vm = await make(host, code=COUNTING_SECTOR)
        await boot(host, vm, 1)
        first = await take(host, vm, "first")
        await boot(host, vm, 2)
        second = await take(host, vm, "second")
        await boot(host, vm, 3)
        fact = host.vm(vm)
        assert [(s.number, s.parent, s.name) for s in fact.snapshots] == [
            (first, 0, "first"),
            (second, first, "second"),
        ]
        assert fact.current_snapshot == second
        await host.ask(c.RevertToSnapshot("", vm, first))
        await boot(host, vm, 2)
        assert host.vm(vm).current_snapshot == first
        await host.ask(c.RevertToSnapshot("", vm, second))
        await boot(host, vm, 3)
        await host.ask(c.RemoveSnapshot("", vm, 0))
        assert host.vm(vm).snapshots == ()
        assert host.files("one") == PLAIN
        await boot(host, vm, 4)

    on(body)


def test_a_snapshot_in_the_middle_is_merged_and_both_sides_keep_their_content(on):
    async def body(host: Host) -> None:
        vm = await make(host, code=COUNTING_SECTOR)
        first = await take(host, vm, "first")
        await boot(host, vm, 1)
        second = await take(host, vm, "second")
        await boot(host, vm, 2)
        third = await take(host, vm, "third")
        await boot(host, vm, 3)
        await host.ask(c.RemoveSnapshot("", vm, second))
        assert [(s.number, s.parent) for s in host.vm(vm).snapshots] == [(1, 0), (3, 1)]
        await boot(host, vm, 4)
        await host.ask(c.RevertToSnapshot("", vm, third))
        await boot(host, vm, 3)
        await host.ask(c.RevertToSnapshot("", vm, first))
        await boot(host, vm, 1)
        await host.ask(c.RemoveSnapshot("", vm, first, children=True))
        assert host.files("one") == PLAIN
        await boot(host, vm, 2)

    on(body)


def test_a_running_guest_goes_on_through_snapshots_and_their_removal(on):
    async def body(host: Host) -> None:
        vm = await make(host, code=COUNTING_SECTOR)
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm, b"1\n")
        first = await take(host, vm, "first")
        await host.cells.reset(vm)
        await printed(host, vm, b"2\n")
        second = await take(host, vm, "second")
        await host.cells.reset(vm)
        await printed(host, vm, b"3\n")
        assert host.vm(vm).config.disks[0].file_name == "one-000002.vmdk"
        await host.ask(c.RemoveSnapshot("", vm, second))
        assert host.vm(vm).config.disks[0].file_name == "one-000001.vmdk"
        await host.cells.reset(vm)
        await printed(host, vm, b"4\n")
        await host.ask(c.RemoveSnapshot("", vm, first))
        assert host.files("one") == PLAIN
        await host.cells.reset(vm)
        await printed(host, vm, b"5\n")
        await host.ask(m.PowerOff("", vm))
        assert (host.datastore / "one/one-flat.vmdk").read_bytes()[512] == 5

    on(body)


def test_a_snapshot_with_memory_wakes_up_as_it_was(on):
    async def body(host: Host) -> None:
        vm = await make(host, code=COUNTING_SECTOR)
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm, b"1\n")
        first = await take(host, vm, "first", memory=True)
        assert await host.cells.status(vm) == "running"
        await host.cells.reset(vm)
        await printed(host, vm, b"2\n")
        lines = host.console(vm)
        await host.ask(c.RevertToSnapshot("", vm, first))
        assert host.vm(vm).power is PowerState.POWERED_ON
        assert await host.cells.status(vm) == "running"
        assert host.console(vm) == lines
        await host.cells.reset(vm)
        await printed(host, vm, lines + b"2\n")
        await host.ask(m.PowerOff("", vm))
        await host.ask(c.RemoveSnapshot("", vm, first))
        assert host.files("one") == PLAIN

    on(body)


def test_what_is_written_after_a_snapshot_never_reaches_the_frozen_disk(on):
    async def body(host: Host) -> None:
        vm = await make(host, code=COUNTING_SECTOR)
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm, b"1\n")
        await take(host, vm, "first")
        frozen = (host.datastore / "one/one-flat.vmdk").read_bytes()
        await host.cells.reset(vm)
        await printed(host, vm, b"2\n")
        await host.ask(m.PowerOff("", vm))
        assert (host.datastore / "one/one-flat.vmdk").read_bytes() == frozen

    on(body)


def test_snapshots_that_are_not_there_and_states_that_do_not_fit_are_refused(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        with pytest.raises(NotFoundError):
            await host.ask(c.RevertToSnapshot("", vm))
        with pytest.raises(NotFoundError):
            await host.ask(c.RemoveSnapshot("", vm, 7))
        with pytest.raises(ArgumentError):
            await take(host, vm, "")
        await take(host, vm, "first")
        await host.ask(c.RenameSnapshot("", vm, 1, "other", "words\nwords"))
        assert host.vm(vm).snapshots[0].description == "words\nwords"
        await host.ask(m.PowerOn("", vm))
        await host.ask(c.SuspendVm("", vm))
        with pytest.raises(PowerStateError):
            await host.ask(c.RemoveSnapshot("", vm, 1))
        with pytest.raises(PowerStateError):
            await take(host, vm, "second")
        await host.ask(c.RevertToSnapshot("", vm, 1))
        assert host.vm(vm).power is PowerState.POWERED_OFF
        await host.ask(c.DestroyVm("", vm))
        assert list(host.datastore.iterdir()) == []

    on(body)


@pytest.mark.parametrize("parent", ["../../casemate.db", "/etc/shadow", "one-000001.vmdk"])
def test_a_delta_that_names_a_parent_elsewhere_or_itself_does_not_run(on, parent):
    async def body(host: Host) -> None:
        vm = await make(host)
        await take(host, vm, "first")
        delta = host.datastore / "one/one-000001.vmdk"
        delta.write_text(delta.read_text().replace('"one.vmdk"', f'"{parent}"'))
        with pytest.raises(RefusedTaskError):
            await host.ask(m.PowerOn("", vm))
        assert host.cells.running() == ()

    on(body)


def test_a_delta_whose_file_was_made_to_name_a_backing_file_does_not_run(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        await take(host, vm, "first")
        delta = host.datastore / "one/one-000001-delta.qcow2"
        data = bytearray(delta.read_bytes())
        data[8:16] = (1024).to_bytes(8, "big")
        data[16:20] = (11).to_bytes(4, "big")
        data[1024:1035] = b"/etc/shadow"
        delta.write_bytes(data)
        with pytest.raises(RefusedTaskError, match="qcow2-backing"):
            await host.ask(m.PowerOn("", vm))

    on(body)


def test_a_clone_of_a_vm_with_snapshots_counts_from_where_it_was(on):
    async def body(host: Host) -> None:
        vm = await make(host, code=COUNTING_SECTOR)
        await boot(host, vm, 1)
        await take(host, vm, "first")
        await boot(host, vm, 2)
        copy = await host.ask(c.CloneVm("", vm, "two"))
        assert host.vm(copy).snapshots == ()
        await boot(host, copy, 3)
        await boot(host, vm, 3)

    on(body)


def test_a_disk_with_a_snapshot_does_not_grow(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        await take(host, vm, "first")
        before = host.vm(vm).config
        larger = replace(before, disks=(replace(before.disks[0], capacity=16 << 20),))
        with pytest.raises(RefusedTaskError, match="cannot be extended"):
            await host.ask(c.ReconfigureVm("", vm, before, larger))

    on(body)


def test_a_qcow2_disk_has_snapshots_too(on):
    async def body(host: Host) -> None:
        changes = {"disks": (disk(), disk(unit=1, format="qcow2", capacity=1 << 30))}
        vm = await make(host, code=COUNTING_SECTOR, **changes)
        await take(host, vm, "first")
        await boot(host, vm, 1)
        await host.ask(c.RemoveSnapshot("", vm, 1))
        assert host.files("one") == sorted([*PLAIN, "one.qcow2"])
        header = (host.datastore / "one/one.qcow2").read_bytes()[: qcow2.HEADER_SIZE]
        assert qcow2.capacity(header) == 1 << 30

    on(body)
