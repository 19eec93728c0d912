"""The certificates that a Linux kernel image was built with: whose modules it loads.

A bzImage holds the kernel proper, compressed; the certificates lie in it as they are, one after
the other. Nothing is executed and nothing is trusted here: who names a kernel image as the source
of keys trusts that image.

Source: Linux, Documentation/arch/x86/boot.rst (fields of the header); LZ4 block and legacy frame
formats.
"""

from __future__ import annotations

import lzma
import re
import zlib
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from casemate.errors import FormatError, LimitError
from casemate.formats.reader import Reader

MAX_IMAGE: Final = 256 << 20
"""Bytes of an image; Debian's have 12 MiB."""
MAX_UNPACKED: Final = 1 << 30
MAX_CERTIFICATE: Final = 8192
MAX_CERTIFICATES: Final = 256
"""Certificates found; Debian builds in fewer than ten."""

_MAGIC: Final = b"HdrS"
_MAGIC_AT: Final = 0x202
_SECTOR: Final = 512
_GZIP, _XZ, _LZ4 = b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x02\x21\x4c\x18"
_LZ4_BLOCK: Final = 8 << 20
_ESCAPE: Final = 15
_MORE: Final = 255
_LEAST_MATCH: Final = 4
# A certificate is a SEQUENCE of two length bytes that begins with another such.
_BEGINNING: Final = re.compile(rb"\x30\x82(..)\x30\x82", re.DOTALL)


def built_in_certificates(image: bytes) -> tuple[x509.Certificate, ...]:
    """Return the certificates inside a kernel image, in order, each once.

    Raises:
        FormatError: ``vmlinuz``: it is no bzImage, is damaged, or compressed in a way not known.
        LimitError: It is larger than any kernel.
    """
    if len(image) > MAX_IMAGE:
        raise LimitError("It is larger than any kernel image.", code="vmlinuz")
    unpacked = _unpack(_payload(image))
    found: dict[x509.Certificate, None] = {}
    for match in _BEGINNING.finditer(unpacked):
        size = 4 + int.from_bytes(match[1])
        if size > MAX_CERTIFICATE:
            continue
        try:
            certificate = x509.load_der_x509_certificate(
                unpacked[match.start() : match.start() + size]
            )
            certificate.public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        found[certificate] = None
        if len(found) > MAX_CERTIFICATES:
            raise LimitError("It holds more certificates than any kernel.", code="vmlinuz")
    return tuple(found)


def _payload(image: bytes) -> bytes:
    """Return the compressed kernel inside a bzImage."""
    if image[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC:
        raise _bad("it is no bzImage")
    reader = Reader(memoryview(image), "kernel image", code="vmlinuz")
    reader.skip(0x1F1)
    sectors = reader.u8() or 4
    reader.skip(0x248 - 0x1F2)
    offset, length = reader.u32le(), reader.u32le()
    start = (sectors + 1) * _SECTOR + offset
    if not length or start + length > len(image):
        raise _bad("its kernel lies outside of it")
    return image[start : start + length]


def _unpack(payload: bytes) -> bytes:
    try:
        if payload.startswith(_GZIP):
            return zlib.decompressobj(31).decompress(payload, MAX_UNPACKED)
        if payload.startswith(_XZ):
            return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload, MAX_UNPACKED)
        if payload.startswith(_LZ4):
            return _unlz4(payload)
    except (zlib.error, lzma.LZMAError, IndexError) as error:
        raise _bad(f"its kernel cannot be unpacked ({error})") from error
    raise _bad("its kernel is compressed in a way that is not known")


def _unlz4(payload: bytes) -> bytes:
    """Unpack the legacy frame of LZ4: blocks of 8 MiB, each behind its size."""
    out = bytearray()
    place = len(_LZ4)
    # Linux appends the size of what it unpacks to: four bytes that are no block.
    while place + 4 < len(payload):
        size = int.from_bytes(payload[place : place + 4], "little")
        place += 4
        if place + size > len(payload):
            raise _bad("a block is cut short")
        out += _block(payload[place : place + size])
        place += size
        if len(out) > MAX_UNPACKED:
            raise LimitError("Its kernel unpacks to more than any does.", code="vmlinuz")
    return bytes(out)


def _block(data: bytes) -> bytearray:
    out = bytearray()
    place, end = 0, len(data)
    while place < end:
        token = data[place]
        place += 1
        count, place = _length(data, place, token >> 4)
        out += data[place : place + count]
        place += count
        if place >= end:
            break
        distance = data[place] | data[place + 1] << 8
        count, place = _length(data, place + 2, token & 15)
        count += _LEAST_MATCH
        start = len(out) - distance
        if not distance or start < 0 or len(out) + count > _LZ4_BLOCK + _SECTOR:
            raise _bad("a block refers to what is not there")
        if distance >= count:
            out += out[start : start + count]
        else:
            pattern = bytes(out[start:])
            out += (pattern * (count // distance + 1))[:count]
    return out


def _length(data: bytes, place: int, count: int) -> tuple[int, int]:
    if count == _ESCAPE:
        while True:
            more = data[place]
            place += 1
            count += more
            if more != _MORE:
                break
    return count, place


def _bad(why: str) -> FormatError:
    return FormatError(
        f"The kernel image cannot be used: {why}.",
        code="vmlinuz",
        remedy="Name the image that the machine boots: /boot/vmlinuz-VERSION.",
    )
