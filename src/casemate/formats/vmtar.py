"""Read vmtar, the archive inside ESXi's ``vgz`` payloads.

Headers are like tar's, but file data stands after all of them, each file at the offset that its
header names. From public readers: magic ``visor  `` at byte 257, data offset as u32 LE at byte 496.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Final

from casemate.formats.compressed import XZ_MAGIC, gunzip, unxz
from casemate.formats.tarball import MAX_UNPACKED, TarEntry, TarReader, check_tree, parse_tar

MAGIC: Final = b"visor  "
_USTAR: Final = b"ustar"
_MAGIC_AT: Final = 257

_OFFSET: Final = struct.Struct("<I")


def parse_vgz(
    data: bytes | memoryview, *, limit: int = MAX_UNPACKED, component: str = ""
) -> tuple[TarEntry, ...]:
    """Unpack gzip or xz, then read the vmtar inside.

    Many payloads of others call themselves vgz and hold a plain tar; ESXi takes those, too.

    Raises:
        FormatError: As in ``gunzip``, ``unxz``, ``parse_vmtar`` and ``parse_tar``.
        LimitError: It unpacks to more than ``limit`` bytes.
    """
    packed_as_xz = bytes(data[: len(XZ_MAGIC)]) == XZ_MAGIC
    unpacked = (unxz if packed_as_xz else gunzip)(data, limit, component=component)
    if unpacked[_MAGIC_AT : _MAGIC_AT + len(_USTAR)] == _USTAR:
        return parse_tar(unpacked, component=component)
    return parse_vmtar(unpacked, component=component)


def parse_vmtar(data: bytes | memoryview, *, component: str = "") -> tuple[TarEntry, ...]:
    """Return the entries in archive order.

    Raises:
        FormatError: As in ``parse_tar``; also code ``vmtar-data`` when a file's data lies among the
            headers, outside the archive, or within another file's.
        LimitError: As in ``parse_tar``.
    """
    reader = _VmtarReader(memoryview(data).cast("B").toreadonly(), component)
    entries = reader.entries()
    check_tree(entries, component=component)
    return entries


class _VmtarReader(TarReader):
    """Tar with data elsewhere."""

    def __init__(self, view: memoryview, component: str) -> None:
        super().__init__(view, component)
        self._ranges: list[tuple[int, int]] = []

    def prefix(self, head: bytes) -> bytes:
        """Return the field that precedes the name: in vmtar it ends where the offset begins."""
        if head[257:264] != MAGIC:
            raise self.bad("tar-header", "An entry lacks the magic of vmtar.")
        return head[345:496]

    def locate(self, head: bytes, size: int) -> memoryview:
        """Return the data at the offset that the header names; without one it follows inline."""
        (offset,) = _OFFSET.unpack_from(head, 496)
        if not size or not offset:
            return super().locate(head, size)
        if offset + size > len(self.view):
            raise self.bad("vmtar-data", "A file's data lies outside the archive.")
        self._ranges.append((offset, offset + size))
        return self.view[offset : offset + size]

    def finish(self, rest: memoryview) -> None:
        """Check that files lie after the headers and apart from each other."""
        self._ranges.sort()
        ends_of_headers = len(self.view) - len(rest)
        if self._ranges and self._ranges[0][0] < ends_of_headers:
            raise self.bad("vmtar-data", "A file's data lies among the headers.")
        if any(before[1] > after[0] for before, after in pairwise(self._ranges)):
            raise self.bad("vmtar-data", "The data of two files overlap.")
