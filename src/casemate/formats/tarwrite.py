"""Write plain ustar archives: same entries, same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from casemate.errors import FormatError
from casemate.formats.tarball import BLOCK, EntryKind, TarEntry, header_sum

_NAME_SIZE: Final = 100
_PREFIX_SIZE: Final = 155
_FLAGS: Final = {
    EntryKind.FILE: b"0",
    EntryKind.HARDLINK: b"1",
    EntryKind.SYMLINK: b"2",
    EntryKind.DIRECTORY: b"5",
}


def write_tar(entries: Iterable[TarEntry]) -> bytes:
    """Return a ustar archive: same entries, same bytes, ended by two zero blocks.

    Raises:
        FormatError: A path, target or number does not fit the header (code ``tar-path``).
    """
    parts: list[bytes | memoryview] = []
    for entry in entries:
        size = len(entry.data)
        parts += (_write_header(entry, size), entry.data, bytes(-size % BLOCK))
    parts.append(bytes(2 * BLOCK))
    return b"".join(parts)


def _write_header(entry: TarEntry, size: int) -> bytes:
    prefix, name = _split(entry)
    target = entry.target.encode()
    if len(name) > _NAME_SIZE or len(prefix) > _PREFIX_SIZE or len(target) > _NAME_SIZE:
        raise FormatError(f"{entry.path[:128]!r} is too long for ustar.", code="tar-path")
    block = bytearray(BLOCK)
    block[0 : len(name)] = name
    for offset, width, value in (
        (100, 8, entry.mode),
        (108, 8, entry.owner),
        (116, 8, entry.group),
        (124, 12, size),
        (136, 12, entry.mtime),
    ):
        digits = f"{value:0{width - 1}o}".encode()
        if value < 0 or len(digits) >= width:
            raise FormatError(f"A number of {entry.path[:128]!r} is too large.", code="tar-path")
        block[offset : offset + len(digits)] = digits
    block[156:157] = _FLAGS[entry.kind]
    block[157 : 157 + len(target)] = target
    block[257:265] = b"ustar\x0000"
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = f"{header_sum(bytes(block)):06o}\x00 ".encode()
    return bytes(block)


def _split(entry: TarEntry) -> tuple[bytes, bytes]:
    """Return prefix and name; a long path is cut at the last slash that lets both fit."""
    name = entry.path.encode() + (b"/" if entry.kind is EntryKind.DIRECTORY else b"")
    if len(name) <= _NAME_SIZE:
        return b"", name
    cut = name.rfind(b"/", 0, min(_PREFIX_SIZE + 1, len(name) - 1))
    return (name[:cut], name[cut + 1 :]) if cut > 0 else (b"", name)
