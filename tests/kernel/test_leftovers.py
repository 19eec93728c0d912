"""What a kernel that was killed while it saved a guest's memory left is found by the next one."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from casemate.kernel.inventory import Inventory
from casemate.kernel.leftovers import tidy
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import Tasks
from casemate.kernel.vmcontext import VmContext

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
        )

    def write(self, name: str, content: bytes) -> None:
        (self.files / name).write_bytes(content)

    def after(self) -> set[str]:
        """Register the VM, look through its files as a start does, and return what is there."""
        self.inventory.register("[datastore1] demo/demo.vmx")
        tidy(self.context)
        self.store.close()
        return {one.name for one in self.files.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "volumes")


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
