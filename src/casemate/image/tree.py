"""What the visor root consists of: files, symbolic links and empty directories, as values.

Paths are relative to the root, without a leading slash, in Debian 12's merged-/usr form
(``usr/lib/x86_64-linux-gnu/libc.so.6``, never ``lib/...``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from casemate.errors import ArgumentError, HostError

FILE_MODE: Final = 0o444
PROGRAM_MODE: Final = 0o555
FOLDER_MODE: Final = 0o555
"""Nothing in a visor root is writable, and nothing is setuid, whoever looks."""

ELF_MAGIC: Final = b"\x7fELF"
MERGED: Final = ("bin", "sbin", "lib", "lib64")


@dataclass(frozen=True, slots=True)
class File:
    """A regular file: its bytes are ``source``, or are read from the path ``source``."""

    path: str
    source: bytes | Path
    executable: bool = False

    def read(self) -> bytes:
        """Return the content.

        Raises:
            HostError: the file is gone or cannot be read (``file-unreadable``).
        """
        if isinstance(self.source, bytes):
            return self.source
        try:
            return self.source.read_bytes()
        except OSError as error:
            raise HostError(
                f"{self.source} cannot be read: {error.strerror}.",
                code="file-unreadable",
                component=self.path,
                remedy="Install its package again (apt-get install --reinstall).",
            ) from error

    def is_elf(self) -> bool:
        """Tell whether it is a program or library."""
        if isinstance(self.source, bytes):
            return self.source.startswith(ELF_MAGIC)
        with self.source.open("rb") as stream:
            return stream.read(len(ELF_MAGIC)) == ELF_MAGIC

    def fingerprint(self) -> str:
        """Return a value that changes when the content changes, without reading host files."""
        if isinstance(self.source, bytes):
            return f"{self.executable} {hashlib.sha256(self.source).hexdigest()}"
        status = self.source.stat()
        return (
            f"{self.executable} {self.source} {status.st_ino} {status.st_size}"
            f" {status.st_mtime_ns} {status.st_ctime_ns}"
        )


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link, kept as it is."""

    path: str
    target: str

    def fingerprint(self) -> str:
        """Return a value that changes when the link changes."""
        return f"-> {self.target}"


@dataclass(frozen=True, slots=True)
class Folder:
    """An empty directory: a place to mount something."""

    path: str

    def fingerprint(self) -> str:
        """Return the constant of all directories."""
        return "/"


Node = File | Link | Folder


def merged(path: str | PurePosixPath) -> str:
    """Return a host path relative to the root and in merged-/usr form.

    >>> merged("/lib/x86_64-linux-gnu/libc.so.6")
    'usr/lib/x86_64-linux-gnu/libc.so.6'
    """
    relative = str(path).lstrip("/")
    return f"usr/{relative}" if relative.split("/", 1)[0] in MERGED else relative


def by_path(nodes: Iterable[Node]) -> dict[str, Node]:
    """Return nodes by path, in path order.

    Raises:
        ArgumentError: two different nodes claim one path, or a path leaves the root.
    """
    found: dict[str, Node] = {}
    for node in nodes:
        parts = node.path.split("/")
        if not all(parts) or ".." in parts or "." in parts:
            raise ArgumentError(f"{node.path!r} is no path inside a root.", argument="path")
        other = found.setdefault(node.path, node)
        if other != node:
            raise ArgumentError(f"{node.path} is given twice.", argument="path")
    return dict(sorted(found.items()))


def write_tree(nodes: Mapping[str, Node], place: Path) -> None:
    """Write nodes below an existing empty directory, with their final modes.

    Directories stay writable for the owner: the caller still compiles into them and finally
    calls :func:`normalise`.
    """
    for path, node in nodes.items():
        target = place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        match node:
            case Folder():
                target.mkdir(exist_ok=True)
            case Link():
                target.symlink_to(node.target)
            case File():
                target.write_bytes(node.read())
                target.chmod(PROGRAM_MODE if node.executable else FILE_MODE)


def normalise(place: Path) -> tuple[str, ...]:
    """Give every entry below a directory its final mode; return the paths of files and links.

    A directory gets 0555, a file 0555 or 0444 by its owner's execute bit; so no setuid, sticky or
    write bit is left.
    """
    paths: list[str] = []
    for entry in sorted(place.rglob("*")):
        if entry.is_symlink():
            paths.append(str(entry.relative_to(place)))
        elif entry.is_dir():
            entry.chmod(FOLDER_MODE)
        else:
            entry.chmod(PROGRAM_MODE if entry.stat().st_mode & 0o100 else FILE_MODE)
            paths.append(str(entry.relative_to(place)))
    place.chmod(FOLDER_MODE)
    return tuple(paths)
