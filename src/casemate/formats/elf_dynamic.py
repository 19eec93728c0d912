"""The dynamic section of an ELF file: what the loader pulls in, and the symbols it imports."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError, LimitError
from casemate.formats.elf_segments import PT_DYNAMIC, Image, printable

MAX_ENTRIES: Final = 8192
"""Entries of a dynamic section. The largest in Debian have a few hundred (one per library)."""
MAX_STRINGS: Final = 32 * 1024 * 1024
"""Bytes of a dynamic string table; the largest in Debian are below 10 MiB."""
MAX_CHECKED: Final = 16_384
"""Places where the name of a fortified function may begin; glibc has fewer than 100 such names."""
MAX_SYMBOLS: Final = 1 << 21
"""Dynamic symbols looked at; LLVM, the largest here, has some 30,000."""

_NEEDED: Final = 1
_HASH: Final = 4
_STRTAB: Final = 5
_SYMTAB: Final = 6
_STRSZ: Final = 10
_SYMENT: Final = 11
_SONAME: Final = 14
_RPATH: Final = 15
_TEXTREL: Final = 22
_BIND_NOW: Final = 24
_RUNPATH: Final = 29
_FLAGS: Final = 30
_GNU_HASH: Final = 0x6FFFFEF5
_FLAGS_1: Final = 0x6FFFFFFB
_DF_TEXTREL: Final = 4
_DF_BIND_NOW: Final = 8
_DF_1_NOW: Final = 1
_DF_1_PIE: Final = 0x08000000

_LISTS: Final = frozenset({_NEEDED, 0x6FFFFEFB, 0x6FFFFEFC, 0x7FFFFFFD, 0x7FFFFFFF})
# Tables that linkers place after the symbol table, the next of which bounds it: DT_HASH, STRTAB,
# RELA, INIT, REL, JMPREL, INIT_ARRAY, RELR, GNU_HASH, VERSYM, VERDEF, VERNEED.
_TABLES: Final = (
    _HASH,
    _STRTAB,
    7,
    12,
    17,
    23,
    25,
    36,
    _GNU_HASH,
    0x6FFFFFF0,
    0x6FFFFFFC,
    0x6FFFFFFE,
)
_ENTRIES: Final = {
    (b, o): struct.Struct(o + w * 2) for b, w in ((32, "I"), (64, "Q")) for o in "<>"
}
_SYMBOLS: Final = {
    (bits, order): struct.Struct(order + fields)
    for bits, fields in ((32, "I10xH"), (64, "I2xH16x"))
    for order in "<>"
}
_CANARY: Final = b"__stack_chk_fail\0"
_CHECKED: Final = b"_chk\0"
_LONGEST_CHECKED: Final = 256


@dataclass(frozen=True, slots=True)
class Dynamic:
    """What the dynamic section says; all empty when there is none."""

    present: bool = False
    needed: tuple[str, ...] = ()
    audit: tuple[str, ...] = ()
    soname: str | None = None
    rpath: str | None = None
    runpath: str | None = None
    bind_now: bool = False
    textrel: bool = False
    pie: bool = False
    canary: bool = False
    fortified: int = 0


def read_dynamic(image: Image) -> Dynamic:
    """Read the dynamic section at the address where the loader finds it.

    Raises:
        FormatError: not loaded, unterminated, ambiguous, or pointing outside the segments.
        LimitError: more entries, strings or symbols than any real file has.
    """
    segment = image.only(PT_DYNAMIC)
    if segment is None or segment.file_size == 0:
        return Dynamic()
    if image.offset(segment.vaddr, segment.file_size) != segment.offset:
        raise FormatError(
            "The dynamic section in the file is not the one that is loaded.", code="elf-ambiguous"
        )
    values, listed = _read_entries(image.content(segment), image)
    strings = _strings(image, values)
    flags = values.get(_FLAGS, 0)
    flags_1 = values.get(_FLAGS_1, 0)
    return Dynamic(
        present=True,
        needed=tuple(_string(strings, at) for tag, at in listed if tag == _NEEDED),
        audit=tuple(_string(strings, at) for tag, at in listed if tag != _NEEDED),
        soname=_optional(strings, values, _SONAME),
        rpath=_optional(strings, values, _RPATH),
        runpath=_optional(strings, values, _RUNPATH),
        bind_now=_BIND_NOW in values or bool(flags & _DF_BIND_NOW) or bool(flags_1 & _DF_1_NOW),
        textrel=_TEXTREL in values or bool(flags & _DF_TEXTREL),
        pie=bool(flags_1 & _DF_1_PIE),
        canary=_CANARY in strings,
        fortified=_count_fortified(image, values, strings),
    )


def _read_entries(data: memoryview, image: Image) -> tuple[dict[int, int], list[tuple[int, int]]]:
    """Return the entries by tag, and those that may occur more than once in order."""
    layout = _ENTRIES[image.bits, image.order]
    values: dict[int, int] = {}
    listed: list[tuple[int, int]] = []
    usable = min(len(data) // layout.size, MAX_ENTRIES) * layout.size
    for tag, value in layout.iter_unpack(data[:usable]):
        if tag == 0:
            return values, listed
        if tag in _LISTS:
            listed.append((tag, value))
        elif values.setdefault(tag, value) != value:
            raise FormatError(
                f"The dynamic section has two values for tag {tag:#x}.", code="elf-duplicate"
            )
    if usable == MAX_ENTRIES * layout.size:
        raise LimitError(f"More than {MAX_ENTRIES} entries in the dynamic section.")
    # The loader goes on until the terminator, past the segment's end.
    raise FormatError("The dynamic section has no end marker.", code="elf-dynamic")


def _strings(image: Image, values: dict[int, int]) -> bytes:
    address = values.get(_STRTAB)
    size = values.get(_STRSZ, 0)
    if address is None or size == 0:
        return b""
    if size > MAX_STRINGS:
        raise LimitError(f"{size} bytes of dynamic strings; at most {MAX_STRINGS} are read.")
    start = image.offset(address, size)
    return bytes(image.view[start : start + size])


def _string(strings: bytes, at: int) -> str:
    end = strings.find(b"\0", at) if at < len(strings) else -1
    if end < 0:
        raise FormatError(
            f"A name at {at} is outside the string table of {len(strings)} bytes.",
            code="elf-string",
        )
    return printable(strings[at:end])


def _optional(strings: bytes, values: dict[int, int], tag: int) -> str | None:
    at = values.get(tag)
    return None if at is None else _string(strings, at)


def _count_fortified(image: Image, values: dict[int, int], strings: bytes) -> int:
    """Count imported ``__*_chk`` functions; the string table tells which names are candidates."""
    candidates = _checked_names(strings)
    address = values.get(_SYMTAB)
    if not candidates or address is None:
        return 0
    layout = _SYMBOLS[image.bits, image.order]
    if values.get(_SYMENT, layout.size) != layout.size:
        raise FormatError("Dynamic symbols of a foreign size.", code="elf-symbols")
    count = _count_imports(image, values, address, layout.size)
    if count > MAX_SYMBOLS:
        raise LimitError(f"{count} dynamic symbols; at most {MAX_SYMBOLS} are read.")
    start = image.offset(address, count * layout.size)
    symbols = layout.iter_unpack(image.view[start : start + count * layout.size])
    return len({name for name, section in symbols if name in candidates and section == 0})


def _checked_names(strings: bytes) -> set[int]:
    """Return where names ``__*_chk`` begin: linkers merge tails, so inside other names too.

    Raises:
        LimitError: more than ``MAX_CHECKED``.
    """
    found: set[int] = set()
    end = strings.find(_CHECKED)
    while end >= 0:
        start = strings.rfind(b"\0", 0, end) + 1
        at = strings.find(b"__", max(start, end - _LONGEST_CHECKED), end)
        while at >= 0:
            found.add(at)
            at = strings.find(b"__", at + 1, end)
        if len(found) > MAX_CHECKED:
            raise LimitError(f"More than {MAX_CHECKED} names of fortified functions.")
        end = strings.find(_CHECKED, end + 1)
    return found


def _count_imports(image: Image, values: dict[int, int], address: int, size: int) -> int:
    """Return how many symbols may be imports.

    DT_HASH states the number of symbols. DT_GNU_HASH lists exports alone, and imports come before
    them; when it is empty, the table that follows the symbols bounds them.
    """
    following = [values[tag] for tag in _TABLES if values.get(tag, 0) > address]
    count = (min([image.loaded_until(address), *following]) - address) // size
    table = values.get(_HASH)
    if table is not None:
        _, stated = struct.unpack_from(image.order + "II", image.view, image.offset(table, 8))
        count = min(count, stated)
    table = values.get(_GNU_HASH)
    if table is not None:
        at = image.offset(table, 16)
        buckets, first, filters, _ = struct.unpack_from(image.order + "IIII", image.view, at)
        # One empty bucket: nothing is exported, and ``first`` says nothing.
        heads = image.offset(table + 16 + filters * image.bits // 8, 4)
        if buckets > 1 or any(image.view[heads : heads + 4]):
            count = min(count, first)
    return count
