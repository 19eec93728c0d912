"""Puts the disk of ``image disk`` on a disk of this machine.

Every byte that the image has is written, zeros too, so that nothing of what was there before is
taken for a part of it. The disk gets identifiers of its own, the datastore all that is left of it.
What is no zeros is read back. The partition table comes last: an installation that was cut off
leaves a disk that does not boot.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

from casemate.errors import FormatError, HostError, StateError
from casemate.formats.gpt import HEAD, RESERVED, SECTOR, Entry, parse_gpt, write_gpt
from casemate.kernel.boot.filesystem import empty_ext4, pieces
from casemate.kernel.boot.handedover import PLACE_SIZE, pack
from casemate.kernel.boot.machinedisk import BANKS, STATE
from casemate.kernel.sys.blockdevice import zero_out
from casemate.kernel.sys.libc import from_os_error

MEBIBYTE: Final = 1 << 20
REPORT: Final = 32
"""MiB between two words about the progress."""
DATASTORE: Final = "datastore1"
NAMES: Final = ("EFI", *BANKS, STATE, DATASTORE)
"""The partitions of an image, in order."""

_ALIGNMENT: Final = MEBIBYTE // SECTOR
_ZEROS: Final = bytes(MEBIBYTE)
_HEAD_SECTORS: Final = HEAD // SECTOR
_LAST_SECTOR: Final = struct.Struct("<Q")
"""Where the second table ends, in the first one's header: the length of the whole disk."""
_FAT32: Final = b"FAT32   "
_KIND, _SERIAL, _COPY = slice(82, 90), slice(67, 71), 50
"""In a boot sector of FAT32: its name, the volume's number, and the sector with its copy."""


