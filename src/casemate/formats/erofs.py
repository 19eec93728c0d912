"""Which files an EROFS image holds and how they begin, without mounting or unpacking it.

Only what ``mkfs.erofs`` writes by default is understood: directories and files that are stored, and
files in LZ4 blocks of one block each with compacted indexes. An LZ4 block must begin with literals,
so the first bytes of a file stand in the image as they are, as long as no two of them are alike.
Everything else is answered with "may be" or with nothing, and the caller asks Linux.

Layout: Linux, fs/erofs/erofs_fs.h, dir.c, namei.c and zmap.c.
"""

from __future__ import annotations

import stat
import struct
from typing import Final, NamedTuple

MAGIC: Final = 0xE0F5E1E2
_SUPERBLOCK: Final = 1024
_LZ4_ALONE: Final = 0x1
"""feature_incompat of images that hold stored and LZ4 data, nothing packed or shared."""

_SLOT: Final = 32  # bytes of a compact inode; node numbers count them
_FLAT_PLAIN, _FLAT_INLINE, _COMPACT = 0, 2, 3
_PLAIN, _HEAD = 0, 1
_COMPACTED_2B: Final = 0x1
_LONG: Final = 15

_LAYOUTS: Final = 0xF  # bits of i_format: extended, then the layout; the others mean what we ignore
_INODES: Final = (struct.Struct("<HHH2xI4xI"), struct.Struct("<HHH2xQI"))  # compact, extended
_ENTRY: Final = struct.Struct("<QHBx")  # node, place of the name in the block, type


class ErofsFile(NamedTuple):
    """A regular file: path from the top with a leading slash, node, size in bytes."""

    path: str
    node: int
    size: int


class _Inode(NamedTuple):
    kind: int  # of st_mode
    layout: int
    size: int
    block: int  # number of the first
    end: int  # where the inode's attributes end


class _NotUnderstoodError(Exception):
    """The image holds what this module does not read."""


class ErofsImage:
    """An image in memory. Whatever its bytes, asking it raises nothing."""

    def __init__(self, image: memoryview) -> None:
        self._image = image
        self._bits = 0
        self._meta = 0
        self._root = 0
        if len(image) >= _SUPERBLOCK + 128:
            magic, bits, root = struct.unpack_from("<I8xBxH", image, _SUPERBLOCK)
            (meta,) = struct.unpack_from("<I", image, _SUPERBLOCK + 40)
            features, directory_bits = struct.unpack_from("<I6xB", image, _SUPERBLOCK + 80)
            if (
                (magic, bits, directory_bits) == (MAGIC, 12, 0)  # blocks of 4 KiB
                and not features & ~_LZ4_ALONE
            ):
                self._bits, self._meta, self._root = bits, meta << bits, root

    def files(self) -> tuple[ErofsFile, ...] | None:
        """Return every regular file that Linux can reach in the image, once for each of its names.

        What a directory says about the type of its entries counts for nothing, as in Linux: the
        inodes decide.

        Returns:
            None when something in the image is not understood.
        """
        if not self._bits:
            return None
        try:
            return self._walk()
        except (_NotUnderstoodError, struct.error, IndexError):
            return None

    def _walk(self) -> tuple[ErofsFile, ...]:
        found: list[ErofsFile] = []
        seen = {self._root}
        waiting = [("/", self._inode(self._root))]
        left = len(self._image) // _ENTRY.size  # no honest image stores an entry twice
        while waiting:
            above, directory = waiting.pop()
            if directory.kind != stat.S_IFDIR:
                raise _NotUnderstoodError
            for name, node in self._entries(directory):
                left -= 1
                if left < 0:
                    raise _NotUnderstoodError
                inode = self._inode(node)
                if inode.kind == stat.S_IFREG:
                    found.append(ErofsFile(above + name, node, inode.size))
                elif inode.kind == stat.S_IFDIR:
                    if node in seen:
                        raise _NotUnderstoodError
                    seen.add(node)
                    waiting.append((f"{above}{name}/", inode))
        return tuple(found)

    def _inode(self, node: int) -> _Inode:
        place = self._meta + node * _SLOT
        if node > len(self._image) // _SLOT:
            raise _NotUnderstoodError
        extended = self._image[place] & 1
        form, attributes, mode, size, block = _INODES[extended].unpack_from(self._image, place)
        if form & ~_LAYOUTS:
            raise _NotUnderstoodError
        end = place + (64 if extended else 32)
        end += 12 + 4 * (attributes - 1) if attributes else 0
        return _Inode(stat.S_IFMT(mode), form >> 1, size, block, end)

    def _entries(self, directory: _Inode) -> list[tuple[str, int]]:
        """Return names and nodes of a directory, without itself and the one above."""
        found: list[tuple[str, int]] = []
        for start, size in self._blocks(directory):
            block = bytes(self._image[start : start + size])
            names = _ENTRY.unpack_from(block)[1]
            if names % _ENTRY.size or not _ENTRY.size <= names <= size == len(block):
                raise _NotUnderstoodError
            entries = list(_ENTRY.iter_unpack(block[:names]))
            ends = [*(at for _, at, _ in entries[1:]), len(block)]
            for (node, at, _), end in zip(entries, ends, strict=True):
                if not names <= at < end <= size:
                    raise _NotUnderstoodError
                name = block[at:end]
                if end == size:
                    name = name.partition(b"\0")[0]
                if name in {b".", b".."}:
                    continue
                if not name or b"/" in name or b"\0" in name:
                    raise _NotUnderstoodError
                found.append((name.decode("utf-8", "surrogateescape"), node))
        return found

    def _blocks(self, directory: _Inode) -> list[tuple[int, int]]:
        """Return start and size of each block of a directory."""
        whole = 1 << self._bits
        if directory.size > len(self._image):
            raise _NotUnderstoodError
        offsets = range(0, directory.size, whole)
        first = directory.block << self._bits
        blocks = [(first + at, min(whole, directory.size - at)) for at in offsets]
        if directory.layout == _FLAT_INLINE and blocks:
            blocks[-1] = (directory.end, blocks[-1][1])
        elif directory.layout != _FLAT_PLAIN:
            raise _NotUnderstoodError
        return blocks

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
