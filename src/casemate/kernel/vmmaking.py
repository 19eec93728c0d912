"""The files of a VM that is made: where they lie, what they are called, and its disks."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from casemate.errors import ArgumentError, FilePresentError, HostError
from casemate.formats.vmdk import is_plain_name
from casemate.formats.vmx import Vmx
from casemate.kernel.cells.directory import VmDirectory, exists_already, make_directory
from casemate.kernel.inventory import Inventory
from casemate.kernel.vmcontext import instance_entry, new_uuid, stem, with_addresses
from casemate.machine.facts import DiskSpec, VmConfig
from casemate.machine.vmconfig import INSTANCE_UUID, vm_config, with_saved_memory
from casemate.machine.vmxwrite import BASE_ENTRIES, vmx_of

_UNUSUAL: Final = re.compile(r"[^A-Za-z0-9 ._()+@=,-]|^[. ]+|[. ]+$")
_PLACE: Final = re.compile(r"\[([A-Za-z0-9_.-]{1,42})\] *([^\x00-\x1f]{0,255})")
_COPIES: Final = 100
# Characters of a VM's name that the names of its files begin with.
_STEM_LIMIT: Final = 60
_VMX: Final = ".vmx"


def complete(config: VmConfig) -> VmConfig:
    """Fill in what a new VM has whatever was asked for."""
    given = {name.lower() for name, _ in config.extra}
    base = tuple(entry for entry in BASE_ENTRIES if entry[0].lower() not in given)
    own = () if INSTANCE_UUID.lower() in given else (instance_entry(),)
    extra = (*base, *own, *config.extra)
    config = replace(config, uuid=config.uuid or new_uuid(), extra=extra)
    return replace(with_saved_memory(config, ""), nics=with_addresses(config, config))


def check_made(config: VmConfig) -> None:
    """Raise what is wrong with a configuration before any of it is made."""
    slots = [(one.controller, one.unit) for one in config.slots]
    if len(set(slots)) != len(slots):
        raise ArgumentError("two disks are in one slot", argument="deviceChange")
    named = tuple(
        disk if disk.file_name else replace(disk, file_name=f"new-{number}.{_suffix(disk)}")
        for number, disk in enumerate(config.disks)
    )
    read = vm_config(vmx_of(replace(config, disks=named), Vmx(())), config.vmx_path)
    if (len(read.disks), len(read.drives)) != (len(config.disks), len(config.drives)):
        raise ArgumentError("a disk is in a slot that there is not", argument="deviceChange")
    for disk in config.disks:
        good = is_plain_name(disk.wanted) and disk.wanted.endswith(f".{_suffix(disk)}")
        if disk.wanted and not (good and not disk.wanted.endswith("-flat.vmdk")):
            raise ArgumentError(
                f"{disk.wanted[:80]!r} is not a name for a disk", argument="deviceChange"
            )
        if not disk.file_name and disk.kind != "disk":
            raise ArgumentError("only disks are made", argument="deviceChange")


def grown_disks(before: VmConfig, after: VmConfig) -> tuple[tuple[DiskSpec, int], ...]:
    """Return the disks whose capacity changes, with the new one; extending refuses to shrink."""
    sizes = {disk.file_name: disk.capacity for disk in after.disks if disk.file_name}
    return tuple(
        (disk, capacity)
        for disk in before.disks
        if (capacity := sizes.get(disk.file_name, 0)) and capacity != disk.capacity
    )


def takes_space(before: VmConfig, after: VmConfig) -> bool:
    """Tell whether a change makes a disk, or makes one larger."""
    return not all(disk.file_name for disk in after.disks) or bool(grown_disks(before, after))


def make_disks(
    directory: VmDirectory, config: VmConfig, undo: contextlib.ExitStack, *, thin: bool
) -> tuple[DiskSpec, ...]:
    """Make the disks that have no file yet, and return all of them with their files."""
    made = []
    for disk in config.disks:
        if disk.file_name:
            made.append(disk)
            continue
        name = _wanted_name(directory, config, disk)
        directory.make_disk(name, disk, thin=thin and disk.thin)
        for part in directory.files_of(name):
            undo.callback(remove_file, directory.path, part)
        made.append(replace(disk, file_name=name, wanted=""))
    return tuple(made)


def _wanted_name(directory: VmDirectory, config: VmConfig, disk: DiskSpec) -> str:
    """Return the name for a new disk: the one asked for, or a free one."""
    if not disk.wanted:
        return _free_name(directory, stem(config), _suffix(disk))
    if directory.exists(disk.wanted):
        path = f"{config.vmx_path.rpartition('/')[0]}/{disk.wanted}"
        raise FilePresentError(f"{path} exists already", file=path)
    return disk.wanted


def _free_name(directory: VmDirectory, beginning: str, suffix: str) -> str:
    for number in range(_COPIES):
        name = f"{beginning}_{number}.{suffix}" if number else f"{beginning}.{suffix}"
        flat = f"{name.removesuffix('.vmdk')}-flat.vmdk"
        if not directory.exists(name) and not directory.exists(flat):
            return name
    raise HostError(f"no free name for a disk of {beginning}", code="disk-names")


def _suffix(disk: DiskSpec) -> str:
    return "qcow2" if disk.format == "qcow2" else "vmdk"


def stem_of(name: str) -> str:
    """Turn a VM's name into the beginning of the names of its files."""
    made = _UNUSUAL.sub("_", name)[:_STEM_LIMIT]
    if not is_plain_name(made):
        raise ArgumentError(f"{name[:80]!r} is not the name of a VM", argument="name")
    return made


def remove_file(place: Path, name: str) -> None:
    """Remove a file of a directory, on the way back from a failure."""
    with contextlib.suppress(HostError), VmDirectory(place) as directory:
        directory.remove(name)


def _remove_directory(place: Path) -> None:
    with contextlib.suppress(OSError):
        place.rmdir()


def choose_place(inventory: Inventory, config: VmConfig, undo: contextlib.ExitStack) -> str:
    """Return the path of a new .vmx, whose directory is made if there is none."""
    resolve = inventory.resolve
    found = _PLACE.fullmatch(config.vmx_path)
    if found is None:
        raise ArgumentError(
            f"{config.vmx_path[:80]!r} is not a datastore path", argument="files.vmPathName"
        )
    datastore, rest = found.groups()
    if not resolve(f"[{datastore}] x").parent.is_dir():
        raise ArgumentError(f"there is no datastore {datastore!r}", argument="files.vmPathName")
    if rest.endswith(_VMX):
        parent = resolve(f"[{datastore}] {rest}").parent
        if any(inventory.directory(other) == parent for other in inventory.vms()):
            raise ArgumentError(
                f"[{datastore}] {rest} lies in the directory of another VM",
                argument="files.vmPathName",
            )
        with contextlib.suppress(HostError):
            make_directory(parent)
            undo.callback(_remove_directory, parent)
        return f"[{datastore}] {rest}"
    wanted = rest.strip("/") or stem_of(config.name)
    for number in range(_COPIES):
        folder = f"{wanted}_{number}" if number else wanted
        place = resolve(f"[{datastore}] {folder}")
        try:
            make_directory(place)
        except HostError as error:
            if not exists_already(error):
                raise
            continue
        undo.callback(_remove_directory, place)
        return f"[{datastore}] {folder}/{stem_of(config.name)}{_VMX}"
    raise HostError(f"{wanted} exists already", code="host-eexist", component=wanted)
