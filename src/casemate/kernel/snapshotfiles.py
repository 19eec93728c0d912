"""The files of a VM's snapshots: deltas of its disks, and the list of its snapshots (.vmsd)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from casemate.errors import CasemateError, FormatError
from casemate.formats import vmx
from casemate.formats.datastorepath import full, local
from casemate.kernel.cells import disks
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.inventory import VMX_LIMIT
from casemate.kernel.vmcontext import file_name, stem
from casemate.machine import snapshots as book
from casemate.machine.diskmodes import in_snapshots
from casemate.machine.facts import DiskSpec, SnapshotSpec, VmConfig, VmFact
from casemate.machine.vmconfig import vm_config


def written(config: VmConfig) -> tuple[DiskSpec, ...]:
    """Return the disks that snapshots are of: what a guest writes but on independent ones."""
    return tuple(disk for disk in config.disks if in_snapshots(disk))


def slot_of(disk: DiskSpec) -> str:
    """Return a disk's slot as snapshots name it: ``scsi0:0``."""
    return f"{disk.controller}:{disk.unit}"


def make_deltas(
    directory: VmDirectory, config: VmConfig, *, running: bool = False, spare: bool = True
) -> dict[str, str]:
    """Make an empty delta above every disk; returns the deltas by what lies below.

    ``spare``: they take nothing of what no file may take.

    Raises:
        FileLockedError: Another VM writes to a disk; ``running``: this one may.
        CasemateError: A disk is not in order, or there is no space.
    """
    made: dict[str, str] = {}
    if not running:
        demand_unused(directory, config)
    try:
        for disk in written(config):
            made[disk.file_name] = directory.make_delta(disk, spare=spare)
    except BaseException:
        for name in made.values():
            drop(directory, name)
        raise
    return made


def demand_unused(directory: VmDirectory, config: VmConfig) -> None:
    """Raise FileLockedError where a VM that runs writes to a disk that snapshots are of."""
    for disk in written(config):
        directory.demand_unused(disks.resolve(directory, (disk,))[0].file_name)


def renamed_disks(config: VmConfig, names: Mapping[str, str]) -> VmConfig:
    """Return the configuration with other files for its disks; deltas have a descriptor."""

    def of(disk: DiskSpec) -> DiskSpec:
        if disk.kind != "disk" or disk.file_name not in names:
            return disk
        name = names[disk.file_name]
        return replace(disk, file_name=name, format=disks.format_of(name))

    return replace(config, disks=tuple(of(disk) for disk in config.disks))


def drop(directory: VmDirectory, name: str) -> None:
    """Remove a delta's files; what names the other goes last."""
    for part in reversed(directory.files_of(name)):
        directory.remove(part)


def last_number(directory: VmDirectory, fact: VmFact) -> int:
    """Return the highest number that a snapshot of this VM ever had."""
    name = f"{stem(fact.config)}.vmsd"
    highest = max((one.number for one in fact.snapshots), default=0)
    if not directory.exists(name):
        return highest
    return max(highest, book.last_number(vmx.parse(directory.read(name, VMX_LIMIT))))


def check_book(directory: VmDirectory, fact: VmFact, *, seen_from: VmFact | None = None) -> None:
    """Raise FormatError where the list cannot be read: nobody knows which disks are needed then.

    Nor does anybody where the VM's files could not be read when it was shown last.

    ``seen_from`` is the VM whose directory it is, if another's.
    """
    name = full(f"{stem(fact.config)}.vmsd", fact.config.vmx_path)
    name = local(name, (seen_from or fact).config.vmx_path)
    if directory.exists(name):
        try:
            book.snapshots_of(vmx.parse(directory.read(name, VMX_LIMIT)))
        except FormatError as error:
            raise FormatError(
                f"the list of snapshots cannot be read: {error.reason}",
                code="snapshot-list",
                component=name,
                remedy=f"Restore {name} from a backup; all deltas are kept until then.",
            ) from error
    if fact.unread:
        raise FormatError(
            f"it cannot be told which files {fact.config.vmx_path} needs: it, or the list of its "
            "snapshots, could not be read",
            code="unread",
            component=fact.config.vmx_path,
            remedy=f"Repair its files if need be, then unregister {fact.config.name} and register "
            "it again.",
        )


def check_needs(directory: VmDirectory, fact: VmFact, *, seen_from: VmFact | None = None) -> None:
    """Raise FormatError where the files that say which disks a VM needs cannot be read.

    ``seen_from`` is as for ``check_book``.
    """
    check_book(directory, fact, seen_from=seen_from)
    path = fact.config.vmx_path
    name = local(full(file_name(fact.config), path), (seen_from or fact).config.vmx_path)
    try:
        vm_config(vmx.parse(directory.read(name, VMX_LIMIT)), path)
    except CasemateError as error:
        raise FormatError(
            f"{name} cannot be read, and its VM may need files in this directory: {error.reason}",
            code="stranger",
            component=name,
            remedy=f"Repair {name}, or unregister {fact.config.name} and remove it.",
        ) from error


def write_book(
    directory: VmDirectory,
    fact: VmFact,
    snapshots: tuple[SnapshotSpec, ...],
    current: int,
    last: int,
) -> None:
    """Write the list of a VM's snapshots: ``current`` is in use, ``last`` the highest ever."""
    name = f"{stem(fact.config)}.vmsd"
    directory.write(name, vmx.write(book.vmsd_of(snapshots, current, last)))
