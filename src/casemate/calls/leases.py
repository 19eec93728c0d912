"""Requests about leases: a VM that is brought in or out disk by disk, and nothing else meanwhile.

A lease is a task that holds its VM. It ends when it is closed, when its session is over, and when
nothing is heard of it; an import that is not completed leaves no VM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.calls.files import WriteReply
from casemate.calls.messages import Empty
from casemate.machine.facts import VmConfig


@dataclass(frozen=True, slots=True)
class LeaseDisk:
    """A disk of the leased VM: its file, where it is attached, its capacity in bytes."""

    file_name: str
    controller: str
    unit: int
    capacity: int


@dataclass(frozen=True, slots=True)
class LeaseReply:
    """The lease: its VM, the disks to transfer, the task that it is, and its time limit."""

    vm: str
    task: str
    disks: tuple[LeaseDisk, ...]
    seconds: int


@dataclass(frozen=True, slots=True)
class OpenImport:
    """Make a VM whose disks will be filled.

    ``into`` is the pool that it comes into, as of CreateVm.
    """

    session: str
    config: VmConfig
    thin: bool = True
    why: str = ""
    into: str = ""
    reply: ClassVar = LeaseReply
    privilege: ClassVar[str] = "VApp.Import"


@dataclass(frozen=True, slots=True)
class OpenExport:
    """Hold a powered-off VM whose disks will be read."""

    session: str
    vm: str
    why: str = ""
    reply: ClassVar = LeaseReply
    privilege: ClassVar[str] = "VApp.Export"


@dataclass(frozen=True, slots=True)
class KeepLease:
    """Say that a lease is still in use, and how far it is; the session's own only."""

    session: str
    vm: str
    percent: int
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "System.View"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class CloseLease:
    """End a lease, the session's own only; an import that is not ``complete`` is undone."""

    session: str
    vm: str
    complete: bool
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "System.View"


@dataclass(frozen=True, slots=True)
class ImportDisk:
    """Take a streamOptimized disk into a disk of the session's own import."""

    session: str
    vm: str
    disk: str
    why: str = ""
    reply: ClassVar = WriteReply
    privilege: ClassVar[str] = "VApp.Import"


@dataclass(frozen=True, slots=True)
class ExportDisk:
    """Send a disk of the session's own export as streamOptimized."""

    session: str
    vm: str
    disk: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "VApp.Export"


TRANSFERS: tuple[type, ...] = (ImportDisk, ExportDisk)

REQUESTS: tuple[type, ...] = (
    CloseLease,
    ExportDisk,
    ImportDisk,
    KeepLease,
    OpenExport,
    OpenImport,
)
