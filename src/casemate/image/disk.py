"""The disk of a machine that boots by itself, written without root and without mounting anything.

    EFI         FAT32, the signed boot image as EFI/BOOT/BOOTX64.EFI: firmware starts it by itself
    bootbank    FAT32, boot.cfg, image database, payloads
    altbootbank FAT32, empty until the first update
    state       empty; the first start encrypts it and puts the file system of the image on it
    datastore1  ext4, virtual machines

Same inputs, same bytes: identifiers are derived, times are fixed. The file is sparse.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5
from zlib import crc32

from casemate.errors import HostError
from casemate.formats.gpt import EFI_SYSTEM, LINUX_DATA, SECTOR, Entry, write_gpt
from casemate.image import tools
from casemate.image.erofs import NAMESPACE

MEBIBYTE: Final = 1 << 20
ALIGNMENT: Final = MEBIBYTE // SECTOR
"""Sectors: partitions begin at whole MiB."""
SOURCE_DATE: Final = "1793491200"
"""2026-11-01: the date of every file on the disk."""
STATE_SIZE: Final = 64
"""MiB of the host's state: accounts, certificate, inventory. The boot image has its file system."""
HANDED_OVER: Final = 1
"""MiB at the end of the state that its file system leaves to the settings of the first start."""
BLOCK: Final = 4096
_UNWRITTEN: Final = b"\xa5" * BLOCK

