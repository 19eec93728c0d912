"""QCOW2: the header that is checked before a file is opened, and the making of an empty file.

A QCOW2 file can name other files that whoever opens it will open too: a backing file and an
external data file. Here it must name none: what lies below a delta is said by its descriptor.

Source: docs/interop/qcow2.txt of QEMU.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from casemate.errors import FormatError, LimitError

HEADER_SIZE: Final = 104
# Bytes: 62 TiB, the largest disk of vSphere.
CAPACITY_LIMIT: Final = 62 << 40
_MAGIC: Final = b"QFI\xfb"
# magic, version, backing file offset and size, cluster bits, size, encryption, L1 entries and
# offset, refcount table offset and clusters, snapshots, their offset, features (incompatible,
# compatible, automatically cleared), refcount order, header length.
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_VERSION: Final = 3
_CLUSTER_BITS: Final = 16
_CLUSTER: Final = 1 << _CLUSTER_BITS
_CLUSTER_BITS_RANGE: Final = range(9, 22)
_ENTRY: Final = 8
# Bytes of the disk for which one L1 entry stands.
_L1_REACH: Final = _CLUSTER * (_CLUSTER // _ENTRY)
_REFCOUNT_ORDER: Final = 4
# Dirty and corrupt are states to repair from; all other features change what the file is.
_KNOWN_FEATURES: Final = 0b11


def capacity(header: bytes) -> int:
    """Return the size of the disk in bytes, if the file stands alone.

    Args:
        header: The first HEADER_SIZE bytes of the file.

    Raises:
        FormatError: Not QCOW2 of version 2 or 3, or it names other files, is encrypted, or has
            features that are not known here.
        LimitError: Over 62 TiB.
    """
    if len(header) < HEADER_SIZE or not header.startswith(_MAGIC):
        raise _wrong("it does not begin with a header")
    fields = _HEADER.unpack_from(header)
    _, version, backing, backing_size, cluster_bits, size, encryption = fields[:7]
    features = fields[13] if version >= _VERSION else 0
    if version not in {2, _VERSION} or cluster_bits not in _CLUSTER_BITS_RANGE:
        raise _wrong(f"its version is {version}, with clusters of 2^{cluster_bits} bytes")
    if backing or backing_size:
        raise _wrong("it names a backing file", code="qcow2-backing")
    if encryption or features & ~_KNOWN_FEATURES:
        raise _wrong("it is encrypted or keeps its data in another file", code="qcow2-feature")
    if size > CAPACITY_LIMIT:
        raise LimitError(f"a disk of {size} bytes is out of range", component="qcow2")
    return int(size)


def empty(size: int) -> Iterator[tuple[int, bytes]]:
    """Yield what to write where (offset, bytes) for an empty file; all else of it is zeros.

    Raises:
        LimitError: ``size`` (bytes) is over 62 TiB.
    """
    if not 0 <= size <= CAPACITY_LIMIT:
        raise LimitError(f"a disk of {size} bytes is out of range", component="qcow2")
    entries = -(-size // _L1_REACH)
    l1_clusters = max(1, -(-entries * _ENTRY // _CLUSTER))
    used = 3 + l1_clusters
    header = _HEADER.pack(
        _MAGIC,
        *(_VERSION, 0, 0, _CLUSTER_BITS, size, 0),
        *(entries, 3 * _CLUSTER, _CLUSTER, 1),
        *(0, 0, 0, 0, 0, _REFCOUNT_ORDER, HEADER_SIZE),
    )
    yield 0, header + bytes(_ENTRY)
    yield _CLUSTER, (2 * _CLUSTER).to_bytes(_ENTRY, "big")
    yield 2 * _CLUSTER, b"\0\1" * used
    yield used * _CLUSTER - 1, b"\0"


def _wrong(why: str, *, code: str = "qcow2-malformed") -> FormatError:
    return FormatError(
        f"not a QCOW2 disk to be used here: {why}",
        component="qcow2",
        code=code,
        remedy="Convert it to a disk that stands alone: qemu-img convert -O qcow2.",
    )
