"""What a kernel that was killed while it saved a guest's memory left is found by the next one."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.inventory import Inventory
from casemate.kernel.leftovers import tidy
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import Tasks
from casemate.kernel.vmcontext import VmContext
from casemate.machine.facts import DiskSpec

from .registering import allowed, registered

VMX = """.encoding = "UTF-8"
virtualHW.version = "21"
displayName = "demo"
guestOS = "other"
memSize = "16"
numvcpus = "1"
"""
PARTIAL = b"QEVM" + bytes(100)


class Place:
    """One datastore with one VM, and what a start of the kernel does with its files."""

    def __init__(self, volumes: Path) -> None:
        self.store, stream = Store(volumes.parent / "casemate.db"), FactStream()
        self.files = volumes / "datastore1" / "demo"
        self.files.mkdir(parents=True)
        self.write("demo.vmx", VMX.encode())
        host = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
        self.inventory = Inventory(self.store, stream, volumes, host)
        nothing = SimpleNamespace()
        self.context = VmContext(
            self.inventory,
            nothing,  # type: ignore[arg-type]
            Tasks(stream, lambda: 0.0),
            self.store,
            lambda: 0.0,
            allowed,
        )

    def write(self, name: str, content: bytes) -> None:
        (self.files / name).write_bytes(content)

    def after(self) -> set[str]:
        """Register the VM, look through its files as a start does, and return what is there."""
        registered(self.inventory, "[datastore1] demo/demo.vmx")
        tidy(self.context)
        self.store.close()
        return {one.name for one in self.files.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "volumes")


DATA = "/vmfs/volumes/second/shared/data.vmdk"
DISK = DiskSpec(DATA, "disk", "vmdk", 1 << 20, "scsi0", 0)
STATE = (
    f'{VMX}scsi0.present = "TRUE"\nscsi0:0.present = "TRUE"\nscsi0:0.fileName = "{DATA}"\n'.encode()
)


class Elsewhere:
    """A VM's disk on another datastore, and a snapshot of it that was begun."""

    def __init__(self, place: Place, volumes: Path) -> None:
        self.place = place
        self.files = volumes / "second/shared"
        self.files.mkdir(parents=True)
        place.write("demo.vmx", STATE)
        place.write("demo-Snapshot1.vmsn", STATE)
        with VmDirectory(place.files, volumes=volumes) as directory:
            directory.make_disk(DATA, DISK, thin=True)
            self.disk = self.here()
            self.delta = directory.make_delta(DISK).rpartition("/")[2]
            self.extent = self.delta.replace(".vmdk", "-delta.qcow2")

    def here(self) -> set[str]:
        return {one.name for one in self.files.iterdir()}


@pytest.fixture
def elsewhere(place: Place, tmp_path: Path) -> Elsewhere:
    return Elsewhere(place, tmp_path / "volumes")


@pytest.mark.parametrize("bytes_of", [(0, None), (70_000, None), (-1, None), (-1, 0), (-1, 30)])
def test_the_deltas_of_a_snapshot_that_was_cut_off_go_wherever_its_disks_are(
    elsewhere: Elsewhere, bytes_of: tuple[int, int | None], caplog: pytest.LogCaptureFixture
) -> None:
    for name, size in zip((elsewhere.extent, elsewhere.delta), bytes_of, strict=True):
        if size is None:
            (elsewhere.files / name).unlink()
        elif size >= 0:
            os.truncate(elsewhere.files / name, size)
    with caplog.at_level(logging.WARNING):
        assert elsewhere.place.after() == {"demo.vmx"}
    assert elsewhere.here() == elsewhere.disk
    assert "cut off" in caplog.text


def test_a_whole_delta_of_a_snapshot_that_was_cut_off_goes_too(elsewhere: Elsewhere) -> None:
    assert elsewhere.place.after() == {"demo.vmx"}
    assert elsewhere.here() == elsewhere.disk


@pytest.mark.parametrize("why", ["no snapshot", "written", "named", "a stranger's", "listed"])
def test_a_delta_that_somebody_may_need_stays(elsewhere: Elsewhere, why: str) -> None:
    place = elsewhere.place
    if why == "no snapshot":
        (place.files / "demo-Snapshot1.vmsn").unlink()
    elif why == "written":
        with (elsewhere.files / elsewhere.extent).open("ab") as stream:
            stream.write(b"what a guest wrote")
    elif why == "named":
        place.write("demo.vmx", STATE.replace(b"data.vmdk", elsewhere.delta.encode()))
    elif why == "a stranger's":
        (elsewhere.files / "away.vmx").write_text(f'scsi0:0.fileName = "{elsewhere.delta}"\n')
    else:
        place.write("demo.vmsd", b'snapshot.numSnapshots = "1"\n')
    place.after()
    assert elsewhere.here() >= {*elsewhere.disk, elsewhere.extent, elsewhere.delta}


def test_memory_that_was_not_saved_to_its_end_is_removed_and_named(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.write("demo-0123abcd.vmss", PARTIAL)
    place.write("demo-0123abcd-ide0-0.REDO", b"half")
    place.write("demo-Snapshot1.vmem", PARTIAL)
    place.write("demo-4567abcd.vmss", b"")
    with caplog.at_level(logging.WARNING):
        assert place.after() == {"demo.vmx"}
    assert "demo-0123abcd.vmss was not saved to its end" in caplog.text


def test_memory_that_a_vm_wakes_up_with_stays(place: Place) -> None:
    place.write("demo.vmx", f'{VMX}checkpoint.vmState = "demo-0123abcd.vmss"\n'.encode())
    place.write("demo-0123abcd.vmss", PARTIAL)
    place.write("demo-Snapshot1.vmem", PARTIAL)
    assert place.after() == {"demo.vmx", "demo-0123abcd.vmss"}


def test_what_other_makers_or_other_vms_keep_stays(place: Place) -> None:
    foreign = {
        "demo-0123abcd.vmss": b"\xd2\xbe\xd2\xbe",
        "demo-Snapshot7.vmem": PARTIAL,
        "demo-Snapshot7.vmsn": b"",
        "away.vmsd": b'snapshot0.filename = "demo-Snapshot7.vmsn"\n',
        "demo-x-4567abcd.vmss": PARTIAL,
        "demo-12.vmss": PARTIAL,
        "other-89abcdef.vmss": PARTIAL,
    }
    for name, content in foreign.items():
        place.write(name, content)
    assert place.after() == {"demo.vmx", *foreign}


def test_while_nobody_knows_what_is_needed_nothing_is_removed(place: Place) -> None:
    place.write("demo.vmsd", b'snapshot.numSnapshots = "1"\n')
    place.write("demo-Snapshot1.vmem", PARTIAL)
    assert "demo-Snapshot1.vmem" in place.after()


def test_memory_of_a_name_that_is_a_link_is_left_alone(place: Place, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(PARTIAL)
    (place.files / "demo-0123abcd.vmss").symlink_to(tmp_path / "secret")
    assert "demo-0123abcd.vmss" in place.after()
    assert (tmp_path / "secret").exists()
