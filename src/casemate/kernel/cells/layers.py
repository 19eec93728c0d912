"""The content of a disk as its guest sees it, through all deltas, while no guest uses it."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
from collections.abc import Iterator

from casemate.errors import NotSupportedError
from casemate.formats.datastorepath import beside
from casemate.formats.sparse import Read, nothing, read_extent, read_qcow2, read_sparse
from casemate.formats.vmdk import SECTOR, CreateType, Part
from casemate.kernel.cells import disks
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.sys.files import lock
from casemate.machine.planstorage import DiskSource


@contextlib.contextmanager
def opened(directory: VmDirectory, source: DiskSource) -> Iterator[Read]:
    """Yield what reads a disk; its files are locked against writers meanwhile.

    Raises:
        CasemateError: A file is missing, in use, or not in order.
        NotSupportedError: A format that is not read.
    """
    with contextlib.ExitStack() as files:
        yield _reader(directory, source, files)


def _reader(directory: VmDirectory, source: DiskSource, files: contextlib.ExitStack) -> Read:
    below: Read = nothing
    if source.backing is not None:
        below = _reader(directory, source.backing, files)
    handle = directory.open_file(source.file_name)
    files.callback(os.close, handle)
    lock(handle, source.file_name, exclusive=False)

    def read(offset: int, size: int) -> bytes:
        return os.pread(handle, size, offset)

    match source.format:
        case "raw":
            return _plain(read, source)
        case "qcow2":
            return read_qcow2(read, below)
        case "split":
            return _split(directory, source, files)
        case "vmdk":
            return read_sparse(read, os.fstat(handle).st_size, below)
        case _:
            raise NotSupportedError(
                f"a disk of format {source.format[:40]!r} is not read", component=source.file_name
            )


def _split(directory: VmDirectory, source: DiskSource, files: contextlib.ExitStack) -> Read:
    """Return what reads a disk in many extents, one of which is open at a time."""
    described = disks.describe(directory, source.file_name)
    ends = list(itertools.accumulate(part.sectors * SECTOR for part in described.parts))
    opened = files.enter_context(contextlib.ExitStack())
    present: tuple[int, Read] = (-1, nothing)

    def part(number: int) -> Read:
        nonlocal present
        if present[0] != number:
            opened.close()
            one = described.parts[number]
            name = beside(source.file_name, one.name)
            handle = directory.open_file(name)
            opened.callback(os.close, handle)
            lock(handle, name, exclusive=False)
            present = (number, _extent(handle, one, described.create_type))
        return present[1]

    def read(offset: int, size: int) -> bytes:
        end = min(offset + size, described.capacity)
        found = bytearray()
        while offset < end:
            number = bisect.bisect_right(ends, offset)
            begin = ends[number] - described.parts[number].sectors * SECTOR
            amount = min(end, ends[number]) - offset
            found += part(number)(offset - begin, amount)
            offset += amount
        return bytes(found)

    return read


def _extent(handle: int, part: Part, kind: CreateType) -> Read:
    """Return what reads one extent of many."""

    def sparse(offset: int, size: int) -> bytes:
        return os.pread(handle, size, offset)

    def flat(offset: int, size: int) -> bytes:
        return os.pread(handle, size, part.offset * SECTOR + offset).ljust(size, b"\0")

    if kind is CreateType.SPLIT_FLAT:
        return flat
    return read_extent(sparse, os.fstat(handle).st_size, part.sectors)


def _plain(file: Read, source: DiskSource) -> Read:
    def read(offset: int, size: int) -> bytes:
        length = max(0, min(size, source.size - offset))
        return file(source.offset + offset, length).ljust(length, b"\0")

    return read
