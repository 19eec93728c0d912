"""The C library, typed: every call either gives its result or raises HostError with the reason.

Constants are those of the Linux ABI that Python's own modules lack. System call numbers are the
ones shared by all architectures (numbers from 424 on are the same everywhere).
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final

from casemate.errors import HostError

LIBC: Final = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
LIBC.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
LIBC.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
LIBC.unshare.argtypes = (ctypes.c_int,)
LIBC.setns.argtypes = (ctypes.c_int, ctypes.c_int)
LIBC.prctl.argtypes = (ctypes.c_int, *([ctypes.c_ulong] * 4))
LIBC.personality.argtypes = (ctypes.c_ulong,)
LIBC.capset.argtypes = (ctypes.c_void_p, ctypes.c_void_p)

SYS_OPENAT2: Final = 437
SYS_MOUNT_SETATTR: Final = 442

_REMEDIES: Final = {
    errno.EPERM: "Run as root, with CAP_SYS_ADMIN and outside of a restricted container.",
    errno.EACCES: "Check owner and mode of the file and of the directories above it.",
    errno.ENOENT: "Check that the path exists and was not removed.",
    errno.ENOSYS: "This Linux kernel lacks the call; use Linux 6.1 or newer.",
    errno.ENODEV: "This Linux kernel lacks the file system; load or build its driver.",
    errno.EINVAL: "This Linux kernel refuses the request; use Linux 6.1 or newer.",
    errno.ENOMEM: "Free some memory of the host.",
    errno.ENOSPC: "Free some space, or raise the limit that was reached.",
    errno.EBUSY: "Something still uses it; stop that first.",
    errno.ELOOP: "Replace the symbolic link on the path by what it points to.",
    errno.EXDEV: "Keep the file inside its directory.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
}


def host_error(what: str, number: int, *, component: str = "", remedy: str = "") -> HostError:
    """Make the error for a failed system call.

    Args:
        what: What was tried, as the start of a sentence: ``"cannot mount /x"``.
        number: The errno.
        component: What it is about (a path, a process).
        remedy: What to do; by default what the errno suggests.

    Returns:
        A HostError whose ``code`` is ``host-`` and the errno's name in lower case.
    """
    name = errno.errorcode.get(number, str(number)).lower()
    return HostError(
        f"{what}: {os.strerror(number)}",
        code=f"host-{name}",
        component=component,
        remedy=remedy or _REMEDIES.get(number) or HostError.default_remedy,
    )


def from_os_error(what: str, error: OSError, *, component: str = "") -> HostError:
    """Turn an OSError of Python's own calls into a HostError."""
    return host_error(what, error.errno or errno.EIO, component=component)


def is_errno(error: HostError, number: int) -> bool:
    """Tell whether ``error`` came from this errno."""
    return error.code == f"host-{errno.errorcode[number].lower()}"


def check(result: int, what: str, *, component: str = "") -> int:
    """Return ``result`` of a C call, or raise HostError when it is -1."""
    if result == -1:
        raise host_error(what, ctypes.get_errno(), component=component)
    return result


def syscall(number: int, *arguments: Any, what: str, component: str = "") -> int:  # noqa: ANN401 (ctypes values of any kind)
    """Issue a system call that the C library does not wrap."""
    return check(LIBC.syscall(ctypes.c_long(number), *arguments), what, component=component)
