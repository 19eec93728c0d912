"""What memory there is beside the host's own processes, and their control group."""

from __future__ import annotations

from pathlib import Path

import pytest

from casemate.errors import HostError
from casemate.kernel.cells.hostmemory import (
    HOST_GROUP,
    KEPT,
    WEIGHT,
    HostMemory,
    join_host_group,
    read_host_memory,
)

MIB = 1 << 20
TOTAL, AVAILABLE = 1536 * MIB, 400 * MIB


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    place = tmp_path / "meminfo"
    place.write_text(f"MemTotal: {TOTAL >> 10} kB\nMemAvailable:   {AVAILABLE >> 10} kB\n")
    return place


def own(tmp_path: Path, name: str) -> Path:
    place = tmp_path / "own"
    place.write_text(f"0::/{name}\n")
    return place


def host(tmp_path: Path, *, held: int, files: int, minimum: str) -> Path:
    group = tmp_path / "mount" / HOST_GROUP
    group.mkdir(parents=True)
    (group / "memory.min").write_text(f"{minimum}\n")
    (group / "memory.current").write_text(f"{held}\n")
    half = files // 2
    (group / "memory.stat").write_text(f"anon 7\nactive_file {half}\ninactive_file {half}\n")
    return tmp_path / "mount"


@pytest.mark.parametrize(
    ("held", "files", "minimum", "kept"),
    [
        (180 * MIB, 80 * MIB, str(256 * MIB), 80 * MIB),
        (180 * MIB, 80 * MIB, "max", 80 * MIB),
        (300 * MIB, 80 * MIB, str(256 * MIB), 36 * MIB),
        (900 * MIB, 80 * MIB, str(256 * MIB), 0),
        (180 * MIB, 80 * MIB, "0", 0),
    ],
)
def test_pages_that_are_kept_for_the_host_are_not_handed_out(
    tmp_path: Path, meminfo: Path, held: int, files: int, minimum: str, kept: int
) -> None:
    mount = host(tmp_path, held=held, files=files, minimum=minimum)
    found = read_host_memory(None, meminfo, mount, own(tmp_path, HOST_GROUP))
    assert found == HostMemory(TOTAL, AVAILABLE - kept)


@pytest.mark.parametrize("old", ["", "total_"])
def test_programs_that_vms_run_are_not_handed_out_but_their_shared_memory_counts_once(
    tmp_path: Path, meminfo: Path, old: str
) -> None:
    vms = tmp_path / "vms"
    vms.mkdir()
    name = f"{old}mapped_file" if old else "file_mapped"
    (vms / "memory.stat").write_text(f"{name} {90 * MIB}\n{old}shmem {64 * MIB}\n")
    found = read_host_memory(vms, meminfo, tmp_path, own(tmp_path, ""))
    assert found.free == AVAILABLE - 26 * MIB


def test_no_vm_has_run_yet_and_version_1_protects_nothing(tmp_path: Path, meminfo: Path) -> None:
    found = read_host_memory(tmp_path / "none", meminfo, tmp_path, tmp_path / "nothing")
    assert found == HostMemory(TOTAL, AVAILABLE)


def test_less_than_nothing_is_never_free(tmp_path: Path, meminfo: Path) -> None:
    mount = host(tmp_path, held=2 * AVAILABLE, files=2 * AVAILABLE, minimum="max")
    assert read_host_memory(None, meminfo, mount, own(tmp_path, HOST_GROUP)).free == 0


def test_the_host_joins_a_group_that_is_protected_and_weighs(tmp_path: Path) -> None:
    (tmp_path / HOST_GROUP).mkdir()
    join_host_group(tmp_path)
    group = tmp_path / HOST_GROUP
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (group / "memory.min").read_text() == str(KEPT)
    assert (group / "cpu.weight").read_text() == str(WEIGHT)
    assert (group / "cgroup.procs").read_text() == "0"


def test_a_host_without_groups_says_so(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="control group"):
        join_host_group(tmp_path / "none")
