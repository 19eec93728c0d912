"""Snapshots: freezing the disks of a VM, going back, and merging what is not needed any more.

The order of the steps is such that a crash between any two of them leaves a VM whose disks are
as the guest wrote them: a file names a new delta before the guest writes to it, and a merged
delta is taken out of the files before it is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from casemate.calls import vms as c
from casemate.calls.messages import Empty, TaskReply
from casemate.errors import CasemateError, NotSupportedError, StateError
from casemate.formats import vmdk, vmx
from casemate.formats.vmdk import CreateType
from casemate.formats.vmx import Vmx
from casemate.kernel.accounts import Session
from casemate.kernel.cells import blocks, disks, memory
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.guests import Guests
from casemate.kernel.host import Handler
from casemate.kernel.inventory import VMX_LIMIT
from casemate.kernel.tasks import Job
from casemate.kernel.vmcontext import VmContext, file_name, stem
from casemate.kernel.vmfiles import memory_name, state_name
from casemate.kernel.vmpower import VmPower
from casemate.machine import snapshots as book
from casemate.machine.chains import Drop, Merge, plan_consolidation
from casemate.machine.diskmodes import has_independent, in_snapshots
from casemate.machine.facts import (
    Allocation,
    DiskSpec,
    PowerState,
    SnapshotSpec,
    VmConfig,
    VmFact,
)
from casemate.machine.hotnotes import added
from casemate.machine.power import Operation, next_state
from casemate.machine.vmconfig import vm_config, with_saved_memory
from casemate.machine.vmxwrite import vmx_of

Report = Callable[[int, int], None]
_DELTA: Final = re.compile(r".+-[0-9]{6}\.vmdk")


@dataclass(frozen=True, slots=True)
class _Graph:
    """A VM's disks and deltas: ``parents`` by name, and which may never be written."""

    parents: Mapping[str, str]
    frozen: frozenset[str]


def _untold(_done: int, _total: int) -> None:
    """Tell nobody."""


def _part(report: Report, number: int, of: int) -> Report:
    """Return what tells of one step in ``of`` as a part of the whole."""

    def told(done: int, total: int) -> None:
        scale = max(total, 1)
        report(number * scale + min(done, scale), of * scale)

    return told