class Source(Protocol):
    """A disk to install: as many sectors, and the content of any of them."""

    @property
    def sectors(self) -> int:
        """Return its size."""

    def read(self, start: int, count: int) -> bytes:
        """Return the content of ``count`` sectors from ``start`` on."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """A disk in a file."""

    file: io.FileIO

    @property
    def sectors(self) -> int:
        """Return its size."""
        return os.fstat(self.file.fileno()).st_size // SECTOR

    def read(self, start: int, count: int) -> bytes:
        """Return the content of sectors. Raises OSError."""
        return os.pread(self.file.fileno(), count * SECTOR, start * SECTOR)


@contextmanager
def image_source(image: Path) -> Iterator[Source]:
    """Yield what ``image disk`` wrote. Raises HostError."""
    try:
        file = io.FileIO(image)
    except OSError as error:
        raise from_os_error("the image cannot be read", error, component=str(image)) from error
    with file:
        yield FileSource(file)


def install(
    source: Source,
    target: Path,
    *,
    overwrite: bool,
    settings: bytes = b"",
    random: Callable[[int], bytes] = secrets.token_bytes,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> None:
    """Write an image to a disk.

    Args:
        source: the disk of a machine that boots by itself.
        target: a device file, or a file that is taken for a disk.
        overwrite: also where the disk holds something.
        settings: for the first start, signed; at most ``handedover.LIMIT`` bytes.
        random: gives the bytes that the disk's identifiers are made of.
        progress: told what is done ("write", "verify", "done"), every 32 MiB.

    Raises:
        FormatError: the image is none.
        LimitError: the settings are too large.
        StateError: the disk is in use (``disk-in-use``), or holds something (``disk-not-empty``).
        HostError: the disk is too small, cannot be read or written, or does not keep what is
            written (``disk-differs``).
    """
    try:
        with _open(target) as disk:
            size = disk.seek(0, os.SEEK_END)
            entries = _checked(source)
            if size < source.sectors * SECTOR:
                needed = source.sectors * SECTOR // MEBIBYTE
                raise HostError(
                    f"the disk has {size // MEBIBYTE} MiB, the image needs {needed}",
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
            _write_disk(disk.fileno(), size // SECTOR, source, entries, settings, random, progress)
    except OSError as error:
        raise HostError(
            f"the disk cannot be written: {error.strerror}",
            code="disk-write",
            component=str(error.filename or target),
            remedy="Check the disk, and that you may write to it.",
        ) from error


def _write_disk(
    disk: int,
    sectors: int,
    source: Source,
    entries: tuple[Entry, ...],
    settings: bytes,
    random: Callable[[int], bytes],
    progress: Callable[[str, int, int], None],
) -> None:
    own = _of_its_own(entries, sectors, random)
    serials = {one.start: random(4) for one in own if one.name != DATASTORE}
    first, last = write_gpt(_identifier(random), sectors, own)
    size, store = sectors * SECTOR, own[-1]
    state = next(one for one in own if one.name == STATE)
    handed = (
        {state.start + state.sectors - PLACE_SIZE // SECTOR: pack(settings)} if settings else {}
    )
    for place in (0, (size - MEBIBYTE) // SECTOR * SECTOR):
        zero_out(disk, place, MEBIBYTE)
    os.fsync(disk)
    with empty_ext4(store.sectors * SECTOR, store.guid, store.name) as made:

        def content() -> Iterator[tuple[int, bytes]]:
            for start, data in _image(source, store.start, serials):
                yield start * SECTOR, handed.get(start, data)
            for place, data in pieces(made, MEBIBYTE):
                yield store.start * SECTOR + place, data

        zero_out(disk, store.start * SECTOR, MEBIBYTE)
        _fill(disk, content(), partial(progress, "write"), store.start // _ALIGNMENT)
        _settle(disk)
        _verify(disk, content(), partial(progress, "verify"), store.start // _ALIGNMENT)
    _write(disk, last, size - len(last))
    os.fsync(disk)
    _write(disk, first, 0)
    _settle(disk)
    _compare(disk, last, size - len(last))
    _compare(disk, first, 0)
    progress("done", 1, 1)


def _fill(
    disk: int,
    content: Iterator[tuple[int, bytes]],
    progress: Callable[[int, int], None],
    total: int,
) -> None:
    for number, (place, data) in enumerate(content):
        if data == _ZEROS:
            zero_out(disk, place, len(data))
        else:
            _write(disk, data, place)
        if number % REPORT == 0:
            progress(min(number, total), total)


def _verify(
    disk: int,
    content: Iterator[tuple[int, bytes]],
    progress: Callable[[int, int], None],
    total: int,
) -> None:
    for number, (place, data) in enumerate(content):
        if data != _ZEROS:
            _compare(disk, data, place)
        if number % REPORT == 0:
            progress(min(number, total), total)


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


def _checked(source: Source) -> tuple[Entry, ...]:
    """Return the partitions of the image. Raises FormatError where it is none."""
    head = source.read(0, _HEAD_SECTORS)
    entries = parse_gpt(head)
    (last,) = _LAST_SECTOR.unpack_from(head, SECTOR + 32)
    whole = source.sectors == last + 1 and source.sectors % _ALIGNMENT == 0
    if not whole or tuple(entry.name for entry in entries) != NAMES:
        raise FormatError(
            "the file is not the whole disk of a machine that boots by itself",
            code="disk-image",
            component="image",
            remedy="Build it: casemate image disk.",
        )
    return entries


def _of_its_own(
    entries: tuple[Entry, ...], sectors: int, random: Callable[[int], bytes]
) -> list[Entry]:
    """Return the partitions with identifiers of their own; the last one takes what is left."""
    named = [replace(entry, guid=_identifier(random)) for entry in entries]
    end = (sectors - RESERVED) // _ALIGNMENT * _ALIGNMENT
    named[-1] = replace(named[-1], sectors=max(end - named[-1].start, named[-1].sectors))
    return named


def _identifier(random: Callable[[int], bytes]) -> UUID:
    return UUID(bytes=random(16), version=4)


def _image(source: Source, end: int, serials: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield first sector and content of each MiB up to ``end``; a FAT volume gets its number."""
    for start in range(_ALIGNMENT, end, _ALIGNMENT):
        data = source.read(start, _ALIGNMENT)
        if start in serials and data[_KIND] == _FAT32:
            fresh = bytearray(data)
            copy = int.from_bytes(data[_COPY : _COPY + 2], "little") * SECTOR
            for place in {0, copy if data[copy:][_KIND] == _FAT32 else 0}:
                fresh[place + _SERIAL.start : place + _SERIAL.stop] = serials[start]
            data = bytes(fresh)
        yield start, data


def _holds_something(disk: int, size: int) -> bool:
    """Tell whether tables or file systems may be there; they begin or end a disk."""
    ends = (0, max(size - MEBIBYTE, 0))
    return any(any(os.pread(disk, MEBIBYTE, start)) for start in ends)


def _settle(disk: int) -> None:
    """Bring everything to the disk, and forget what memory has of it."""
    os.fsync(disk)
    os.posix_fadvise(disk, 0, 0, os.POSIX_FADV_DONTNEED)


def _write(disk: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(disk, view, place)
        view, place = view[written:], place + written


def _compare(disk: int, data: bytes, place: int) -> None:
    if os.pread(disk, len(data), place) != data:
        raise HostError(
            f"the disk does not keep what is written: MiB {place // MEBIBYTE} is another one",
            code="disk-differs",
            component="disk",
            remedy="Replace the disk.",
        )
