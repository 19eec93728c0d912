"""Namespaces of the calling process."""

from __future__ import annotations

import os
from enum import IntFlag
from pathlib import Path

from casemate.kernel.sys.libc import LIBC, check, from_os_error


class Namespace(IntFlag):
    """Kinds of namespaces; the values are those of clone(2)."""

    MOUNT = 0x00020000
    CGROUP = 0x02000000
    UTS = 0x04000000
    IPC = 0x08000000
    USER = 0x10000000
    PID = 0x20000000
    NET = 0x40000000


def unshare(kinds: Namespace) -> None:
    """Move into new namespaces; a new pid namespace takes effect for children only."""
    check(LIBC.unshare(int(kinds)), f"cannot make new namespaces ({kinds!r})")


def enter(pidfd: int, kinds: Namespace) -> None:
    """Move into the namespaces of the process behind ``pidfd``."""
    check(LIBC.setns(pidfd, int(kinds)), f"cannot enter the namespaces ({kinds!r})")


def restrict_memfd_execution() -> None:
    """Refuse executable memfds in the pid namespace of the caller (sysctl vm.memfd_noexec=2).

    Linux before 6.3 has no such switch; there the mounts and MDWE stand alone.

    Raises:
        HostError: The switch exists and cannot be set.
    """
    switch = Path("/proc/sys/vm/memfd_noexec")
    try:
        descriptor = os.open(switch, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise from_os_error("cannot open vm.memfd_noexec", error) from error
    try:
        os.write(descriptor, b"2")
    except OSError as error:
        raise from_os_error("cannot set vm.memfd_noexec", error) from error
    finally:
        os.close(descriptor)
