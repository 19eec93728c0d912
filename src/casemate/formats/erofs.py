"""How the files of an EROFS image begin, read from the image without mounting or unpacking it.

Only what ``mkfs.erofs`` writes by default is understood: stored files, and files in LZ4 blocks of
one block each with compacted indexes. An LZ4 block must begin with literals, so the first bytes of
a file stand in the image as they are, as long as no two of them are alike. Everything else is
answered with "may be", and the caller reads the file itself.

Layout: Linux, fs/erofs/erofs_fs.h and zmap.c.
"""

from __future__ import annotations

import struct
from typing import Final

MAGIC: Final = 0xE0F5E1E2
_SUPERBLOCK: Final = 1024
_LZ4_ALONE: Final = 0x1
"""feature_incompat of images that hold stored and LZ4 data, nothing packed or shared."""

_SLOT: Final = 32  # bytes of a compact inode; node numbers count them
_FLAT_PLAIN, _FLAT_INLINE, _COMPACT = 0, 2, 3
_PLAIN, _HEAD = 0, 1
_COMPACTED_2B: Final = 0x1
_LONG: Final = 15


class ErofsImage:
    """An image in memory. Whatever its bytes, asking it raises nothing."""

    def __init__(self, image: memoryview) -> None:
        self._image = image
        self._bits = 0
        self._meta = 0
        if len(image) >= _SUPERBLOCK + 128:
            magic, bits = struct.unpack_from("<I8xB", image, _SUPERBLOCK)
            (meta,) = struct.unpack_from("<I", image, _SUPERBLOCK + 40)
            (features,) = struct.unpack_from("<I", image, _SUPERBLOCK + 80)
            if magic == MAGIC and bits == 12 and not features & ~_LZ4_ALONE:  # noqa: PLR2004 (4 KiB)
                self._bits, self._meta = bits, meta << bits

    def may_begin(self, node: int, size: int, start: bytes) -> bool:
        """Tell whether a file may begin with ``start``; False is certain, True is not.

        Args:
            node: its number, which Linux shows as its inode number.
            size: of the file, as Linux shows it.
            start: bytes of which no two are alike.
        """
        if not self._bits:
            return True
        if size < len(start):
            return False
        if not 0 <= node <= len(self._image) // _SLOT:
            return True
        try:
            return self._begins(self._meta + node * _SLOT, size, start)
        except struct.error:
            return True

    def _begins(self, inode: int, size: int, start: bytes) -> bool:
        layout, attributes = struct.unpack_from("<HH", self._image, inode)
        extended = layout & 1
        (stated,) = struct.unpack_from("<Q" if extended else "<I", self._image, inode + 8)
        (block,) = struct.unpack_from("<I", self._image, inode + 16)
        if stated != size:
            return True
        end = inode + (64 if extended else 32)
        end += 12 + 4 * (attributes - 1) if attributes else 0
        match layout >> 1:
            case kind if kind == _FLAT_PLAIN or (kind == _FLAT_INLINE and size > 1 << self._bits):
                return self._at(block << self._bits, start)
            case kind if kind == _FLAT_INLINE:
                return self._at(end, start)
            case kind if kind == _COMPACT:
                return self._compressed(end, size, start)
        return True

    def _compressed(self, end: int, size: int, start: bytes) -> bool:
        """Find the block of the first cluster in the compacted index, and look at its start."""
        header = (end + 7) & ~7
        advise, algorithm, cluster = struct.unpack_from("<HBB", self._image, header + 4)
        if advise & ~_COMPACTED_2B or algorithm or cluster:
            return True
        index = header + 8
        clusters = (size + (1 << self._bits) - 1) >> self._bits
        small = bool(advise & _COMPACTED_2B) and index % 32 == 0 and clusters >= 16  # noqa: PLR2004
        (entry,) = struct.unpack_from("<H", self._image, index)
        (before,) = struct.unpack_from("<I", self._image, index + (28 if small else 4))
        kind, offset = entry >> self._bits & 3, entry & ((1 << self._bits) - 1)
        place = before + 1 << self._bits
        if offset or kind not in (_PLAIN, _HEAD):
            return True
        if kind == _PLAIN:
            return self._at(place, start)
        return self._literals(place, start)

    def _literals(self, place: int, start: bytes) -> bool:
        """Look at the first literals of an LZ4 block, which stands at the end of its place."""
        block = bytes(self._image[place : place + (1 << self._bits)])
        packed = block.lstrip(b"\0")
        if not packed:
            return True
        length, at = packed[0] >> 4, 1
        if length == _LONG:
            while packed[at : at + 1] == b"\xff":
                at += 1
            at += 1
        elif length < len(start):
            return False
        return packed[at : at + len(start)] == start

    def _at(self, place: int, start: bytes) -> bool:
        found = bytes(self._image[place : place + len(start)])
        return found == start or len(found) < len(start)
