"""Writes cpio archives in the form that Linux unpacks as its first root ("newc").

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. Same entries, same
bytes: no times, owner root, inode numbers in order.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MAGIC: Final = b"070701"
TRAILER: Final = "TRAILER!!!"
ALIGNMENT: Final = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: ``mode`` with its type bits; ``data`` is a link's target for links."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(path: str) -> Entry:
    """Return a directory."""
    return Entry(path, stat.S_IFDIR | 0o755)


def program(path: str, data: bytes) -> Entry:
    """Return an executable file."""
    return Entry(path, stat.S_IFREG | 0o755, data)


def link(path: str, target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def device(path: str, major: int, minor: int) -> Entry:
    """Return a character device."""
    return Entry(path, stat.S_IFCHR | 0o600, device=(major, minor))


def write_cpio(entries: Iterable[Entry]) -> bytes:
    """Return an archive with the entries in the order given."""
    parts = [_encode(entry, number) for number, entry in enumerate(entries, start=1)]
    return b"".join((*parts, _encode(Entry(TRAILER, 0), 0)))


def _encode(entry: Entry, number: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        *(number, entry.mode, 0, 0, links, 0, len(entry.data)),
        *(0, 0, *entry.device, len(name), 0),
    )
    head = MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
