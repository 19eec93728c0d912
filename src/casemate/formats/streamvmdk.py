"""streamOptimized VMDK: compressed disks that are written and read from front to back.

Source: "Virtual Disk Format 5.0" (VMware, 2011), stream-optimized compressed sparse extents.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final

from casemate.errors import FormatError
from casemate.formats import vmdk
from casemate.formats.vmdk import SECTOR, SIZE_LIMIT

Read = Callable[[int, int], bytes]
"""``read(offset, size)`` returns that many bytes of a file, fewer only at its end."""

# magic, version, flags, capacity, grain size, descriptor offset and size, entries of a grain
# table, offsets of redundant grain directory, grain directory, and first grain (sectors),
# unclean shutdown, line ends that a text transfer would break, compression.
_HEADER: Final = struct.Struct("<4sIIQQQQIQQQB4sH")
_MARKER: Final = struct.Struct("<QI")
_KIND: Final = struct.Struct("<I")
_FLAGS: Final = 1 | 1 << 16 | 1 << 17
_AT_END: Final = (1 << 64) - 1
_DEFLATE: Final = 1
_GRAIN: Final = 128
_GRAIN_BYTES: Final = _GRAIN * SECTOR
_TABLE: Final = 512
_DESCRIPTOR: Final = (1, 20)
_OVERHEAD: Final = 128
_END, _GRAIN_TABLE, _DIRECTORY, _FOOTER = 0, 1, 2, 3
# Bytes of a compressed grain: one that does not compress grows by a little.
_PACKED_LIMIT: Final = 2 * _GRAIN_BYTES
# Sectors of one piece of metadata: the grain directory of 62 TiB has 15,872.
_METADATA_LIMIT: Final = 1 << 15
_LEVEL: Final = 1
_ZEROS: Final = bytes(_GRAIN_BYTES)


def write(capacity: int, read: Read, *, name: str, adapter: str = "lsilogic") -> Iterator[bytes]:
    """Yield the pieces of a streamOptimized disk; same content, same bytes.

    Args:
        capacity: Bytes, whole sectors.
        read: Reads the plain disk.
        name: Of the file, for its own descriptor.
        adapter: Of the descriptor.
    """
    sectors = capacity // SECTOR
    text = (
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="streamOptimized"\n\nRW {sectors} SPARSE "{name}"\n\n'
        f'ddb.adapterType = "{adapter}"\n'
    ).encode()
    yield _header(sectors, _AT_END)
    yield text.ljust((_OVERHEAD - 1) * SECTOR, b"\0")
    position = _OVERHEAD
    tables: list[int] = []
    count = -(-sectors // _GRAIN)
    for first in range(0, count, _TABLE):
        places = []
        for grain in range(first, min(first + _TABLE, count)):
            data = read(grain * _GRAIN_BYTES, min(_GRAIN_BYTES, capacity - grain * _GRAIN_BYTES))
            data = data.ljust(_GRAIN_BYTES, b"\0")
            places.append(0 if data == _ZEROS else position)
            if data != _ZEROS:
                packed = zlib.compress(data, _LEVEL)
                piece = _padded(_MARKER.pack(grain * _GRAIN, len(packed)) + packed)
                yield piece
                position += len(piece) // SECTOR
        tables.append(0)
        if any(places):
            table = _padded(struct.pack(f"<{_TABLE}I", *places, *[0] * (_TABLE - len(places))))
            yield _marker(_GRAIN_TABLE, len(table)) + table
            tables[-1] = position + 1
            position += 1 + len(table) // SECTOR
    directory = _padded(struct.pack(f"<{len(tables)}I", *tables))
    yield _marker(_DIRECTORY, len(directory)) + directory
    yield _marker(_FOOTER, SECTOR) + _header(sectors, position + 1)
    yield _marker(_END, 0)


def grains(read: Read) -> Iterator[tuple[int, bytes]]:
    """Yield what a streamOptimized disk holds: offset in the plain disk, and bytes.

    What is not yielded is zeros. Nothing is yielded beyond the capacity that ``vmdk.parse`` tells
    of the same file, and no offset twice.

    Raises:
        FormatError: Not such a disk, cut off, or grains out of order.
    """
    described = vmdk.parse(read(0, SIZE_LIMIT))
    fields = _HEADER.unpack_from(read(0, SECTOR).ljust(SECTOR, b"\0"))
    if described.create_type is not vmdk.CreateType.STREAM_OPTIMIZED or fields[4] != _GRAIN:
        raise _wrong("it is not streamOptimized with grains of 64 KiB")
    position, last = fields[10] * SECTOR, -1
    while True:
        marker = read(position, SECTOR)
        if len(marker) < SECTOR:
            raise _wrong("it is cut off")
        value, size = _MARKER.unpack_from(marker)
        if not size:
            (kind,) = _KIND.unpack_from(marker, _MARKER.size)
            if kind == _END:
                return
            if kind not in {_GRAIN_TABLE, _DIRECTORY, _FOOTER} or value > _METADATA_LIMIT:
                raise _wrong("a marker is senseless")
            position += (1 + value) * SECTOR
            continue
        if value % _GRAIN or not last < value < described.sectors or size > _PACKED_LIMIT:
            raise _wrong("a grain is out of order, doubled, or beyond the end")
        data = _unpacked(read(position + _MARKER.size, size), size)
        last = value
        yield value * SECTOR, data[: described.capacity - value * SECTOR]
        position += -(-(_MARKER.size + size) // SECTOR) * SECTOR


def _unpacked(packed: bytes, size: int) -> bytes:
    worker = zlib.decompressobj()
    try:
        data = worker.decompress(packed, _GRAIN_BYTES + 1)
    except zlib.error as error:
        raise _wrong("a grain is damaged") from error
    if len(packed) != size or len(data) != _GRAIN_BYTES:
        raise _wrong("a grain has another size than the disk's")
    return data


def _header(sectors: int, directory: int) -> bytes:
    return _padded(
        _HEADER.pack(
            *(b"KDMV", 3, _FLAGS, sectors, _GRAIN, *_DESCRIPTOR, _TABLE),
            *(0, directory, _OVERHEAD, 0, b"\n \r\n", _DEFLATE),
        )
    )


def _marker(kind: int, size: int) -> bytes:
    return _padded(_MARKER.pack(size // SECTOR, 0) + _KIND.pack(kind))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % SECTOR)


def _wrong(why: str) -> FormatError:
    return FormatError(
        f"not a streamOptimized disk: {why}", component="vmdk", code="vmdk-malformed"
    )
