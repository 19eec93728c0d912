"""Linux modules that hold nothing but what they say of themselves."""

from __future__ import annotations

import struct


def relocatable(info: bytes) -> bytes:
    """Return a relocatable ELF file whose only content is a ``.modinfo`` section."""
    names = b"\0.modinfo\0.shstrtab\0"
    place = 64 + len(info) + len(names)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, place, 0, 64, 0, 0, 64, 3, 2
    )
    rows = bytes(64)
    for name, offset, size in ((1, 64, len(info)), (10, 64 + len(info), len(names))):
        rows += struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 1, 0)
    return head + info + names + rows
