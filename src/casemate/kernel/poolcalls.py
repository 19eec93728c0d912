"""Answers the calls about pools: changes, explanations, and what-if."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final

from casemate.calls import pools as c
from casemate.calls.messages import Empty
from casemate.errors import ArgumentError, CasemateError, HostError, NotFoundError
from casemate.formats import vmx
from casemate.kernel.accounts import Session
from casemate.kernel.files import write_file
from casemate.kernel.inventory import ROOT_POOL, Destination, Inventory
from casemate.kernel.pools import RESOURCES, Pools, Settings
from casemate.kernel.scheduler import Scheduler, View
from casemate.kernel.tasks import fault_of
from casemate.machine.facts import Allocation, VmConfig, VmFact
from casemate.machine.vmconfig import disk_shares
from casemate.machine.vmxwrite import vmx_of
from casemate.sched import admission
from casemate.sched.admission import Change, Resource, admit
from casemate.sched.divvy import Division, divide_cpu
from casemate.sched.explain import Step, explain
from casemate.sched.ledger import health
from casemate.sched.tax import divide_memory
from casemate.sched.tree import Pool, Tree, Vm
from casemate.sched.whatif import what_if

DECISIONS: Final = 20
"""Decisions that an explanation shows."""
TRIALS: Final = 64
"""Changes that can be tried at once."""
_KINDS: Final = ("power-on", "power-off", "set", "create", "move", "remove", "resize")


class PoolCalls:
    """The handlers. ``check`` refuses what a session may not do to what a request names.

    Whoever moves something needs the privilege where it comes from, which was checked before, and
    where it goes to. ``demand_free`` raises where a task has a VM for itself: it would write down
    what it knows. ``disk_weigher`` tells what weighs the disks of a running VM against others'.
    """

    def __init__(
        self,
        pools: Pools,
        scheduler: Scheduler,
        inventory: Inventory,
        check: Callable[[Session, str, object], None],
        demand_free: Callable[[str], None],
        disk_weigher: Callable[[VmFact], str] = lambda _: "",
    ) -> None:
        self._disk_weigher = disk_weigher
        self._check = check
        self._demand_free = demand_free
        self._pools = pools
        self._scheduler = scheduler
        self._inventory = inventory

    def handlers(self) -> dict[type, Callable[..., Awaitable[object]]]:
        """Return what answers which request."""
        return {
            c.CreatePool: self._create,
            c.UpdatePool: self._update,
            c.MovePool: self._move,
            c.AssignVm: self._assign,
            c.RemovePool: self._remove,
            c.ReconfigureResources: self._reconfigure,
            c.Explain: self._explain,
            c.WhatIf: self._what_if,
        }

    async def _create(self, request: c.CreatePool, _: Session) -> c.PoolReply:
        settings = Settings(request.cpu, request.memory, request.scale_descendants)
        pool = self._pools.create(request.parent, request.name, settings)
        self._pools.publish()
        return c.PoolReply(pool)

    async def _update(self, request: c.UpdatePool, _: Session) -> Empty:
        settings = self._settings(request.pool)
        scale = request.scale_descendants
        self._pools.update(
            request.pool,
            request.name,
            Settings(
                request.cpu or settings.cpu,
                request.memory or settings.memory,
                settings.scale_descendants if scale is None else scale,
            ),
        )
        self._pools.publish()
        return Empty()

    async def _move(self, request: c.MovePool, session: Session) -> Empty:
        self._check(session, c.MovePool.privilege, Destination(request.parent))
        self._pools.move(request.pool, request.parent)
        self._pools.publish()
        return Empty()

    async def _assign(self, request: c.AssignVm, session: Session) -> Empty:
        self._check(session, c.AssignVm.privilege, Destination(request.pool))
        self._pools.assign(request.vm, request.pool)
        self._pools.publish()
        return Empty()

    async def _remove(self, request: c.RemovePool, _: Session) -> Empty:
        self._pools.remove(request.pool)
        self._pools.publish()
        return Empty()

    async def _reconfigure(self, request: c.ReconfigureResources, _: Session) -> Empty:
        fact = self._inventory.vm(request.vm)
        self._demand_free(fact.vm)
        cpu, memory = self._wanted(fact, request.cpu, request.memory)
        self._pools.check_vm(fact, cpu, memory)
        config = replace(fact.config, cpu_allocation=cpu, memory_allocation=memory)
        self._write(config)
        self._inventory.update(replace(fact, config=config))
        self._pools.publish()
        return Empty()

    async def _explain(self, request: c.Explain, _: Session) -> c.ExplainReply:
        node = request.node
        name = self._name(node)
        views: tuple[tuple[Resource, View], ...] = (
            ("cpu", self._scheduler.view_cpu()),
            ("memory", self._scheduler.view_memory()),
        )
        reasons = tuple(_reasons(resource, view, node) for resource, view in views)
        decisions = self._scheduler.decisions.about(node, DECISIONS)
        reply = c.ExplainReply(node, name, reasons, decisions)
        fact = self._pools.running().get(node)
        if fact is None:
            return reply
        return replace(
            reply,
            disk_shares=disk_shares(fact.config),
            disk_weigher=self._disk_weigher(fact),
        )

    async def _what_if(self, request: c.WhatIf, _: Session) -> c.WhatIfReply:
        if not 0 < len(request.trials) <= TRIALS:
            raise ArgumentError(f"not 1 to {TRIALS} changes", argument="trials")
        return c.WhatIfReply(tuple(self._tried(r, request.trials) for r in RESOURCES))

    def _write(self, config: VmConfig) -> None:
        """Put allocations into a VM's file."""
        place = self._inventory.resolve(config.vmx_path)
        try:
            old = vmx.parse(place.read_bytes())
            made = vmx.write(vmx_of(config, old))
            write_file(place, made, mode=stat.S_IMODE(place.stat().st_mode))
        except OSError as error:
            raise HostError(
                f"{config.vmx_path} cannot be written: {error.strerror}",
                code="vmx-write",
                component=config.name,
                remedy="Look at the datastore: is it full, or read-only?",
            ) from error

    def _tried(self, resource: Resource, trials: tuple[c.Trial, ...]) -> c.Outcome:
        tree = self._pools.tree(resource)
        changes: list[Change] = []
        at = tree
        refusal: CasemateError | None = None
        for trial in trials:
            try:
                change = self._change(at, trial, resource)
                at = admit(at, change, resource) if change is not None else at
            except CasemateError as error:
                refusal = error
                break
            if change is not None:
                changes.append(change)
        found = what_if(tree, changes, resource, partial(self._divide, resource, tree.capacity))
        moved = tuple(c.Moved(vm, *pair) for vm, pair in found.moved.items())
        return c.Outcome(
            resource,
            len(found.admitted),
            moved,
            health(at).colour,
            None if refusal is None else fault_of(refusal),
        )

    def _divide(self, resource: Resource, whole: int, tree: Tree) -> Division:
        if resource == "cpu":
            return divide_cpu(tree, self._scheduler.demand())
        if tree.capacity == whole:
            tree = tree.with_capacity(self._scheduler.memory_for_vms(tree))
        return divide_memory(tree, self._scheduler.memory_use())

    def _change(self, tree: Tree, trial: c.Trial, resource: Resource) -> Change | None:
        """Return the change of one resource's tree; None where it is about the other."""
        match trial.kind:
            case "power-on":
                change: Change | None = admission.PowerOn(
                    self._pools.claim(self._inventory.vm(trial.node), resource)
                )
            case "power-off":
                change = admission.PowerOff(trial.node)
            case "remove":
                change = admission.RemovePool(trial.node)
            case "move":
                change = admission.Move(trial.node, trial.pool)
            case "create":
                settings = Settings(trial.cpu or Allocation(), trial.memory or Allocation())
                allocation = self._pools.allocation(settings, resource)
                change = admission.CreatePool(Pool(trial.node, trial.pool or ROOT_POOL, allocation))
            case "resize":
                size = trial.cpu_mhz if resource == "cpu" else trial.memory_size
                change = admission.Resize(size) if size else None
            case "set":
                change = self._set(tree, trial, resource)
            case _:
                raise ArgumentError(f"not one of {', '.join(_KINDS)}", argument="kind")
        return change

    def _set(self, tree: Tree, trial: c.Trial, resource: Resource) -> Change:
        if trial.node in tree.vms:
            fact = self._inventory.vm(trial.node)
            cpu, memory = self._wanted(fact, trial.cpu, trial.memory)
            config = replace(fact.config, cpu_allocation=cpu, memory_allocation=memory)
            claim: Vm = self._pools.claim(replace(fact, config=config), resource)
            return admission.Reconfigure(trial.node, claim.allocation)
        before = self._settings(trial.node)
        settings = replace(
            before, cpu=trial.cpu or before.cpu, memory=trial.memory or before.memory
        )
        return admission.Reconfigure(trial.node, self._pools.allocation(settings, resource))

    def _wanted(
        self, fact: VmFact, cpu: Allocation | None, memory: Allocation | None
    ) -> tuple[Allocation, Allocation]:
        """Return the allocations asked for, with the numbers behind their levels."""
        config = fact.config
        return self._pools.resolve_vm(
            config, cpu or config.cpu_allocation, memory or config.memory_allocation
        )

    def _settings(self, pool: str) -> Settings:
        if pool == ROOT_POOL:
            raise ArgumentError("the root pool is the host: it cannot be changed", argument="pool")
        found = self._pools.pools().get(pool)
        if found is None:
            raise NotFoundError(f"there is no pool {pool[:40]!r}", component=pool[:40])
        return found

    def _name(self, node: str) -> str:
        if node == ROOT_POOL or node in self._pools.pools():
            return self._pools.name(node)
        return self._inventory.vm(node).config.name


def _reasons(resource: Resource, view: View, node: str) -> c.Reasons:
    tree = view.division.tree
    found = explain(view.division, node)
    inside = [vm for vm in tree.vms if node in tree.path(vm)]
    return c.Reasons(
        resource,
        found.amount,
        view.static[node],
        sum(view.usage.get(vm, 0) for vm in inside),
        sum(view.demand.get(vm, 0) for vm in inside),
        tuple(_entry(step) for step in found.steps),
    )


def _entry(step: Step) -> c.StepEntry:
    share = step.share
    return c.StepEntry(
        pool=step.pool,
        budget=step.budget,
        siblings=step.siblings,
        node=step.node,
        amount=share.amount,
        floor=share.floor,
        ceiling=share.ceiling,
        weight=share.weight,
        weights=step.weights,
        by_shares=step.by_shares,
        bound=step.bound,
        sentence=step.sentence(),
    )
