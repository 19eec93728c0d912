"""The files of a VM that is made: where they lie, what they are called, and its disks."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from casemate.errors import (
    ArgumentError,
    FileMissingError,
    FilePresentError,
    HostError,
    NotSupportedError,
    StateError,
)
from casemate.formats.datastorepath import beside, full, in_volume, local, show, volume_file
from casemate.formats.vmdk import is_plain_name
from casemate.formats.vmx import Vmx
from casemate.kernel.cells import disks, layers
from casemate.kernel.cells.directory import VmDirectory, exists_already, make_directory
from casemate.kernel.inventory import Inventory
from casemate.kernel.sys.files import write_all
from casemate.kernel.sys.libc import from_os_error, is_errno
from casemate.kernel.vmcontext import instance_entry, new_uuid, stem, with_addresses
from casemate.machine.facts import DiskSpec, PowerState, VmConfig, VmFact
from casemate.machine.hotnotes import added
from casemate.machine.planstorage import DiskSource
from casemate.machine.vmconfig import INSTANCE_UUID, vm_config, with_saved_memory
from casemate.machine.vmxwrite import BASE_ENTRIES, vmx_of

_UNUSUAL: Final = re.compile(r"[^A-Za-z0-9 ._()+@=,-]|^[. ]+|[. ]+$")
_PLACE: Final = re.compile(r"\[([A-Za-z0-9_.-]{1,42})\] *([^\x00-\x1f]{0,255})")
_STORE: Final = re.compile(r"\[([A-Za-z0-9_.-]{1,42})\]")
_COPIES: Final = 100
# Bytes of a disk that is copied through its layers at once.
_PIECE: Final = 1 << 20
# Characters of a VM's name that the names of its files begin with.
_STEM_LIMIT: Final = 60
_VMX: Final = ".vmx"
Hold = Callable[[tuple[str, ...]], None]
"""Keeps files, as a VM calls them, from everybody else."""


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
        good = is_plain_name(disk.wanted) or in_volume(disk.wanted) is not None
        good = good and disk.wanted.endswith(f".{_suffix(disk)}")
        if disk.wanted and not (good and not disk.wanted.endswith("-flat.vmdk")):
            if _STORE.fullmatch(disk.wanted):
                continue
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


def unplugged(fact: VmFact, config: VmConfig, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the controllers that a VM is to let go of; of one that is off they go by themselves.

    Raises:
        StateError: Something is on one.
        NotSupportedError: One is the board's, of a VM that is not off.
    """
    for name in names:
        if any(one.controller == name for one in config.slots):
            raise StateError(
                f"something is on the controller {name}",
                code="controller-used",
                component=fact.config.name,
                remedy="Remove its disks and drives first, or with it.",
            )
        if fact.power is not PowerState.POWERED_OFF and name not in added(fact.config).devices:
            raise NotSupportedError(
                f"the controller {name} is the board's, which lets none go while the VM runs",
                component=fact.config.name,
                remedy="Power the VM off: it starts without the controller then.",
            )
    return () if fact.power is PowerState.POWERED_OFF else names


def takes_space(before: VmConfig, after: VmConfig) -> bool:
    """Tell whether a change makes a disk in the VM's directory, or makes one there larger."""
    made = [disk.wanted for disk in after.disks if not disk.file_name]
    grown = [disk.file_name for disk, _ in grown_disks(before, after)]
    return not all("/" in name or name.startswith("[") for name in (*made, *grown))


def make_disks(
    directory: VmDirectory,
    config: VmConfig,
    undo: contextlib.ExitStack,
    had: tuple[DiskSpec, ...] = (),
    *,
    thin: bool,
    hold: Hold,
) -> tuple[DiskSpec, ...]:
    """Make the disks that have no file yet, and return all of them with their files.

    Args:
        directory: Of the VM.
        config: What the VM is to be made of.
        undo: Gets what removes the disks.
        had: The disks that the VM had.
        thin: Whether thin ones are thin.
        hold: Is told of files before they are made.

    Raises:
        FileMissingError: A disk that lies elsewhere, and that the VM did not have, is not there.
        CasemateError: A disk cannot be made so, or is none.
    """
    made = []
    demand_found(directory, config, had)
    for disk in config.disks:
        if disk.file_name:
            made.append(disk)
            continue
        name = _wanted_name(directory, config, disk, undo)
        hold((name, _flat(name)))
        with file_faults(name):
            directory.make_disk(name, disk, thin=thin and disk.thin)
        for part in directory.files_of(name):
            undo.callback(remove_file, directory.path, part, directory.volumes)
        made.append(replace(disk, file_name=name, wanted=""))
    return tuple(made)


def demand_found(directory: VmDirectory, config: VmConfig, had: tuple[DiskSpec, ...]) -> None:
    """Raise FileMissingError unless the disks elsewhere that a VM did not have are there."""
    known = {disk.file_name for disk in had}
    for disk in disks_elsewhere(config):
        if disk.file_name not in known:
            with file_faults(disk.file_name):
                disks.resolve(directory, (disk,))


def demand_all_found(directory: VmDirectory, config: VmConfig) -> None:
    """Raise FileMissingError unless the disks and discs of a VM are there."""
    for disk in config.disks:
        with file_faults(disk.file_name, config.vmx_path):
            disks.resolve(directory, (disk,))
            if disk.kind == "cdrom" and in_volume(disk.file_name):
                directory.size(disk.file_name)


