"""System call filters, built by libseccomp."""

from __future__ import annotations

import errno
from collections.abc import Iterable

import pyseccomp

from casemate.errors import HostError


def deny(names: Iterable[str]) -> None:
    """Refuse these system calls (EPERM) to this process and its descendants, for good.

    Needs no_new_privs or CAP_SYS_ADMIN. Names that this architecture lacks are passed over: what
    does not exist cannot be called.

    Raises:
        HostError: The filter could not be loaded.
    """
    try:
        rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        action = pyseccomp.ERRNO(errno.EPERM)
        for name in names:
            if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:
                rules.add_rule(action, name)
        rules.load()
    except (OSError, RuntimeError, ValueError) as error:
        raise HostError(
            f"cannot load a system call filter: {error}",
            code="seccomp",
            remedy="Install libseccomp2, and use a Linux kernel with CONFIG_SECCOMP_FILTER.",
        ) from error
