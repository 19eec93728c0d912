"""Sparse disks read at any place: QCOW2, sparse VMDK and streamOptimized VMDK.

Each function takes what reads the file and what reads the disk below, and returns what reads the
disk. Nothing is kept of the file but its first table and a few of the second ones.

Sources: docs/interop/qcow2.txt of QEMU; "Virtual Disk Format 5.0" (VMware, 2011), hosted sparse
extents.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from casemate.errors import FormatError
from casemate.formats import qcow2, vmdk
from casemate.formats.vmdk import SECTOR

Read = Callable[[int, int], bytes]
"""``read(offset, size)`` returns that many bytes, fewer only at the end."""

_QCOW2: Final = struct.Struct(">4sIQIIQIIQ")
_VERSION_3: Final = 3
_OFFSET: Final = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED: Final = 1 << 62
_ZERO: Final = 1
_ENTRY: Final = 8
_WINDOW: Final = -15
# Second tables that are kept: of 64 KiB each with usual clusters, of 2 MiB at most.
_TABLES: Final = 4
_VMDK: Final = struct.Struct("<4sIIQQQQIQQQB4sH")
_PACKED: Final = 1 << 16
_AT_END: Final = (1 << 64) - 1
_FOOTER: Final = 2 * SECTOR
_MARKER: Final = struct.Struct("<QI")
# Sectors of a grain, and entries of a grain table.
_GRAIN_RANGE: Final = (8, 1 << 12)
_TABLE_RANGE: Final = (1, 1 << 12)


def nothing(_offset: int, size: int) -> bytes:
    """Read a disk that nothing lies below: zeros."""
    return bytes(size)


def read_qcow2(file: Read, below: Read = nothing) -> Read:
    """Return what reads a QCOW2 disk.

    Raises:
        FormatError: As ``qcow2.capacity``; the tables lead out of it.
    """
    header = file(0, qcow2.HEADER_SIZE)
    size = qcow2.capacity(header)
    _, version, _, _, bits, _, _, count, place = _QCOW2.unpack_from(header)
    cluster = 1 << bits
    per_table = cluster // _ENTRY
    needed = -(-size // (cluster * per_table))
    if count < needed:
        raise _wrong("qcow2", "its first table is too short")
    first = _numbers(file(place, needed * _ENTRY), needed, "Q", "qcow2")

    @lru_cache(_TABLES)
    def table(at: int) -> tuple[int, ...]:
        return _numbers(file(at, cluster), per_table, "Q", "qcow2")

    def unit(number: int) -> bytes | None:
        """Return a cluster, None: what is below."""
        second = first[number // per_table] & _OFFSET
        entry = table(second)[number % per_table] if second else 0
        if entry & _COMPRESSED:
            split = 62 - (bits - 8)
            sectors = (entry >> split & ((1 << (62 - split)) - 1)) + 1
            at = entry & ((1 << split) - 1)
            packed = file(at, sectors * SECTOR - at % SECTOR)
            return _unpacked(packed, cluster, _WINDOW, "qcow2", cluster)
        if version >= _VERSION_3 and entry & _ZERO:
            return bytes(cluster)
        at = entry & _OFFSET
        return file(at, cluster).ljust(cluster, b"\0") if at else None

    return _by_units(size, cluster, unit, below)


def read_sparse(file: Read, file_size: int, below: Read = nothing) -> Read:
    """Return what reads a sparse or streamOptimized VMDK of so many bytes.

    Raises:
        FormatError: It is none, or its tables lead out of it.
    """
    described = vmdk.parse(file(0, vmdk.SIZE_LIMIT))
    return read_extent(file, file_size, described.sectors, below)


def read_extent(file: Read, file_size: int, sectors: int, below: Read = nothing) -> Read:
    """Return what reads ``sectors`` of a sparse extent, which has no descriptor inside.

    Raises:
        FormatError: It is none, or of another size, or its tables lead out of it.
    """
    flags, grain, per_table, directory = _header(file, file_size, sectors)
    needed = -(-sectors // (grain * per_table))
    tables = _numbers(file(directory * SECTOR, needed * 4), needed, "I", "vmdk")

    @lru_cache(_TABLES)
    def table(at: int) -> tuple[int, ...]:
        return _numbers(file(at * SECTOR, per_table * 4), per_table, "I", "vmdk")

    def unit(number: int) -> bytes | None:
        """Return a grain, None: what is below."""
        second = tables[number // per_table]
        at = table(second)[number % per_table] if second else 0
        if not at:
            return None
        if at == 1:
            # Its own mark for zeros.
            return bytes(grain * SECTOR)
        if not flags & _PACKED:
            return file(at * SECTOR, grain * SECTOR).ljust(grain * SECTOR, b"\0")
        _, size = _MARKER.unpack_from(file(at * SECTOR, _MARKER.size).ljust(_MARKER.size, b"\0"))
        if size > 2 * grain * SECTOR:
            raise _wrong("vmdk", "a grain is larger packed than not")
        packed = file(at * SECTOR + _MARKER.size, size)
        # The last grain of a disk may have no more than the disk.
        least = min(grain * SECTOR, sectors * SECTOR - number * grain * SECTOR)
        return _unpacked(packed, grain * SECTOR, zlib.MAX_WBITS, "vmdk", least)

    return _by_units(sectors * SECTOR, grain * SECTOR, unit, below)


def _header(file: Read, file_size: int, sectors: int) -> tuple[int, int, int, int]:
    """Return flags, sectors of a grain, entries of a table, and the sector of the directory."""
    fields = _VMDK.unpack_from(file(0, SECTOR).ljust(SECTOR, b"\0"))
    if fields[9] == _AT_END:
        fields = _VMDK.unpack_from(file(file_size - _FOOTER, SECTOR).ljust(SECTOR, b"\0"))
    magic, _, flags, capacity, grain, _, _, per_table, _, directory = fields[:10]
    if magic != b"KDMV" or directory == _AT_END:
        raise _wrong("vmdk", "its directory is nowhere")
    if capacity != sectors:
        raise _wrong("vmdk", f"it has {capacity} sectors, not {sectors}")
    sensible = _GRAIN_RANGE[0] <= grain <= _GRAIN_RANGE[1] and not grain & (grain - 1)
    if not sensible or not _TABLE_RANGE[0] <= per_table <= _TABLE_RANGE[1]:
        raise _wrong("vmdk", "its grains or tables have senseless sizes")
    return flags, grain, per_table, directory


def _by_units(capacity: int, size: int, unit: Callable[[int], bytes | None], below: Read) -> Read:
    """Return what reads any bytes of a disk that is kept in units of ``size`` bytes."""

    def read(offset: int, length: int) -> bytes:
        end = min(offset + length, capacity)
        found = bytearray()
        while offset < end:
            begin = offset % size
            amount = min(size - begin, end - offset)
            data = unit(offset // size)
            if data is None:
                found += below(offset, amount).ljust(amount, b"\0")
            else:
                found += data[begin : begin + amount]
            offset += amount
        return bytes(found)

    return read


def _numbers(data: bytes, count: int, kind: str, what: str) -> tuple[int, ...]:
    order = ">" if kind == "Q" else "<"
    layout = struct.Struct(f"{order}{count}{kind}")
    if len(data) < layout.size:
        raise _wrong(what, "a table is cut off")
    return layout.unpack_from(data)


def _unpacked(packed: bytes, size: int, window: int, what: str, least: int) -> bytes:
    try:
        data = zlib.decompressobj(window).decompress(packed, size)
    except zlib.error as error:
        raise _wrong(what, "a part does not unpack") from error
    if len(data) < least:
        raise _wrong(what, "a part is shorter than it shall be")
    return data


def _wrong(what: str, why: str) -> FormatError:
    return FormatError(
        f"not a disk to be read: {why}",
        component=what,
        code=f"{what}-malformed",
        remedy="Restore the disk from a backup.",
    )
