"""GNU notes of an ELF file: build id, and the control-flow protection it announces."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from casemate.errors import FormatError, LimitError
from casemate.formats.elf_segments import Image, Segment

MAX_NOTES: Final = 256 * 1024
"""Bytes of one note segment. The largest in practice (core tools, systemd) have a few KiB."""

_GNU: Final = b"GNU\0"
_NT_BUILD_ID: Final = 3
_NT_PROPERTY: Final = 5
_X86_FEATURES: Final = 0xC0000002
_IBT: Final = 1
_SHSTK: Final = 2
_WIDE: Final = 8


@dataclass(frozen=True, slots=True)
class Notes:
    """What the notes say; ``build_id`` is empty when there is none."""

    build_id: bytes = b""
    ibt: bool = False
    shstk: bool = False


def read_notes(image: Image, segment: Segment, found: Notes) -> Notes:
    """Add what the notes of one segment say to what was found before.

    Raises:
        FormatError: a note that reaches beyond its segment.
        LimitError: more than ``MAX_NOTES`` bytes of notes.
    """
    data = image.content(segment)
    if len(data) > MAX_NOTES:
        raise LimitError(f"{len(data)} bytes of notes; at most {MAX_NOTES} are read.")
    header = struct.Struct(image.order + "III")
    align = _WIDE if segment.align == _WIDE else 4
    at = 0
    while at + header.size <= len(data):
        name_size, size, kind = header.unpack_from(data, at)
        start = _up(at + header.size + name_size, align)
        if start + size > len(data):
            raise FormatError("A note reaches beyond its segment.", code="elf-note")
        name = bytes(data[at + header.size : at + header.size + min(name_size, len(_GNU) + 1)])
        if name == _GNU and kind == _NT_BUILD_ID:
            found = replace(found, build_id=bytes(data[start : start + size]))
        elif name == _GNU and kind == _NT_PROPERTY:
            found = _read_properties(data[start : start + size], image, found)
        at = _up(start + size, align)
    return found


def _read_properties(data: memoryview, image: Image, found: Notes) -> Notes:
    """Read an NT_GNU_PROPERTY_TYPE_0 array (x86-64 psABI, "Program Property")."""
    pair = struct.Struct(image.order + "II")
    align = image.bits // 8
    at = 0
    while at + pair.size <= len(data):
        kind, size = pair.unpack_from(data, at)
        start = at + pair.size
        if start + size > len(data):
            raise FormatError("A property reaches beyond its note.", code="elf-note")
        if kind == _X86_FEATURES and size == 4:  # noqa: PLR2004 -- a 32-bit mask
            (mask,) = struct.unpack_from(image.order + "I", data, start)
            found = replace(found, ibt=bool(mask & _IBT), shstk=bool(mask & _SHSTK))
        at = _up(start + size, align)
    return found


def _up(value: int, align: int) -> int:
    return -(-value // align) * align
