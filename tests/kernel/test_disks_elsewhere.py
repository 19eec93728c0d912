"""Disks outside of a VM's directory: used as its own, by one VM at a time, and nobody else's."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import replace
from functools import partial

import pytest

from casemate.calls import files as f
from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.errors import ArgumentError, DatastorePathError, FileLockedError
from casemate.machine.facts import DiskSpec
from casemate.machine.power import Operation

from .registering import come
from .vmbench import BOOT_SECTOR, COUNTING_SECTOR, MIB, Host, RefusedTaskError, disk, make, printed

pytestmark = pytest.mark.host
SHARED = "/vmfs/volumes/second/shared/"
DATA = f"{SHARED}data.vmdk"


async def second(host: Host) -> str:
    """Make another datastore with a folder and a disk in it; returns its id."""
    (host.volumes / "second/shared").mkdir(parents=True)
    host.inventory.refresh_datastores()
    store = host.inventory.place_of("[second]").datastore
    await host.ask(
        f.CreateDisk("", store, "shared/data.vmdk", 8 * MIB, thin=True, adapter="lsiLogic")
    )
    return store


def shared(host: Host) -> list[str]:
    place = host.volumes / "second/shared"
    return sorted(one.name for one in place.iterdir()) if place.exists() else []


async def made(host: Host, name: str) -> str:
    """Make a VM that boots from the disk elsewhere."""
    vm = await make(host, name, disks=())
    await change(host, vm, disks=(disk(0, file_name=DATA),))
    return vm


def put(host: Host, code: bytes) -> None:
    with (host.volumes / "second/shared/data-flat.vmdk").open("r+b") as stream:
        stream.write(code)


def attached(unit: int = 1, name: str = DATA) -> DiskSpec:
    return disk(0, "scsi0", unit, file_name=name)


async def change(host: Host, vm: str, destroy: tuple[str, ...] = (), **changes) -> None:
    before = host.vm(vm).config
    await host.ask(c.ReconfigureVm("", vm, before, replace(before, **changes), destroy))


async def counts(host: Host, vm: str, number: int) -> None:
    """Run the guest once: it adds one to a byte of its disk and prints that."""
    host.cells.console_log(vm).unlink(missing_ok=True)
    await host.ask(m.PowerOn("", vm))
    await printed(host, vm, b"%d\n" % number)
    await host.ask(m.PowerOff("", vm))


async def units(host: Host, vm: str) -> set[str]:
    qmp = await host.cells.control(vm, Operation.RESET)
    return {one["qdev"].split("/")[-1] for one in await qmp.execute("query-block")}


def test_a_guest_boots_from_a_disk_on_another_datastore_with_snapshots_and_all(on):
    async def body(host: Host) -> None:
        await second(host)
        put(host, COUNTING_SECTOR)
        vm = await make(host, disks=())
        await change(host, vm, disks=(disk(0, file_name=DATA),))
        (boot,) = host.vm(vm).config.disks
        assert (boot.file_name, boot.capacity) == (DATA, 8 * MIB)
        await counts(host, vm, 1)
        await host.ask(c.CreateSnapshot("", vm, "now"))
        # As on ESXi a delta lies beside what it is above.
        delta = f"{SHARED}data-000001.vmdk"
        assert host.vm(vm).config.disks[0].file_name == delta
        assert host.files("one") == ["one-Snapshot1.vmsn", "one.vmsd", "one.vmx"]
        await counts(host, vm, 2)
        await host.ask(c.RevertToSnapshot("", vm))
        await counts(host, vm, 2)
        await host.ask(c.CreateSnapshot("", vm, "later"))
        await host.ask(c.RemoveSnapshot("", vm, 1))
        await counts(host, vm, 3)
        host.cells.console_log(vm).unlink(missing_ok=True)
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm, b"4\n")
        await host.ask(c.RemoveSnapshot("", vm, 0))
        await host.ask(m.PowerOff("", vm))
        assert shared(host) == ["data-flat.vmdk", "data.vmdk"]
        assert host.vm(vm).config.disks[0].file_name == DATA
        await counts(host, vm, 5)
        await host.ask(c.CloneVm("", vm, "two"))
        copy = next(fact.vm for fact in host.inventory.vms() if fact.config.name == "two")
        assert host.vm(copy).config.disks[0].file_name == "two.vmdk"
        await counts(host, copy, 6)
        await host.ask(c.ExportVm("", vm, "[datastore1] one.ova"))
        await host.ask(c.ImportVm("", "[datastore1] one.ova", "three"))
        back = next(fact.vm for fact in host.inventory.vms() if fact.config.name == "three")
        await counts(host, back, 6)
        await host.ask(c.DestroyVm("", vm))
        # As on ESXi a VM's disks go with it wherever they are; what else is there stays.
        assert shared(host) == []
        assert (host.volumes / "second/shared").exists()
        assert not (host.datastore / "one").exists()

    on(body)


def test_a_disk_elsewhere_comes_to_a_running_vm_and_goes_and_stays_as_it_is(on):
    async def body(host: Host) -> None:
        await second(host)
        vm = await make(host, disks=(disk(controller="scsi0"),))
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        boot = host.vm(vm).config.disks
        for _ in range(2):
            await change(host, vm, disks=(*boot, attached()))
            assert await units(host, vm) == {"scsi0-0", "scsi0-1"}
            await change(host, vm, disks=boot)
            assert await units(host, vm) == {"scsi0-0"}
        await change(host, vm, disks=(*boot, attached()))
        new = disk(controller="scsi0", unit=2, wanted=f"{SHARED}new.vmdk")
        chosen = disk(controller="scsi0", unit=3, wanted="[second]")
        await change(host, vm, disks=(*host.vm(vm).config.disks, new, chosen))
        names = [one.file_name for one in host.vm(vm).config.disks]
        assert names[1:] == [DATA, f"{SHARED}new.vmdk", "/vmfs/volumes/second/one/one.vmdk"]
        await host.ask(c.SuspendVm("", vm))
        await host.ask(m.PowerOn("", vm))
        assert await host.cells.status(vm) == "running"
        kept = (*boot, host.vm(vm).config.disks[1])
        await change(host, vm, (names[2], names[3], DATA), disks=kept)
        assert shared(host) == ["data-flat.vmdk", "data.vmdk"]
        assert not any((host.volumes / "second/one").iterdir())
        await host.ask(m.PowerOff("", vm))

    on(body)


def test_two_vms_name_a_disk_and_one_at_a_time_has_it_whatever_it_is_called(on):
    async def body(host: Host) -> None:
        await second(host)
        place = host.volumes / "second/shared"
        first = await make(host, disks=(disk(controller="scsi0"), attached()))
        other = await make(host, "two", disks=(disk(controller="scsi0"),))
        boot = host.vm(other).config.disks
        await host.ask(m.PowerOn("", first))
        await host.ask(m.PowerOn("", other))
        (place / "alias-flat.vmdk").hardlink_to(place / "data-flat.vmdk")
        text = (place / "data.vmdk").read_text().replace("data-flat", "alias-flat")
        (place / "alias.vmdk").write_text(text)
        for name in (DATA, f"{SHARED}alias.vmdk"):
            with pytest.raises(RefusedTaskError) as refused:
                await change(host, other, disks=(*boot, attached(name=name)))
            assert refused.value.fault.fault == "FileLocked"
            assert host.vm(other).config.disks == boot
        await host.ask(m.PowerOff("", other))
        await change(host, other, disks=(*boot, attached()))
        with pytest.raises(RefusedTaskError) as refused:
            await host.ask(m.PowerOn("", other))
        assert refused.value.fault.fault == "FileLocked"
        assert dict(refused.value.fault.details)["file"].startswith("[second] shared/data")
        for request in (
            c.CreateSnapshot("", other, "now"),
            c.ReconfigureVm(
                "",
                other,
                host.vm(other).config,
                replace(
                    host.vm(other).config,
                    disks=(boot[0], replace(host.vm(other).config.disks[1], capacity=16 * MIB)),
                ),
            ),
        ):
            with pytest.raises(RefusedTaskError, match="file-locked"):
                await host.ask(request)
        assert [name for name in shared(host) if "0000" in name] == []
        await host.ask(m.PowerOff("", first))
        await host.ask(m.PowerOn("", other))
        await host.ask(m.PowerOff("", other))
        # The other one has it still.
        await host.ask(c.DestroyVm("", first))
        assert "data-flat.vmdk" in shared(host)
        await change(host, other, (DATA,), disks=boot)
        assert shared(host) == ["alias-flat.vmdk", "alias.vmdk"]

    on(body)


def test_what_a_vm_has_elsewhere_is_not_removed_moved_or_written_over_by_others(on):
    async def body(host: Host) -> None:
        store = await second(host)
        place = host.volumes / "second/shared"
        vm = await make(host, disks=(disk(controller="scsi0"), attached()))
        (place / "alias-flat.vmdk").hardlink_to(place / "data-flat.vmdk")
        for request in (
            f.DeleteFile("", store, "shared/data.vmdk"),
            f.DeleteFile("", store, "shared/data-flat.vmdk"),
            f.DeleteFile("", store, "shared/alias-flat.vmdk"),
            f.DeleteFile("", store, "shared"),
            f.MoveFile("", store, "shared", store, "gone"),
            f.DeleteDisk("", store, "shared/data.vmdk"),
            f.MoveDisk("", store, "shared/data.vmdk", store, "shared/b.vmdk"),
            f.ExtendDisk("", store, "shared/data.vmdk", 16 * MIB),
        ):
            with pytest.raises(FileLockedError):
                await host.ask(request)
        with pytest.raises(FileLockedError):
            await host.ask(f.CopyFile("", store, "x", store, "shared/data.vmdk", force=True))
        await host.ask(f.CopyDisk("", store, "shared/data.vmdk", store, "shared/copy.vmdk"))
        await host.ask(f.DeleteDisk("", store, "shared/copy.vmdk"))
        host.inventory.unregister(vm)
        await host.ask(f.DeleteDisk("", store, "shared/data.vmdk"))

    on(body)


def test_deltas_of_strangers_above_a_disk_elsewhere_stay_as_they_are(on):
    async def body(host: Host) -> None:
        await second(host)
        put(host, COUNTING_SECTOR)
        theirs = await made(host, "two")
        await host.ask(c.CreateSnapshot("", theirs, "now"))
        await counts(host, theirs, 1)
        host.inventory.unregister(theirs)
        vm = await made(host, "one")
        await host.ask(c.CreateSnapshot("", vm, "now"))
        await counts(host, vm, 1)
        await counts(host, vm, 2)
        await host.ask(c.RemoveSnapshot("", vm, 0))
        await host.ask(c.ConsolidateDisks("", vm))
        # Merging would have changed what the other one's delta is above.
        await counts(host, vm, 3)
        again = await come(host.inventory, "[datastore1] two/two.vmx")
        await counts(host, again, 2)

    on(body)


@pytest.mark.parametrize(
    "name",
    [
        "/vmfs/volumes/second/../../etc/data.vmdk",
        "/vmfs/volumes/data.vmdk",
        "/etc/data.vmdk",
        "../two/data.vmdk",
        "/vmfs/volumes/second/.casemate-1/data.vmdk",
    ],
)
def test_no_disk_is_named_that_is_on_no_datastore(on, name):
    async def body(host: Host) -> None:
        await second(host)
        vm = await make(host, disks=(disk(controller="scsi0"),))
        for wrong in (attached(name=name), disk(controller="scsi0", unit=1, wanted=name)):
            with pytest.raises(ArgumentError):
                await change(host, vm, disks=(*host.vm(vm).config.disks, wrong))

    on(body)


def test_no_link_and_no_file_that_is_no_disk_is_opened_for_a_guest(on):
    async def body(host: Host) -> None:
        await second(host)
        place = host.volumes / "second/shared"
        secret = host.place / "secret"
        secret.mkdir()
        (secret / "data.vmdk").write_bytes((place / "data.vmdk").read_bytes())
        (secret / "data-flat.vmdk").write_bytes(bytes(8 * MIB))
        (host.volumes / "second/link").symlink_to(secret)
        (place / "linked.vmdk").symlink_to(secret / "data.vmdk")
        os.mkfifo(place / "pipe.vmdk")
        text = (place / "data.vmdk").read_text()
        vm = await make(host, disks=(disk(controller="scsi0"),))
        (place / "out.vmdk").write_text(text.replace("data-flat.vmdk", "../../secret/x.vmdk"))
        (place / "vmx.vmdk").write_text(text.replace("data-flat.vmdk", "one.vmx"))
        (place / "one.vmx").write_bytes(bytes(8 * MIB))
        (place / "flat-link.vmdk").write_text(text.replace("data-flat.vmdk", "away-flat.vmdk"))
        (place / "away-flat.vmdk").symlink_to(secret / "data-flat.vmdk")
        before = host.vm(vm).config
        for wrong in (
            "/vmfs/volumes/second/link/data.vmdk",
            "/vmfs/volumes/nothing/data.vmdk",
            *(f"{SHARED}{one}.vmdk" for one in ("linked", "pipe", "out", "vmx", "flat-link", "no")),
        ):
            with pytest.raises((RefusedTaskError, DatastorePathError)):
                await change(host, vm, disks=(*before.disks, attached(name=wrong)))
            assert host.vm(vm).config == before
        with pytest.raises(RefusedTaskError) as refused:
            await change(host, vm, disks=(*before.disks, attached(name=f"{SHARED}no.vmdk")))
        assert refused.value.fault.fault == "FileNotFound"
        # A file of somebody else's may name them all the same: then the VM does not start.
        (host.datastore / "one/one.vmx").write_text(
            (host.datastore / "one/one.vmx")
            .read_text()
            .replace('"one.vmdk"', '"/vmfs/volumes/second/link/data.vmdk"')
        )
        host.inventory.reread(vm)
        with pytest.raises(RefusedTaskError, match="host-eloop"):
            await host.ask(m.PowerOn("", vm))

    on(body)


def test_a_file_of_vmwares_that_names_disks_in_full_is_registered_and_boots(on):
    async def body(host: Host) -> None:
        await second(host)
        put(host, BOOT_SECTOR)
        vm = await make(host, disks=(disk(controller="scsi0"),))
        host.inventory.unregister(vm)
        file = host.datastore / "one/one.vmx"
        text = file.read_text().replace('"one.vmdk"', f'"{DATA}"')
        text += (
            'scsi0:1.present = "TRUE"\nscsi0:1.fileName = "/vmfs/volumes/datastore1/one/one.vmdk"\n'
        )
        file.write_text(text)
        vm = await come(host.inventory, "[datastore1] one/one.vmx")
        # What is beside the file is its own, whatever it is called there.
        assert [one.file_name for one in host.vm(vm).config.disks] == [DATA, "one.vmdk"]
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        await host.ask(m.PowerOff("", vm))

    on(body)


def test_a_disk_in_many_files_runs_once_it_is_copied(on):
    async def body(host: Host) -> None:
        store = await second(host)
        place = host.volumes / "second/shared"
        (place / "plain").write_bytes(COUNTING_SECTOR.ljust(MIB, b"\0"))
        words = "qemu-img convert -f raw -O vmdk -o subformat=twoGbMaxExtentSparse plain split.vmdk"
        run = partial(subprocess.run, cwd=place, check=True, capture_output=True, timeout=120)
        await asyncio.to_thread(run, words.split())
        vm = await make(host, disks=())
        await change(host, vm, disks=(disk(0, file_name=f"{SHARED}split.vmdk"),))
        for request in (m.PowerOn("", vm), c.CreateSnapshot("", vm, "now")):
            with pytest.raises(RefusedTaskError, match="disk-split"):
                await host.ask(request)
        await host.ask(f.CopyDisk("", store, "shared/split.vmdk", store, "shared/flat.vmdk"))
        await change(host, vm, disks=(disk(0, file_name=f"{SHARED}flat.vmdk"),))
        await counts(host, vm, 1)
        await host.ask(f.DeleteDisk("", store, "shared/split.vmdk"))
        assert [name for name in shared(host) if "split" in name] == []

    on(body)
