"""Cancelled tasks undo what they did and end in RequestCanceled."""

from __future__ import annotations

import pytest

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.machine.facts import PowerState

from .vmbench import COUNTING_SECTOR, Host, make, printed

pytestmark = pytest.mark.host


def test_a_cancelled_copy_export_and_import_leave_nothing(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        before = host.files("one")
        assert (await host.cancelled(c.CloneVm("", vm, "two"))).fault == "RequestCanceled"
        assert not (host.datastore / "two").exists()
        export = c.ExportVm("", vm, "[datastore1] one.ova")
        assert (await host.cancelled(export)).fault == "RequestCanceled"
        assert [entry.name for entry in host.datastore.iterdir()] == ["one"]
        await host.ask(export)
        fault = await host.cancelled(c.ImportVm("", "[datastore1] one.ova", "three"))
        assert fault.fault == "RequestCanceled"
        assert not (host.datastore / "three").exists()
        assert host.files("one") == before
        assert len(host.inventory.vms()) == 1

    on(body)


def test_after_a_cancelled_snapshot_or_suspend_the_guest_runs_on_as_before(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        before, disks = host.files("one"), host.vm(vm).config.disks
        for request in (c.CreateSnapshot("", vm, "now", memory=True), c.SuspendVm("", vm)):
            assert (await host.cancelled(request)).fault == "RequestCanceled"
            assert host.vm(vm).power is PowerState.POWERED_ON
            assert await host.cells.status(vm) == "running"
            assert host.files("one") == before
            assert (host.vm(vm).snapshots, host.vm(vm).config.disks) == ((), disks)
        assert await host.ask(c.CreateSnapshot("", vm, "now", memory=True)) == "1"

    on(body)


def test_a_cancelled_consolidation_keeps_the_guest_s_data_and_can_be_done_later(on):
    async def body(host: Host) -> None:
        vm = await make(host, code=COUNTING_SECTOR)
        await host.ask(c.CreateSnapshot("", vm, "first"))
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm, b"1\n")
        # The list of snapshots is lost: what is left of them can only be merged.
        (host.datastore / "one" / "one.vmsd").unlink()
        host.inventory.reread(vm)
        fault = await host.cancelled(c.ConsolidateDisks("", vm))
        assert fault.fault == "RequestCanceled"
        assert "one-000001.vmdk" in host.files("one")
        await host.cells.reset(vm)
        await printed(host, vm, b"2\n")
        await host.ask(c.ConsolidateDisks("", vm))
        assert "one-000001.vmdk" not in host.files("one")
        await host.cells.reset(vm)
        await printed(host, vm, b"3\n")

    on(body)
