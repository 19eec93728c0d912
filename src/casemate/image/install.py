"""Puts the disk of ``image disk`` on a disk of this machine.

Every byte that the image has is written, zeros too, so that nothing of what was there before is
taken for a part of it. The partition table comes last: an installation that was cut off leaves a
disk that does not boot.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from casemate.errors import FormatError, HostError, StateError
from casemate.formats.gpt import HEAD, SECTOR, parse_gpt, write_gpt
from casemate.image.disk import MEBIBYTE, Layout

BLOCK_DEVICES: Final = Path("/sys/class/block")
REPORT: Final = 64
"""MiB between two words about the progress."""
_DISK_GUID: Final = slice(SECTOR + 56, SECTOR + 72)
"""The disk's own identifier in the header (UEFI 2.10, 5.3.2)."""
_LAST_SECTOR: Final = struct.Struct("<Q")
"""Where the second table ends, in the first one's header: the length of the whole disk."""


@dataclass(frozen=True, slots=True)
class Target:
    """A disk of this machine; ``size`` in bytes."""

    name: str
    size: int
    model: str
    removable: bool

    @property
    def path(self) -> Path:
        """Return its device file."""
        return Path("/dev", self.name)


def targets(place: Path = BLOCK_DEVICES) -> tuple[Target, ...]:
    """Return this machine's disks that can be written and have sectors of 512 bytes.

    The first one that is not removable is the first disk of an unattended installation.
    """
    found = []
    for one in sorted(place.iterdir(), key=lambda path: (len(path.name), path.name)):
        size = int(_read(one / "size") or 0) * SECTOR
        usable = (one / "device").exists() and not (one / "partition").exists() and size
        sector = _read(one / "queue/logical_block_size")
        if usable and _read(one / "ro") == "0" and sector == str(SECTOR):
            removable = _read(one / "removable") != "0"
            found.append(Target(one.name, size, _read(one / "device/model"), removable))
    return tuple(found)


def choose(found: tuple[Target, ...], name: str) -> Target:
    """Return the named disk; without a name the first that is not removable.

    Raises:
        HostError: there is none (``no-disk``).
    """
    for one in found:
        if one.name == name or not (name or one.removable):
            return one
    raise HostError(
        f"this machine has no disk {name} to install on".replace("  ", " "),
        code="no-disk",
        component=name or "disk",
        remedy="Name another one: " + (", ".join(one.name for one in found) or "there is none."),
    )


def install(
    image: Path,
    target: Path,
    *,
    overwrite: bool,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> None:
    """Write the image to the disk.

    Args:
        image: what ``image disk`` wrote.
        target: a device file, or a file that is taken for a disk.
        overwrite: also where the disk holds something.
        progress: told about every 64 MiB.

    Raises:
        FormatError: the image is none.
        StateError: the disk is in use (``disk-in-use``), or holds something (``disk-not-empty``).
        HostError: the disk is too small, or cannot be read or written.
    """
    try:
        with image.open("rb") as source, _open(target) as disk:
            head = source.read(HEAD)
            length, size = os.fstat(source.fileno()).st_size, disk.seek(0, os.SEEK_END)
            _check(image, head, length)
            if size < length:
                raise HostError(
                    f"the disk has {size // MEBIBYTE} MiB, the image needs {length // MEBIBYTE}",
                    code="disk-size",
                    component=str(target),
                    remedy="Take a larger disk, or build the image with a smaller --datastore.",
                )
            if not overwrite and _holds_something(disk.fileno(), size):
                raise StateError(
                    "the disk holds partitions or other data at its start or end",
                    code="disk-not-empty",
                    component=str(target),
                    remedy="Take another disk, or say that it is to be overwritten.",
                )
            _copy(source.fileno(), disk.fileno(), (length, size), progress)
            first, last = write_gpt(
                UUID(bytes_le=head[_DISK_GUID]), size // SECTOR, parse_gpt(head)
            )
            _write(disk.fileno(), last, size // SECTOR * SECTOR - len(last))
            os.fsync(disk.fileno())
            _write(disk.fileno(), first, 0)
            os.fsync(disk.fileno())
    except OSError as error:
        raise HostError(
            f"the disk cannot be written: {error.strerror}",
            code="disk-write",
            component=str(error.filename or target),
            remedy="Check the disk, and that you may write to it.",
        ) from error


def _open(target: Path) -> io.FileIO:
    """Open the disk; Linux refuses a device that is mounted or part of something (``O_EXCL``)."""
    try:
        disk = io.FileIO(os.open(target, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC), "r+")
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise StateError(
            "the disk is in use",
            code="disk-in-use",
            component=str(target),
            remedy="Unmount what is on it, or take another disk.",
        ) from error
    mode = os.fstat(disk.fileno()).st_mode
    if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
        disk.close()
        raise HostError("that is no disk", code="no-disk", component=str(target))
    return disk


def _check(image: Path, head: bytes, length: int) -> None:
    names = [entry.name for entry in parse_gpt(head)]
    (last,) = _LAST_SECTOR.unpack_from(head, SECTOR + 32)
    whole = length == (last + 1) * SECTOR and length % MEBIBYTE == 0
    if not whole or names != [part.name for part in Layout().partitions()]:
        raise FormatError(
            "the file is not the whole disk of a machine that boots by itself",
            code="disk-image",
            component=str(image),
            remedy="Build it: casemate image disk.",
        )


def _holds_something(disk: int, size: int) -> bool:
    """Tell whether tables or file systems may be there; they begin or end a disk."""
    ends = (0, max(size - MEBIBYTE, 0))
    return any(any(os.pread(disk, MEBIBYTE, start)) for start in ends)


def _copy(
    source: int, disk: int, sizes: tuple[int, int], progress: Callable[[str, int, int], None]
) -> None:
    """Write all but the partition table, whose places are cleared first."""
    length, size = sizes
    zeros = bytes(MEBIBYTE)
    for place in (0, length - MEBIBYTE, size - MEBIBYTE):
        _write(disk, zeros, place)
    os.fsync(disk)
    total = length // MEBIBYTE
    for number in range(1, total - 1):
        data = os.pread(source, MEBIBYTE, number * MEBIBYTE)
        _write(disk, data, number * MEBIBYTE)
        if number % REPORT == 0:
            progress("disk", number, total)
    os.fsync(disk)
    progress("disk", total, total)


def _write(disk: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(disk, view, place)
        view, place = view[written:], place + written


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""
