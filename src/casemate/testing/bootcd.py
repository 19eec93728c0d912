"""A bootable CD image: ISO 9660 without files, whose El Torito entry is a program in real mode.

Sources: ECMA-119 (volume descriptors); Phoenix and IBM, "El Torito" Bootable CD-ROM Format 1.0.
"""

from __future__ import annotations

import struct
from typing import Final

SECTOR: Final = 2048
_DESCRIPTORS, _CATALOG, _PROGRAM = 16, 19, 20
_NO_EMULATION: Final = b"\x88\0\0\0\0\0"


def boot_cd(code: bytes, size: int = 64 * SECTOR) -> bytes:
    """Return an image of ``size`` bytes that runs ``code`` (at most a sector) at 0000:7c00."""
    image = bytearray(size)

    def put(sector: int, data: bytes) -> None:
        image[sector * SECTOR : sector * SECTOR + len(data)] = data

    put(_DESCRIPTORS, _primary(size // SECTOR))
    catalog_at = struct.pack("<I", _CATALOG)
    record = b"\0CD001\1" + b"EL TORITO SPECIFICATION".ljust(64, b"\0")
    put(_DESCRIPTORS + 1, record + catalog_at)
    put(_DESCRIPTORS + 2, b"\xffCD001\1")
    validation = bytearray(b"\1\0\0\0" + b"casemate".ljust(24, b"\0") + b"\0\0\x55\xaa")
    total = sum(struct.unpack("<16H", validation))
    struct.pack_into("<H", validation, 28, -total & 0xFFFF)
    # How many sectors of 512 bytes are loaded, and from where on.
    entry = _NO_EMULATION + struct.pack("<HI", SECTOR // 512, _PROGRAM)
    put(_CATALOG, bytes(validation) + entry.ljust(32, b"\0"))
    put(_PROGRAM, code[:SECTOR])
    return bytes(image)


def _both(value: int, size: str) -> bytes:
    """Return a number in both byte orders, as ISO 9660 has it."""
    return struct.pack("<" + size, value) + struct.pack(">" + size, value)


def _primary(sectors: int) -> bytes:
    root = b"\x22\0" + _both(_DESCRIPTORS + 2, "I") + _both(SECTOR, "I") + bytes(7)
    root += b"\2\0\0" + _both(1, "H") + b"\1\0"
    data = bytearray(SECTOR)
    data[0:7] = b"\1CD001\1"
    data[8:40] = b" " * 32
    data[40:72] = b"CASEMATE".ljust(32)
    data[80:88] = _both(sectors, "I")
    data[120:124] = _both(1, "H")
    data[124:128] = _both(1, "H")
    data[128:132] = _both(SECTOR, "H")
    data[156:190] = root
    data[881] = 1
    return bytes(data)