@contextlib.contextmanager
def file_faults(name: str, vmx_path: str = "") -> Iterator[None]:
    """Say of a disk that it, a part of it, or its folder, is not there.

    ``vmx_path`` is of the VM that has it, where it may lie in the VM's directory.
    """
    try:
        yield
    except HostError as error:
        name = full(name, vmx_path)
        if in_volume(name) is None or not is_errno(error, errno.ENOENT):
            raise
        if error.component.rpartition(".")[2].lower() in disks.EXTENTS:
            name = beside(name, error.component.rpartition("/")[2])
        shown = show(*(in_volume(name) or ("", name)))
        raise FileMissingError(f"{shown} was not found", file=shown) from error


def disks_elsewhere(config: VmConfig) -> tuple[DiskSpec, ...]:
    """Return the disks of a VM that do not lie in its directory."""
    return tuple(disk for disk in config.disks if disk.kind == "disk" and "/" in disk.file_name)


def with_disks_here(
    source: VmDirectory,
    target: VmDirectory,
    config: VmConfig,
    undo: contextlib.ExitStack,
    step: Callable[[int], None],
    hold: Hold,
) -> VmConfig:
    """Copy the disks that lie elsewhere into a VM's directory, as the guest sees them.

    Args:
        source: What their names are looked up from.
        target: The directory.
        config: What the VM is made of.
        undo: Gets what removes the copies.
        step: Is told of every further bytes; what it raises ends the copying.
        hold: Is told of files before they are made.

    Returns:
        The configuration with the copies.
    """
    copies = {}
    for disk in disks_elsewhere(config):
        found = disks.resolve(source, (disk,))[0]
        name = _free_name(target, stem(config), "vmdk")
        made = replace(disk, file_name=name, format="vmdk", capacity=found.disk.capacity)
        hold((name, _flat(name)))
        target.make_disk(name, made, thin=True)
        for part in target.files_of(name):
            undo.callback(remove_file, target.path, part)
        _fill(source, found, target, disks.resolve(target, (made,))[0].file_name, step)
        copies[disk] = made
    return replace(config, disks=tuple(copies.get(disk, disk) for disk in config.disks))


def _fill(
    source: VmDirectory,
    found: DiskSource,
    target: VmDirectory,
    extent: str,
    step: Callable[[int], None],
) -> None:
    """Write a disk's content into an empty extent, while the datastore has room."""
    watch = target.watched(step, extent)
    handle = target.open_file(extent, os.O_RDWR)
    try:
        with layers.opened(source, found) as whole:
            for offset in range(0, found.disk.capacity, _PIECE):
                data = whole(offset, min(_PIECE, found.disk.capacity - offset))
                watch(len(data))
                if any(data):
                    write_all(handle, data, offset)
        os.fsync(handle)
    except OSError as error:
        raise from_os_error(f"cannot write {extent}", error, component=extent) from error
    finally:
        os.close(handle)


def _wanted_name(
    directory: VmDirectory, config: VmConfig, disk: DiskSpec, undo: contextlib.ExitStack
) -> str:
    """Return the name for a new disk: the one asked for, or a free one."""
    if not disk.wanted:
        return _free_name(directory, stem(config), _suffix(disk))
    if store := _STORE.fullmatch(disk.wanted):
        folder = _folder_on(store[1], directory, undo)
        return local(_free_name(directory, folder + stem(config), _suffix(disk)), config.vmx_path)
    wanted = local(disk.wanted, config.vmx_path)
    if directory.exists(wanted):
        path = show(*(in_volume(full(wanted, config.vmx_path)) or ("", wanted)))
        raise FilePresentError(f"{path} exists already", file=path)
    return wanted


def _folder_on(datastore: str, directory: VmDirectory, undo: contextlib.ExitStack) -> str:
    """Return how names begin in the folder for a VM's disks on a datastore, made if it is not."""
    if directory.volumes is None:
        raise ArgumentError(f"there is no datastore {datastore!r}", argument="deviceChange")
    name = directory.path.name
    with VmDirectory(directory.volumes / datastore) as store:
        if not store.exists(name):
            place = store.path / name
            make_directory(place)
            undo.callback(_remove_directory, place)
    return volume_file(datastore, f"{name}/")


def _free_name(directory: VmDirectory, beginning: str, suffix: str) -> str:
    for number in range(_COPIES):
        name = f"{beginning}_{number}.{suffix}" if number else f"{beginning}.{suffix}"
        if not directory.exists(name) and not directory.exists(_flat(name)):
            return name
    raise HostError(f"no free name for a disk of {beginning}", code="disk-names")


def _flat(name: str) -> str:
    return f"{name.removesuffix('.vmdk')}-flat.vmdk"


def _suffix(disk: DiskSpec) -> str:
    return "qcow2" if disk.format == "qcow2" else "vmdk"


def stem_of(name: str) -> str:
    """Turn a VM's name into the beginning of the names of its files."""
    made = _UNUSUAL.sub("_", name)[:_STEM_LIMIT]
    if not is_plain_name(made):
        raise ArgumentError(f"{name[:80]!r} is not the name of a VM", argument="name")
    return made


def remove_file(place: Path, name: str, volumes: Path | None = None) -> None:
    """Remove a VM's file, on the way back from a failure."""
    with contextlib.suppress(HostError), VmDirectory(place, volumes=volumes) as directory:
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
