"""Files that go with a VM go to nobody else meanwhile; what may be another's stays."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from casemate.calls import files as f
from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.errors import (
    CancelledError,
    CasemateError,
    FileLockedError,
    HostError,
    SpaceError,
    StateError,
)
from casemate.formats import vmx
from casemate.kernel import snapshots, virtualdisks, vms
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.consolidation import planned
from casemate.kernel.datastores import Datastores
from casemate.kernel.fileguard import FileGuard
from casemate.kernel.foreigndisks import ForeignDisks
from casemate.kernel.inventory import Inventory
from casemate.kernel.leftovers import tidy
from casemate.kernel.ova import Ova
from casemate.kernel.snapshots import Snapshots
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import Tasks
from casemate.kernel.virtualdisks import VirtualDisks
from casemate.kernel.vmcontext import VmContext
from casemate.kernel.vmfiles import destroy_files, known_files
from casemate.kernel.vmpower import VmPower
from casemate.kernel.vms import Vms
from casemate.machine.facts import (
    DiskSpec,
    FaultFact,
    PowerState,
    SnapshotSpec,
    TaskFact,
    TaskState,
    VmConfig,
    VmFact,
)
from casemate.machine.snapshots import vmsd_of
from casemate.testing.fakefiles import NoPlugins

from .registering import allowed, come, registered

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
MIB = 1 << 20
DATA = "/vmfs/volumes/second/shared/data.vmdk"
SPARE = "casemate.kernel.sys.space.SPARE"
NEW = VmConfig("new", "", "[datastore1]", "otherGuest", 1, 16, "bios")


def spec(name: str = "", unit: int = 0, **more: Any) -> DiskSpec:
    return DiskSpec(name, "disk", "vmdk", MIB, "scsi0", unit, **more)


class Rooms:
    """The kernel's rooms for VMs that do not run, on two datastores with a disk on the second."""

    def __init__(self, place: Path) -> None:
        self.volumes = place / "volumes"
        (self.volumes / "datastore1").mkdir(parents=True)
        self.shared = self.volumes / "second/shared"
        self.shared.mkdir(parents=True)
        self.store, self.stream = Store(place / "casemate.db"), FactStream()
        self.inventory = Inventory(self.store, self.stream, self.volumes, UUID)
        self.inventory.publish_all(1000, 1000)
        self.tasks = Tasks(self.stream, lambda: 0.0)
        nothing: Any = SimpleNamespace()
        self.context = VmContext(
            self.inventory, nothing, self.tasks, self.store, lambda: 0.0, allowed
        )
        made = Vms(self.context, lambda *_: None)
        datastores = Datastores(self.inventory, self.tasks, lambda *_: None)
        self.snapshots = Snapshots(self.context, nothing, nothing, lambda *_: None)
        self.handlers: dict[type, Any] = {
            **made.handlers(),
            **VmPower(self.context).handlers(),
            **Ova(self.context, made, lambda *_: None).handlers(),
            **self.snapshots.handlers(),
            **datastores.handlers(),
            **VirtualDisks(datastores, ForeignDisks(NoPlugins())).handlers(),
        }
        with self.folder("datastore1") as directory:
            directory.make_disk(DATA, spec(), thin=True)

    def folder(self, name: str) -> VmDirectory:
        return VmDirectory(self.volumes / name, volumes=self.volumes)

    def write(self, name: str, *disks: str, folder: str = "") -> str:
        """Write the file of a VM with such disks and return its path."""
        place = self.volumes / "datastore1" / (folder or name)
        place.mkdir(exist_ok=True)
        rows = [f'displayName = "{name}"', 'guestOS = "other"', 'virtualHW.version = "21"']
        rows += ['scsi0.present = "TRUE"', 'scsi0.virtualDev = "lsilogic"']
        for unit, disk in enumerate(disks):
            rows += [f'scsi0:{unit}.present = "TRUE"', f'scsi0:{unit}.fileName = "{disk}"']
        (place / f"{name}.vmx").write_text("\n".join(rows) + "\n")
        return f"[datastore1] {folder or name}/{name}.vmx"

    def add(self, name: str, *disks: str, folder: str = "") -> str:
        return registered(self.inventory, self.write(name, *disks, folder=folder))

    def add_with_disk(self, name: str) -> str:
        """Make a VM with a disk of its own."""
        path = self.write(name, f"{name}.vmdk")
        with self.folder(f"datastore1/{name}") as directory:
            directory.make_disk(f"{name}.vmdk", spec(), thin=True)
        return registered(self.inventory, path)

    def files(self, name: str) -> list[str]:
        place = self.volumes / name
        return sorted(one.name for one in place.iterdir()) if place.exists() else []

    async def fault(self, request: Any) -> FaultFact | None:
        """Send a request and return the fault that its task ends in."""
        reply = await self.handlers[type(request)](request, LOCAL_ROOT)
        fact = self.tasks.find(reply.task)
        while fact.state is TaskState.RUNNING:
            await asyncio.sleep(0.01)
            fact = self.tasks.find(reply.task)
        return fact.error

    def change(self, vm: str, *disks: DiskSpec, destroy: tuple[str, ...] = ()) -> c.ReconfigureVm:
        before = self.inventory.vm(vm).config
        return c.ReconfigureVm("", vm, before, replace(before, disks=disks), destroy)

    def started(self, request: Any) -> TaskFact:
        return asyncio.run(self._started(request))

    async def _started(self, request: Any) -> TaskFact:
        reply = await self.handlers[type(request)](request, LOCAL_ROOT)
        await self.tasks.drain()
        return self.tasks.find(reply.task)

    def refused(self, request: Any) -> FaultFact:
        """Carry out a request that ends in a fault."""
        fact = self.started(request)
        assert fact.error is not None
        return fact.error

    def done(self, request: Any) -> None:
        """Carry out a request that ends well."""
        fact = self.started(request)
        assert fact.state is TaskState.SUCCESS, fact.error


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    made = Rooms(tmp_path)
    yield made
    made.store.close()


