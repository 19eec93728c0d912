"""Requests about the life of a VM: create, change, copy, suspend, snapshots, destroy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.calls.messages import Empty, TaskReply
from casemate.machine.facts import VmConfig


@dataclass(frozen=True, slots=True)
class CreateVm:
    """Make a VM's directory, .vmx and disks; the task's result is its id.

    Of ``config``, ``vmx_path`` names the datastore (``[datastore1]``) or the whole path. A disk
    without a file name is made with its capacity; one with a name exists already. ``into`` is the
    pool that it comes into (Resource.AssignVMToPool there), empty: the root pool.
    """

    session: str
    config: VmConfig
    thin: bool = True
    why: str = ""
    into: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.Inventory.Create"


@dataclass(frozen=True, slots=True)
class ReconfigureVm:
    """Change what a VM is made of, from ``before`` (refused when it changed since) to ``config``.

    Disks without a file name are made, larger ones extended, absent ones detached; files of
    detached disks that ``destroy`` names are removed. ``unplug`` names a SCSI controller without
    disks that a running VM is to let go of; one that is off has none. A running VM takes what
    ``machine.hotplug`` says (disks on SCSI, other discs, vCPUs, memory), larger disks, and the
    values that need no new hardware: name, annotation, allocations, extra entries.
    """

    session: str
    vm: str
    before: VmConfig
    config: VmConfig
    destroy: tuple[str, ...] = ()
    thin: bool = True
    why: str = ""
    unplug: tuple[str, ...] = ()
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.Config.Settings"


@dataclass(frozen=True, slots=True)
class DestroyVm:
    """Forget a powered-off VM and remove the files that it owns."""

    session: str
    vm: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.Inventory.Delete"


@dataclass(frozen=True, slots=True)
class CloneVm:
    """Copy a powered-off VM under a new name; the task's result is the copy's id."""

    session: str
    vm: str
    name: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.Provisioning.Clone"


@dataclass(frozen=True, slots=True)
class ExportVm:
    """Write a powered-off VM as an OVA file to a datastore: ``[datastore1] demo.ova``."""

    session: str
    vm: str
    path: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VApp.Export"


@dataclass(frozen=True, slots=True)
class ImportVm:
    """Make a VM of an OVA file on a datastore, under its own or another name.

    The task's result is the VM's id.
    """

    session: str
    path: str
    name: str = ""
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VApp.Import"


@dataclass(frozen=True, slots=True)
class SuspendVm:
    """Save a running VM's memory to its directory and stop it; power on resumes it."""

    session: str
    vm: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.Interact.Suspend"


@dataclass(frozen=True, slots=True)
class RebootGuest:
    """Let the agent in a guest start it anew; refused where there is none."""

    session: str
    vm: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "VirtualMachine.Interact.Reset"


@dataclass(frozen=True, slots=True)
class StandbyGuest:
    """Let the agent in a guest put it to sleep; a key or a reset wakes it. Refused without one."""

    session: str
    vm: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "VirtualMachine.Interact.Suspend"


@dataclass(frozen=True, slots=True)
class CreateSnapshot:
    """Freeze a VM's disks, with its memory if it runs and ``memory`` is set.

    ``quiesce``: the agent in a running guest has it write out what it holds and keep still
    meanwhile; refused where there is none. With the memory nothing needs to be written out. The
    task's result is the snapshot's number.
    """

    session: str
    vm: str
    name: str
    description: str = ""
    memory: bool = False
    why: str = ""
    quiesce: bool = False
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.State.CreateSnapshot"


@dataclass(frozen=True, slots=True)
class RevertToSnapshot:
    """Go back to a snapshot (0: the current one); one with memory runs again at once."""

    session: str
    vm: str
    snapshot: int = 0
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.State.RevertToSnapshot"


@dataclass(frozen=True, slots=True)
class RemoveSnapshot:
    """Forget a snapshot (0: all of them), with its children if told, and merge its disks."""

    session: str
    vm: str
    snapshot: int
    children: bool = False
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.State.RemoveSnapshot"


@dataclass(frozen=True, slots=True)
class RenameSnapshot:
    """Change a snapshot's name and description."""

    session: str
    vm: str
    snapshot: int
    name: str
    description: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "VirtualMachine.State.RenameSnapshot"


@dataclass(frozen=True, slots=True)
class ConsolidateDisks:
    """Merge what no snapshot needs any more into the disks below."""

    session: str
    vm: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.State.RemoveSnapshot"


REQUESTS: tuple[type, ...] = (
    CloneVm,
    ConsolidateDisks,
    CreateSnapshot,
    CreateVm,
    DestroyVm,
    ExportVm,
    ImportVm,
    RebootGuest,
    ReconfigureVm,
    RemoveSnapshot,
    RenameSnapshot,
    RevertToSnapshot,
    StandbyGuest,
    SuspendVm,
)