class Snapshots:
    """Handlers of the requests about snapshots."""

    def __init__(self, context: VmContext, power: VmPower, guests: Guests) -> None:
        self._context = context
        self._power = power
        self._guests = guests

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers by request."""
        return {
            c.CreateSnapshot: self._create,
            c.RevertToSnapshot: self._revert,
            c.RemoveSnapshot: self._remove,
            c.RenameSnapshot: self._rename,
            c.ConsolidateDisks: self._consolidate,
        }

    async def create(self, fact: VmFact, request: c.CreateSnapshot, job: Job) -> str:
        """Take a snapshot and return its number.

        Raises:
            CasemateError: A disk cannot be frozen, space lacks, or the job was cancelled; the
                guest goes on as it was.
        """
        try:
            return await self._take(fact, request, job)
        except CasemateError:
            # Deltas without a snapshot below are merged back.
            with contextlib.suppress(CasemateError):
                await self.consolidate(self._context.inventory.reread(fact.vm))
            raise

    async def _take(self, fact: VmFact, request: c.CreateSnapshot, job: Job) -> str:
        running = fact.power is PowerState.POWERED_ON
        with self._context.open(fact) as directory:
            number = _last(directory, fact) + 1
            made = SnapshotSpec(
                number=number,
                parent=fact.current_snapshot,
                name=request.name,
                description=request.description,
                created=self._context.clock(),
                memory=request.memory and running,
                quiesced=request.quiesce and running and not request.memory,
                disks=tuple((_slot(disk), disk.file_name) for disk in _written(fact.config)),
            )
            before = self._context.read_vmx(directory, fact)
            directory.write(state_name(fact.config, number), vmx.write(before))
            qmp = None
            if running:
                qmp = await self._context.cells.control(fact.vm, Operation.CREATE_SNAPSHOT)
            try:
                if qmp is not None and made.memory:
                    await qmp.execute("stop")
                still = self._guests.frozen(fact.vm) if made.quiesced else contextlib.nullcontext()
                async with still:
                    await self._put_deltas(directory, fact)
                if qmp is not None and made.memory:
                    await self._save_memory(directory, fact, made, job)
            except BaseException:
                directory.remove(state_name(fact.config, number))
                raise
            finally:
                if qmp is not None and made.memory:
                    await qmp.execute("cont")
            self._write_book(directory, fact, (*fact.snapshots, made), number, number)
            self._context.inventory.reread(fact.vm)
        return str(number)

    async def revert(self, fact: VmFact, number: int) -> None:
        """Go back to a snapshot; what was written since the last one is lost.

        Raises:
            CasemateError: Its files are not in order; a running VM is powered off then.
        """
        snapshot = book.find(fact.snapshots, number or fact.current_snapshot, fact.config.name)
        with self._context.open(fact) as directory:
            state = directory.read(state_name(fact.config, snapshot.number), VMX_LIMIT)
            old = vmx.parse(state)
            config = with_saved_memory(vm_config(old, fact.config.vmx_path), "")
            disks.resolve(directory.fd, config.disks)
            if fact.power is not PowerState.POWERED_OFF:
                await self._power.power_off(fact)
                fact = self._context.inventory.vm(fact.vm)
            deltas = await asyncio.to_thread(_make_deltas, directory, config)
            config = _renamed(config, deltas)
            if snapshot.memory:
                config = with_saved_memory(config, memory_name(fact.config, snapshot))
            directory.write(file_name(config), vmx.write(vmx_of(config, old)))
            last = _last(directory, fact)
            self._write_book(directory, fact, fact.snapshots, snapshot.number, last)
            fact = self._context.inventory.reread(fact.vm)
            for step in self._steps(directory, fact)[1]:
                if isinstance(step, Drop):
                    _drop(directory, step.name)
        if snapshot.memory:
            await self._power.power_on(fact)

    async def remove(
        self, fact: VmFact, number: int, *, children: bool, report: Report = _untold
    ) -> None:
        """Forget snapshots (0: all), then merge what they needed."""
        with self._context.open(fact) as directory:
            if not number:
                gone = frozenset(one.number for one in fact.snapshots)
            else:
                book.find(fact.snapshots, number, fact.config.name)
                below = book.below(fact.snapshots, number)
                gone = below if children else frozenset({number})
            kept, current = book.without(fact.snapshots, fact.current_snapshot, gone)
            self._write_book(directory, fact, kept, current, _last(directory, fact))
            for snapshot in fact.snapshots:
                if snapshot.number in gone:
                    directory.remove(state_name(fact.config, snapshot.number))
                    if snapshot.memory:
                        directory.remove(memory_name(fact.config, snapshot))
            fact = self._context.inventory.reread(fact.vm)
        await self.consolidate(fact, report)

    async def consolidate(self, fact: VmFact, report: Report = _untold) -> None:
        """Make the chains of disks as short as the snapshots allow.

        Raises:
            CasemateError: A merge failed, or ``report`` ended it; the disks are as the guest wrote
                them, and what is left can be merged later.
        """
        with self._context.open(fact) as directory:
            graph, steps = self._steps(directory, fact)
            parents = dict(graph.parents)
            for number, step in enumerate(steps):
                if isinstance(step, Drop):
                    _drop(directory, step.name)
                    del parents[step.name]
                    continue
                told = _part(report, number, len(steps))
                if not await self._merge(directory, fact, step, told):
                    continue
                fact = self._replace(directory, fact, step, parents)
                del parents[step.name]
                _drop(directory, step.name)

    async def _put_deltas(self, directory: VmDirectory, fact: VmFact) -> None:
        """Put a delta on every disk, first in the file, then under the guest."""
        deltas = await asyncio.to_thread(_make_deltas, directory, fact.config)
        config = _renamed(fact.config, deltas)
        try:
            self._context.rewrite(directory, fact, config)
            if fact.power is PowerState.POWERED_ON:
                qmp = await self._context.cells.control(fact.vm, Operation.CREATE_SNAPSHOT)
                below = disks.resolve(directory.fd, _written(fact.config))
                above = disks.resolve(directory.fd, _written(config))
                pairs = tuple(zip(below, above, strict=True))
                if pairs:
                    await blocks.put_on_top(qmp, directory, pairs)
        except BaseException:
            self._context.rewrite(directory, fact, fact.config)
            for name in deltas.values():
                _drop(directory, name)
            raise

    async def _save_memory(
        self, directory: VmDirectory, fact: VmFact, snapshot: SnapshotSpec, job: Job
    ) -> None:
        name = memory_name(fact.config, snapshot)
        directory.remove(name)
        handle = directory.open_new(name)
        try:
            qmp = await self._context.cells.control(fact.vm, Operation.CREATE_SNAPSHOT)
            await memory.save(qmp, handle, len(added(fact.config).memory), job.report)
            await asyncio.to_thread(os.fsync, handle)
        except BaseException:
            directory.remove(name)
            raise
        finally:
            os.close(handle)

    async def _merge(
        self, directory: VmDirectory, fact: VmFact, step: Merge, report: Report
    ) -> bool:
        """Merge one delta; False where it waits until the VM is off."""
        spec = DiskSpec(step.name, "disk", "vmdk", 0, "scsi0", 0)
        if fact.power is not PowerState.POWERED_ON:
            alone = replace(
                fact.config,
                disks=(spec,),
                nics=(),
                cpus=1,
                memory_mib=_MERGING_MEMORY,
                firmware="bios",
                cpu_allocation=Allocation(),
                memory_allocation=Allocation(),
                extra=(("svga.present", "FALSE"),),
            )
            await self._context.cells.power_on(fact.vm, alone, directory.path, run=False)
            try:
                qmp = await self._context.cells.control(fact.vm, Operation.CONSOLIDATE)
                chain = disks.resolve(directory.fd, (spec,))[0].layers
                await blocks.merge(qmp, directory, chain, 0, report)
            finally:
                await self._context.cells.power_off(fact.vm)
            return True
        merged = disks.resolve(directory.fd, (spec,))[0].file_name
        for source in disks.resolve(directory.fd, _written(fact.config)):
            names = [layer.file_name for layer in source.layers]
            if merged in names:
                qmp = await self._context.cells.control(fact.vm, Operation.CONSOLIDATE)
                at = names.index(merged)
                await blocks.merge(qmp, directory, source.layers, at, report)
                return True
        return False

    def _replace(
        self, directory: VmDirectory, fact: VmFact, step: Merge, parents: dict[str, str]
    ) -> VmFact:
        """Name the lower disk wherever the merged one was named."""
        for name, lower in parents.items():
            if lower == step.name:
                described = disks.describe(directory.fd, name)
                directory.write(name, vmdk.write(replace(described, parent=step.into)))
                parents[name] = step.into
        renamed = tuple(
            replace(
                one,
                disks=tuple(
                    (slot, step.into if name == step.name else name) for slot, name in one.disks
                ),
            )
            for one in fact.snapshots
        )
        if renamed != fact.snapshots:
            last = _last(directory, fact)
            self._write_book(directory, fact, renamed, fact.current_snapshot, last)
            for one in fact.snapshots:
                _rename_in_state(directory, fact, one.number, step)
        config = _renamed(fact.config, {step.name: step.into})
        if config != fact.config:
            return self._context.rewrite(directory, fact, config)
        return self._context.inventory.reread(fact.vm)

    def _steps(
        self, directory: VmDirectory, fact: VmFact
    ) -> tuple[_Graph, tuple[Drop | Merge, ...]]:
        """Plan the consolidation of a VM's disks."""
        current = {disk.file_name for disk in _written(fact.config)}
        pinned = {name for one in fact.snapshots for _, name in one.disks}
        graph = _graph(directory, current | pinned)
        steps = plan_consolidation(graph.parents, pinned | graph.frozen, current)
        return graph, steps

    def _write_book(
        self,
        directory: VmDirectory,
        fact: VmFact,
        snapshots: tuple[SnapshotSpec, ...],
        current: int,
        last: int,
    ) -> None:
        name = f"{stem(fact.config)}.vmsd"
        directory.write(name, vmx.write(book.vmsd_of(snapshots, current, last)))

    async def _create(self, request: c.CreateSnapshot, session: Session) -> TaskReply:
        fact = self._context.demand(request.vm, Operation.CREATE_SNAPSHOT)
        book.check_text(request.name, request.description)
        running = fact.power is PowerState.POWERED_ON
        if request.memory and running and has_independent(fact.config):
            raise NotSupportedError(
                f"{fact.config.name} has independent disks: its memory would not fit them later",
                component=fact.config.name,
                remedy="Take the snapshot without memory, or while the VM is off.",
            )
        if len(fact.snapshots) >= book.SNAPSHOT_LIMIT:
            raise StateError(
                f"{fact.config.name} has {book.SNAPSHOT_LIMIT} snapshots already",
                code="snapshot-limit",
                component=fact.config.name,
                remedy="Remove one of them first.",
            )

        async def work(fact: VmFact, job: Job) -> str:
            return await self.create(fact, request, job)

        return self._context.start_long(fact, "createSnapshot", session, work)

    async def _revert(self, request: c.RevertToSnapshot, session: Session) -> TaskReply:
        fact = self._context.demand(request.vm, Operation.REVERT)
        book.find(fact.snapshots, request.snapshot or fact.current_snapshot, fact.config.name)

        async def work(fact: VmFact) -> str:
            await self.revert(fact, request.snapshot)
            return ""

        return self._context.start(fact, "revertToSnapshot", session, work)

    async def _remove(self, request: c.RemoveSnapshot, session: Session) -> TaskReply:
        fact = self._context.demand(request.vm, Operation.CONSOLIDATE)
        if request.snapshot:
            book.find(fact.snapshots, request.snapshot, fact.config.name)

        async def work(fact: VmFact, job: Job) -> str:
            children, told = request.children, job.report
            await self.remove(fact, request.snapshot, children=children, report=told)
            return ""

        # Once the list of snapshots is written there is no way back.
        return self._context.start_long(fact, "removeSnapshot", session, work, cancellable=False)

    async def _rename(self, request: c.RenameSnapshot, _: Session) -> Empty:
        fact = self._context.inventory.vm(request.vm)
        next_state(Operation.REVERT, fact.power, component=fact.config.name)
        book.check_text(request.name, request.description)
        book.find(fact.snapshots, request.snapshot, fact.config.name)
        renamed = tuple(
            replace(one, name=request.name, description=request.description)
            if one.number == request.snapshot
            else one
            for one in fact.snapshots
        )
        with self._context.open(fact) as directory:
            last = _last(directory, fact)
            self._write_book(directory, fact, renamed, fact.current_snapshot, last)
        self._context.inventory.reread(fact.vm)
        return Empty()

    async def _consolidate(self, request: c.ConsolidateDisks, session: Session) -> TaskReply:
        fact = self._context.demand(request.vm, Operation.CONSOLIDATE)

        async def work(fact: VmFact, job: Job) -> str:
            await self.consolidate(fact, job.report)
            return ""

        return self._context.start_long(fact, "consolidateDisks", session, work)


