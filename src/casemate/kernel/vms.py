"""VMs come, change, are copied and go: their directories, .vmx files and disks."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from casemate.calls import vms as c
from casemate.calls.messages import TaskReply
from casemate.calls.pools import AssignVm
from casemate.errors import (
    ArgumentError,
    CasemateError,
    FilePresentError,
    HostError,
    StateError,
)
from casemate.formats import vmx
from casemate.formats.vmdk import is_plain_name
from casemate.formats.vmx import Vmx
from casemate.kernel.accounts import Session
from casemate.kernel.cells import blocks
from casemate.kernel.cells.directory import VmDirectory, exists_already, make_directory
from casemate.kernel.cells.hotplug import Hotplug
from casemate.kernel.host import Handler
from casemate.kernel.inventory import ROOT_POOL, Destination
from casemate.kernel.longwork import in_own_thread
from casemate.kernel.tasks import Job
from casemate.kernel.vmcontext import (
    VmContext,
    file_name,
    instance_entry,
    new_uuid,
    with_addresses,
)
from casemate.kernel.vmfiles import OWN_SUFFIXES, destroy_files, owned_files, serial_files
from casemate.machine.diskmodes import changes_mode, is_forgetful
from casemate.machine.facts import DiskSpec, PowerState, VmConfig, VmFact
from casemate.machine.hotnotes import added, with_added
from casemate.machine.hotplug import HotChange, grown, hot_change
from casemate.machine.power import Operation, next_state
from casemate.machine.vmconfig import INSTANCE_UUID, TEMPLATE, vm_config, with_saved_memory
from casemate.machine.vmxwrite import BASE_ENTRIES, check_addresses, vmx_of

Fill = Callable[[VmDirectory, tuple[DiskSpec, ...]], None]
"""Puts content into a VM's new disks."""
_UNUSUAL: Final = re.compile(r"[^A-Za-z0-9 ._()+@=,-]|^[. ]+|[. ]+$")
_PLACE: Final = re.compile(r"\[([A-Za-z0-9_.-]{1,42})\] *([^\x00-\x1f]{0,255})")
_COPIES: Final = 100
# Characters of a VM's name that the names of its files begin with.
_STEM_LIMIT: Final = 60
_VMX: Final = ".vmx"
_NOT_COPIED: Final = frozenset({INSTANCE_UUID.lower(), TEMPLATE.lower()})


