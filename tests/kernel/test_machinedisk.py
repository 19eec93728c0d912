"""Which disk a machine boots from: the one that firmware started, never a copy by chance."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from casemate.errors import BootError, FormatError
from casemate.formats.efivars import LOADER
from casemate.formats.gpt import EFI_SYSTEM, Entry, write_gpt
from casemate.kernel.boot.firmwareboot import started_partition
from casemate.kernel.boot.machinedisk import MachineDisk, started_from

ONE, TWO, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)


def disk(place: Path, name: str, partition: UUID) -> MachineDisk:
    entries = [Entry(EFI_SYSTEM, partition, 2048, 2048, "bootbank")]
    path = place / name
    path.write_bytes(write_gpt(UUID(int=9), 8192, entries)[0])
    return MachineDisk(path, {"bootbank": path})


def test_of_two_installed_disks_that_boots_which_firmware_started(tmp_path: Path) -> None:
    found = [disk(tmp_path, "vda", ONE), disk(tmp_path, "vdb", TWO)]
    assert started_from(TWO, found) is found[1]
    assert started_from(ONE, found) is found[0]


def test_a_disk_that_firmware_did_not_start_is_not_taken_for_it(tmp_path: Path) -> None:
    unreadable = MachineDisk(tmp_path / "gone", {})
    assert started_from(OTHER, [disk(tmp_path, "vda", ONE), unreadable]) is None


@pytest.mark.parametrize("started", [ONE, None])
def test_a_copy_of_the_disk_is_refused_with_both_names(
    tmp_path: Path, started: UUID | None
) -> None:
    found = [disk(tmp_path, "vda", ONE), disk(tmp_path, "vdb", ONE)]
    with pytest.raises(BootError, match=r"vda.*vdb") as caught:
        started_from(started, found)
    assert caught.value.code == "disk-ambiguous"


def test_where_firmware_says_nothing_the_only_disk_boots(tmp_path: Path) -> None:
    found = disk(tmp_path, "vda", ONE)
    assert started_from(None, [found]) is found
    assert started_from(None, []) is None


def test_what_firmware_started_is_read_as_systemd_writes_it(tmp_path: Path) -> None:
    assert started_partition(tmp_path) is None
    variable = tmp_path / f"LoaderDevicePartUUID-{LOADER}"
    variable.write_bytes(b"\6\0\0\0" + f"{str(TWO).upper()}\0".encode("utf-16-le"))
    assert started_partition(tmp_path) == TWO
    variable.write_bytes(b"\6\0\0\0" + "x\0".encode("utf-16-le"))
    with pytest.raises(FormatError):
        started_partition(tmp_path)
