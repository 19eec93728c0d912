"""The smallest PE image that our reader takes."""

from __future__ import annotations

import struct

DIRECTORIES = 16


def small_pe(code: bytes = b"\xc3" * 512) -> bytes:
    """A PE32+ image with one section of 512 bytes and room for more."""
    optional = bytearray(112 + 8 * DIRECTORIES)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<II", optional, 32, 512, 512)
    struct.pack_into("<III", optional, 56, 0x2000, 1024, 0)
    struct.pack_into("<I", optional, 108, DIRECTORIES)
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 64)
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, len(optional), 0x206)
    section = struct.pack("<8s6I2HI", b".text", 512, 0x1000, 512, 1024, 0, 0, 0, 0, 0x60000020)
    return (head + coff + bytes(optional) + section).ljust(1024, b"\0") + code
