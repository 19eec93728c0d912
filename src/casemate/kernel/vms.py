"""VMs come, change, are copied and go: their directories, .vmx files and disks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from casemate.calls import vms as c
from casemate.calls.messages import TaskReply
from casemate.calls.pools import AssignVm
from casemate.errors import (
    CasemateError,
    StateError,
)
from casemate.kernel.accounts import Session
from casemate.kernel.cells import blocks
from casemate.kernel.cells import disks as disks_of
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.cells.hotplug import Hotplug
from casemate.kernel.elsewhere import (
    demand_as_made,
    demand_elsewhere,
    going,
    holder,
    used_by_others,
)
from casemate.kernel.host import Handler
from casemate.kernel.inventory import ALLOCATE, ROOT_POOL, Destination
from casemate.kernel.longwork import in_own_thread
from casemate.kernel.newvms import Fill, copy_vm, make_vm
from casemate.kernel.tasks import Job
from casemate.kernel.vmcontext import (
    VmContext,
    with_addresses,
)
from casemate.kernel.vmfiles import (
    destroy_files,
    from_below,
    known_files,
    owned_files,
)
from casemate.kernel.vmmaking import (
    check_made,
    complete,
    demand_found,
    grown_disks,
    make_disks,
    stem_of,
    takes_space,
    unplugged,
)
from casemate.machine.diskmodes import changes_mode, is_forgetful
from casemate.machine.facts import PowerState, VmConfig, VmFact
from casemate.machine.hotnotes import added, with_added
from casemate.machine.hotplug import HotChange, grown, hot_change, settled
from casemate.machine.power import Operation, next_state
from casemate.machine.vmconfig import (
    disk_shares,
)
from casemate.machine.vmxwrite import check_addresses


class Vms:
    """Handlers of the requests that make, change, copy and remove VMs."""

    def __init__(
        self,
        context: VmContext,
        check: Callable[[Session, str, object], None],
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

    def demand_space(self, session: Session, path: str) -> None:
        """Raise PermissionDeniedError unless a session may take space on a path's datastore."""
        self._check(session, ALLOCATE, self._context.inventory.place_of(path))

    def _demand_space_for(self, session: Session, fact: VmFact, config: VmConfig) -> None:
        if takes_space(fact.config, config):
            self.demand_space(session, fact.config.vmx_path)

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
        config = complete(config)
        check_made(config)
        self._context.inventory.demand_name(config.name)
        with contextlib.ExitStack() as held, contextlib.ExitStack() as undo:
            made = await in_own_thread(
                make_vm, self._context.inventory, config, undo, held, thin=thin, fill=fill
            )
            allow = partial(demand_as_made, made)
            vm = await self._context.inventory.register(made.vmx_path, pool, allow=allow)
            undo.pop_all()
        return vm

    async def remove(self, fact: VmFact) -> None:
        """Remove the files that a powered-off VM owns, and forget it.

        Raises:
            CasemateError: What others need cannot be told, or one is about to have a file: all
                stays as it is.
        """
        with contextlib.ExitStack() as held:
            # It has its files till they are gone: nobody else makes or moves some there.
            await asyncio.to_thread(self._remove_files, fact, held)
            self._context.inventory.unregister(fact.vm)

    def _remove_files(self, fact: VmFact, held: contextlib.ExitStack) -> None:
        with self._context.open(fact) as directory:
            names = known_files(directory, fact)
            leaving = held.enter_context(going(self._context, fact, names))
            leaving.difference_update(used_by_others(self._context, fact))
            destroy_files(directory, fact, leaving)

    def demand_files(
        self,
        session: Session,
        config: VmConfig,
        before: VmConfig | None = None,
        more: tuple[str, ...] = (),
    ) -> None:
        """Raise unless the session may use the files outside of the VM's directory that come.

        Raises:
            DatastorePathError, PermissionDeniedError: As ``demand_elsewhere`` says.
        """
        inventory = self._context.inventory
        demand_elsewhere(self._check, inventory, session, config, before, more)

    async def _create(self, request: c.CreateVm, session: Session) -> TaskReply:
        config = complete(request.config)
        check_made(config)
        self.demand_files(session, config)
        self._context.inventory.demand_name(config.name)
        check_addresses(config, replace(config, nics=()))
        pool = self.demand_pool(session, request.into)
        self.demand_space(session, config.vmx_path)

        async def work(_: Job) -> str:
            return await self.create(config, thin=request.thin, pool=pool)

        task = self._context.tasks.start(
            "ha-folder-vm", "Folder", "createVm", session.user, work, exclusive=False
        )
        return TaskReply(task)

    async def _clone(self, request: c.CloneVm, session: Session) -> TaskReply:
        fact = self._context.demand(request.vm, Operation.CLONE)
        self.demand_space(session, fact.config.vmx_path)
        stem_of(request.name)
        self._context.inventory.demand_name(request.name)

        async def work(fact: VmFact, job: Job) -> str:
            with contextlib.ExitStack() as held, contextlib.ExitStack() as undo:
                made = await in_own_thread(
                    copy_vm, self._context, fact, request.name, undo, held, job
                )
                allow = partial(demand_as_made, made)
                vm = await self._context.inventory.register(made.vmx_path, allow=allow)
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
        self._demand_space_for(session, fact, request.config)
        config = replace(
            request.config,
            uuid=request.config.uuid or fact.config.uuid,
            vmx_path=fact.config.vmx_path,
            nics=with_addresses(request.config, fact.config),
        )
        if fact.power is not PowerState.POWERED_OFF:
            # What came while it runs is nobody's to write: a saved memory needs it.
            config = with_added(config, added(fact.config))
        unplug = unplugged(fact, config, request.unplug)
        change = hot_change(fact.config, config, unplug)
        if change is None or (fact.power is PowerState.SUSPENDED and change != HotChange()):
            next_state(Operation.RECONFIGURE, fact.power, component=fact.config.name)
        elif fact.power is PowerState.SUSPENDED and grown_disks(fact.config, config):
            next_state(Operation.EXTEND_DISK, fact.power, component=fact.config.name)
        grown = fact.power is PowerState.POWERED_ON and grown_disks(fact.config, config)
        if grown and is_forgetful(fact.config):
            next_state(Operation.RECONFIGURE, fact.power, component=fact.config.name)
        if fact.snapshots and changes_mode(fact.config, config):
            raise StateError(
                f"{fact.config.name} has snapshots, which its disks are part of or not",
                code="disk-mode",
                component=fact.config.name,
                remedy="Remove its snapshots first.",
            )
        check_made(config)
        check_addresses(config, fact.config)
        self.demand_files(session, config, fact.config, request.destroy)

        async def work(fact: VmFact) -> str:
            if fact.config != request.before:
                raise _changed(fact)
            await self._change(fact, config, request)
            return ""

        return self._context.start(fact, "reconfigure", session, work)

    async def _change(self, fact: VmFact, config: VmConfig, request: c.ReconfigureVm) -> None:
        """Make, extend and remove disks, and write the file between, so that it is never wrong."""
        self._context.admit(fact, config)
        unplug = unplugged(fact, config, request.unplug)
        change = hot_change(fact.config, config, unplug)
        if fact.power is PowerState.POWERED_ON and change is not None:
            config = grown(fact.config, config, change)
        with (
            self._context.open(fact) as directory,
            contextlib.ExitStack() as held,
            contextlib.ExitStack() as undo,
        ):
            if request.destroy:
                # Refused, if it is, before anything changes.
                names = {disk.file_name for disk in fact.config.disks}
                kept = tuple(disk for disk in config.disks if disk.file_name in names)
                left = replace(fact, config=replace(config, disks=kept))
                await asyncio.to_thread(self._needed, directory, left, fact)
            hold = holder(self._context.inventory, fact.config.vmx_path, held)
            had = fact.config.disks
            disks = await asyncio.to_thread(
                make_disks, directory, config, undo, had, thin=request.thin, hold=hold
            )
            for spec, capacity in grown_disks(fact.config, config):
                if fact.power is not PowerState.POWERED_ON:
                    directory.demand_unused(disks_of.resolve(directory, (spec,))[0].file_name)
                source = await asyncio.to_thread(directory.extend, spec, capacity)
                if fact.power is PowerState.POWERED_ON:
                    qmp = await self._context.cells.control(fact.vm, Operation.EXTEND_DISK)
                    await blocks.grow(qmp, source, capacity)
            if fact.power is PowerState.POWERED_ON and config.nics != fact.config.nics:
                # The cards that are there; one that comes is connected when it does, and one that
                # goes until its guest has let go of it.
                present = settled(fact.config, config)
                await self._context.plug(fact.vm, present, fact.config)
            before = fact
            config = replace(config, disks=disks)
            async with self._context.inventory.admitting(replace(fact, config=config)):
                # Till now it could have gone again.
                await asyncio.to_thread(demand_found, directory, config, before.config.disks)
                fact = self._context.rewrite(directory, fact, config)
            if fact.power is PowerState.POWERED_ON:
                await self._plug_in(directory, before, fact, unplug)
            # The file names the new disks from here on, and a guest may have them.
            undo.pop_all()
            held.close()
            if fact.power is PowerState.POWERED_ON:
                await self._share_disks(before, fact)
            names = {disk.file_name for disk in before.config.disks}
            names -= {disk.file_name for disk in disks}
            if names := names & set(request.destroy):
                await asyncio.to_thread(self._remove_disks, directory, fact, before, names)

    def _remove_disks(
        self, directory: VmDirectory, fact: VmFact, before: VmFact, names: set[str]
    ) -> None:
        """Remove the files of disks that a VM had, but for those that are somebody's still."""
        parts = from_below(directory, sorted(names))
        with going(self._context, fact, parts) as leaving:
            # Others may have taken one meanwhile: making disks takes minutes.
            leaving.difference_update(self._needed(directory, fact, before))
            for part in parts:
                if part in leaving:
                    directory.remove(part)

    def _needed(self, directory: VmDirectory, fact: VmFact, before: VmFact) -> set[str]:
        """Return the files that a VM as it will be needs, or others where it had some before.

        Raises:
            CasemateError: That cannot be told.
        """
        return owned_files(directory, fact) | used_by_others(self._context, before)

    async def _plug_in(
        self, directory: VmDirectory, before: VmFact, fact: VmFact, unplug: tuple[str, ...]
    ) -> None:
        """Let a running VM have the hardware that its file names by now, or name the old again."""
        change = hot_change(before.config, fact.config, unplug)
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
        if change.card_gone is not None:
            await self._context.network.changed(fact.vm, fact.config)

    async def _share_disks(self, before: VmFact, fact: VmFact) -> None:
        """Let a running VM's disks have the limits and shares that its file names by now."""
        await self._context.throttle(fact.vm, fact.config, before.config)
        if disk_shares(fact.config) != disk_shares(before.config):
            self._context.cells.set_disk_shares(fact.vm, fact.config)


def _changed(fact: VmFact) -> StateError:
    return StateError(
        f"{fact.config.name} was changed meanwhile",
        code="changed",
        component=fact.config.name,
        remedy="Read its configuration again, then repeat the change.",
    )
