"""Boot options of UEFI firmware: which program it starts, and in which order it tries them.

A variable ``Boot####`` holds an EFI_LOAD_OPTION, ``BootOrder`` the numbers in the order they are
tried, ``BootNext`` the one that is tried first, once. Source: UEFI 2.10, sections 3.1.3, 3.3, 10.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from casemate.errors import FormatError

ACTIVE: Final = 1
"""Attribute: firmware tries this option by itself."""
ORDER_LIMIT: Final = 1024
"""Bytes of a BootOrder: 512 options; firmware has a dozen."""

_MEDIA, _HARD_DRIVE, _FILE_PATH = 4, 1, 4
_END: Final = b"\x7f\xff\x04\x00"
_GUID_TABLE, _GUID_SIGNATURE = 2, 2


@dataclass(frozen=True, slots=True)
class Place:
    """A partition as firmware finds it: number from 1, first sector, sectors, identifier."""

    number: int
    start: int
    sectors: int
    guid: UUID


def write_option(description: str, place: Place, path: str) -> bytes:
    """Return the EFI_LOAD_OPTION that starts a file on a partition.

    Args:
        description: what the firmware's menu shows.
        place: the partition.
        path: of the file, with backslashes, from the partition's root.
    """
    drive = struct.pack(
        "<IQQ16sBB",
        place.number,
        place.start,
        place.sectors,
        place.guid.bytes_le,
        _GUID_TABLE,
        _GUID_SIGNATURE,
    )
    nodes = _node(_HARD_DRIVE, drive) + _node(_FILE_PATH, _text(path)) + _END
    return struct.pack("<IH", ACTIVE, len(nodes)) + _text(description) + nodes


def write_order(numbers: tuple[int, ...]) -> bytes:
    """Return the content of BootOrder, or of BootNext for one number."""
    return struct.pack(f"<{len(numbers)}H", *numbers)


def parse_order(data: bytes) -> tuple[int, ...]:
    """Return the numbers in a BootOrder. Raises FormatError (``boot-order``)."""
    if len(data) % 2 or len(data) > ORDER_LIMIT:
        raise FormatError(f"a BootOrder of {len(data)} bytes", code="boot-order")
    return struct.unpack(f"<{len(data) // 2}H", data)


def option_name(number: int) -> str:
    """Return the name of the variable that holds an option."""
    return f"Boot{number:04X}"


def _node(kind: int, content: bytes) -> bytes:
    return struct.pack("<BBH", _MEDIA, kind, 4 + len(content)) + content


def _text(words: str) -> bytes:
    return words.encode("utf-16-le") + b"\0\0"
