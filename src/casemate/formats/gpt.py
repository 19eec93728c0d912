"""GUID partition tables, written: protective MBR, both headers, the array of entries.

Source: UEFI 2.10, section 5. Reading one is in ``formats.uefi``, as event logs carry it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from casemate.errors import ArgumentError

SECTOR: Final = 512
ENTRIES: Final = 128
ENTRY_SIZE: Final = 128
TABLE_SECTORS: Final = ENTRIES * ENTRY_SIZE // SECTOR
RESERVED: Final = 1 + TABLE_SECTORS
"""Sectors of a header with its entries: before the partitions (behind the MBR) and at the end."""

EFI_SYSTEM: Final = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
LINUX_DATA: Final = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
NAME_LIMIT: Final = 36

_HEADER: Final = struct.Struct("<8s4sIIIQQQQ16sQIII")
_PROTECTIVE: Final = 0xEE


@dataclass(frozen=True, slots=True)
class Entry:
    """A partition: type, own identifier, first sector and number of sectors, and name."""

    type: UUID
    guid: UUID
    start: int
    sectors: int
    name: str


def write_gpt(disk: UUID, sectors: int, entries: Sequence[Entry]) -> tuple[bytes, bytes]:
    """Return the first sectors of a disk (MBR, header, entries) and its last ones.

    Raises:
        ArgumentError: partitions overlap, or lie where the tables are.
    """
    _check(sectors, entries)
    table = b"".join(map(_entry, entries)).ljust(ENTRIES * ENTRY_SIZE, b"\0")
    last = sectors - 1
    first = _header(disk, sectors, 1, last, 2, table)
    second = _header(disk, sectors, last, 1, last - TABLE_SECTORS, table)
    record = struct.pack(
        "<B3sB3sII", 0, b"\0\2\0", _PROTECTIVE, b"\xff" * 3, 1, min(last, 0xFFFFFFFF)
    )
    mbr = bytes(446) + record + bytes(48) + b"\x55\xaa"
    return mbr + first + table, table + second


def _check(sectors: int, entries: Sequence[Entry]) -> None:
    free = 1 + RESERVED
    for entry in sorted(entries, key=lambda one: one.start):
        if entry.start < free or entry.sectors <= 0 or len(entry.name) > NAME_LIMIT:
            raise ArgumentError(f"the partition {entry.name} cannot lie there", argument="entries")
        free = entry.start + entry.sectors
    if len(entries) > ENTRIES or free > sectors - RESERVED:
        raise ArgumentError("the partitions do not fit on the disk", argument="entries")


def _header(disk: UUID, sectors: int, own: int, other: int, entries: int, table: bytes) -> bytes:
    def pack(checksum: int) -> bytes:
        return _HEADER.pack(
            b"EFI PART",
            b"\0\0\1\0",
            _HEADER.size,
            checksum,
            0,
            own,
            other,
            1 + RESERVED,
            sectors - RESERVED - 1,
            disk.bytes_le,
            entries,
            ENTRIES,
            ENTRY_SIZE,
            zlib.crc32(table),
        )

    return pack(zlib.crc32(pack(0))).ljust(SECTOR, b"\0")


def _entry(entry: Entry) -> bytes:
    name = entry.name.encode("utf-16-le").ljust(2 * NAME_LIMIT, b"\0")
    return (
        entry.type.bytes_le
        + entry.guid.bytes_le
        + struct.pack("<QQQ", entry.start, entry.start + entry.sectors - 1, 0)
        + name
    )
