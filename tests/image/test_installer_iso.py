"""The ISO around an installer: the same bytes again, its program found as CD and as a stick."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from pathlib import Path

import pytest

from casemate.errors import HostError
from casemate.formats.gpt import EFI_SYSTEM, SECTOR
from casemate.image.installer import write_iso

PROGRAM = os.urandom(300_000)


@pytest.fixture(scope="module")
def iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("iso") / "installer.iso"
    write_iso(path, PROGRAM)
    return path


def efi_partition(iso: Path) -> int:
    """Return the first sector of the EFI system partition in the ISO's partition table."""
    data = iso.read_bytes()[SECTOR : 1 << 20]
    (table, count, size) = struct.unpack_from("<QII", data, 72)
    for number in range(count):
        entry = data[(table - 1) * SECTOR + number * size :][:size]
        if entry[:16] == EFI_SYSTEM.bytes_le:
            return int(struct.unpack_from("<Q", entry, 32)[0])
    raise AssertionError("no EFI system partition")


def test_a_second_iso_has_the_same_bytes(iso: Path, tmp_path: Path) -> None:
    time.sleep(1.1)  # times on the medium are in seconds
    write_iso(tmp_path / "again.iso", PROGRAM)
    assert (tmp_path / "again.iso").read_bytes() == iso.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.iso"]


def test_the_program_is_found_in_the_partition_as_it_is(iso: Path, tmp_path: Path) -> None:
    drive = f"{iso}@@{efi_partition(iso) * SECTOR}"
    out = tmp_path / "program"
    subprocess.run(["mcopy", "-i", drive, "::EFI/BOOT/BOOTX64.EFI", out], check=True)
    assert out.read_bytes() == PROGRAM


def test_a_cd_is_booted_from_the_same_place(iso: Path) -> None:
    data = iso.read_bytes()
    (catalog,) = struct.unpack_from("<I", data, 17 * 2048 + 71)
    entry = data[catalog * 2048 + 32 :][:32]
    kind, _, _, _, _, count, place = struct.unpack_from("<BBHBBHI", entry)
    assert data[17 * 2048 + 1 : 17 * 2048 + 6] == b"CD001"
    assert data[catalog * 2048 + 1] == 0xEF
    assert kind == 0x88
    assert count <= 1
    assert place * 2048 == efi_partition(iso) * SECTOR


def test_an_iso_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        write_iso(tmp_path / "missing" / "x.iso", PROGRAM)
    assert not list(tmp_path.iterdir())
