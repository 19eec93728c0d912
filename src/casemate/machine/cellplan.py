"""The plan of a cell: everything that starting a VM's process will do, as one value.

``machine.plan`` makes plans, ``machine.planaudit`` judges them, and the kernel carries out what
the audit finds nothing in. Nothing about a cell's confinement is decided anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Isolation(StrEnum):
    """Namespaces of its own that a cell has."""

    MOUNT = "mnt"
    PID = "pid"
    NET = "net"
    IPC = "ipc"
    UTS = "uts"
    CGROUP = "cgroup"


class Hardening(StrEnum):
    """What is done to the process before the program runs."""

    OWN_IDENTITY = "own-identity"
    NO_CAPABILITIES = "no-capabilities"
    NO_NEW_PRIVILEGES = "no-new-privileges"
    NO_WRITABLE_CODE = "no-writable-code"
    NO_EXECUTABLE_MEMFD = "no-executable-memfd"
    RANDOM_ADDRESSES = "random-addresses"
    NOT_DUMPABLE = "not-dumpable"
    ONLY_LISTED_DESCRIPTORS = "only-listed-descriptors"


class Limit(StrEnum):
    """Resource limits by their names in setrlimit(2)."""

    CORE = "core"
    NOFILE = "nofile"
    NPROC = "nproc"
    FSIZE = "fsize"
    MEMLOCK = "memlock"


@dataclass(frozen=True, slots=True)
class Scratch:
    """An empty RAM file system in the cell, without execution, set-uid and device nodes."""

    target: str
    size: int
    mode: int


@dataclass(frozen=True, slots=True)
class ShownFile:
    """A file of the VM's directory that the cell sees at ``target``, read-only unless told."""

    file_name: str
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class PassedFile:
    """A file of the VM's directory that the cell gets as an open descriptor.

    ``scratch``: it is a new one without a name, a delta for so many bytes, gone with the cell.
    """

    fd: int
    file_name: str
    writable: bool
    minimum_size: int
    scratch: int = 0


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening Unix socket that the cell gets; ``name`` is its file in the run directory."""

    fd: int
    name: str


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of a pair of connected sockets between two cells of a VM."""

    fd: int
    name: str


@dataclass(frozen=True, slots=True)
class PassedTap:
    """The host's end of a network card, which the cell gets as an open descriptor."""

    fd: int
    card: int


@dataclass(frozen=True, slots=True)
class CgroupTargets:
    """What the cell's control group is set to.

    ``cpu_shares`` counts as ESXi's shares do; the backend scales them. ``cpu_quota`` is
    microseconds of CPU per 100 ms, or -1. ``disk_shares``: those of all disks together.
    """

    cpu_shares: int
    cpu_quota: int
    memory_bytes: int
    pids: int
    disk_shares: int = 1000


@dataclass(frozen=True, slots=True)
class CellPlan:
    """How to start the process of one VM."""

    vm: str
    domain: str
    accelerator: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    uid: int
    gid: int
    cwd: str
    isolation: frozenset[Isolation]
    hardening: frozenset[Hardening]
    scratch: tuple[Scratch, ...]
    devices: tuple[str, ...]
    shown: tuple[ShownFile, ...]
    passed: tuple[PassedFile, ...]
    listeners: tuple[Listener, ...]
    rlimits: tuple[tuple[Limit, int], ...]
    cgroup: CgroupTargets
    peers: tuple[Peer, ...] = ()
    taps: tuple[PassedTap, ...] = ()
