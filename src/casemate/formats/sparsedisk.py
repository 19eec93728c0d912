"""A disk as the sectors that hold something, each content once: what an installer carries.

    magic, sectors of the whole disk, number of rows
    rows      first sector on the disk, number of sectors, first of them among those kept
    contents  the sectors kept

All numbers are little-endian. What no row names is zeros.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from casemate.errors import ArgumentError, FormatError
from casemate.formats.gpt import SECTOR

ROW_LIMIT: Final = 1 << 20
"""Rows of a disk; one of 16 payloads has some hundred."""
_MAGIC: Final = b"CASEMATEDISK\0\1\0\0"
_HEAD: Final = struct.Struct("<16sQI4x")
_ROW: Final = struct.Struct("<QII")
_LONGEST: Final = (1 << 32) - 1
_ZEROS: Final = bytes(SECTOR)


@dataclass(frozen=True, slots=True)
class Row:
    """A run of sectors: where on the disk, how many, and from which one of those kept."""

    start: int
    sectors: int
    kept: int


class SparseDisk:
    """A packed disk.

    Args:
        data: the whole of it; stays in use.

    Raises:
        FormatError: it is none, or is damaged (``sparse-disk``).
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        if len(data) < _HEAD.size or bytes(self._data[:16]) != _MAGIC:
            raise _bad("there is no packed disk")
        _, self.sectors, count = _HEAD.unpack_from(data)
        self._first = _HEAD.size + count * _ROW.size
        if count > ROW_LIMIT or self._first > len(data) or (len(data) - self._first) % SECTOR:
            raise _bad("the packed disk is cut off")
        kept = (len(data) - self._first) // SECTOR
        rows = (
            Row(*_ROW.unpack_from(data, _HEAD.size + number * _ROW.size)) for number in range(count)
        )
        self.rows = tuple(rows)
        free = 0
        for row in self.rows:
            if row.start < free or row.sectors == 0 or row.kept + row.sectors > kept:
                raise _bad("the packed disk's rows are out of order")
            free = row.start + row.sectors
        if free > self.sectors:
            raise _bad("the packed disk is larger than it says")
        self._starts = [row.start for row in self.rows]

    def read(self, start: int, count: int) -> bytes:
        """Return the content of ``count`` sectors from ``start`` on."""
        number = max(bisect_right(self._starts, start) - 1, 0)
        found = bytearray(count * SECTOR)
        for row in islice(self.rows, number, None):
            if row.start >= start + count:
                break
            begin, end = max(row.start, start), min(row.start + row.sectors, start + count)
            if begin < end:
                place = self._first + (row.kept + begin - row.start) * SECTOR
                found[(begin - start) * SECTOR : (end - start) * SECTOR] = self._data[
                    place : place + (end - begin) * SECTOR
                ]
        return bytes(found)


def pack_disk(sectors: int, pieces: Iterable[tuple[int, bytes]]) -> bytes:
    """Pack a disk.

    Args:
        sectors: of the whole disk.
        pieces: first sector and content of whatever may hold something, in disk order.

    Raises:
        ArgumentError: the pieces are no whole sectors, or out of order.
    """
    known: dict[bytes, int] = {}
    kept: list[bytes] = []
    rows: list[Row] = []
    free = 0
    for start, content in pieces:
        if start < free or len(content) % SECTOR:
            raise ArgumentError("pieces of a disk are whole sectors in order", argument="pieces")
        free = start + len(content) // SECTOR
        for number, sector in _filled(start, content):
            name = hashlib.blake2b(sector, digest_size=32).digest()
            place = known.setdefault(name, len(kept))
            if place == len(kept):
                kept.append(sector)
            _extend(rows, number, place)
    if free > sectors or len(rows) > ROW_LIMIT:
        raise ArgumentError("the pieces do not fit on the disk", argument="pieces")
    head = _HEAD.pack(_MAGIC, sectors, len(rows))
    packed = (_ROW.pack(row.start, row.sectors, row.kept) for row in rows)
    return b"".join((head, *packed, *kept))


def _filled(start: int, content: bytes) -> Iterator[tuple[int, bytes]]:
    for number in range(len(content) // SECTOR):
        sector = content[number * SECTOR : (number + 1) * SECTOR]
        if sector != _ZEROS:
            yield start + number, sector


def _extend(rows: list[Row], number: int, place: int) -> None:
    if rows:
        last = rows[-1]
        follows = (last.start + last.sectors, last.kept + last.sectors) == (number, place)
        if follows and last.sectors < _LONGEST:
            rows[-1] = Row(last.start, last.sectors + 1, last.kept)
            return
    rows.append(Row(number, 1, place))


def _bad(reason: str) -> FormatError:
    return FormatError(
        reason,
        code="sparse-disk",
        component="installer",
        remedy="Build the installer again: casemate image iso.",
    )
