"""Datastore paths lead nowhere but into their datastore; broken VMs do not stop the host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from casemate.errors import (
    ArgumentError,
    CasemateError,
    FileLockedError,
    HostError,
    NotFoundError,
)
from casemate.kernel.fileguard import FileGuard
from casemate.kernel.inventory import Inventory
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.machine.facts import VmFact

from .registering import registered

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
VMX = """.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "19"
displayName = "one"
guestOS = "other-64"
numvcpus = "1"
memSize = "64"
uuid.bios = "56 4d 01 02 03 04 05 06-07 08 09 0a 0b 0c 0d {last}"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "volumes" / "datastore1" / "one").mkdir(parents=True)
    (tmp_path / "volumes" / "datastore1" / "one" / "one.vmx").write_text(VMX.format(last="0e"))
    return tmp_path


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    opened = Store(place / "casemate.db")
    yield opened
    opened.close()


@pytest.fixture
def inventory(place: Path, store: Store) -> Inventory:
    made = Inventory(store, FactStream(), place / "volumes", UUID)
    made.publish_all(1000, 1000)
    return made


def test_a_datastore_is_made_and_goes_only_when_it_is_empty(
    inventory: Inventory, place: Path
) -> None:
    made = inventory.make_datastore("store2")
    assert inventory.datastore(made).name == "store2"
    (place / "volumes/store2/file").write_text("x")
    with pytest.raises(HostError):
        inventory.remove_datastore(made)
    (place / "volumes/store2/file").unlink()
    inventory.remove_datastore(made)
    with pytest.raises(NotFoundError):
        inventory.datastore(made)
    for name in ("datastore1", "", "..", "a/b", ".hidden", "x" * 43, "a b", "a\n"):
        with pytest.raises(ArgumentError):
            inventory.make_datastore(name)
    assert [one.name for one in (place / "volumes").iterdir()] == ["datastore1"]


def test_a_vm_is_registered_and_found_again_after_a_restart(
    inventory: Inventory, store: Store, place: Path
) -> None:
    vm = registered(inventory, "[datastore1] one/one.vmx")
    assert inventory.vm(vm).config.name == "one"
    again = Inventory(store, FactStream(), place / "volumes", UUID)
    again.publish_all(1000, 1000)
    assert again.vm(vm).config == inventory.vm(vm).config
    again.unregister(vm)
    assert (place / "volumes" / "datastore1" / "one" / "one.vmx").exists()


@pytest.mark.parametrize(
    "path",
    [
        "[datastore1] ../../casemate.db",
        "[datastore1] one/../../../etc/passwd",
        "[datastore1] /etc/passwd",
        "[..] casemate.db",
        "[.] datastore1/one/one.vmx",
        "[datastore1]",
        "/etc/passwd",
        "[datastore1] one//one.vmx",
        "[datastore1] one/\x00.vmx",
        "",
    ],
)
def test_a_path_out_of_the_datastore_is_refused(inventory: Inventory, path: str) -> None:
    with pytest.raises(ArgumentError):
        registered(inventory, path)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_out_of_the_datastore_is_refused(
    inventory: Inventory, place: Path, what: str
) -> None:
    outside = place / "outside"
    outside.mkdir()
    (outside / "x.vmx").write_text(VMX.format(last="0f"))
    link = place / "volumes" / "datastore1" / ("x.vmx" if what == "file" else "x")
    link.symlink_to(outside / "x.vmx" if what == "file" else outside)
    with pytest.raises(CasemateError):
        registered(inventory, "[datastore1] x.vmx" if what == "file" else "[datastore1] x/x.vmx")


def test_a_device_or_pipe_as_vmx_is_refused_without_waiting(
    inventory: Inventory, place: Path
) -> None:
    os.mkfifo(place / "volumes" / "datastore1" / "pipe.vmx")
    with pytest.raises(ArgumentError, match="not a file"):
        registered(inventory, "[datastore1] pipe.vmx")


def test_the_same_vm_cannot_be_registered_twice(inventory: Inventory, place: Path) -> None:
    registered(inventory, "[datastore1] one/one.vmx")
    copy = place / "volumes" / "datastore1" / "copy.vmx"
    copy.write_text(VMX.format(last="0e"))
    for path in ("[datastore1] one/one.vmx", "[datastore1] copy.vmx"):
        with pytest.raises(ArgumentError, match="registered already"):
            registered(inventory, path)


def test_a_vm_whose_file_broke_is_shown_with_the_reason_and_can_be_removed(
    inventory: Inventory, store: Store, place: Path
) -> None:
    vm = registered(inventory, "[datastore1] one/one.vmx")
    (place / "volumes" / "datastore1" / "one" / "one.vmx").unlink()
    stream = FactStream()
    again = Inventory(store, stream, place / "volumes", UUID)
    again.publish_all(1000, 1000)
    (fact,) = [fact for fact in stream.facts() if isinstance(fact, VmFact)]
    assert "No such file" in fact.config.annotation
    again.unregister(vm)
    with pytest.raises(NotFoundError):
        again.vm(vm)


def test_vms_whose_files_have_no_uuid_are_told_apart_and_keep_theirs(
    inventory: Inventory, store: Store, place: Path
) -> None:
    for name in ("two", "three"):
        folder = place / "volumes" / "datastore1" / name
        folder.mkdir()
        plain = VMX.partition("uuid.bios")[0].replace('"one"', f'"{name}"')
        (folder / f"{name}.vmx").write_text(plain)
    made = [registered(inventory, f"[datastore1] {name}/{name}.vmx") for name in ("two", "three")]
    first, second = (inventory.vm(vm).config.uuid for vm in made)
    assert first != second
    again = Inventory(store, FactStream(), place / "volumes", UUID)
    again.publish_all(1000, 1000)
    assert [again.vm(vm).config.uuid for vm in made] == [first, second]


@pytest.mark.parametrize("below", ["one/one.vmx", "one", "."])
def test_no_vm_is_registered_whose_files_are_being_removed(
    inventory: Inventory, place: Path, below: str
) -> None:
    guard = FileGuard(inventory)
    target = (place / "volumes" / "datastore1" / below).resolve()
    with guard.held([(target, below)]), pytest.raises(FileLockedError):
        registered(inventory, "[datastore1] one/one.vmx")
    assert inventory.vms() == ()
    vm = registered(inventory, "[datastore1] one/one.vmx")
    with pytest.raises(FileLockedError), guard.held([(target, below)]):
        pass
    assert inventory.vm(vm).config.name == "one"


def test_a_vm_beside_what_is_being_removed_is_registered(inventory: Inventory, place: Path) -> None:
    other = place / "volumes" / "datastore1" / "one" / "other.iso"
    with FileGuard(inventory).held([(other, "one/other.iso")]):
        assert registered(inventory, "[datastore1] one/one.vmx")
