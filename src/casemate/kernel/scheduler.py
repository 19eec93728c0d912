"""Shares the hardware out among the running VMs: processors every second, memory every 15.

Each pass measures, computes with ``sched``, writes only what changed, and remembers every change
with the numbers it followed from. A pass that fails is logged and the next one comes: nothing here
may end while VMs run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from casemate.errors import CasemateError
from casemate.kernel.ballooning import Balloons, Guest
from casemate.kernel.cells.hostmemory import HostMemory
from casemate.kernel.decisions import Decisions
from casemate.kernel.groups import Groups
from casemate.kernel.metering import IDLE, Load, Meter, Metered
from casemate.kernel.pools import Pools
from casemate.machine.facts import VmFact
from casemate.sched.balloon import DEAD_BAND, BalloonPlan, least_size, plan_balloons
from casemate.sched.divvy import Division, divide_cpu, divide_static
from casemate.sched.memory import MemoryState, minimum_free, next_state
from casemate.sched.targets import CpuTarget, cpu_targets, end_scores, memory_targets
from casemate.sched.tax import MemoryUse, divide_memory
from casemate.sched.tree import Tree

CPU_SECONDS: Final = 1.0
MEMORY_SECONDS: Final = 15.0
"""Between two passes over memory (ESXi's Mem.BalancePeriod); sooner when the state changes."""
BUSY_SECONDS: Final = 2.0
"""Between two passes while memory is short."""
_FALL: Final = 0.5
"""Part of its former demand that a VM keeps for a second when it wants less: fast up, slow down."""
_SLOWED_US: Final = 10_000
"""Microseconds of 100 ms for a VM above its entitlement while memory is at its lowest: enough for
its balloon to give memory up, too little to take much more."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class View:
    """How a resource is divided now, and the measurements that it followed from."""

    division: Division
    static: Division
    usage: dict[str, int]
    demand: dict[str, int]


class Scheduler:
    """The loops. ``monotonic`` gives seconds; ``read_memory`` tells the host's memory."""

    def __init__(
        self,
        pools: Pools,
        groups: Groups,
        meter: Meter,
        balloons: Balloons,
        decisions: Decisions,
        monotonic: Callable[[], float],
        read_memory: Callable[[], HostMemory],
    ) -> None:
        self._pools = pools
        self._groups = groups
        self._meter = meter
        self._balloons = balloons
        self.decisions = decisions
        self._monotonic = monotonic
        self._read_memory = read_memory
        self._demand: dict[str, float] = {}
        self._slowed: tuple[str, ...] = ()
        self._held: dict[str, int] = {}
        self._memory_due = 0.0
        self._plan_for: frozenset[str] = frozenset()
        self.metered: dict[str, Metered] = {}
        self.guests: dict[str, Guest] = {}
        self.state = MemoryState.HIGH
        self.memory = HostMemory(0, 0)

    async def run(self) -> None:
        """Go on for ever."""
        await asyncio.gather(
            self._repeat(self.share_cpu, "processors"), self._repeat(self.watch_memory, "memory")
        )

    async def share_cpu(self) -> None:
        """Measure, and set weights and quotas."""
        running = self._pools.running()
        vcpus = {vm: fact.config.cpus for vm, fact in running.items()}
        self.metered = await asyncio.to_thread(self._meter.read, vcpus, self._monotonic)
        self._groups.forget(running)
        for gone in self._demand.keys() - self.metered.keys():
            del self._demand[gone]
        for vm, metered in self.metered.items():
            if metered.load is not None:
                kept = self._demand.get(vm, 0.0) * _FALL
                self._demand[vm] = max(metered.load.demand, kept)
        view = self.view_cpu()
        targets = cpu_targets(
            view.division, view.static, self._groups.scale, self._pools.capacity.core_mhz
        )
        for vm in self.metered:
            if vm in targets:
                self._set_cpu(running[vm], targets[vm], view)

    async def watch_memory(self) -> None:
        """Look at the host's memory; where it is time, measure the guests and move balloons."""
        now = self._monotonic()
        self.memory = self._read_memory()
        state = next_state(self.state, self.memory.free, minimum_free(self.memory.total))
        due = now >= self._memory_due or state is not self.state
        due = due or self._pools.running().keys() != self._plan_for
        self.state = state
        if due:
            await self.share_memory()

    async def share_memory(self) -> None:
        """Measure the guests and move balloons."""
        now = self._monotonic()
        running = self._pools.running()
        self._plan_for = frozenset(running)
        sizes = {vm: fact.config.memory_mib << 20 for vm, fact in running.items()}
        self.guests = await self._balloons.look(sizes, now)
        view = self.view_memory()
        self._protect(view)
        scores = end_scores(view.division, self.memory.total)
        self._groups.order_ends({vm: scores[vm] for vm in scores.keys() & self.metered.keys()})
        entitled = {
            vm: max(0, view.division[vm] - claim.overhead)
            for vm, claim in view.division.tree.vms.items()
        }
        balloons = {vm: guest.balloon for vm, guest in self.guests.items()}
        missing = minimum_free(self.memory.total) - self.memory.free
        lacking = any(b.actual + DEAD_BAND < entitled.get(vm, 0) for vm, b in balloons.items())
        state = self.state
        if state is MemoryState.CLEAR and lacking:
            # What idle guests hold beyond their part goes to those that are squeezed.
            state = MemoryState.SOFT
        if state is not MemoryState.LOW:
            self._held = {vm: self.held(vm) for vm in running}
        still = {vm for vm in running if self.held(vm) <= self._held.get(vm, 0) + DEAD_BAND}
        plan = plan_balloons(balloons, entitled, state, missing, still)
        self._slowed = plan.blocked
        await self._move(self._limited(plan, running), entitled, missing, now)
        calm = self.state is MemoryState.HIGH and not plan.targets
        self._memory_due = now + (MEMORY_SECONDS if calm else BUSY_SECONDS)

    def demand(self) -> dict[str, int]:
        """Return what each VM wants of the processors, in MHz; a VM just started wants all."""
        core = self._pools.capacity.core_mhz
        return {vm: round(demand * core) for vm, demand in self._demand.items()}

    def view_cpu(self) -> View:
        """Divide the processors as things are now; MHz."""
        tree, demand = self._pools.tree("cpu"), self.demand()
        core = self._pools.capacity.core_mhz
        usage = {vm: round(self.load(vm).used * core) for vm in tree.vms}
        return View(divide_cpu(tree, demand), divide_static(tree), usage, demand)

    def view_memory(self) -> View:
        """Divide memory as things are now; bytes."""
        tree, use = self._pools.tree("memory"), self.memory_use()
        usage = {vm: self.held(vm) for vm in tree.vms}
        active = {vm: use[vm].active if vm in use else found.size for vm, found in tree.vms.items()}
        division = divide_memory(tree.with_capacity(self.memory_for_vms(tree)), use)
        return View(division, divide_memory(tree, {}, tax=0), usage, active)

    def memory_for_vms(self, tree: Tree) -> int:
        """Return the bytes there are for VMs: what they hold and what the host can spare."""
        held = sum(self.held(vm) for vm in tree.vms)
        spare = self.memory.free - minimum_free(self.memory.total)
        return min(tree.capacity, max(0, held + spare))

    def memory_use(self) -> dict[str, MemoryUse]:
        """Return what guests say they use; one that says nothing counts as using all it may."""
        return {
            vm: MemoryUse(guest.active, self.held(vm))
            for vm, guest in self.guests.items()
            if guest.active is not None
        }

    def held(self, vm: str) -> int:
        """Return the bytes of the host's memory that a VM holds, QEMU included."""
        found = self.metered.get(vm)
        return found.totals.memory if found else 0

    def load(self, vm: str) -> Load:
        """Return a VM's load over the last second."""
        found = self.metered.get(vm)
        return found.load or IDLE if found else IDLE

    def target(self, vm: str) -> CpuTarget | None:
        """Return what a VM's group was told last."""
        return self._groups.target(vm)

    async def _repeat(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        while True:
            begun = self._monotonic()
            try:
                await work()
            except Exception:  # noqa: BLE001  (one bad pass must not end all scheduling)
                _log.exception("sharing out %s failed", what)
            await asyncio.sleep(max(0.1, CPU_SECONDS - (self._monotonic() - begun)))

    def _set_cpu(self, fact: VmFact, target: CpuTarget, view: View) -> None:
        if fact.vm in self._slowed:
            target = replace(target, quota_us=min(_SLOWED_US, target.quota_us or _SLOWED_US))
        try:
            if not self._groups.set_cpu(fact.vm, target):
                return
        except CasemateError as error:
            _log.info("VM %s: %s", fact.vm, error.reason)
            return
        given = fact.config.cpu_allocation
        self.decisions.add(
            fact.vm,
            "cpu",
            {
                "capacity": view.division.tree.capacity,
                "usage": view.usage.get(fact.vm, 0),
                "demand": view.demand.get(fact.vm, -1),
                "ready": round(self.load(fact.vm).ready * 10_000),
                "reservation": given.reservation,
                "limit": given.limit,
                "shares": given.shares,
                "entitlement": view.division[fact.vm],
            },
            {
                "weight": target.weight,
                "quota_us": -1 if target.quota_us is None else target.quota_us,
            },
        )

    def _protect(self, view: View) -> None:
        targets = memory_targets(view.division)
        running = {vm: target for vm, target in targets.items() if vm in self.metered}
        try:
            written = self._groups.set_memory(running)
        except CasemateError as error:
            _log.info("memory is not protected: %s", error.reason)
            return
        for vm in written:
            target = running[vm]
            self.decisions.add(
                vm,
                "memory",
                {"entitlement": view.division[vm], "held": self.held(vm)},
                {"minimum": target.minimum, "low": target.low},
            )

    def _limited(self, plan: BalloonPlan, running: dict[str, VmFact]) -> dict[str, int]:
        """Return the targets to send, with guests held below their memory limits."""
        targets = dict(plan.targets)
        for vm, guest in self.guests.items():
            limit = running[vm].config.memory_allocation.limit
            balloon = guest.balloon
            if limit < 0 or vm in plan.unresponsive or balloon.stalled:
                continue
            most = max(limit << 20, least_size(balloon))
            wanted = min(targets.get(vm, balloon.target), most)
            if abs(wanted - balloon.target) >= DEAD_BAND:
                targets[vm] = wanted
            else:
                targets.pop(vm, None)
        return targets

    async def _move(
        self, targets: dict[str, int], entitled: dict[str, int], missing: int, now: float
    ) -> None:
        for vm, size in targets.items():
            balloon = self.guests[vm].balloon
            try:
                await self._balloons.set(vm, size, now)
            except CasemateError as error:
                _log.info("the balloon of VM %s does not move: %s", vm, error.reason)
                continue
            self.decisions.add(
                vm,
                "balloon",
                {
                    "state": int(self.state),
                    "free": self.memory.free,
                    "missing": missing,
                    "size": balloon.size,
                    "actual": balloon.actual,
                    "available": -1 if balloon.available is None else balloon.available,
                    "held": self.held(vm),
                    "entitlement": entitled.get(vm, -1),
                },
                {"target": size},
            )
