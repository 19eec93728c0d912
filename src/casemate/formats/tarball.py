"""Read tar archives from strangers (ustar, GNU and pax names).

Reading yields what may be unpacked below a directory without ever leaving it: regular files,
directories and links with relative, normal paths, each once, none below a link. Device nodes,
pipes, sockets, sparse files, set-user-id bits and continued volumes are refused.

Sources: POSIX pax(1), ustar interchange format and pax extended header; GNU tar manual, basic
format (type flags L and K).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from casemate.errors import FormatError, LimitError
from casemate.formats.compressed import gunzip

BLOCK: Final = 512
MAX_ENTRIES: Final = 65_536
"""Entries of one archive; the largest known payload has about 10,000."""
MAX_UNPACKED: Final = 1 << 30
"""Bytes that a compressed archive may unpack to."""
MAX_PATH: Final = 4_096
"""Bytes of a path or link target, as PATH_MAX."""
MAX_EXTENDED: Final = 64 << 10
"""Bytes of a long-name or pax header."""
MODE_BITS: Final = 0o1777
"""Permissions and the sticky bit: all that a file may carry."""

_ZERO: Final = bytes(BLOCK)
_NUL: Final = b"\x00"
_PAX_RECORD: Final = re.compile(rb"([1-9][0-9]{0,5}) ([^=\x00-\x1f]{1,255})=", re.ASCII)
_OCTAL: Final = re.compile(rb" *([0-7]*)[ \x00]*", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\\]")
_SETID: Final = 0o6000
_BINARY: Final = b"\x80"
_SIZE_DIGITS: Final = 19


class EntryKind(StrEnum):
    """What an entry makes."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry: a path relative to the root, without a trailing slash.

    ``data`` is a view of the archive; ``target`` is where a link points; ``mtime`` is in Unix
    seconds.
    """

    path: str
    kind: EntryKind = EntryKind.FILE
    data: bytes | memoryview = b""
    mode: int = 0o644
    owner: int = 0
    group: int = 0
    mtime: int = 0
    target: str = ""


_KINDS: Final = {
    b"0": EntryKind.FILE,
    b"\x00": EntryKind.FILE,
    b"7": EntryKind.FILE,
    b"1": EntryKind.HARDLINK,
    b"2": EntryKind.SYMLINK,
    b"5": EntryKind.DIRECTORY,
}


def parse_tgz(
    data: bytes | memoryview, *, limit: int = MAX_UNPACKED, component: str = ""
) -> tuple[TarEntry, ...]:
    """Unpack gzip, then read the tar inside.

    Raises:
        FormatError: As in ``gunzip`` and ``parse_tar``.
        LimitError: It unpacks to more than ``limit`` bytes.
    """
    return parse_tar(gunzip(data, limit, component=component), component=component)


def parse_tar(data: bytes | memoryview, *, component: str = "") -> tuple[TarEntry, ...]:
    """Return the entries in archive order.

    Raises:
        FormatError: Not a tar archive, or an entry that must not be unpacked (codes ``tar-header``,
            ``tar-truncated``, ``tar-type``, ``tar-path``, ``tar-duplicate``, ``tar-link``,
            ``tar-mode``).
        LimitError: More entries or longer names than any real archive has (code ``tar-limit``).
    """
    reader = TarReader(memoryview(data).cast("B").toreadonly(), component)
    entries = reader.entries()
    check_tree(entries, component=component)
    return entries


def check_tree(entries: Iterable[TarEntry], *, component: str = "") -> None:
    """Raise unless the entries can be unpacked in order without leaving their root.

    Raises:
        FormatError: A path twice, below a file or link, a hard link to nothing that came before, or
            a symbolic link that climbs out of the root (codes ``tar-duplicate`` and ``tar-link``).
    """
    seen: dict[str, EntryKind] = {}
    directories: set[str] = set()
    for entry in entries:
        if entry.path in seen:
            raise FormatError(
                f"{entry.path} stands twice in the archive.",
                code="tar-duplicate",
                component=component,
            )
        if entry.kind is not EntryKind.DIRECTORY and entry.path in directories:
            raise FormatError(
                f"{entry.path} is a {entry.kind}, and others lie below it.",
                code="tar-link",
                component=component,
            )
        parent = entry.path.rpartition("/")[0]
        # What was found to be a directory stays one, with all above it.
        while parent and parent not in directories:
            if seen.get(parent, EntryKind.DIRECTORY) is not EntryKind.DIRECTORY:
                raise FormatError(
                    f"{entry.path} lies below {parent}, which is no directory.",
                    code="tar-link",
                    component=component,
                )
            directories.add(parent)
            parent = parent.rpartition("/")[0]
        if entry.kind is EntryKind.HARDLINK and seen.get(entry.target) is not EntryKind.FILE:
            raise FormatError(
                f"{entry.path} is a hard link to {entry.target}, which is no file before it.",
                code="tar-link",
                component=component,
            )
        if entry.kind is EntryKind.SYMLINK and _climbs(entry):
            raise FormatError(
                f"{entry.path} is a link to {entry.target[:128]}, outside of the archive's root.",
                code="tar-link",
                component=component,
            )
        seen[entry.path] = entry.kind


def _climbs(link: TarEntry) -> bool:
    """Tell whether a relative link leads above the root."""
    if link.target.startswith("/"):
        return False
    depth = link.path.count("/")
    for part in link.target.split("/"):
        depth += -1 if part == ".." else int(part not in {"", "."})
        if depth < 0:
            return True
    return False


def checked_path(raw: bytes, *, component: str = "") -> str:
    """Return a relative path in normal form; the root itself becomes the empty string.

    Raises:
        FormatError: Absolute, climbing, or with characters no path should have (``tar-path``).
        LimitError: Longer than ``MAX_PATH``.
    """
    if len(raw) > MAX_PATH:
        raise LimitError(
            f"A path has more than {MAX_PATH} bytes.", code="tar-limit", component=component
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("A path is not UTF-8.", code="tar-path", component=component) from error
    parts = [part for part in text.split("/") if part not in {"", "."}]
    if text.startswith("/") or ".." in parts or _CONTROL.search(text):
        raise FormatError(
            f"The path {text[:128]!r} leaves the archive's root.",
            code="tar-path",
            component=component,
        )
    return "/".join(parts)


class TarReader:
    """Walks the blocks once; ``formats.vmtar`` overrides where data lies."""

    def __init__(self, view: memoryview, component: str) -> None:
        self.view = view
        self._component = component
        self._offset = 0
        self._overrides: dict[str, bytes] = {}

    def entries(self) -> tuple[TarEntry, ...]:
        """Return all entries; a reader is read once."""
        entries: list[TarEntry] = []
        headers = 0
        while (head := self._block()) is not None:
            headers += 1
            if headers > 2 * MAX_ENTRIES or len(entries) > MAX_ENTRIES:
                raise LimitError(
                    f"The archive has more than {MAX_ENTRIES} entries.",
                    code="tar-limit",
                    component=self._component,
                )
            flag = head[156:157]
            if flag in {b"L", b"K", b"x", b"g"}:
                self._extended(flag, self._data(self._number(head[124:136], "size")))
                continue
            entry = self._entry(head, flag)
            if entry is not None:
                entries.append(entry)
        self.finish(self.view[self._offset :])
        if self._overrides:
            raise self.bad("tar-header", "The archive ends after a long-name header.")
        return tuple(entries)

    def prefix(self, head: bytes) -> bytes:
        """Return the field that precedes the name."""
        return head[345:500] if head[257:263] == b"ustar\x00" else b""

    def locate(self, _head: bytes, size: int) -> memoryview:
        """Return the data of the entry whose header was just read."""
        return self._data(size)

    def finish(self, rest: memoryview) -> None:
        """Judge what follows the last header."""
        if bytes(rest).strip(_NUL):
            raise self.bad("tar-header", "Bytes trail the archive's end.")

    def _block(self) -> bytes | None:
        """Return the next header, None at the end (a zero block, or no more bytes)."""
        block = bytes(self.view[self._offset : self._offset + BLOCK])
        if not block or block == _ZERO:
            return None
        if len(block) < BLOCK:
            raise self.bad("tar-truncated", "The archive ends within a header.")
        if self._number(block[148:156], "checksum") != header_sum(block):
            raise self.bad("tar-header", f"The header at byte {self._offset} has a wrong sum.")
        self._offset += BLOCK
        return block

    def _data(self, size: int) -> memoryview:
        end = self._offset + size
        if end > len(self.view):
            raise self.bad("tar-truncated", "The archive ends within a file.")
        data = self.view[self._offset : end]
        self._offset = min(end + (-size % BLOCK), len(self.view))
        return data

    def _extended(self, flag: bytes, data: memoryview) -> None:
        if len(data) > MAX_EXTENDED:
            raise LimitError(
                f"A name header has more than {MAX_EXTENDED} bytes.",
                code="tar-limit",
                component=self._component,
            )
        raw = bytes(data)
        if flag == b"g":
            if b"path=" in raw or b"size=" in raw:
                raise self.bad("tar-header", "A global header sets paths or sizes.")
            return
        if flag in {b"L", b"K"}:
            self._override("path" if flag == b"L" else "linkpath", raw.rstrip(_NUL))
            return
        place = 0
        while place < len(raw):
            record = _PAX_RECORD.match(raw, place)
            end = place + int(record[1]) if record else 0
            if record is None or not record.end() < end <= len(raw):
                raise self.bad("tar-header", "A pax header is malformed.")
            if raw[end - 1 : end] != b"\n":
                raise self.bad("tar-header", "A pax header is malformed.")
            key = record[2].decode("utf-8", "replace")
            if key.startswith("GNU.sparse"):
                raise self.bad("tar-type", "Sparse files are refused.")
            if key in {"path", "linkpath", "size"}:
                self._override(key, raw[record.end() : end - 1])
            place = end

    def _override(self, key: str, value: bytes) -> None:
        if key in self._overrides:
            raise self.bad("tar-header", "An entry has two long names.")
        self._overrides[key] = value

    def _entry(self, head: bytes, flag: bytes) -> TarEntry | None:
        overrides, self._overrides = self._overrides, {}
        name = head[:100].split(_NUL, 1)[0]
        prefix = self.prefix(head).split(_NUL, 1)[0]
        if prefix:
            name = prefix + b"/" + name
        name = overrides.get("path", name)
        kind = _KINDS.get(flag)
        if kind is None:
            raise self.bad(
                "tar-type",
                f"{name[:128]!r} is neither file, directory nor link (type {flag!r}): refused.",
            )
        if kind is EntryKind.FILE and name.endswith(b"/"):
            kind = EntryKind.DIRECTORY
        path = checked_path(name, component=self._component)
        if not path and kind is not EntryKind.DIRECTORY:
            raise self.bad("tar-path", "An entry has no name.")
        mode = self._number(head[100:108], "mode") & 0o7777
        if mode & _SETID:
            raise self.bad("tar-mode", f"{path} would run as another user (mode {mode:o}).")
        size = self._number(head[124:136], "size")
        if "size" in overrides:
            size = self._decimal(overrides["size"])
        if kind is not EntryKind.FILE and size:
            raise self.bad("tar-header", f"{path} is a {kind} and yet has data.")
        entry = TarEntry(
            path=path,
            kind=kind,
            data=self.locate(head, size),
            mode=mode & MODE_BITS,
            owner=self._number(head[108:116], "owner"),
            group=self._number(head[116:124], "group"),
            mtime=self._number(head[136:148], "time"),
            target=self._target(kind, overrides.get("linkpath", head[157:257].split(_NUL, 1)[0])),
        )
        return entry if path else None

    def _target(self, kind: EntryKind, raw: bytes) -> str:
        if kind is EntryKind.HARDLINK:
            return checked_path(raw, component=self._component)
        if kind is not EntryKind.SYMLINK:
            return ""
        try:
            target = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.bad("tar-path", "A link's target is not UTF-8.") from error
        if not target or len(raw) > MAX_PATH or _CONTROL.search(target):
            raise self.bad("tar-path", "A link has no usable target.")
        return target

    def _number(self, field: bytes, what: str) -> int:
        """Return an octal field, or GNU's binary form of it."""
        if field[:1] == _BINARY:
            return int.from_bytes(field[1:], "big")
        octal = _OCTAL.fullmatch(field)
        if octal is None:
            raise self.bad("tar-header", f"The {what} of an entry is not a number.")
        return int(octal[1] or b"0", 8)

    def _decimal(self, text: bytes) -> int:
        if not (text.isdigit() and len(text) <= _SIZE_DIGITS):
            raise self.bad("tar-header", "The size of an entry is not a number.")
        return int(text)

    def bad(self, code: str, reason: str) -> FormatError:
        """Return a refusal with this code."""
        return FormatError(reason, code=code, component=self._component)


def header_sum(block: bytes) -> int:
    """Return the header's sum of bytes, its own field counted as spaces."""
    return sum(block) - sum(block[148:156]) + 8 * ord(" ")
