"""The content of a disk as its guest sees it, through all deltas, while no guest uses it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from casemate.errors import NotSupportedError
from casemate.formats.sparse import Read, nothing, read_qcow2, read_sparse
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
        case "vmdk":
            return read_sparse(read, os.fstat(handle).st_size, below)
        case _:
            raise NotSupportedError(
                f"a disk of format {source.format[:40]!r} is not read", component=source.file_name
            )


def _plain(file: Read, source: DiskSource) -> Read:
    def read(offset: int, size: int) -> bytes:
        length = max(0, min(size, source.size - offset))
        return file(source.offset + offset, length).ljust(length, b"\0")

    return read