# MiB: a QEMU that only works on disks, with a guest that never runs.
_MERGING_MEMORY: Final = 16


def _written(config: VmConfig) -> tuple[DiskSpec, ...]:
    """Return the disks that snapshots are of: what a guest writes but on independent ones."""
    return tuple(disk for disk in config.disks if in_snapshots(disk))


def _slot(disk: DiskSpec) -> str:
    return f"{disk.controller}:{disk.unit}"


def _make_deltas(directory: VmDirectory, config: VmConfig) -> dict[str, str]:
    """Make an empty delta above every disk; returns the deltas by what lies below."""
    made: dict[str, str] = {}
    try:
        for disk in _written(config):
            made[disk.file_name] = directory.make_delta(disk)
    except BaseException:
        for name in made.values():
            _drop(directory, name)
        raise
    return made


def _renamed(config: VmConfig, names: Mapping[str, str]) -> VmConfig:
    """Return the configuration with other files for its disks; deltas have a descriptor."""

    def of(disk: DiskSpec) -> DiskSpec:
        if disk.kind != "disk" or disk.file_name not in names:
            return disk
        name = names[disk.file_name]
        return replace(disk, file_name=name, format=disks.format_of(name))

    return replace(config, disks=tuple(of(disk) for disk in config.disks))


def _drop(directory: VmDirectory, name: str) -> None:
    """Remove a delta's files."""
    for part in directory.files_of(name):
        directory.remove(part)