BOOT_PATH: Final = "EFI/BOOT/BOOTX64.EFI"
"""Where firmware looks on a disk that it has no boot entry for."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition: name, MiB, and its kind: ``efi``, ``fat``, ``ext4``, or ``raw`` for none."""

    name: str
    mebibytes: int
    kind: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes in MiB. A bank takes an image of 200 MiB and leaves room for drivers and updates."""

    efi: int = 128
    bank: int = 512
    datastore: int = 2048

    def partitions(self) -> tuple[Partition, ...]:
        """Return the partitions in disk order."""
        return (
            Partition("EFI", self.efi, "efi"),
            Partition("bootbank", self.bank, "fat"),
            Partition("altbootbank", self.bank, "fat"),
            Partition("state", STATE_SIZE, "raw"),
            Partition("datastore1", self.datastore, "ext4"),
        )


def write_disk(
    out: Path, boot_image: bytes, bank: Path, scratch: Path, layout: Layout | None = None
) -> None:
    """Write the disk.

    Args:
        out: the file; replaced as a whole.
        boot_image: the signed EFI program.
        bank: directory with what the first boot bank holds.
        scratch: directory for intermediate files.
        layout: sizes.

    Raises:
        HostError: a program is missing or failed, or the disk cannot be written.
    """
    parts = (layout or Layout()).partitions()
    start = ALIGNMENT
    entries = []
    for part in parts:
        sectors = part.mebibytes * ALIGNMENT
        kind = EFI_SYSTEM if part.kind == "efi" else LINUX_DATA
        entries.append(Entry(kind, _identifier(part.name), start, sectors, part.name))
        start += sectors
    sectors = start + ALIGNMENT
    first, last = write_gpt(_identifier("disk"), sectors, entries)
    image = scratch / "boot.efi"
    fresh = out.with_name(f".{out.name}.new")
    try:
        image.write_bytes(boot_image)
        fresh.unlink(missing_ok=True)
        with fresh.open("wb") as stream:
            stream.truncate(sectors * SECTOR)
            stream.write(first)
            stream.seek(sectors * SECTOR - len(last))
            stream.write(last)
        for part, entry in zip(parts, entries, strict=True):
            match part.kind:
                case "ext4":
                    _ext4(fresh, entry)
                case "raw":
                    continue
                case "efi":
                    _fat(fresh, entry, {BOOT_PATH: image})
                case _ if part.name == "bootbank":
                    _fat(fresh, entry, {path.name: path for path in sorted(bank.iterdir())})
                case _:
                    _fat(fresh, entry, {})
        fresh.rename(out)
    except OSError as error:
        raise HostError(
            f"The disk cannot be written: {error.strerror}.",
            code="disk-write",
            component=str(error.filename or out),
            remedy="Make room on its disk.",
        ) from error
    finally:
        image.unlink(missing_ok=True)
        fresh.unlink(missing_ok=True)


def replace_files(disk: Path, partition: str, files: Mapping[str, Path]) -> None:
    """Put files into a FAT partition of a disk written by this module; existing ones are replaced.

    Args:
        disk: the disk.
        partition: its name.
        files: path on the partition (its folder exists) to the file to copy.

    Raises:
        HostError: there is no such partition, or a program failed.
    """
    _copy(f"{disk}@@{offset_of(disk, partition)}", files)


def state_template(scratch: Path) -> bytes:
    """Return an empty file system for the state: number (u32) and content of each block in it.

    What mke2fs leaves as it was needs no block, so that whatever lies there does not matter.

    Raises:
        HostError: mke2fs is missing or failed.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        place = Path(temporary, "state")
        size = STATE_SIZE - HANDED_OVER
        with place.open("wb") as stream:
            for _ in range(size * MEBIBYTE // BLOCK):
                stream.write(_UNWRITTEN)
        sectors = size * ALIGNMENT
        _ext4(place, Entry(LINUX_DATA, _identifier("state"), 0, sectors, "state"))
        data = place.read_bytes()
    blocks = (data[start : start + BLOCK] for start in range(0, len(data), BLOCK))
    return b"".join(
        struct.pack("<I", number) + block
        for number, block in enumerate(blocks)
        if block != _UNWRITTEN
    )


def offset_of(disk: Path, partition: str) -> int:
    """Return where a partition begins, in bytes. Raises HostError where there is none."""
    with disk.open("rb") as stream:
        stream.seek(2 * SECTOR)
        for _ in range(len(Layout().partitions())):
            entry = stream.read(128)
            if entry[56:].decode("utf-16-le").rstrip("\0") == partition:
                return int(struct.unpack_from("<Q", entry, 32)[0]) * SECTOR
    raise HostError(f"{disk} has no partition {partition}.", component=str(disk))


def _identifier(name: str) -> UUID:
    return uuid5(NAMESPACE, f"disk {name}")


def _environment() -> dict[str, str]:
    return {
        "SOURCE_DATE_EPOCH": SOURCE_DATE,
        "E2FSPROGS_FAKE_TIME": SOURCE_DATE,
        "MTOOLS_SKIP_CHECK": "1",
    }


def write_fat(disk: Path, start: int, sectors: int, name: str, files: Mapping[str, Path]) -> None:
    """Write a FAT32 file system into a file; same inputs, same bytes.

    Args:
        disk: the file, as large as it needs to be.
        start: first sector of the file system.
        sectors: its size.
        name: of the volume, which its number follows from.
        files: path in the file system to the file to copy there.

    Raises:
        HostError: a program is missing or failed.
    """
    drive = f"{disk}@@{start * SECTOR}"
    tools.run(
        *("mformat", "-i", drive, "-F", "-T", str(sectors), "-h", "64", "-s", "32"),
        *("-H", str(start), "-N", f"{crc32(name.encode()):08x}"),
        *("-v", name[:11].upper(), "::"),
        environment=_environment(),
    )
    for folder in _folders(files):
        tools.run("mmd", "-i", drive, f"::{folder}", environment=_environment())
    _copy(drive, files)


def _fat(disk: Path, entry: Entry, files: Mapping[str, Path]) -> None:
    write_fat(disk, entry.start, entry.sectors, entry.name, files)


def _copy(drive: str, files: Mapping[str, Path]) -> None:
    for name, source in files.items():
        tools.run("mcopy", "-o", "-i", drive, source, f"::{name}", environment=_environment())


def _folders(files: Iterable[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name in files:
        parts = name.split("/")[:-1]
        found |= dict.fromkeys("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return tuple(found)


def _ext4(disk: Path, entry: Entry) -> None:
    identifier = str(entry.guid)
    options = (
        f"offset={entry.start * SECTOR},hash_seed={identifier},root_owner=0:0"
        ",lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    )
    tools.run(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-U", identifier),
        *("-L", entry.name[:16], "-E", options, str(disk), str(entry.sectors // 8)),
        environment=_environment(),
    )