class Vms:
    """Handlers of the requests that make, change, copy and remove VMs."""

    def __init__(
        self,
        context: VmContext,
        check: Callable[[Session, str, object], None] = lambda *_: None,
    ) -> None:
        self._context = context
        self._check = check

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers by request."""
        return {
            c.CreateVm: self._create,
            c.ReconfigureVm: self._reconfigure,
            c.DestroyVm: self._destroy,
            c.CloneVm: self._clone,
        }

    def demand_pool(self, session: Session, pool: str) -> str:
        """Return the pool for a new VM, which the session may use, empty: the root pool.

        Raises:
            NotFoundError, PermissionDeniedError: It may not be used, or there is none.
        """
        if not pool or pool == ROOT_POOL:
            return ROOT_POOL
        self._check(session, AssignVm.privilege, Destination(pool))
        self._context.inventory.demand_pool(pool)
        return pool

    async def create(
        self,
        config: VmConfig,
        *,
        thin: bool,
        fill: Fill = lambda _, __: None,
        pool: str = ROOT_POOL,
    ) -> str:
        """Make a VM and register it; on failure nothing of it stays. Returns its id.

        Args:
            config: What it is made of.
            thin: Whether the space of its disks is taken only when they are written.
            fill: Puts content into its new disks, given the directory and the disks.
            pool: The pool that it comes into.

        Raises:
            CasemateError: It cannot be made so.
        """
        config = _complete(config)
        _check(config)
        self._context.inventory.demand_name(config.name)
        with contextlib.ExitStack() as undo:
            path = await in_own_thread(self._make, config, undo, thin=thin, fill=fill)
            vm = self._context.inventory.register(path, pool)
            undo.pop_all()
        return vm

    async def remove(self, fact: VmFact) -> None:
        """Forget a powered-off VM and remove the files that it owns."""
        place = self._context.inventory.directory(fact)
        shared = self._shared_files(fact)
        self._context.inventory.unregister(fact.vm)
        await asyncio.to_thread(destroy_files, place, fact, shared)

    async def _create(self, request: c.CreateVm, session: Session) -> TaskReply:
        config = _complete(request.config)
        _check(config)
        self._context.inventory.demand_name(config.name)
        check_addresses(config, replace(config, nics=()))
        pool = self.demand_pool(session, request.into)

        async def work(_: Job) -> str:
            return await self.create(config, thin=request.thin, pool=pool)

        task = self._context.tasks.start(
            "ha-folder-vm", "Folder", "createVm", session.user, work, exclusive=False
        )
        return TaskReply(task)

    async def _clone(self, request: c.CloneVm, session: Session) -> TaskReply:
        fact = self._context.demand(request.vm, Operation.CLONE)
        _stem_of(request.name)
        self._context.inventory.demand_name(request.name)

        async def work(fact: VmFact, job: Job) -> str:
            with contextlib.ExitStack() as undo:
                path = await in_own_thread(self._copy, fact, request.name, undo, job)
                vm = self._context.inventory.register(path)
                undo.pop_all()
            return vm

        return self._context.start_long(fact, "clone", session, work)

    async def _destroy(self, request: c.DestroyVm, session: Session) -> TaskReply:
        fact = self._context.demand(request.vm, Operation.DESTROY)

        async def work(fact: VmFact) -> str:
            await self.remove(fact)
            return ""

        return self._context.start(fact, "destroy", session, work)

    async def _reconfigure(self, request: c.ReconfigureVm, session: Session) -> TaskReply:
        fact = self._context.inventory.vm(request.vm)
        if fact.config != request.before:
            raise _changed(fact)
        if request.config.name != fact.config.name:
            self._context.inventory.demand_name(request.config.name, fact.vm)
        config = replace(
            request.config,
            uuid=request.config.uuid or fact.config.uuid,
            vmx_path=fact.config.vmx_path,
            nics=with_addresses(request.config, fact.config),
        )
        if fact.power is not PowerState.POWERED_OFF:
            # What came while it runs is nobody's to write: a saved memory needs it.
            config = with_added(config, added(fact.config))
        if hot_change(fact.config, config) is None or (
            fact.power is PowerState.SUSPENDED and (hot_change(fact.config, config) != HotChange())
        ):
            next_state(Operation.RECONFIGURE, fact.power, component=fact.config.name)
        elif fact.power is PowerState.SUSPENDED and _grown(fact.config, config):
            next_state(Operation.EXTEND_DISK, fact.power, component=fact.config.name)
        grown = fact.power is PowerState.POWERED_ON and _grown(fact.config, config)
        if grown and is_forgetful(fact.config):
            next_state(Operation.RECONFIGURE, fact.power, component=fact.config.name)
        if fact.snapshots and changes_mode(fact.config, config):
            raise StateError(
                f"{fact.config.name} has snapshots, which its disks are part of or not",
                code="disk-mode",
                component=fact.config.name,
                remedy="Remove its snapshots first.",
            )
        _check(config)
        check_addresses(config, fact.config)

        async def work(fact: VmFact) -> str:
            if fact.config != request.before:
                raise _changed(fact)
            await self._change(fact, config, request)
            return ""

        return self._context.start(fact, "reconfigure", session, work)

    async def _change(self, fact: VmFact, config: VmConfig, request: c.ReconfigureVm) -> None:
        """Make, extend and remove disks, and write the file between, so that it is never wrong."""
        self._context.admit(fact, config)
        change = hot_change(fact.config, config)
        if fact.power is PowerState.POWERED_ON and change is not None:
            config = grown(fact.config, config, change)
        with self._context.open(fact) as directory, contextlib.ExitStack() as undo:
            disks = await asyncio.to_thread(_make_disks, directory, config, undo, thin=request.thin)
            for spec, capacity in _grown(fact.config, config):
                source = await asyncio.to_thread(directory.extend, spec, capacity)
                if fact.power is PowerState.POWERED_ON:
                    qmp = await self._context.cells.control(fact.vm, Operation.EXTEND_DISK)
                    await blocks.grow(qmp, source, capacity)
            if fact.power is PowerState.POWERED_ON and config.nics != fact.config.nics:
                # The cards that are there; those that come are connected when they do.
                present = replace(config, nics=config.nics[: len(fact.config.nics)])
                await self._context.plug(fact.vm, present, fact.config)
            kept = {disk.file_name for disk in disks}
            gone = {disk.file_name for disk in fact.config.disks} - kept
            before = fact
            fact = self._context.rewrite(directory, fact, replace(config, disks=disks))
            if fact.power is PowerState.POWERED_ON:
                await self._plug_in(directory, before, fact)
                await self._context.throttle(fact.vm, fact.config, before.config)
            undo.pop_all()
            needed = owned_files(directory, fact) | self._shared_files(fact)
            for name in gone & set(request.destroy):
                for layer in tuple(directory.chain(name)):
                    for part in set(directory.files_of(layer)) - needed:
                        directory.remove(part)

    async def _plug_in(self, directory: VmDirectory, before: VmFact, fact: VmFact) -> None:
        """Let a running VM have the hardware that its file names by now, or name the old again."""
        change = hot_change(before.config, fact.config)
        if change is None or change == HotChange():
            return
        cells = self._context.cells
        try:
            qmp = await cells.control(fact.vm, Operation.RESET)
            cells.set_memory(fact.vm, fact.config)
            hotplug = Hotplug(qmp, directory, cells.volumes)
            async with self._context.network.more(fact.vm, fact.config) as taps:
                await hotplug.apply(change, fact.config, taps)
            if change.cards:
                await self._context.show_links(fact.vm)
        except BaseException:
            with contextlib.suppress(CasemateError):
                cells.set_memory(fact.vm, before.config)
            self._context.rewrite(directory, fact, before.config)
            raise

    def _make(self, config: VmConfig, undo: contextlib.ExitStack, *, thin: bool, fill: Fill) -> str:
        """Make directory, disks and file; ``undo`` gets what removes them. Returns the path."""
        path = self._choose_place(config, undo)
        config = replace(config, vmx_path=path)
        with VmDirectory(self._context.inventory.resolve(path).parent) as directory:
            if directory.exists(file_name(config)):
                raise HostError(f"{path} exists already", code="host-eexist", component=path)
            disks = _make_disks(directory, config, undo, thin=thin)
            fill(directory, disks)
            made = vmx_of(replace(config, disks=disks), Vmx(()))
            undo.callback(_remove, directory.path, file_name(config))
            directory.make(file_name(config), [(0, vmx.write(made))])
        return path

    def _copy(self, fact: VmFact, name: str, undo: contextlib.ExitStack, job: Job) -> str:
        """Copy a VM's files; disks with deltas are copied with what lies below."""
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
        path = self._choose_place(config, undo)
        config = replace(config, vmx_path=path)
        with (
            self._context.open(fact) as source,
            VmDirectory(self._context.inventory.resolve(path).parent) as target,
        ):
            files = owned_files(source, replace(fact, snapshots=()), media=True)
            own = file_name(fact.config)
            # A copy has UEFI variables like the VM's, and a TPM, snapshots, and what its serial
            # ports write of its own.
            skipped = {own.removesuffix(_VMX) + suffix for suffix in OWN_SUFFIXES}
            skipped |= set(serial_files(fact.config))
            parts = [part for part in sorted(files - skipped) if source.exists(part)]
            step = job.counter(sum(source.size(part) for part in parts))
            for part in parts:
                undo.callback(_remove, target.path, part)
                source.copy(part, target, part, step)
            nvram = own.removesuffix(_VMX) + ".nvram"
            if source.exists(nvram):
                undo.callback(_remove, target.path, _stem(config) + ".nvram")
                source.copy(nvram, target, _stem(config) + ".nvram")
            made = vmx_of(config, self._context.read_vmx(source, fact))
            undo.callback(_remove, target.path, file_name(config))
            target.make(file_name(config), [(0, vmx.write(made))])
        return path

    def _choose_place(self, config: VmConfig, undo: contextlib.ExitStack) -> str:
        """Return the path of a new .vmx, whose directory is made if there is none."""
        resolve = self._context.inventory.resolve
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
            inventory = self._context.inventory
            if any(inventory.directory(other) == parent for other in inventory.vms()):
                raise ArgumentError(
                    f"[{datastore}] {rest} lies in the directory of another VM",
                    argument="files.vmPathName",
                )
            with contextlib.suppress(HostError):
                make_directory(parent)
                undo.callback(_remove_directory, parent)
            return f"[{datastore}] {rest}"
        wanted = rest.strip("/") or _stem_of(config.name)
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
            return f"[{datastore}] {folder}/{_stem_of(config.name)}{_VMX}"
        raise HostError(f"{wanted} exists already", code="host-eexist", component=wanted)

    def _shared_files(self, fact: VmFact) -> set[str]:
        """Return the files in a VM's directory that belong to other VMs too."""
        place = self._context.inventory.directory(fact)
        found: set[str] = set()
        for other in self._context.inventory.vms():
            if other.vm != fact.vm and self._context.inventory.directory(other) == place:
                with self._context.open(other) as directory:
                    found |= owned_files(directory, other, media=True)
        return found