def _last(directory: VmDirectory, fact: VmFact) -> int:
    """Return the highest number that a snapshot of this VM ever had."""
    name = f"{stem(fact.config)}.vmsd"
    highest = max((one.number for one in fact.snapshots), default=0)
    if not directory.exists(name):
        return highest
    return max(highest, book.last_number(vmx.parse(directory.read(name, VMX_LIMIT))))


def _graph(directory: VmDirectory, tops: set[str]) -> _Graph:
    """Find all disks below ``tops``, and all deltas in the directory above those."""
    parents: dict[str, str] = {}
    frozen: set[str] = set()
    strays = {name for name in directory.names() if _DELTA.fullmatch(name)}
    bases = {lowest for top in tops for *_, lowest in (tuple(directory.chain(top)),)}
    for top in sorted(tops | strays):
        chain = tuple(directory.chain(top))
        if not chain or chain[-1] not in bases:
            continue
        for name, lower in zip(chain, (*chain[1:], ""), strict=True):
            parents[name] = lower
            if name.endswith(".vmdk"):
                described = disks.describe(directory.fd, name)
                if described.create_type is CreateType.STREAM_OPTIMIZED or described.read_only:
                    frozen.add(name)
    return _Graph(parents, frozenset(frozen))


def _rename_in_state(directory: VmDirectory, fact: VmFact, number: int, step: Merge) -> None:
    """Name the lower disk in a snapshot's configuration too."""
    name = state_name(fact.config, number)
    try:
        old = vmx.parse(directory.read(name, VMX_LIMIT))
    except CasemateError:
        return
    entries = tuple(
        (key, step.into if key.lower().endswith(".filename") and value == step.name else value)
        for key, value in old.entries
    )
    directory.write(name, vmx.write(Vmx(entries)))
