"""System call filters, built by libseccomp."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

import pyseccomp

from casemate.errors import HostError
from casemate.machine.callfilters import CallFilter

_WRITE_AND_EXECUTE: Final = 0x2 | 0x4
_COMMAND: Final = 1
_PROTECTION: Final = 2
# Every CLONE_NEW* flag of clone(2), and CLONE_THREAD.
_CLONE_NAMESPACES: Final = 0x7E02_0080
_CLONE_THREAD: Final = 0x0001_0000


def deny(names: Iterable[str]) -> None:
    """Refuse these system calls (EPERM) to this process and its descendants, for good.

    Needs no_new_privs or CAP_SYS_ADMIN. Names that this architecture lacks are passed over: what
    does not exist cannot be called.

    Raises:
        HostError: The filter could not be loaded.
    """
    apply(CallFilter(refused=tuple(names)), memory=False)


def refuse_commands(commands: Iterable[int]) -> None:
    """Refuse these commands of ioctl(2) (EPERM) to this process and its descendants, for good.

    Raises:
        HostError: The filter could not be loaded.
    """
    refuse = pyseccomp.ERRNO(errno.EPERM)
    try:
        rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        for command in commands:
            # Linux looks at the lower half of the register alone.
            given = pyseccomp.Arg(_COMMAND, pyseccomp.MASKED_EQ, 0xFFFFFFFF, command)
            rules.add_rule(refuse, "ioctl", given)
        rules.load()
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_loaded(error) from error


def apply(calls: CallFilter, *, memory: bool = True) -> None:
    """Put a filter around this process and its descendants, for good.

    Args:
        calls: What is allowed, what is refused (EPERM). A call that is on neither list of a filter
            with ``allowed`` does not exist (ENOSYS): libraries fall back to older ones then.
        memory: Refuse memory that is writable and executable at once as well, for kernels whose
            MDWE does not.

    Raises:
        HostError: The filter could not be loaded.
    """
    refuse = pyseccomp.ERRNO(errno.EPERM)
    try:
        if calls.allowed:
            rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
            _allow(rules, calls.allowed)
        else:
            rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
            if memory:
                _refuse_writable_code(rules, refuse)
        for name in calls.refused:
            if name not in calls.allowed and _exists(name):
                rules.add_rule(refuse, name)
        rules.load()
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_loaded(error) from error


def _not_loaded(error: Exception) -> HostError:
    return HostError(
        f"cannot load a system call filter: {error}",
        code="seccomp",
        remedy="Install libseccomp2, and use a Linux kernel with CONFIG_SECCOMP_FILTER.",
    )


def _exists(name: str) -> bool:
    return bool(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0)


def _allow(rules: pyseccomp.SyscallFilter, names: Iterable[str]) -> None:
    for name in names:
        if name in {"mmap", "mprotect"}:
            # Without PROT_WRITE, or without PROT_EXEC.
            for bit in (0x2, 0x4):
                unset = pyseccomp.Arg(_PROTECTION, pyseccomp.MASKED_EQ, bit, 0)
                rules.add_rule(pyseccomp.ALLOW, name, unset)
        elif _exists(name):
            rules.add_rule(pyseccomp.ALLOW, name)
    thread = _CLONE_THREAD | _CLONE_NAMESPACES
    rules.add_rule(
        pyseccomp.ALLOW,
        "clone",
        pyseccomp.Arg(0, pyseccomp.MASKED_EQ, thread, _CLONE_THREAD),
    )


def _refuse_writable_code(rules: pyseccomp.SyscallFilter, refuse: int) -> None:
    for name in ("mmap", "mprotect", "pkey_mprotect"):
        both = pyseccomp.Arg(
            _PROTECTION, pyseccomp.MASKED_EQ, _WRITE_AND_EXECUTE, _WRITE_AND_EXECUTE
        )
        rules.add_rule(refuse, name, both)
