"""Security domains: one for each kind of process, with ESXi's names.

A domain says which walls stand around a process. A process that lacks one of them, or that is in
no domain, is a violation; what follows from it is the domain's enforcement.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Enforcement(StrEnum):
    """What follows from a violation: the process is ended, or only reported."""

    ENFORCING = "enforcing"
    WARNING = "warning"


class Wall(StrEnum):
    """What stands between a process and everything else."""

    IDENTITY = "own-identity"
    NO_CAPABILITIES = "no-capabilities"
    NO_NEW_PRIVILEGES = "no-new-privileges"
    NO_WRITABLE_CODE = "no-writable-code"
    NO_EXECUTABLE_MEMFD = "no-executable-memfd"
    RANDOM_ADDRESSES = "random-addresses"
    NOT_DUMPABLE = "not-dumpable"
    CALL_FILTER = "call-filter"
    FILE_RULES = "file-rules"
    VISOR_ROOT = "visor-root"
    MOUNTS = "mount-namespace"
    PROCESSES = "process-namespace"
    NETWORK = "network-namespace"


_EVERY: Final = frozenset(
    {
        Wall.NO_NEW_PRIVILEGES,
        Wall.NO_WRITABLE_CODE,
        Wall.NO_EXECUTABLE_MEMFD,
        Wall.RANDOM_ADDRESSES,
        Wall.NOT_DUMPABLE,
        Wall.CALL_FILTER,
    }
)
"""What no process of the host is without."""

_UNPRIVILEGED: Final = _EVERY | {Wall.IDENTITY, Wall.NO_CAPABILITIES}


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain. ``dual_mapped`` names memory files that may be writable and executable at once.

    They are mapped twice, never writable and executable at one address: QEMU's translated code.
    """

    name: str
    about: str
    walls: frozenset[Wall]
    enforcement: Enforcement = Enforcement.ENFORCING
    dual_mapped: frozenset[str] = frozenset()


SUPER: Final = Domain(
    "superDom",
    "init and the kernel: the only processes with privileges",
    _EVERY | {Wall.VISOR_ROOT},
    Enforcement.WARNING,
)
HOSTD: Final = Domain(
    "hostdDom",
    "the front end that serves the vSphere API",
    _UNPRIVILEGED | {Wall.VISOR_ROOT, Wall.MOUNTS, Wall.FILE_RULES},
)
CONSOLE: Final = Domain(
    "consoleDom",
    "the direct console on a machine's own terminals",
    _UNPRIVILEGED | {Wall.VISOR_ROOT, Wall.MOUNTS, Wall.FILE_RULES, Wall.NETWORK},
)
TPM: Final = Domain(
    "tpm2emuDom",
    "the embedded TPM",
    _UNPRIVILEGED | {Wall.FILE_RULES},
    Enforcement.WARNING,
)
VM: Final = Domain(
    "regularVMDom",
    "the cell of one virtual machine",
    _UNPRIVILEGED | {Wall.VISOR_ROOT, Wall.MOUNTS, Wall.PROCESSES, Wall.NETWORK},
    dual_mapped=frozenset({"/memfd:tcg-jit (deleted)"}),
)
APP: Final = Domain(
    "appDom",
    "short-lived programs of the image that the kernel runs",
    _UNPRIVILEGED | {Wall.VISOR_ROOT},
    dual_mapped=VM.dual_mapped,
)

PLUGIN: Final = Domain(
    "pluginDom",
    "a plug-in of the kernel that a VIB brings",
    _UNPRIVILEGED | {Wall.VISOR_ROOT, Wall.MOUNTS, Wall.FILE_RULES, Wall.NETWORK},
)
DHCP: Final = Domain(
    "dhcpDom",
    "gives the guests of a switch with NAT their addresses",
    _UNPRIVILEGED | {Wall.VISOR_ROOT, Wall.MOUNTS, Wall.FILE_RULES, Wall.NETWORK},
)

DOMAINS: Final = (SUPER, HOSTD, CONSOLE, DHCP, VM, TPM, APP, PLUGIN)
"""All domains; superDom and tpm2emuDom cannot be ended without ending every proof of the host, so
their violations are reported, and measured, instead."""


def domain_named(name: str) -> Domain | None:
    """Return the domain of this name."""
    return next((domain for domain in DOMAINS if domain.name == name), None)
