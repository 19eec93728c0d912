"""What a new VM's directory gets: made, or copied from another VM's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from casemate.errors import HostError
from casemate.formats import vmx
from casemate.formats.vmdk import is_plain_name
from casemate.formats.vmx import Vmx
from casemate.kernel.cells import disks as disks_of
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.elsewhere import holder
from casemate.kernel.inventory import Inventory
from casemate.kernel.tasks import Job
from casemate.kernel.vmcontext import (
    VmContext,
    file_name,
    instance_entry,
    new_uuid,
    stem,
    with_addresses,
)
from casemate.kernel.vmfiles import OWN_SUFFIXES, owned_files, serial_files
from casemate.kernel.vmmaking import (
    choose_place,
    disks_elsewhere,
    make_disks,
    remove_file,
    with_disks_here,
)
from casemate.machine.facts import DiskSpec, VmConfig, VmFact
from casemate.machine.vmconfig import INSTANCE_UUID, TEMPLATE, vm_config, with_saved_memory
from casemate.machine.vmxwrite import vmx_of

Fill = Callable[[VmDirectory, tuple[DiskSpec, ...]], None]
"""Puts content into a VM's new disks."""
_VMX: Final = ".vmx"
_NOT_COPIED: Final = frozenset({INSTANCE_UUID.lower(), TEMPLATE.lower()})


def make_vm(
    inventory: Inventory,
    config: VmConfig,
    undo: contextlib.ExitStack,
    held: contextlib.ExitStack,
    *,
    thin: bool,
    fill: Fill,
) -> VmConfig:
    """Make directory, disks and file, and return what it says.

    ``undo`` gets what removes them, ``held`` what keeps them for this VM.
    """
    path = choose_place(inventory, config, undo)
    config = replace(config, vmx_path=path)
    place = inventory.resolve(path).parent
    with VmDirectory(place, volumes=inventory.volumes) as directory:
        if directory.exists(file_name(config)):
            raise HostError(f"{path} exists already", code="host-eexist", component=path)
        hold = holder(inventory, path, held)
        hold((file_name(config),))
        disks = make_disks(directory, config, undo, thin=thin, hold=hold)
        fill(directory, disks)
        made = vmx_of(replace(config, disks=disks), Vmx(()))
        undo.callback(remove_file, directory.path, file_name(config))
        directory.make(file_name(config), [(0, vmx.write(made))])
    return vm_config(made, path)


def copy_vm(
    context: VmContext,
    fact: VmFact,
    name: str,
    undo: contextlib.ExitStack,
    held: contextlib.ExitStack,
    job: Job,
) -> VmConfig:
    """Copy a VM's files; disks with deltas are copied with what lies below. As ``make_vm``.

    Of a disk that lies elsewhere the copy has one of its own, as the guest sees it.
    """
    datastore = fact.config.vmx_path.partition("]")[0] + "]"
    kept = tuple(e for e in fact.config.extra if e[0].lower() not in _NOT_COPIED)
    config = replace(
        with_saved_memory(fact.config, ""),
        extra=(*kept, instance_entry()),
        name=name,
        uuid=new_uuid(),
        vmx_path=datastore,
        nics=tuple(replace(nic, mac="", manual=False) for nic in fact.config.nics),
    )
    config = replace(config, nics=with_addresses(config, config))
    path = choose_place(context.inventory, config, undo)
    config = replace(config, vmx_path=path)
    with (
        context.open(fact) as source,
        VmDirectory(
            context.inventory.resolve(path).parent,
            volumes=context.inventory.volumes,
        ) as target,
    ):
        files = owned_files(source, replace(fact, snapshots=()), media=True)
        own = file_name(fact.config)
        # A copy has UEFI variables like the VM's, and a TPM, snapshots, and what its serial
        # ports write of its own.
        skipped = {own.removesuffix(_VMX) + suffix for suffix in OWN_SUFFIXES}
        skipped |= set(serial_files(fact.config))
        here = {name for name in files - skipped if is_plain_name(name)}
        parts = [part for part in sorted(here) if source.exists(part)]
        taken = sum(disks_of.taken(source, part) for part in parts)
        target.demand_space(taken, file_name(config))
        away = sum(disk.capacity for disk in disks_elsewhere(config))
        step = job.counter(sum(source.size(part) for part in parts) + away)
        hold = holder(context.inventory, path, held)
        hold((*parts, stem(config) + ".nvram", file_name(config)))
        for part in parts:
            undo.callback(remove_file, target.path, part)
            source.copy(part, target, part, step)
        nvram = own.removesuffix(_VMX) + ".nvram"
        if source.exists(nvram):
            undo.callback(remove_file, target.path, stem(config) + ".nvram")
            source.copy(nvram, target, stem(config) + ".nvram")
        config = with_disks_here(source, target, config, undo, step, hold)
        made = vmx_of(config, context.read_vmx(source, fact))
        undo.callback(remove_file, target.path, file_name(config))
        target.make(file_name(config), [(0, vmx.write(made))])
    return vm_config(made, path)
