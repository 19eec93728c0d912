"""The visor root: every verified payload a read-only layer, all layers together the root.

An EROFS payload is mounted from its sealed bytes. An archive (``tgz``, ``vgz``) was read from
its sealed bytes, and is laid out in a RAM file system of just its size, which is read-only before
anybody sees it.

Later layers lie above earlier ones; an image has each file in exactly one VIB, so the order only
matters for overlays.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from casemate.formats.tarball import EntryKind, TarEntry
from casemate.kernel.boot.component import Sealed
from casemate.kernel.sys import mounts
from casemate.kernel.sys.libc import from_os_error
from casemate.kernel.sys.loops import loop_device
from casemate.kernel.sys.mounts import READ_ONLY_CODE, erofs, overlay

EROFS_MAGIC: Final = b"\xe2\xe1\xf5\xe0"
_SUPERBLOCK: Final = 1024
_PAGE: Final = 4096
_DIRECTORY: Final = 0o755


class LayerDevice(NamedTuple):
    """The loop device of a layer: its number, and device and inode of the sealed memory."""

    name: str
    number: int
    device: int
    inode: int


class LayerTree(NamedTuple):
    """A layer that was laid out from an archive: ``tree_digest`` of it, before anybody saw it."""

    name: str
    digest: str


LayerFact = LayerDevice | LayerTree


class VisorRoot:
    """Collects layers under ``place`` (a private tmpfs) and joins them."""

    def __init__(self, place: Path) -> None:
        self._layers: list[Path] = []
        self.devices: list[LayerDevice] = []
        self.trees: list[LayerTree] = []
        self._place = place
        self.root = place / "root"
        self.root.mkdir()

    def add(self, component: Sealed, magic: bytes) -> Path | None:
        """Mount an EROFS payload from its sealed memory; return where, or None for others.

        Nobody sees the layer before ``join``.
        """
        if magic != EROFS_MAGIC:
            return None
        target = self._place / "layers" / component.name
        target.mkdir(parents=True)
        with loop_device(component.descriptor, component.name) as device:
            erofs(device, target)
            self.devices.append(device_of(component.name, device, component.descriptor))
        self._layers.append(target)
        return target

    def add_archive(self, name: str, entries: Sequence[TarEntry]) -> Path:
        """Lay an archive out as a layer; nobody sees it before ``join``. Raises HostError."""
        target = self._place / "layers" / name
        target.mkdir(parents=True)
        unpack(entries, target)
        self.trees.append(LayerTree(name, tree_digest(target)))
        self._layers.append(target)
        return target

    def join(self) -> Path:
        """Mount all layers as one tree and return it."""
        overlay(self.root, list(reversed(self._layers)))
        return self.root


def device_of(name: str, device: Path, sealed: int) -> LayerDevice:
    """Return what tells a layer's loop device and the sealed memory behind it from all others."""
    behind = os.fstat(sealed)
    return LayerDevice(name, int(device.name.removeprefix("loop")), behind.st_dev, behind.st_ino)


def tree_digest(top: Path) -> str:
    """Return one digest (SHA-256, hexadecimal) over all that a layer shows.

    Paths, kinds, modes, owners, targets of links and the contents of files, in order of the paths.

    Raises:
        HostError: It cannot be read.
    """
    whole = hashlib.sha256()
    try:
        for folder, folders, names in os.walk(top, onerror=_raise):
            folders.sort()
            for path in (folder, *(f"{folder}/{name}" for name in sorted(names))):
                whole.update(_line(path, os.path.relpath(path, top)).encode())
            for name in folders:
                if os.path.islink(f"{folder}/{name}"):  # noqa: PTH114 (strings, as os.walk has them)
                    path = f"{folder}/{name}"
                    whole.update(_line(path, os.path.relpath(path, top)).encode())
    except OSError as error:
        raise from_os_error("cannot read a layer", error, component=top.name) from error
    return whole.hexdigest()


def _line(path: str, name: str) -> str:
    facts = os.lstat(path)
    if stat.S_ISLNK(facts.st_mode):
        content = os.readlink(path)  # noqa: PTH115 (a string, as os.walk has it)
    elif stat.S_ISREG(facts.st_mode):
        with open(path, "rb") as file:  # noqa: PTH123 (as above)
            content = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        content = ""
    return f"{name!r} {facts.st_mode:o} {facts.st_uid} {facts.st_gid} {content!r}\n"


def _raise(error: OSError) -> None:
    raise error


def unpack(entries: Sequence[TarEntry], target: Path) -> None:
    """Mount the content of an archive, read-only, at an empty directory.

    All belongs to root; directories are everybody's to read, and nothing is anybody's to write.

    Args:
        entries: checked as ``check_tree`` does: each path once, none below a link.
        target: where to mount it.

    Raises:
        HostError: Linux refuses a step, or memory is short.
    """
    folders = {entry.path for entry in entries if entry.kind is EntryKind.DIRECTORY}
    for entry in entries:
        folders |= {str(parent) for parent in PurePath(entry.path).parents} - {"."}
    others = [entry for entry in entries if entry.kind is not EntryKind.DIRECTORY]
    inodes = len(folders) + len(others) + 1
    pages = inodes + sum(-(-len(entry.data) // _PAGE) for entry in others)
    access = mounts.Access.NO_SUID | mounts.Access.NO_DEV
    mounts.tmpfs(target, size=pages * _PAGE, mode=_DIRECTORY, access=access, inodes=inodes + 1)
    try:
        for folder in sorted(folders):
            target.joinpath(folder).mkdir()
            target.joinpath(folder).chmod(_DIRECTORY)
        for entry in others:
            _put(entry, target / entry.path, target)
    except OSError as error:
        raise from_os_error("cannot lay out an archive", error, component=target.name) from error
    mounts.restrict(target, READ_ONLY_CODE)


def _put(entry: TarEntry, path: Path, top: Path) -> None:
    match entry.kind:
        case EntryKind.SYMLINK:
            path.symlink_to(entry.target)
        case EntryKind.HARDLINK:
            path.hardlink_to(top / entry.target)
        case _:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(path, flags, 0o600), "wb") as file:  # noqa: PTH123 (a descriptor)
                file.write(entry.data)
                os.fchmod(file.fileno(), 0o444 | entry.mode & 0o111)


def magic_of(view: memoryview | bytes) -> bytes:
    """Return the four bytes where an EROFS superblock has its magic."""
    return bytes(view[_SUPERBLOCK : _SUPERBLOCK + 4])
