"""Opening files that others may have prepared: never through a link, never out of a directory."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from casemate.errors import FileLockedError
from casemate.kernel.sys.libc import LIBC, SYS_OPENAT2, check, from_os_error, syscall

_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_COPY_CHUNK: Final = 8 << 20
_RENAME_NOREPLACE: Final = 1


class _OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(directory: int, path: str, flags: int, *, mode: int = 0) -> int:
    """Open ``path`` below the directory; no component may be a symbolic link or lead out.

    Args:
        directory: Descriptor of the directory.
        path: Relative path.
        flags: ``os.O_*``; close-on-exec and no-controlling-terminal are added.
        mode: Permissions of a file that is made.

    Raises:
        HostError: ``host-eloop`` for a link, ``host-exdev`` for a way out, else the errno's.
    """
    how = _OpenHow(
        flags=flags | os.O_CLOEXEC | os.O_NOCTTY,
        mode=mode,
        resolve=_RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS,
    )
    return syscall(
        SYS_OPENAT2,
        ctypes.c_int(directory),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
        what=f"cannot open {path}",
        component=path,
    )


def rename(directory: int, name: str, to_directory: int, to_name: str, *, replace: bool) -> None:
    """Rename in one step. Raises HostError: ``host-eexist`` where nothing may be replaced."""
    result = LIBC.renameat2(
        ctypes.c_int(directory),
        ctypes.c_char_p(os.fsencode(name)),
        ctypes.c_int(to_directory),
        ctypes.c_char_p(os.fsencode(to_name)),
        ctypes.c_uint(0 if replace else _RENAME_NOREPLACE),
    )
    check(result, f"cannot rename {name} to {to_name}", component=to_name)


def lock(descriptor: int, name: str, *, exclusive: bool) -> None:
    """Lock an open file for as long as any copy of this descriptor is open, in any process.

    Raises:
        FileLockedError: Somebody else uses it.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileLockedError(
            f"{name} is in use by another VM",
            file=name,
            remedy="Power off the VM that uses it, or detach it there.",
        ) from None
    except OSError as error:
        raise from_os_error(f"cannot lock {name}", error, component=name) from error


def open_directory(path: Path) -> int:
    """Return a descriptor of a directory, which itself may not be a symbolic link.

    Raises:
        HostError: It is missing, or something else.
    """
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(f"cannot open {path}", error, component=str(path)) from error


def copy_data(source: int, target: int, step: Callable[[int], None] = lambda _: None) -> None:
    """Copy what is not a hole from one open file to another, then set the length.

    ``step`` gets how many bytes of the file are done with; what it raises ends the copying.
    """
    end = os.fstat(source).st_size
    position = 0
    while position < end:
        before = position
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        step(position - before)
        hole = os.lseek(source, position, os.SEEK_HOLE)
        while position < hole:
            data = os.pread(source, min(_COPY_CHUNK, hole - position), position)
            if not data:
                break
            write_all(target, data, position)
            position += len(data)
            step(len(data))
    os.ftruncate(target, end)


def write_all(target: int, data: bytes, offset: int) -> None:
    """Write all bytes at an offset; a full file system may take a part only. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(target, view, offset)
        view = view[written:]
        offset += written
