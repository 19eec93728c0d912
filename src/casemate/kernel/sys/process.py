"""What a process gives up before it runs a program, and what binds it to others.

All of it acts on the calling process and is meant for a child between fork and exec.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from casemate.errors import HostError
from casemate.kernel.sys.libc import LIBC, check, from_os_error, host_error

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_SECUREBITS: Final = 28
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_PR_SET_MDWE: Final = 65
_PR_GET_MDWE: Final = 66
_PR_MDWE_REFUSE_EXEC_GAIN: Final = 1
# SECBIT_NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE with their locks.
_SECUREBITS_LOCKED: Final = 0x01 | 0x02 | 0x04 | 0x08 | 0x40 | 0x80
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAPABILITIES: Final = 64
_LAST_FD: Final = (1 << 31) - 1
HIGH_FD: Final = 200
"""File descriptors from here on are scratch space of ``install_fds``; targets lie below."""


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapSets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32 * 2),
        ("permitted", ctypes.c_uint32 * 2),
        ("inheritable", ctypes.c_uint32 * 2),
    )


def prctl(option: int, *arguments: int, what: str) -> int:
    """Change an attribute of the process, with up to four numbers."""
    return check(LIBC.prctl(option, *arguments, *([0] * (4 - len(arguments)))), what)


def no_new_privileges() -> None:
    """Let no exec give more than the process has."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1, what="cannot set no_new_privs")


def refuse_writable_code() -> bool:
    """Refuse memory that is, or becomes, writable and executable (MDWE, kept over exec).

    Returns:
        Whether this Linux kernel (6.3 or newer) enforces it.
    """
    try:
        prctl(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN, what="cannot set MDWE")
    except HostError as error:
        if error.code == "host-einval":
            return False
        raise
    return True


def refuses_writable_code() -> bool:
    """Tell whether MDWE is in force for the calling process."""
    return bool(LIBC.prctl(_PR_GET_MDWE, 0, 0, 0, 0) > 0)


def not_dumpable() -> None:
    """No core dumps, no tracing by processes of the same uid (until the next exec)."""
    prctl(_PR_SET_DUMPABLE, 0, what="cannot clear dumpable")


def die_with_parent() -> None:
    """Ask for SIGKILL when the parent dies; ends at once where that has happened already."""
    parent = os.getppid()
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, what="cannot bind to the parent")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_for_memory(score: int, pid: int | str = "self") -> None:
    """Add to the score by which Linux chooses what to end when memory is out: -1000 to 1000.

    Raises:
        HostError: Less than before takes CAP_SYS_RESOURCE.
    """
    place = f"/proc/{pid}/oom_score_adj"
    try:
        handle = os.open(place, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, b"%d" % score)
        finally:
            os.close(handle)
    except OSError as error:
        raise from_os_error(f"cannot write {place}", error, component=str(pid)) from error


def become_subreaper() -> None:
    """Have orphaned descendants become children of this process."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1, what="cannot become a subreaper")


def drop_bounding_set() -> None:
    """Drop every capability from the bounding set."""
    for capability in range(_CAPABILITIES):
        if LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == -1:
            number = ctypes.get_errno()
            if number == errno.EINVAL:
                return
            raise host_error(f"cannot drop capability {capability}", number)


def clear_capabilities() -> None:
    """Empty the ambient, effective, permitted and inheritable sets."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, what="cannot clear ambient capabilities")
    header, sets = _CapHeader(_CAPABILITY_VERSION_3, 0), (_CapSets * 1)()
    check(LIBC.capset(ctypes.byref(header), sets), "cannot drop capabilities")


def randomize_addresses() -> None:
    """Clear ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC and every other inherited personality."""
    check(LIBC.personality(0), "cannot clear the personality")


def set_rlimits(limits: Mapping[int, int]) -> None:
    """Set soft and hard limits alike; a hard limit that is lower already stays."""
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (lowered, lowered))
        except (OSError, ValueError) as error:
            raise HostError(f"cannot set resource limit {kind} to {lowered}: {error}") from error


def set_identity(uid: int, gid: int, groups: Iterable[int] = ()) -> None:
    """Become ``uid`` and ``gid`` in all three sets, with these supplementary groups only."""
    try:
        os.setgroups(list(groups))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise from_os_error(f"cannot become uid {uid}", error) from error


def confine(uid: int, gid: int, groups: Iterable[int] = ()) -> None:
    """Give up everything for good, in the one order that works.

    After it: all four uids and gids are the given ones, all capability sets are empty and stay
    so, no_new_privs and (where the kernel has it) MDWE are in force, addresses are random, the
    umask is 077.

    Raises:
        HostError: Any step failed; the caller must not go on.
    """
    randomize_addresses()
    prctl(_PR_SET_SECUREBITS, _SECUREBITS_LOCKED, what="cannot lock the secure bits")
    drop_bounding_set()
    set_identity(uid, gid, groups)
    clear_capabilities()
    no_new_privileges()
    not_dumpable()
    refuse_writable_code()
    os.umask(0o077)


def install_fds(wanted: Mapping[int, int], keep: Sequence[int] = ()) -> None:
    """Give the process exactly these file descriptors.

    Args:
        wanted: Number in the program -> descriptor here. Numbers lie below ``HIGH_FD``.
        keep: Descriptors from ``HIGH_FD`` on that stay (close-on-exec) until exec.
    """
    try:
        moved = {
            target: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
            for target, source in wanted.items()
        }
        for target, source in moved.items():
            os.dup2(source, target, inheritable=True)
    except OSError as error:
        raise from_os_error("cannot pass file descriptors", error) from error
    close_all_but({*wanted, *keep})


def close_all_but(kept: Iterable[int]) -> None:
    """Close every other file descriptor: what a caller left open is no business of a host's."""
    low = 0
    for descriptor in sorted({*kept, _LAST_FD}):
        # An empty range must not be asked for: os.closerange(0, 0) closes everything.
        if low < descriptor:
            os.closerange(low, descriptor)
        low = descriptor + 1
