"""Sealed memory files: bytes that nobody, root included, can change any more."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from casemate.errors import HostError, LimitError
from casemate.kernel.sys.libc import from_os_error

_MFD_NOEXEC_SEAL: Final = 8
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# Bytes: the largest payload of a host image that is ever loaded.
SIZE_LIMIT: Final = 4 << 30


def create(name: str) -> int:
    """Return a new empty memory file: sealable, closed on exec, never executable itself."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        # Linux before 6.3 does not know the flag.
        if error.errno != errno.EINVAL:
            raise from_os_error(f"cannot make a memory file for {name}", error) from error
    try:
        return os.memfd_create(name, flags)
    except OSError as error:
        raise from_os_error(f"cannot make a memory file for {name}", error) from error


def seal(descriptor: int) -> None:
    """Forbid every change of content and size, and of the seals."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        raise from_os_error("cannot seal a memory file", error) from error


def is_sealed(descriptor: int) -> bool:
    """Tell whether nobody can change the file."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False


def sealed_copy(source: int, name: str, *, limit: int = SIZE_LIMIT) -> int:
    """Copy the whole file behind ``source`` into a sealed memory file.

    Returns:
        The descriptor of the copy; the caller closes it.

    Raises:
        LimitError: The file is larger than ``limit`` bytes.
        HostError: Reading failed or memory is short.
    """
    descriptor = create(name)
    try:
        _copy(source, descriptor, name, limit)
        seal(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _copy(source: int, target: int, name: str, limit: int) -> None:
    """Copy at most ``limit`` bytes inside the kernel."""
    offset = 0
    while True:
        try:
            count = os.sendfile(target, source, offset, min(limit + 1 - offset, 1 << 30))
        except OSError as error:
            raise from_os_error(f"cannot copy {name}", error, component=name) from error
        if count == 0:
            return
        offset += count
        if offset > limit:
            raise LimitError(f"{name} is larger than {limit} bytes", component=name)


def sealed_bytes(data: bytes | memoryview, name: str) -> int:
    """Return a sealed memory file with this content; the caller closes it."""
    descriptor = create(name)
    try:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except OSError as error:
                raise from_os_error(f"cannot fill {name}", error, component=name) from error
        seal(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def mapped(descriptor: int) -> Iterator[memoryview]:
    """Give the content of a file as a read-only view, without copying it.

    Raises:
        HostError: The file cannot be mapped.
    """
    size = os.fstat(descriptor).st_size
    if size == 0:
        yield memoryview(b"")
        return
    try:
        mapping = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise HostError(f"cannot map a file of {size} bytes: {error}") from error
    view = memoryview(mapping)
    try:
        yield view
    finally:
        # An error on its way out still holds views of it; the mapping ends with the last of them.
        with suppress(BufferError):
            view.release()
            mapping.close()
