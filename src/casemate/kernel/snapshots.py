"""Snapshots: freezing the disks of a VM, going back, and merging what is not needed any more.

The order of the steps is such that a crash between any two of them leaves a VM whose disks are
as the guest wrote them: a file names a new delta before the guest writes to it, and a merged
delta is taken out of the files before it is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace

from casemate.calls import vms as c
from casemate.calls.messages import Empty, TaskReply
from casemate.errors import CasemateError, HostError, NotSupportedError, StateError
from casemate.formats import vmx
from casemate.kernel.accounts import Session
from casemate.kernel.cells import blocks, disks, memory
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.consolidation import (
    Consolidation,
    Report,
    layers_of,
    planned,
    untold,
)
from casemate.kernel.elsewhere import Check, demand_elsewhere, used_by_others
from casemate.kernel.guests import Guests
from casemate.kernel.host import Handler
from casemate.kernel.inventory import VMX_LIMIT
from casemate.kernel.snapshotfiles import (
    check_book,
    demand_unused,
    drop,
    last_number,
    make_deltas,
    renamed_disks,
    slot_of,
    write_book,
    written,
)
from casemate.kernel.tasks import Job
from casemate.kernel.vmcontext import VmContext, file_name, roomy
from casemate.kernel.vmfiles import disks_of_snapshots, memory_name, state_name
from casemate.kernel.vmpower import VmPower
from casemate.machine import snapshots as book
from casemate.machine.chains import Drop
from casemate.machine.diskmodes import has_independent
from casemate.machine.facts import (
    PowerState,
    SnapshotSpec,
    VmFact,
)
from casemate.machine.hotnotes import added
from casemate.machine.power import Operation, next_state
from casemate.machine.vmconfig import vm_config, with_saved_memory
from casemate.machine.vmxwrite import vmx_of


class Snapshots:
    """Handlers of the requests about snapshots."""

    def __init__(
        self,
        context: VmContext,
        power: VmPower,
        guests: Guests,
        check: Check,
    ) -> None:
        self._context = context
        self._check = check
        self._power = power
        self._guests = guests
        self._consolidation = Consolidation(context)

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
                await self._consolidation.run(self._context.inventory.reread(fact.vm))
            raise

    async def _take(self, fact: VmFact, request: c.CreateSnapshot, job: Job) -> str:
        running = fact.power is PowerState.POWERED_ON
        with self._context.open(fact) as directory:
            check_book(directory, fact)
            number = last_number(directory, fact) + 1
            made = SnapshotSpec(
                number=number,
                parent=fact.current_snapshot,
                name=request.name,
                description=request.description,
                created=self._context.clock(),
                memory=request.memory and running,
                quiesced=request.quiesce and running and not request.memory,
                disks=tuple((slot_of(disk), disk.file_name) for disk in written(fact.config)),
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
            write_book(directory, fact, (*fact.snapshots, made), number, number)
            self._context.inventory.reread(fact.vm)
        return str(number)

    async def revert(self, fact: VmFact, number: int) -> None:
        """Go back to a snapshot; what was written since the last one is lost.

        Raises:
            CasemateError: Its files are not in order, or it cannot be told which of them others
                need; a VM that runs goes on then.
        """
        running = fact.power is not PowerState.POWERED_OFF
        snapshot = book.find(fact.snapshots, number or fact.current_snapshot, fact.config.name)
        with self._context.open(fact) as directory:
            state = directory.read(state_name(fact.config, snapshot.number), VMX_LIMIT)
            old = vmx.parse(state)
            config = with_saved_memory(vm_config(old, fact.config.vmx_path), "")
            disks.resolve(directory, config.disks)
            # What wrote that file may have named disks that are others' by now.
            async with self._context.inventory.admitting(replace(fact, config=config)):
                # What may be dropped afterwards must be known.
                await asyncio.to_thread(used_by_others, self._context, fact)
                # Were it cut off, the next start would know by this file what was begun.
                begun = state_name(fact.config, last_number(directory, fact) + 1)
                directory.write(begun, state)
                deltas: dict[str, str] = {}
                try:
                    # The spare is for this too: it gives back what was written since.
                    deltas = await asyncio.to_thread(
                        make_deltas, directory, config, running=running, spare=False
                    )
                    if running:
                        await self._power.power_off(fact)
                        fact = self._context.inventory.vm(fact.vm)
                        demand_unused(directory, config)
                    had = await asyncio.to_thread(layers_of, directory, fact)
                except CasemateError:
                    for name in deltas.values():
                        drop(directory, name)
                    directory.remove(begun)
                    raise
                config = renamed_disks(config, deltas)
                if snapshot.memory:
                    config = with_saved_memory(config, memory_name(fact.config, snapshot))
                directory.write(file_name(config), vmx.write(vmx_of(config, old)))
                last = last_number(directory, fact)
                write_book(directory, fact, fact.snapshots, snapshot.number, last)
                directory.remove(begun)
                fact = self._context.inventory.reread(fact.vm)
            await asyncio.to_thread(self._drop_unneeded, directory, fact, had)
        if snapshot.memory:
            await self._power.power_on(fact)

    def _drop_unneeded(self, directory: VmDirectory, fact: VmFact, had: frozenset[str]) -> None:
        """Remove the deltas that nobody needs."""
        with contextlib.ExitStack() as held:
            for step in planned(self._context, directory, fact, had, held)[1]:
                if isinstance(step, Drop):
                    drop(directory, step.name)

    async def remove(
        self, fact: VmFact, number: int, *, children: bool, report: Report = untold
    ) -> None:
        """Forget snapshots (0: all), then merge what they needed."""
        with self._context.open(fact) as directory:
            if not number:
                gone = frozenset(one.number for one in fact.snapshots)
            else:
                book.find(fact.snapshots, number, fact.config.name)
                below = book.below(fact.snapshots, number)
                gone = below if children else frozenset({number})
            had = await asyncio.to_thread(layers_of, directory, fact)
            kept, current = book.without(fact.snapshots, fact.current_snapshot, gone)
            write_book(directory, fact, kept, current, last_number(directory, fact))
            for snapshot in fact.snapshots:
                if snapshot.number in gone:
                    directory.remove(state_name(fact.config, snapshot.number))
                    if snapshot.memory:
                        directory.remove(memory_name(fact.config, snapshot))
            fact = self._context.inventory.reread(fact.vm)
        await self._consolidation.run(fact, report, had)

    async def _put_deltas(self, directory: VmDirectory, fact: VmFact) -> None:
        """Put a delta on every disk, first in the file, then under the guest."""
        running = fact.power is PowerState.POWERED_ON
        deltas = await asyncio.to_thread(make_deltas, directory, fact.config, running=running)
        config = renamed_disks(fact.config, deltas)
        try:
            self._context.rewrite(directory, fact, config)
            if running:
                qmp = await self._context.cells.control(fact.vm, Operation.CREATE_SNAPSHOT)
                below = disks.resolve(directory, written(fact.config))
                above = disks.resolve(directory, written(config))
                pairs = tuple(zip(below, above, strict=True))
                if pairs:
                    await blocks.put_on_top(qmp, directory, pairs)
        except BaseException as error:
            if isinstance(error, HostError) and error.code == blocks.UNCERTAIN:
                # The guest may write to the deltas by now: with them the file is right either way.
                raise
            self._context.rewrite(directory, fact, fact.config)
            for name in deltas.values():
                drop(directory, name)
            raise

    async def _save_memory(
        self, directory: VmDirectory, fact: VmFact, snapshot: SnapshotSpec, job: Job
    ) -> None:
        name = memory_name(fact.config, snapshot)
        directory.remove(name)
        handle = directory.open_new(name)
        try:
            qmp = await self._context.cells.control(fact.vm, Operation.CREATE_SNAPSHOT)
            report = roomy(directory, name, job.report)
            await memory.save(qmp, handle, len(added(fact.config).memory), report)
            await asyncio.to_thread(os.fsync, handle)
        except BaseException:
            directory.remove(name)
            raise
        finally:
            os.close(handle)

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
        number = request.snapshot or fact.current_snapshot
        book.find(fact.snapshots, number, fact.config.name)
        with self._context.open(fact) as directory:
            state = vmx.parse(directory.read(state_name(fact.config, number), VMX_LIMIT))
        # Who wrote that file may have named disks that nobody was asked for; those in the list of
        # snapshots somebody was, as for those that the VM has.
        wanted, listed = vm_config(state, fact.config.vmx_path), disks_of_snapshots(fact)
        asked = tuple(d for d in wanted.disks if d.kind == "disk" and d.file_name in listed)
        before = replace(fact.config, disks=(*fact.config.disks, *asked))
        demand_elsewhere(self._check, self._context.inventory, session, wanted, before)

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
        # A task would write down the names that it knows.
        self._context.tasks.demand_free(fact.vm)
        book.check_text(request.name, request.description)
        book.find(fact.snapshots, request.snapshot, fact.config.name)
        renamed = tuple(
            replace(one, name=request.name, description=request.description)
            if one.number == request.snapshot
            else one
            for one in fact.snapshots
        )
        with self._context.open(fact) as directory:
            last = last_number(directory, fact)
            write_book(directory, fact, renamed, fact.current_snapshot, last)
        self._context.inventory.reread(fact.vm)
        return Empty()

    async def _consolidate(self, request: c.ConsolidateDisks, session: Session) -> TaskReply:
        fact = self._context.demand(request.vm, Operation.CONSOLIDATE)

        async def work(fact: VmFact, job: Job) -> str:
            await self._consolidation.run(fact, job.report)
            return ""

        return self._context.start_long(fact, "consolidateDisks", session, work)