class Held:
    """Wraps a function so that it waits in the middle of what it is part of."""

    def __init__(self, really: Callable[..., Any], when: Callable[[], bool]) -> None:
        self._really = really
        self._when = when
        self.begun, self.end = threading.Event(), threading.Event()

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        if self._when() and not self.begun.is_set():
            self.begun.set()
            assert self.end.wait(120)
        return self._really(*arguments, **more)


@pytest.mark.parametrize("whole", [True, False], ids=["with its VM", "alone"])
def test_a_disk_that_is_being_removed_is_given_to_no_other_vm(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    one, two = rooms.add("one", DATA), rooms.add("two")
    path = rooms.write("three", DATA)
    if whole:
        held = Held(vms.destroy_files, lambda: True)
        monkeypatch.setattr(vms, "destroy_files", held)
        request: Any = c.DestroyVm("", one)
    else:
        held = Held(vms.used_by_others, lambda: not rooms.inventory.vm(one).config.disks)
        monkeypatch.setattr(vms, "used_by_others", held)
        request = rooms.change(one, destroy=(DATA,))

    async def story() -> None:
        removing = asyncio.ensure_future(rooms.fault(request))
        try:
            assert await asyncio.to_thread(held.begun.wait, 120)
            fault = await rooms.fault(rooms.change(two, spec(DATA)))
            assert fault is not None
            assert fault.fault == "FileLocked"
            with pytest.raises(FileLockedError):
                await come(rooms.inventory, path)
            # Others change what they like.
            assert await rooms.fault(rooms.change(two, spec(wanted="own.vmdk"))) is None
        finally:
            held.end.set()
        assert await removing is None

    asyncio.run(asyncio.wait_for(story(), 240))
    assert rooms.files("second/shared") == []
    names = {fact.config.name for fact in rooms.inventory.vms()}
    assert names == ({"two"} if whole else {"one", "two"})


def test_a_disk_that_is_being_copied_is_given_to_no_vm_before_it_is_whole(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(virtualdisks._fill, lambda: True)
    monkeypatch.setattr(virtualdisks, "_fill", held)
    path = rooms.write("one", DATA.replace("data", "copy"))
    store = rooms.inventory.place_of("[second]").datastore

    async def story() -> None:
        request = f.CopyDisk("", store, "shared/data.vmdk", store, "shared/copy.vmdk")
        copying = asyncio.ensure_future(rooms.fault(request))
        try:
            assert await asyncio.to_thread(held.begun.wait, 120)
            with pytest.raises(FileLockedError):
                await come(rooms.inventory, path)
        finally:
            held.end.set()
        assert await copying is None
        await come(rooms.inventory, path)

    asyncio.run(asyncio.wait_for(story(), 240))


def test_a_disk_that_was_removed_meanwhile_is_not_attached(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms.add("one", DATA)
    two = rooms.add("two")
    really = Inventory.admitting

    def late(self: Inventory, fact: Any) -> Any:
        if fact.vm == two:
            for part in rooms.shared.iterdir():
                part.unlink()
        return really(self, fact)

    monkeypatch.setattr(Inventory, "admitting", late)
    fault = rooms.refused(rooms.change(two, spec(DATA)))
    assert fault.fault == "FileNotFound"
    assert rooms.inventory.vm(two).config.disks == ()


def test_what_another_vm_has_stays_when_one_is_destroyed_and_it_is_free_to_change(
    rooms: Rooms,
) -> None:
    one, two = rooms.add("one", DATA), rooms.add("two", DATA)
    rooms.done(c.DestroyVm("", one))
    assert rooms.files("second/shared") == ["data-flat.vmdk", "data.vmdk"]
    rooms.done(rooms.change(two, destroy=(DATA,)))
    assert rooms.files("second/shared") == []


def test_a_disk_that_is_being_merged_is_given_to_no_other_vm(rooms: Rooms) -> None:
    with rooms.folder("datastore1") as directory:
        delta = directory.make_delta(spec(DATA))
    one = rooms.inventory.vm(rooms.add("one", delta))
    path = rooms.write("two", DATA)
    with rooms.folder("datastore1/one") as directory, ExitStack() as held:
        _, steps = planned(rooms.context, directory, one, (), held)
        assert len(steps) == 1
        with pytest.raises(FileLockedError):
            registered(rooms.inventory, path)
    registered(rooms.inventory, path)
    # Now the disk is the other one's too, and nothing is merged into it.
    with rooms.folder("datastore1/one") as directory, ExitStack() as held:
        assert planned(rooms.context, directory, one, (), held)[1] == ()


class CutError(Exception):
    """The kernel was killed."""


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8])
def test_a_destruction_that_was_cut_off_can_be_done_again(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    with rooms.folder("datastore1") as directory:
        middle = directory.make_delta(spec(DATA))
        one = rooms.add("one", directory.make_delta(spec(middle)))
    removed = 0
    really = VmDirectory.remove

    def remove(self: VmDirectory, name: str) -> None:
        nonlocal removed
        if removed == after:
            raise CutError
        removed += 1
        really(self, name)

    fact = rooms.inventory.vm(one)
    with rooms.folder("datastore1/one") as directory, monkeypatch.context() as patched:
        patched.setattr(VmDirectory, "remove", remove)
        with pytest.raises(CutError):
            destroy_files(directory, fact, known_files(directory, fact))
    assert "one.vmx" in rooms.files("datastore1/one")
    rooms.inventory.publish_all(1000, 1000)
    rooms.done(c.DestroyVm("", one))
    assert rooms.files("second/shared") == []
    assert rooms.files("datastore1/one") == []


def test_going_back_to_a_snapshot_that_was_cut_off_leaves_no_delta_beside_a_disk_elsewhere(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = rooms.add("one", DATA)
    rooms.done(c.CreateSnapshot("", one, "now"))
    before = rooms.files("second/shared"), rooms.files("datastore1/one")
    really = snapshots.make_deltas

    def cut(*arguments: Any, **more: Any) -> None:
        really(*arguments, **more)
        raise CutError

    with monkeypatch.context() as patched:
        patched.setattr(snapshots, "make_deltas", cut)
        with pytest.raises(CutError):
            asyncio.run(rooms.snapshots.revert(rooms.inventory.vm(one), 1))
    assert rooms.files("second/shared") != before[0]
    rooms.inventory.publish_all(1000, 1000)
    tidy(rooms.context)
    assert (rooms.files("second/shared"), rooms.files("datastore1/one")) == before
    rooms.done(c.RevertToSnapshot("", one))
    # The delta that was in use has gone, and one is in its place.
    assert len(rooms.files("second/shared")) == len(before[0])
    assert rooms.files("datastore1/one") == before[1]


def test_while_nobody_can_tell_what_a_neighbour_needs_nothing_is_removed(rooms: Rooms) -> None:
    one = rooms.add("one", DATA)
    with rooms.folder("datastore1") as directory:
        delta = directory.make_delta(spec(DATA))
        rooms.add("two", delta)
        directory.write(delta, b"# no descriptor any more\n")
    before = rooms.files("second/shared")
    for request in (c.DestroyVm("", one), rooms.change(one, destroy=(DATA,))):
        assert rooms.refused(request).code == "disk-chain"
        assert rooms.files("second/shared") == before
        assert rooms.inventory.vm(one).config.disks
    # One's own broken disk keeps nobody from removing the VM; what is below it may be anybody's.
    two = next(fact.vm for fact in rooms.inventory.vms() if fact.config.name == "two")
    rooms.done(c.DestroyVm("", two))
    assert "data-flat.vmdk" in rooms.files("second/shared")
    assert not rooms.files("datastore1/two")


def test_while_nobody_can_tell_what_a_vm_needs_none_of_its_disks_is_removed(rooms: Rooms) -> None:
    with rooms.folder("datastore1") as directory:
        delta = directory.make_delta(spec(DATA))
        one = rooms.add("one", DATA, delta)
        directory.write(delta, b"# no descriptor any more\n")
    kept = rooms.inventory.vm(one).config.disks[1:]
    assert rooms.refused(rooms.change(one, *kept, destroy=(DATA,))).code == "disk-chain"
    assert "data-flat.vmdk" in rooms.files("second/shared")
    assert rooms.refused(c.CloneVm("", one, "two")).code == "disk-chain"
    assert not rooms.files("datastore1/two")


@pytest.mark.parametrize("lost", ["descriptor", "directory"])
def test_a_vm_whose_disks_cannot_be_followed_keeps_every_disk_beside_them(
    rooms: Rooms, lost: str
) -> None:
    with rooms.folder("datastore1") as directory:
        delta = directory.make_delta(spec(DATA))
        rooms.add("one", delta)
        if lost == "descriptor":
            directory.write(delta, b"# no descriptor any more\n")
    if lost == "directory":
        for part in (rooms.volumes / "datastore1/one").iterdir():
            part.unlink()
        (rooms.volumes / "datastore1/one").rmdir()
    (rooms.shared / "notes.txt").touch()
    (rooms.volumes / "second/other.vmdk").touch()
    guard = FileGuard(rooms.inventory)
    for name in ("data.vmdk", "data-flat.vmdk", "data-000001-delta.qcow2", "OTHER.VMDK"):
        with pytest.raises(FileLockedError):
            guard.demand_free(rooms.shared / name, name)
        with pytest.raises(FileLockedError), guard.held([(rooms.shared / name, name)]):
            pass
    with pytest.raises(FileLockedError):
        guard.demand_free(rooms.shared, "shared")
    for place in (rooms.shared / "notes.txt", rooms.volumes / "second/other.vmdk"):
        guard.demand_free(place, "x")


def test_the_event_loop_looks_through_no_disks_of_other_vms(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[threading.Thread] = []
    really, read = VmDirectory.chain, Inventory._read

    def chain(self: VmDirectory, name: str) -> Iterator[str]:
        seen.append(threading.current_thread())
        return really(self, name)

    def noted(self: Inventory, path: str) -> VmConfig:
        seen.append(threading.current_thread())
        return read(self, path)

    vm = rooms.add("one", DATA)
    rooms.add("two", DATA)
    third = rooms.write("three", DATA)
    monkeypatch.setattr(VmDirectory, "chain", chain)
    with monkeypatch.context() as patched:
        # What a VM's own task reads of that VM alone is not meant.
        patched.setattr(Inventory, "_read", noted)
        registered(rooms.inventory, third)
    store = rooms.inventory.place_of("[second]").datastore
    with pytest.raises(FileLockedError):
        rooms.started(f.DeleteFile("", store, "shared/data.vmdk"))
    rooms.done(rooms.change(vm, spec(wanted="new.vmdk"), destroy=(DATA,)))
    rooms.done(c.ConsolidateDisks("", vm))
    rooms.done(c.DestroyVm("", vm))
    assert seen
    assert threading.main_thread() not in seen


@pytest.mark.parametrize(
    "request_of",
    [
        lambda vm: c.CloneVm("", vm, "two"),
        lambda vm: c.ExportVm("", vm, "[datastore1] one.ova"),
        lambda vm: c.CreateSnapshot("", vm, "now"),
        lambda _: c.CreateVm("", replace(NEW, disks=(spec(),)), thin=False),
    ],
    ids=["clone", "export", "snapshot", "thick disk"],
)
def test_what_would_leave_no_room_on_the_datastore_is_refused_and_leaves_nothing(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, request_of: Callable[[str], Any]
) -> None:
    vm = rooms.add_with_disk("one")
    before = rooms.files("datastore1"), rooms.files("datastore1/one")
    with monkeypatch.context() as full:
        full.setattr(SPARE, 1 << 62)
        fault = rooms.refused(request_of(vm))
    assert fault.fault == "NoDiskSpace"
    assert dict(fault.details)["datastore"] == "datastore1"
    assert (rooms.files("datastore1"), rooms.files("datastore1/one")) == before
    rooms.done(request_of(vm))


def test_a_copy_of_a_disk_ends_when_others_have_taken_the_space_meanwhile(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms.add_with_disk("one")
    (rooms.volumes / "datastore1/one/one-flat.vmdk").write_bytes(b"content")

    def taken(_amount: int) -> None:
        monkeypatch.setattr(SPARE, 1 << 62)

    with rooms.folder("datastore1/one") as directory:
        with pytest.raises(SpaceError) as refused:
            directory.copy("one-flat.vmdk", directory, "two-flat.vmdk", taken)
        assert refused.value.file == "[datastore1] one/two-flat.vmdk"
    assert "two-flat.vmdk" not in rooms.files("datastore1/one")


@pytest.mark.parametrize("lost", ["data.vmdk", "data-flat.vmdk"])
@pytest.mark.parametrize("away", [True, False])
def test_a_vm_does_not_start_without_its_disk_and_says_which_file_is_not_there(
    rooms: Rooms, lost: str, away: bool
) -> None:
    if away:
        vm, place, shown = rooms.add("one", DATA), rooms.shared, "[second] shared/"
    else:
        vm = rooms.add_with_disk("data")
        place, shown = rooms.volumes / "datastore1/data", "[datastore1] data/"
    (place / lost).unlink()
    fault = rooms.refused(m.PowerOn("", vm))
    assert fault.fault == "FileNotFound"
    assert dict(fault.details)["file"] == f"{shown}{lost}"


@pytest.mark.parametrize("reading", [1, 2], ids=["first", "second"])
@pytest.mark.parametrize("swapped", [".vmx", ".vmsd"])
@pytest.mark.parametrize("copied", [False, True], ids=["made", "copied"])
def test_a_file_that_is_written_over_before_its_vm_is_registered_gives_it_no_disk_of_others(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, reading: int, swapped: str, copied: bool
) -> None:
    one = rooms.add_with_disk("one")
    really, times = Inventory._demand_new, 0

    def upload(self: Inventory, path: str, pool: str) -> None:
        nonlocal times
        times += 1
        if times == 1 and reading == 1:
            swap(self.resolve(path))
        really(self, path, pool)

    def late(self: Inventory, fact: Any, allow: Any) -> None:
        fit(self, fact, allow)
        if reading == 2:
            swap(self.resolve(fact.config.vmx_path))

    def swap(place: Path) -> None:
        FileGuard(rooms.inventory).demand_free(place.with_suffix(swapped), "it")
        if swapped == ".vmsd":
            mine = SnapshotSpec(1, 0, "mine", "", 0.0, memory=False, disks=(("scsi0:0", DATA),))
            place.with_suffix(".vmsd").write_bytes(vmx.write(vmsd_of((mine,), 1, 1)))
            return
        rows = [row for row in place.read_text().splitlines() if not row.startswith("scsi0.")]
        rows += ['scsi0.present = "TRUE"', 'scsi0:5.present = "TRUE"']
        place.write_text("\n".join([*rows, f'scsi0:5.fileName = "{DATA}"', ""]))

    fit = Inventory._demand_fit
    monkeypatch.setattr(Inventory, "_demand_new", upload)
    monkeypatch.setattr(Inventory, "_demand_fit", late)
    request: Any = c.CloneVm("", one, "new") if copied else c.CreateVm("", NEW, thin=True)
    fault = rooms.refused(request)
    assert "written by somebody else" in fault.reason
    assert len(rooms.inventory.vms()) == 1
    assert rooms.files("second/shared") == ["data-flat.vmdk", "data.vmdk"]
    monkeypatch.undo()
    rooms.done(request)


@pytest.mark.parametrize("name", ["two.vmx", "two.vmsd"])
def test_what_a_vm_may_need_whose_files_could_not_be_read_is_not_taken_from_it(
    rooms: Rooms, name: str
) -> None:
    one, two = rooms.add("one", DATA), rooms.add("two", DATA)
    rooms.done(c.CreateSnapshot("", two, "now"))
    if name == "two.vmsd":
        # What its snapshot is of is on no disk that it has now.
        rooms.done(rooms.change(two))
    broken = rooms.volumes / "datastore1/two" / name
    good = broken.read_bytes()
    before = rooms.files("second/shared"), rooms.files("datastore1/two")
    broken.write_bytes(b"\xff\xfe no file of a VM")
    rooms.inventory.publish_all(1000, 1000)
    store = rooms.inventory.place_of("[second]").datastore
    own = rooms.inventory.place_of("[datastore1]").datastore
    code = "snapshot-list" if name == "two.vmsd" else "unread"
    assert rooms.refused(c.DestroyVm("", one)).code == code
    assert rooms.refused(rooms.change(one, destroy=(DATA,))).code == code
    for place, path in (
        (store, "shared/data-flat.vmdk"),
        (store, "shared"),
        *((own, f"two/{one}") for one in before[1]),
    ):
        with pytest.raises(FileLockedError):
            rooms.started(f.DeleteFile("", place, path))
    with pytest.raises(FileLockedError):
        rooms.started(f.CopyDisk("", store, "shared/data.vmdk", store, "shared/data.vmdk"))
    # What is new is nobody's, and what is repaired is seen when it comes again.
    rooms.done(f.CopyDisk("", store, "shared/data.vmdk", store, "shared/copy.vmdk"))
    for part in ("copy.vmdk", "copy-flat.vmdk"):
        (rooms.shared / part).unlink()
    assert (rooms.files("second/shared"), rooms.files("datastore1/two")) == before
    broken.write_bytes(good)
    assert rooms.refused(c.DestroyVm("", one)).code == "unread"
    rooms.inventory.unregister(two)
    registered(rooms.inventory, "[datastore1] two/two.vmx")
    rooms.done(c.DestroyVm("", one))
    assert (rooms.files("second/shared"), rooms.files("datastore1/two")) == before


async def take(rooms: Rooms, way: str, name: str) -> None:
    """Have something else done to a disk on the second datastore."""
    store = rooms.inventory.place_of("[second]").datastore
    path = name.removeprefix("/vmfs/volumes/second/")
    if way == "registered":
        await come(rooms.inventory, rooms.write("three", name))
        return
    requests: dict[str, Any] = {
        "replaced": f.CopyDisk("", store, "shared/data.vmdk", store, path, force=True),
        "removed": f.DeleteDisk("", store, path),
    }
    if way == "attached":
        (two,) = (fact.vm for fact in rooms.inventory.vms() if fact.config.name == "two")
        requests[way] = rooms.change(two, spec(name))
    fault = await rooms.fault(requests[way])
    if fault is not None and fault.fault == "FileLocked":
        raise FileLockedError(fault.reason, file="")


@pytest.mark.parametrize("way", ["attached", "registered", "replaced", "removed"])
@pytest.mark.parametrize("made", [False, True], ids=["reconfigured", "made"])
def test_a_disk_that_may_have_to_go_again_is_nobody_elses_before_its_vm_has_it(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, way: str, made: bool
) -> None:
    """One's second disk fails, and takes the first with it, which nobody can have by then."""
    first, second = DATA.replace("data", "first"), DATA.replace("data", "second")
    one, two = rooms.add("one"), rooms.add("two")
    really = VmDirectory.make_disk

    def full(self: VmDirectory, name: str, *arguments: Any, **more: Any) -> None:
        if name == second:
            held()
            raise SpaceError("full", file=name, datastore="second")
        really(self, name, *arguments, **more)

    held = Held(lambda: None, lambda: True)
    monkeypatch.setattr(VmDirectory, "make_disk", full)
    disks = (spec(wanted=first), spec(unit=1, wanted=second))
    request: Any = rooms.change(one, *disks)
    if made:
        request = c.CreateVm("", replace(NEW, disks=disks), thin=True)
    before = rooms.files("second/shared")

    async def story() -> None:
        making = asyncio.ensure_future(rooms.fault(request))
        try:
            assert await asyncio.to_thread(held.begun.wait, 120)
            assert "first.vmdk" in rooms.files("second/shared")
            with pytest.raises(FileLockedError):
                await take(rooms, way, first)
        finally:
            held.end.set()
        fault = await making
        assert fault is not None
        assert fault.fault == "NoDiskSpace"

    asyncio.run(asyncio.wait_for(story(), 240))
    assert rooms.files("second/shared") == before
    monkeypatch.undo()
    # It is free again, and a VM that has it can give it away.
    rooms.done(rooms.change(two, spec(wanted=first)))
    rooms.done(rooms.change(two, destroy=(first,)))
    assert rooms.files("second/shared") == before


@pytest.mark.parametrize("cancelled", [False, True], ids=["to its end", "cancelled"])
def test_a_disk_that_is_being_copied_is_replaced_by_no_other_copy(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    held = Held(virtualdisks._fill, lambda: True)

    def fill(*arguments: Any) -> None:
        waited = held.begun.is_set()
        held(*arguments)
        if cancelled and not waited:
            raise CancelledError("The task was canceled by a user.")

    monkeypatch.setattr(virtualdisks, "_fill", fill)
    store = rooms.inventory.place_of("[second]").datastore
    request = f.CopyDisk("", store, "shared/data.vmdk", store, "shared/copy.vmdk", force=True)

    async def story() -> None:
        copying = asyncio.ensure_future(rooms.fault(request))
        try:
            assert await asyncio.to_thread(held.begun.wait, 120)
            for other in (
                request,
                f.DeleteDisk("", store, "shared/copy.vmdk"),
                f.DeleteFile("", store, "shared/copy-flat.vmdk"),
                f.MoveFile("", store, "shared", store, "elsewhere"),
            ):
                fault = await rooms.fault(other)
                assert fault is not None
                assert fault.fault == "FileLocked"
        finally:
            held.end.set()
        fault = await copying
        assert (fault.fault if fault else "") == ("RequestCanceled" if cancelled else "")

    asyncio.run(asyncio.wait_for(story(), 240))
    whole = ["copy-flat.vmdk", "copy.vmdk", "data-flat.vmdk", "data.vmdk"]
    assert rooms.files("second/shared") == (whole[2:] if cancelled else whole)
    rooms.done(request)
    assert rooms.files("second/shared") == whole


class Power:
    """Powers a VM off, if it can."""

    def __init__(self, rooms: Rooms, error: CasemateError | None = None) -> None:
        self._inventory, self._error = rooms.inventory, error

    async def power_off(self, fact: VmFact) -> None:
        if self._error is not None:
            raise self._error
        self._inventory.update(replace(fact, power=PowerState.POWERED_OFF))


def power_on(rooms: Rooms, vm: str) -> None:
    rooms.inventory.update(replace(rooms.inventory.vm(vm), power=PowerState.POWERED_ON))


def test_a_vm_on_a_full_datastore_goes_back_to_a_snapshot(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = rooms.add_with_disk("one")
    rooms.done(c.CreateSnapshot("", one, "now"))
    before = rooms.files("datastore1/one")
    monkeypatch.setattr(rooms.snapshots, "_power", Power(rooms))
    monkeypatch.setattr(SPARE, 1 << 62)
    power_on(rooms, one)
    rooms.done(c.RevertToSnapshot("", one))
    assert len(rooms.files("datastore1/one")) == len(before)
    assert rooms.inventory.vm(one).power is PowerState.POWERED_OFF
    fault = rooms.refused(c.CreateSnapshot("", one, "more"))
    assert fault.fault == "NoDiskSpace"
    assert "cannot grow" in fault.reason


@pytest.mark.parametrize("why", ["no room at all", "not told what others need", "goes on"])
def test_a_vm_that_cannot_go_back_to_a_snapshot_runs_on_as_it_was(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    one = rooms.add_with_disk("one")
    rooms.done(c.CreateSnapshot("", one, "now"))
    before, config = rooms.files("datastore1/one"), rooms.inventory.vm(one).config
    power_on(rooms, one)
    really = VmDirectory.make

    def full(self: VmDirectory, name: str, *arguments: Any, **more: Any) -> None:
        if name.endswith("2.vmdk"):
            raise HostError("no space", code="host-enospc")
        really(self, name, *arguments, **more)

    power = Power(rooms, StateError("it goes on", code="on") if why == "goes on" else None)
    monkeypatch.setattr(rooms.snapshots, "_power", power)
    if why == "no room at all":
        monkeypatch.setattr(VmDirectory, "make", full)
    if why == "not told what others need":
        rooms.add("two", folder="one")
        (rooms.volumes / "datastore1/one/two.vmx").write_text("no file of a VM")
        before = rooms.files("datastore1/one")
    rooms.refused(c.RevertToSnapshot("", one))
    assert rooms.files("datastore1/one") == before
    assert rooms.inventory.vm(one).power is PowerState.POWERED_ON
    assert rooms.inventory.vm(one).config == config


def test_two_disks_that_each_fit_do_not_take_the_spare_together(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = 16 * MIB
    disk = replace(spec(), capacity=3 * piece)
    taken, whole = 0, 4 * piece + (256 << 20)
    begun = False

    def free(_descriptor: int) -> Any:
        return SimpleNamespace(f_bavail=whole - taken, f_frsize=1)

    def allocate(_descriptor: int, _offset: int, size: int) -> None:
        nonlocal taken, begun
        taken += size
        assert taken <= whole - (256 << 20)
        if not begun:
            begun = True
            # It fits too at the moment: another is made in the midst of the first.
            with rooms.folder("datastore1") as other:
                other.make_disk(DATA.replace("data", "other"), disk, thin=False)

    monkeypatch.setattr(os, "fstatvfs", free)
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    with rooms.folder("datastore1") as directory, pytest.raises(SpaceError):
        directory.make_disk(DATA.replace("data", "more"), disk, thin=False)
    assert taken == 4 * piece
    assert rooms.files("second/shared") == [
        *("data-flat.vmdk", "data.vmdk", "other-flat.vmdk", "other.vmdk")
    ]
