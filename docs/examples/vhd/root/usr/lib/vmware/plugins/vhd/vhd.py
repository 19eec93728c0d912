"""Reads VHD disks, fixed and dynamic, for the kernel of a Casemate host.

Source: "Virtual Hard Disk Image Format Specification", version 1.0 (Microsoft, 2006).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

SECTOR = 512
HEADER = 1024
FIXED, DYNAMIC = 2, 3
UNUSED = 0xFFFFFFFF
BLOCKS = 1 << 22
"""Blocks of a disk: of two MiB each, four times as much as the format allows."""


class Disk:
    """A disk: ``capacity`` in bytes, and what lies where.

    Args:
        read: ``read(offset, length)`` gives the file's bytes, fewer only at its end.
        size: bytes of the file.

    Raises:
        ValueError: The file is no VHD, or one that needs another to be read.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        footer = read(size - SECTOR, SECTOR)
        if len(footer) != SECTOR or not footer.startswith(b"conectix"):
            raise ValueError("the file does not end as a VHD does")
        (header,) = struct.unpack_from(">Q", footer, 16)
        (self.capacity,) = struct.unpack_from(">Q", footer, 48)
        (kind,) = struct.unpack_from(">I", footer, 60)
        self._blocks: tuple[int, ...] = ()
        self._block = self.capacity
        if kind == DYNAMIC:
            self._read_table(header)
        elif kind != FIXED:
            raise ValueError(f"a VHD of the type {kind} needs another file to be read")

    def _read_table(self, header: int) -> None:
        facts = self._read(header, HEADER)
        if len(facts) != HEADER or not facts.startswith(b"cxsparse"):
            raise ValueError("the header of the dynamic disk is not where it should be")
        (table,) = struct.unpack_from(">Q", facts, 16)
        count, self._block = struct.unpack_from(">II", facts, 28)
        if not 0 < count <= BLOCKS or self._block < SECTOR or self._block % SECTOR:
            raise ValueError("the dynamic disk has an impossible number or size of blocks")
        entries = self._read(table, 4 * count)
        self._blocks = struct.unpack(f">{count}I", entries)

    def read(self, offset: int, length: int) -> bytes:
        """Return the disk's content; what was never written is zeros."""
        if not self._blocks:
            return self._read(offset, length)
        parts = []
        while length:
            number, within = divmod(offset, self._block)
            part = min(length, self._block - within)
            parts.append(self._piece(number, within, part))
            offset += part
            length -= part
        return b"".join(parts)

    def _piece(self, number: int, within: int, length: int) -> bytes:
        place = self._blocks[number]
        if place == UNUSED:
            return bytes(length)
        bitmap = -(-self._block // SECTOR // 8)
        bitmap = -(-bitmap // SECTOR) * SECTOR
        data = self._read(place * SECTOR + bitmap + within, length)
        return data.ljust(length, b"\0")
