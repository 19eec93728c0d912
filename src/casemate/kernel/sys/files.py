"""Opening files that others may have prepared: never through a link, never out of a directory."""

from __future__ import annotations

import ctypes
import fcntl
import os
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.kernel.sys.libc import SYS_OPENAT2, from_os_error, syscall

_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08


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


def lock(descriptor: int, name: str, *, exclusive: bool) -> None:
    """Lock an open file for as long as any copy of this descriptor is open, in any process.

    Raises:
        HostError: ``file-in-use``: somebody else uses it.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HostError(
            f"{name} is in use by another VM",
            code="file-in-use",
            component=name,
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
