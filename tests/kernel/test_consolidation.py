"""Merging takes from a VM's directory what no VM needs, and nothing else."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from casemate.errors import FormatError, HostError
from casemate.kernel.cells import blocks, disks
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.consolidation import consolidation_steps
from casemate.kernel.vmfiles import strangers
from casemate.machine.chains import Drop, Merge
from casemate.machine.facts import DiskSpec, PowerState, VmConfig, VmFact

MIB = 1 << 20


def spec(name: str) -> DiskSpec:
    return DiskSpec(name, "disk", "vmdk", 8 * MIB, "ide0", 0)


def vm(number: str, top: str) -> VmFact:
    path = f"[datastore1] both/{number}.vmx"
    config = VmConfig(number, number, path, "other", 1, 16, "bios", disks=(spec(top),))
    return VmFact(number, config, PowerState.POWERED_OFF, "ha-root-pool", "store")


def test_what_another_vm_in_the_directory_writes_to_is_neither_removed_nor_merged_into(
    tmp_path: Path,
) -> None:
    with VmDirectory(tmp_path) as directory:
        directory.make_disk("base.vmdk", spec("base.vmdk"), thin=True)
        ours, theirs = (directory.make_delta(spec("base.vmdk")) for _ in range(2))
        upper = directory.make_delta(spec(theirs))
        _, alone = consolidation_steps(directory, vm("1", ours), ())
        assert Drop(upper) in alone
        directory.write("2.vmx", b'displayName = "2"\n')
        _, steps = consolidation_steps(directory, vm("1", ours), (vm("2", upper),))
        assert steps == ()


def test_what_a_vm_that_is_not_registered_needs_stays(tmp_path: Path) -> None:
    with VmDirectory(tmp_path) as directory:
        directory.make_disk("base.vmdk", spec("base.vmdk"), thin=True)
        ours, theirs = (directory.make_delta(spec("base.vmdk")) for _ in range(2))
        frozen = directory.make_delta(spec("base.vmdk"))
        directory.write("1.vmx", f'scsi0:0.fileName = "{ours}"\n'.encode())
        directory.write("Away.vmx", f'scsi0:0.fileName = "{theirs}"\n'.encode())
        directory.write("Away.vmsd", f'snapshot0.disk0.fileName = "{frozen}"\n'.encode())
        assert consolidation_steps(directory, vm("1", ours), ())[1] == ()


def test_a_disk_that_a_vm_that_is_not_registered_writes_to_is_not_merged_into(
    tmp_path: Path,
) -> None:
    with VmDirectory(tmp_path) as directory:
        directory.make_disk("base.vmdk", spec("base.vmdk"), thin=True)
        ours = directory.make_delta(spec("base.vmdk"))
        path = b'scsi0:0.fileName = "/vmfs/volumes/datastore1/both/base.vmdk"\n'
        directory.write("away.vmx", path)
        assert consolidation_steps(directory, vm("1", ours), ())[1] == ()


def test_while_another_vms_file_cannot_be_read_nothing_is_merged_or_dropped(
    tmp_path: Path,
) -> None:
    with VmDirectory(tmp_path) as directory:
        directory.make_disk("base.vmdk", spec("base.vmdk"), thin=True)
        ours = directory.make_delta(spec("base.vmdk"))
        directory.write("away.vmx", b"\xff\x00 no file of a VM")
        with pytest.raises(FormatError, match=r"away\.vmx") as caught:
            consolidation_steps(directory, vm("1", ours), ())
        assert caught.value.code == "stranger"


@pytest.mark.parametrize("content", [b"\xff\x00 no file of a VM", b'memSize = "-1"\n', None])
def test_while_a_registered_vms_file_cannot_be_read_nothing_is_merged_or_dropped(
    tmp_path: Path, content: bytes | None
) -> None:
    with VmDirectory(tmp_path) as directory:
        directory.make_disk("base.vmdk", spec("base.vmdk"), thin=True)
        ours = directory.make_delta(spec("base.vmdk"))
        if content is not None:
            directory.write("2.vmx", content)
        other = vm("2", "base.vmdk")
        # What is shown of a VM whose file cannot be read has no disks.
        shown = replace(other, config=replace(other.config, disks=()))
        with pytest.raises(FormatError, match=r"2\.vmx") as caught:
            consolidation_steps(directory, vm("1", ours), (shown,))
        assert caught.value.code == "stranger"


def test_what_a_vm_that_is_not_registered_needs_is_shared(tmp_path: Path) -> None:
    with VmDirectory(tmp_path) as directory:
        directory.make_disk("base.vmdk", spec("base.vmdk"), thin=True)
        theirs = directory.make_delta(spec("base.vmdk"))
        directory.write("away.vmx", f'scsi0:0.fileName = "{theirs}"\n'.encode())
        directory.write("1.vmx", b'scsi0:0.fileName = "own.vmdk"\n')
        assert strangers(directory, (vm("1", "own.vmdk"),)) == {theirs, "base.vmdk"}


def test_what_only_this_vm_needs_is_merged(tmp_path: Path) -> None:
    with VmDirectory(tmp_path) as directory:
        directory.make_disk("base.vmdk", spec("base.vmdk"), thin=True)
        top = directory.make_delta(spec("base.vmdk"))
        _, steps = consolidation_steps(directory, vm("1", top), ())
        assert steps == (Merge(top, "base.vmdk"),)


def test_a_list_of_snapshots_that_cannot_be_read_lets_no_delta_go(tmp_path: Path) -> None:
    with VmDirectory(tmp_path) as directory:
        directory.make_disk("base.vmdk", spec("base.vmdk"), thin=True)
        top = directory.make_delta(spec("base.vmdk"))
        directory.write("2.vmsd", b'snapshot.numSnapshots = "1"\n')
        for fact, others in ((vm("2", top), ()), (vm("1", top), (vm("2", "base.vmdk"),))):
            with pytest.raises(FormatError, match="cannot be read"):
                consolidation_steps(directory, fact, others)


class Deaf:
    """A QEMU that takes deltas, but whose answer does not arrive."""

    async def execute(self, command: str, **_arguments: object) -> Any:
        if command == "transaction":
            raise HostError(f"no answer to {command}", code="qmp")
        if command == "blockdev-del":
            raise HostError("QEMU refused blockdev-del: node is in use", code="qmp-refused")
        return {}

    async def execute_with(self, _descriptor: int, _command: str, **_arguments: object) -> Any:
        return {"fdset-id": 1}


def test_a_delta_that_a_guest_may_write_to_is_never_taken_for_unused(tmp_path: Path) -> None:
    with VmDirectory(tmp_path) as directory:
        directory.make_disk("base.vmdk", spec("base.vmdk"), thin=True)
        delta = directory.make_delta(spec("base.vmdk"))
        (below,) = disks.resolve(directory, (spec("base.vmdk"),))
        (above,) = disks.resolve(directory, (spec(delta),))
        with pytest.raises(HostError) as caught:
            asyncio.run(blocks.put_on_top(Deaf(), directory, [(below, above)]))  # type: ignore[arg-type]
        assert caught.value.code == blocks.UNCERTAIN


def test_what_is_made_in_a_directory_is_on_the_disk_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with VmDirectory(tmp_path) as directory:
        directory.make("new", [(0, b"data")])
        assert synced == ["new", tmp_path.name]
        directory.write("new", b"other")
        assert synced[2:] == [".new.new", tmp_path.name]
        directory.copy("new", directory, "copy")
        assert synced[4:] == ["copy"]


def test_elsewhere_only_what_a_vm_had_is_dropped_and_nothing_a_stranger_needs_is_merged(
    tmp_path: Path,
) -> None:
    (tmp_path / "second/shared").mkdir(parents=True)
    (tmp_path / "one").mkdir()
    base = "/vmfs/volumes/second/shared/base.vmdk"
    with VmDirectory(tmp_path / "one", volumes=tmp_path) as directory:
        directory.make_disk(base, spec(base), thin=True)
        former, ours = (directory.make_delta(spec(base)) for _ in range(2))
        fact = vm("1", ours)
        assert consolidation_steps(directory, fact, ())[1] == ()
        _, steps = consolidation_steps(directory, fact, (), {former})
        assert steps == (Drop(former), Merge(ours, base))
        above = directory.make_delta(spec(former))
        assert consolidation_steps(directory, fact, (), {former})[1] == ()
        directory.write("2.vmx", b'displayName = "2"\n')
        assert consolidation_steps(directory, fact, (vm("2", above),), {former})[1] == ()
