"""Unpack gzip and xz from strangers within a limit, and write gzip that is always the same."""

from __future__ import annotations

import hashlib
import lzma
import zlib
from collections.abc import Iterator
from typing import Final

from casemate.errors import FormatError, LimitError

GZIP_MAGIC: Final = b"\x1f\x8b"
XZ_MAGIC: Final = b"\xfd7zXZ\x00"
XZ_MEMORY: Final = 128 << 20
"""Bytes of memory an xz stream may ask for; its strongest preset needs 65 MiB."""

_GZIP_WINDOW: Final = 31
_SLICE: Final = 64 << 10
_CHUNK: Final = 1 << 20


def gunzip(data: bytes | memoryview, limit: int, *, component: str = "") -> bytes:
    """Return what one gzip member holds, at most ``limit`` bytes.

    Raises:
        FormatError: Not gzip, cut short, or with bytes after its end (code ``gzip``).
        LimitError: It holds more than ``limit`` bytes (code ``bomb``).
    """
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        unpacked = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise FormatError(
            f"It is not sound gzip data: {error}.", code="gzip", component=component
        ) from error
    _check(unpacked, limit, component)
    if not unpacker.eof:
        raise FormatError("The gzip data is cut short.", code="gzip", component=component)
    if unpacker.unused_data:
        raise FormatError("Bytes trail the gzip data.", code="gzip", component=component)
    return unpacked


def content_digest(
    data: bytes | memoryview, algorithm: str, limit: int, *, component: str = ""
) -> bytes:
    """Return the digest of what gzip data holds, of the data itself when it is not gzip.

    Memory stays constant, whatever it unpacks to.

    Raises:
        FormatError: As in ``gunzip``.
        LimitError: It holds more than ``limit`` bytes (code ``bomb``).
    """
    digest = hashlib.new(algorithm)
    if bytes(data[:2]) != GZIP_MAGIC:
        digest.update(data)
        return digest.digest()
    total = 0
    for chunk in _unpacked(data, component):
        total += len(chunk)
        if total > limit:
            raise LimitError(
                f"It unpacks to more than {limit} bytes.", code="bomb", component=component
            )
        digest.update(chunk)
    return digest.digest()


def unxz(data: bytes | memoryview, limit: int, *, component: str = "") -> bytes:
    """Return what one xz stream holds, at most ``limit`` bytes.

    Raises:
        FormatError: Not xz, cut short, or with bytes after its end (code ``xz``).
        LimitError: It holds more than ``limit`` bytes, or needs too much memory (code ``bomb``).
    """
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    try:
        unpacked = unpacker.decompress(bytes(data), limit + 1)
    except (lzma.LZMAError, MemoryError) as error:
        raise FormatError(
            f"It is not sound xz data: {error}.", code="xz", component=component
        ) from error
    _check(unpacked, limit, component)
    if not unpacker.eof or unpacker.unused_data:
        raise FormatError(
            "The xz data is cut short, or bytes trail it.", code="xz", component=component
        )
    return unpacked


def first_bytes(data: bytes | memoryview, size: int) -> bytes:
    """Return how gzip or xz data begins when it is unpacked; nothing when it is neither."""
    try:
        if bytes(data[:2]) == GZIP_MAGIC:
            return zlib.decompressobj(_GZIP_WINDOW).decompress(data[:_SLICE], size)
        if bytes(data[: len(XZ_MAGIC)]) == XZ_MAGIC:
            unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
            return unpacker.decompress(bytes(data[:_SLICE]), size)
    except (zlib.error, lzma.LZMAError, MemoryError):
        pass
    return b""


def gzip(data: bytes) -> bytes:
    """Return the bytes as one gzip member without time or name: same input, same bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP_WINDOW)
    return packer.compress(data) + packer.flush()


def _unpacked(data: bytes | memoryview, component: str) -> Iterator[bytes]:
    """Yield what gzip data holds, piece by piece; input goes in by slices, never copied whole."""
    view = memoryview(data)
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        for start in range(0, len(view), _SLICE):
            rest: bytes | memoryview = view[start : start + _SLICE]
            while rest and not unpacker.eof:
                yield unpacker.decompress(rest, _CHUNK)
                rest = unpacker.unconsumed_tail
            if unpacker.eof:
                if unpacker.unused_data or start + _SLICE < len(view):
                    raise FormatError(
                        "Bytes trail the gzip data.", code="gzip", component=component
                    )
                return
    except zlib.error as error:
        raise FormatError(
            f"It is not sound gzip data: {error}.", code="gzip", component=component
        ) from error
    raise FormatError("The gzip data is cut short.", code="gzip", component=component)


def _check(unpacked: bytes, limit: int, component: str) -> None:
    if len(unpacked) > limit:
        raise LimitError(
            f"It unpacks to more than {limit} bytes.", code="bomb", component=component
        )
