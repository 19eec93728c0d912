"""Landlock: rules about files that a process puts around itself, on top of owners and mounts.

Linux 5.13 or newer; what a kernel does not know is left out, and an absent Landlock is told to the
caller. See landlock(7); numbers are those of <linux/landlock.h>.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from typing import Final

from casemate.errors import HostError
from casemate.kernel.sys.libc import LIBC, from_os_error, is_errno, syscall

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION_FLAG: Final = 1
_PATH_BENEATH: Final = 1

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
_REMOVE_AND_MAKE: Final = 0x1FF0
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_IOCTL_DEVICE: Final = 1 << 15
_EVERY_FILE_RIGHT: Final = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
_FILE_RIGHTS: Final = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_NEWEST_KNOWN: Final = 5
_TCP: Final = 0x3
_SCOPES: Final = 0x3
_ABI_NETWORK: Final = 4
_ABI_SCOPES: Final = 6

READ: Final = READ_FILE | READ_DIR
RUN: Final = READ | EXECUTE
CHANGE: Final = READ | WRITE_FILE | _REMOVE_AND_MAKE | _TRUNCATE


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """Return the version of Landlock's interface in this Linux kernel; 0 where it is absent."""
    found = LIBC.syscall(
        ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG)
    )
    return max(int(found), 0)


def restrict(rules: Iterable[tuple[str, int]], *, network: bool = False) -> int:
    """Allow this process and its descendants these paths only, for good.

    Needs no_new_privs or CAP_SYS_ADMIN. Signals to, and abstract sockets of, processes outside
    are refused too where the kernel can.

    Args:
        rules: Path of a directory or file, and what is allowed there and below (``READ``, ``RUN``,
            ``CHANGE``). A path that does not exist allows nothing.
        network: Whether new TCP connections and listening sockets may be made.

    Returns:
        The version of the interface; 0 where the kernel has no Landlock and nothing was done.

    Raises:
        HostError: The kernel refused.
    """
    abi = version()
    if not abi:
        return 0
    handled = _EVERY_FILE_RIGHT[min(abi, _NEWEST_KNOWN)]
    attributes = _Ruleset(handled_access_fs=handled)
    if abi >= _ABI_NETWORK and not network:
        attributes.handled_access_net = _TCP
    if abi >= _ABI_SCOPES:
        attributes.scoped = _SCOPES
    ruleset = syscall(
        _CREATE_RULESET,
        ctypes.byref(attributes),
        ctypes.c_size_t(_size(abi)),
        ctypes.c_uint32(0),
        what="cannot make a Landlock ruleset",
    )
    try:
        for path, allowed in rules:
            _add(ruleset, path, allowed & handled)
        syscall(
            _RESTRICT_SELF,
            ctypes.c_int(ruleset),
            ctypes.c_uint32(0),
            what="cannot restrict the process by Landlock",
        )
    finally:
        os.close(ruleset)
    return abi


def _size(abi: int) -> int:
    """Return how much of the structure a kernel of this version knows."""
    if abi < _ABI_NETWORK:
        return 8
    return 16 if abi < _ABI_SCOPES else 24


def _add(ruleset: int, path: str, allowed: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise from_os_error(f"cannot open {path}", error, component=path) from error
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            allowed &= _FILE_RIGHTS
        rule = _PathBeneath(allowed, place)
        syscall(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
            what=f"cannot add a Landlock rule for {path}",
            component=path,
        )
    except HostError as error:
        if not is_errno(error, errno.ENOMSG):  # no right of ours applies to it
            raise
    finally:
        os.close(place)