def _complete(config: VmConfig) -> VmConfig:
    """Fill in what a new VM has whatever was asked for."""
    given = {name.lower() for name, _ in config.extra}
    base = tuple(entry for entry in BASE_ENTRIES if entry[0].lower() not in given)
    own = () if INSTANCE_UUID.lower() in given else (instance_entry(),)
    extra = (*base, *own, *config.extra)
    config = replace(config, uuid=config.uuid or new_uuid(), extra=extra)
    return replace(with_saved_memory(config, ""), nics=with_addresses(config, config))


def _check(config: VmConfig) -> None:
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


def _grown(before: VmConfig, after: VmConfig) -> tuple[tuple[DiskSpec, int], ...]:
    """Return the disks whose capacity changes, with the new one; extending refuses to shrink."""
    sizes = {disk.file_name: disk.capacity for disk in after.disks if disk.file_name}
    return tuple(
        (disk, capacity)
        for disk in before.disks
        if (capacity := sizes.get(disk.file_name, 0)) and capacity != disk.capacity
    )


def _make_disks(
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
            undo.callback(_remove, directory.path, part)
        made.append(replace(disk, file_name=name, wanted=""))
    return tuple(made)


def _wanted_name(directory: VmDirectory, config: VmConfig, disk: DiskSpec) -> str:
    """Return the name for a new disk: the one asked for, or a free one."""
    if not disk.wanted:
        return _free_name(directory, _stem(config), _suffix(disk))
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


def _stem_of(name: str) -> str:
    """Turn a VM's name into the beginning of the names of its files."""
    made = _UNUSUAL.sub("_", name)[:_STEM_LIMIT]
    if not is_plain_name(made):
        raise ArgumentError(f"{name[:80]!r} is not the name of a VM", argument="name")
    return made


def _stem(config: VmConfig) -> str:
    return file_name(config).removesuffix(_VMX)


def _remove(place: Path, name: str) -> None:
    """Remove a file of a directory, on the way back from a failure."""
    with contextlib.suppress(HostError), VmDirectory(place) as directory:
        directory.remove(name)


def _remove_directory(place: Path) -> None:
    with contextlib.suppress(OSError):
        place.rmdir()


def _changed(fact: VmFact) -> StateError:
    return StateError(
        f"{fact.config.name} was changed meanwhile",
        code="changed",
        component=fact.config.name,
        remedy="Read its configuration again, then repeat the change.",
    )
