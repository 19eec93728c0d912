"""GUID partition tables: protective MBR, both headers, the array of entries; written and read.

Source: UEFI 2.10, section 5. What event logs carry of one is read in ``formats.uefi``.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from casemate.errors import ArgumentError, FormatError

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
_MAGIC: Final = b"EFI PART"
HEAD: Final = (1 + RESERVED) * SECTOR
"""Bytes at the start of a disk that hold the whole table."""


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


def parse_gpt(data: bytes) -> tuple[Entry, ...]:
    """Return the partitions, in table order, of a disk that begins with ``data``.

    At least the first 34 sectors are needed: ``HEAD`` bytes.

    Raises:
        FormatError: there is no whole table of the usual size (``gpt-malformed``).
    """
    if len(data) < HEAD or data[SECTOR : SECTOR + 8] != _MAGIC:
        raise FormatError("the disk has no GUID partition table", code="gpt-malformed")
    header = _HEADER.unpack_from(data, SECTOR)
    plain = bytearray(data[SECTOR : SECTOR + _HEADER.size])
    plain[16:20] = bytes(4)
    table = data[2 * SECTOR : HEAD]
    if (header[2], header[3]) != (_HEADER.size, zlib.crc32(plain)):
        raise FormatError("the partition table's header is damaged", code="gpt-malformed")
    if header[10:] != (2, ENTRIES, ENTRY_SIZE, zlib.crc32(table)):
        raise FormatError("the partition table is damaged", code="gpt-malformed")
    rows = (table[start : start + ENTRY_SIZE] for start in range(0, len(table), ENTRY_SIZE))
    return tuple(_read(row) for row in rows if any(row[:16]))


def _read(row: bytes) -> Entry:
    first, last, _ = struct.unpack_from("<QQQ", row, 32)
    name = row[56:].decode("utf-16-le", "replace").partition("\0")[0]
    return Entry(UUID(bytes_le=row[:16]), UUID(bytes_le=row[16:32]), first, last - first + 1, name)


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
            _MAGIC,
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
