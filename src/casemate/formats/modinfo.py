"""What a Linux module says of itself: the ``.modinfo`` section of its relocatable ELF file.

``key=value`` strings, each ended by NUL: which other modules it needs, and which devices it
drives (``alias``, a pattern for the modalias of a device). Source: Linux, ``linux/module.h``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from casemate.formats.reader import Reader

SECTION: Final = b".modinfo"
MAX_SECTIONS: Final = 8192
"""Sections of one module; the largest of Debian's cloud kernel has some hundreds."""
MAX_MODINFO: Final = 1 << 20
"""Bytes of the section; network drivers with many aliases take some 40 KiB."""

_SHDR_SIZE: Final = 64


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """Name, the modules it needs, the patterns of devices it drives, and its licence.

    ``parameters`` are (name, type, description).
    """

    name: str
    depends: tuple[str, ...]
    aliases: tuple[str, ...]
    license: str
    author: str = ""
    version: str = ""
    parameters: tuple[tuple[str, str, str], ...] = ()


def parse_modinfo(data: bytes | memoryview) -> ModuleInfo:
    """Read what a module says of itself. Raises FormatError (``module-malformed``)."""
    pairs = list(_pairs(_section(memoryview(data))))
    first = dict(reversed(pairs))
    return ModuleInfo(
        first.get("name", ""),
        tuple(name for name in first.get("depends", "").split(",") if name),
        tuple(value for key, value in pairs if key == "alias"),
        first.get("license", ""),
        first.get("author", ""),
        first.get("version", ""),
        tuple(_parameters(pairs)),
    )


def _parameters(pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield the parameters: their types stand apart from their descriptions."""
    described = dict(value.split(":", 1) for key, value in pairs if key == "parm" and ":" in value)
    for key, value in pairs:
        name, separator, kind = value.partition(":")
        if key == "parmtype" and separator:
            yield name, kind, described.get(name, "")


def _section(data: memoryview) -> bytes:
    reader = Reader(data, "Linux module", code="module-malformed")
    if bytes(reader.view(6)) != b"\x7fELF\x02\x01":
        raise reader.error("it is no 64-bit little-endian ELF file")
    reader.skip(40 - 6)
    table = reader.u64le()
    reader.skip(58 - 48)
    size, count, names_index = (reader.u16le() for _ in range(3))
    if size != _SHDR_SIZE or not 0 < count <= MAX_SECTIONS or names_index >= count:
        raise reader.error("its section table cannot be")
    places = Reader(data, "Linux module", code="module-malformed")
    places.skip(table)
    headers = [_header(places) for _ in range(count)]
    names = _slice(data, *headers[names_index][1:])
    for name_offset, offset, length in headers:
        if names[name_offset : name_offset + len(SECTION) + 1] == SECTION + b"\0":
            if length > MAX_MODINFO:
                raise reader.error(f"{length} bytes of .modinfo")
            return _slice(data, offset, length)
    raise reader.error("it has no .modinfo")


def _header(reader: Reader) -> tuple[int, int, int]:
    name = reader.u32le()
    reader.skip(20)
    offset, length = reader.u64le(), reader.u64le()
    reader.skip(24)
    return name, offset, length


def _slice(data: memoryview, offset: int, length: int) -> bytes:
    reader = Reader(data, "Linux module", code="module-malformed")
    reader.skip(offset)
    return bytes(reader.view(length))


def _pairs(section: bytes) -> Iterator[tuple[str, str]]:
    for entry in section.split(b"\0"):
        key, separator, value = entry.decode("utf-8", "replace").partition("=")
        if separator:
            yield key, value
