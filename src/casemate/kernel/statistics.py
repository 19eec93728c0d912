"""One sampler for everything that is measured: VM facts, pool usage, counters and their history.

Every 20 seconds it takes what the scheduler's meter has counted, asks each VM's QEMU for its
disks, and publishes. ``QueryStats`` and ``QueryLoad`` are answered from memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from casemate.calls.statistics import (
    LoadReply,
    QueryLoad,
    QueryStats,
    Series,
    StatsReply,
    VmLoad,
)
from casemate.errors import CasemateError
from casemate.kernel.accounts import Session
from casemate.kernel.ballooning import Control
from casemate.kernel.history import History
from casemate.kernel.inventory import ROOT_POOL, Inventory
from casemate.kernel.metering import Counters
from casemate.kernel.pools import Pools
from casemate.kernel.scheduler import Scheduler, View
from casemate.machine.counters import SAMPLE_SECONDS
from casemate.machine.facts import PoolUsage, PowerState, VmFact, VmUsage
from casemate.sched.memory import MIB, minimum_free

HOST: Final = "ha-host"
_NANO_PER_MS: Final = 1_000_000
_KIB: Final = 1024
_HUNDREDTHS: Final = 10_000
_ALL: Final = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Disks:
    read: int = 0
    written: int = 0
    reads: int = 0
    writes: int = 0


@dataclass(frozen=True, slots=True)
class _Before:
    time: float
    looked: float
    totals: Counters
    disks: _Disks | None
    wires: tuple[int, int] | None


class Statistics:
    """The sampler and the answers. ``clock`` gives Unix seconds; ``boot`` is when the host began.

    ``control`` gives the control connection to a running VM.
    """

    def __init__(
        self,
        inventory: Inventory,
        pools: Pools,
        scheduler: Scheduler,
        control: Callable[[str], Awaitable[Control]],
        clock: Callable[[], float],
        boot: float,
        network: Path = Path("/sys/class/net"),
    ) -> None:
        self._inventory = inventory
        self._pools = pools
        self._scheduler = scheduler
        self._control = control
        self._clock = clock
        self._boot = boot
        self._network = network
        self._history = History()
        self._before: dict[str, _Before] = {}
        self._traffic: tuple[float, int, int] | None = None
        self._wires: Callable[[], Awaitable[Mapping[str, tuple[int, int]]]] = _no_wires

    def watch(self, wires: Callable[[], Awaitable[Mapping[str, tuple[int, int]]]]) -> None:
        """Ask this, from now on, for the bytes that each VM has received and sent."""
        self._wires = wires

    def handlers(self) -> dict[type, Callable[..., Awaitable[object]]]:
        """Return what answers which request."""
        return {QueryStats: self._query, QueryLoad: self._load}

    async def run(self) -> None:
        """Sample for ever."""
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            try:
                await self.sample()
            except Exception:  # noqa: BLE001  (one bad sample must not end all statistics)
                _log.exception("sampling failed")

    async def sample(self) -> None:
        """Take one sample of everything and publish it."""
        self._inventory.refresh_datastores()
        running = [f for f in self._inventory.vms() if f.power is PowerState.POWERED_ON]
        disks = dict(
            zip(
                (fact.vm for fact in running),
                await asyncio.gather(*(self._disks(fact.vm) for fact in running)),
                strict=True,
            )
        )
        wires = await self._wires()
        cpu, memory = self._scheduler.view_cpu(), self._scheduler.view_memory()
        now = self._clock()
        known = {fact.vm: fact for fact in self._inventory.vms()}
        self._history.keep({HOST, *known})
        sums: dict[str, int] = {}
        for vm, found in disks.items():
            # While the disks were asked, a VM may have been stopped and even forgotten.
            fact, metered = known.get(vm), self._scheduler.metered.get(vm)
            if fact is None or fact.power is not PowerState.POWERED_ON or metered is None:
                continue
            before = self._before.get(vm)
            if before is not None and metered.time <= before.looked:
                continue
            self._before[vm] = _Before(now, metered.time, metered.totals, found, wires.get(vm))
            if vm not in cpu.division.tree.vms or before is None or now <= before.time:
                continue
            values = self._of_vm(fact, before, self._before[vm], cpu, memory)
            self._history.add(vm, now, values)
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value
            self._inventory.update(self._fact(fact, values, cpu, memory))
        self._before = {vm: before for vm, before in self._before.items() if vm in disks}
        self._history.add(HOST, now, self._of_host(sums, now))
        self._pools.publish(self._of_pools(cpu, memory))

    def _of_vm(
        self, fact: VmFact, before: _Before, after: _Before, cpu: View, memory: View
    ) -> dict[str, int]:
        seconds, metered = after.time - before.time, after.looked - before.looked
        vcpus = fact.config.cpus
        used = (after.totals.cpu - before.totals.cpu) / 1e9 / metered
        ready = (after.totals.ready - before.totals.ready) / 1e9 / metered
        held = after.totals.memory
        balloon, target, active = self._balloon(fact)
        size = fact.config.memory_mib * MIB
        overhead = memory.division.tree.vms[fact.vm].overhead
        values = {
            "cpu.usage.average": min(_HUNDREDTHS, round(used / vcpus * _HUNDREDTHS)),
            "cpu.usagemhz.average": round(used * self._pools.capacity.core_mhz),
            "cpu.demand.average": cpu.demand.get(fact.vm, 0),
            "cpu.entitlement.latest": cpu.division[fact.vm],
            "cpu.cpuentitlement.latest": cpu.static[fact.vm],
            "cpu.ready.summation": (after.totals.ready - before.totals.ready) // _NANO_PER_MS,
            "cpu.costop.summation": 0,
            "cpu.maxlimited.summation": (after.totals.throttled - before.totals.throttled)
            // _NANO_PER_MS,
            "cpu.readiness.average": round(ready / vcpus * _HUNDREDTHS),
            "mem.usage.average": round(min(active, size) / size * _HUNDREDTHS) if size else 0,
            "mem.active.average": active // _KIB,
            "mem.consumed.average": min(held, size) // _KIB,
            "mem.granted.average": min(held, size - balloon) // _KIB,
            "mem.entitlement.average": max(0, memory.division[fact.vm] - overhead) // _KIB,
            "mem.overhead.average": max(0, held - size) // _KIB,
            "mem.vmmemctl.average": balloon // _KIB,
            "mem.vmmemctltarget.average": target // _KIB,
            "sys.uptime.latest": int(after.time - (fact.boot_time or after.time)),
        }
        if before.disks is not None and after.disks is not None:
            read = max(0, after.disks.read - before.disks.read)
            written = max(0, after.disks.written - before.disks.written)
            values |= {
                "disk.read.average": round(read / _KIB / seconds),
                "disk.write.average": round(written / _KIB / seconds),
                "disk.usage.average": round((read + written) / _KIB / seconds),
                "disk.numberRead.summation": max(0, after.disks.reads - before.disks.reads),
                "disk.numberWrite.summation": max(0, after.disks.writes - before.disks.writes),
            }
        if before.wires is not None and after.wires is not None:
            came = max(0, after.wires[0] - before.wires[0]) / _KIB / seconds
            went = max(0, after.wires[1] - before.wires[1]) / _KIB / seconds
            values |= {
                "net.received.average": round(came),
                "net.transmitted.average": round(went),
                "net.usage.average": round(came + went),
            }
        return values

    def _of_host(self, sums: dict[str, int], now: float) -> dict[str, int]:
        scheduler, capacity = self._scheduler, self._pools.capacity
        used = sums.get("cpu.usagemhz.average", 0)
        total, free = scheduler.memory.total, scheduler.memory.free
        values = {
            "cpu.usage.average": round(used / max(1, capacity.cpu_mhz) * _HUNDREDTHS),
            "mem.usage.average": round((total - free) / total * _HUNDREDTHS) if total else 0,
            "mem.consumed.average": (total - free) // _KIB,
            "mem.state.latest": int(scheduler.state),
            "mem.lowfreethreshold.average": minimum_free(total) // _KIB,
            "sys.uptime.latest": int(now - self._boot),
        }
        for name in ("cpu.usagemhz.average", "cpu.ready.summation", "mem.active.average"):
            values[name] = sums.get(name, 0)
        for name in ("mem.granted.average", "mem.overhead.average", "mem.vmmemctl.average"):
            values[name] = sums.get(name, 0)
        received, sent = self._cards()
        if self._traffic is not None and now > self._traffic[0]:
            seconds = now - self._traffic[0]
            came = round(max(0, received - self._traffic[1]) / _KIB / seconds)
            went = round(max(0, sent - self._traffic[2]) / _KIB / seconds)
            values |= {"net.received.average": came, "net.transmitted.average": went}
            values["net.usage.average"] = came + went
        self._traffic = (now, received, sent)
        return values

    def _fact(self, fact: VmFact, values: dict[str, int], cpu: View, memory: View) -> VmFact:
        overhead = memory.division.tree.vms[fact.vm].overhead
        return replace(
            fact,
            cpu_usage_mhz=values["cpu.usagemhz.average"],
            host_memory_mib=self._scheduler.held(fact.vm) // MIB,
            guest_memory_mib=values["mem.active.average"] // _KIB,
            uptime_seconds=values["sys.uptime.latest"],
            usage=VmUsage(
                cpu_demand_mhz=values["cpu.demand.average"],
                cpu_ready=values["cpu.readiness.average"],
                cpu_entitlement_mhz=cpu.division[fact.vm],
                cpu_static_mhz=cpu.static[fact.vm],
                memory_active_mib=values["mem.active.average"] // _KIB,
                memory_entitlement_mib=values["mem.entitlement.average"] // _KIB,
                memory_static_mib=max(0, memory.static[fact.vm] - overhead) // MIB,
                ballooned_mib=values["mem.vmmemctl.average"] // _KIB,
                overhead_mib=values["mem.overhead.average"] // _KIB,
            ),
        )

    def _of_pools(self, cpu: View, memory: View) -> dict[str, tuple[PoolUsage, PoolUsage]]:
        ours = (ROOT_POOL, *self._pools.pools())
        parts = []
        for view in (cpu, memory):
            usage, demand = dict.fromkeys(ours, 0), dict.fromkeys(ours, 0)
            for vm in view.division.tree.vms:
                for pool in view.division.tree.path(vm)[:-1]:
                    usage[pool] += view.usage.get(vm, 0)
                    demand[pool] += view.demand.get(vm, 0)
            parts.append(
                {
                    pool: PoolUsage(
                        usage=usage[pool], demand=demand[pool], entitlement=view.division[pool]
                    )
                    for pool in ours
                }
            )
        return {pool: (parts[0][pool], parts[1][pool]) for pool in ours}

    def _balloon(self, fact: VmFact) -> tuple[int, int, int]:
        """Return bytes in the balloon, its target, and active memory: all, where nobody tells."""
        size = fact.config.memory_mib * MIB
        guest = self._scheduler.guests.get(fact.vm)
        if guest is None:
            return 0, 0, min(size, self._scheduler.held(fact.vm))
        active = guest.active
        if active is None:
            active = min(size, self._scheduler.held(fact.vm))
        return size - guest.balloon.actual, size - guest.balloon.target, active

    async def _disks(self, vm: str) -> _Disks | None:
        """Ask QEMU what a VM has read and written; None when it does not say."""
        try:
            answer = await (await self._control(vm)).execute("query-blockstats")
        except CasemateError:
            return None
        total = _Disks()
        for stats in _statistics(answer):
            total = _Disks(
                total.read + _number(stats, "rd_bytes"),
                total.written + _number(stats, "wr_bytes"),
                total.reads + _number(stats, "rd_operations"),
                total.writes + _number(stats, "wr_operations"),
            )
        return total

    def _cards(self) -> tuple[int, int]:
        """Return bytes that the host's physical cards have received and sent."""
        received = sent = 0
        for card in self._network.iterdir() if self._network.is_dir() else ():
            if (card / "device").exists():
                received += int((card / "statistics/rx_bytes").read_text())
                sent += int((card / "statistics/tx_bytes").read_text())
        return received, sent

    async def _query(self, request: QueryStats, _: Session) -> StatsReply:
        if request.entity != HOST:
            self._inventory.vm(request.entity)
        window = (request.start, request.end)
        times, values = self._history.read(
            request.entity, request.counters, request.interval, window
        )
        newest = slice(-request.limit if request.limit > 0 else -_ALL, None)
        return StatsReply(
            request.entity,
            request.interval,
            tuple(times[newest]),
            tuple(Series(name, tuple(row[newest])) for name, row in values.items()),
        )

    async def _load(self, _request: QueryLoad, _: Session) -> LoadReply:
        scheduler, capacity = self._scheduler, self._pools.capacity
        cpu, memory = scheduler.view_cpu(), scheduler.view_memory()
        return LoadReply(
            time=self._clock(),
            cpu_capacity_mhz=capacity.cpu_mhz,
            cpu_mhz=sum(cpu.usage.values()),
            memory_size=scheduler.memory.total,
            memory_free=scheduler.memory.free,
            memory_minimum=minimum_free(scheduler.memory.total),
            state=int(scheduler.state),
            vms=tuple(self._vm_load(fact, cpu, memory) for fact in self._pools.running().values()),
        )

    def _vm_load(self, fact: VmFact, cpu: View, memory: View) -> VmLoad:
        vm = fact.vm
        balloon, target, active = self._balloon(fact)
        set_to = self._scheduler.target(vm)
        guest = self._scheduler.guests.get(vm)
        ready = self._scheduler.load(vm).ready / fact.config.cpus
        return VmLoad(
            vm=vm,
            name=fact.config.name,
            pool=fact.pool,
            vcpus=fact.config.cpus,
            cpu_mhz=cpu.usage.get(vm, 0),
            demand_mhz=cpu.demand.get(vm, 0),
            ready=round(ready * _HUNDREDTHS),
            entitlement_mhz=cpu.division[vm],
            weight=set_to.weight if set_to else 0,
            quota_us=-1 if set_to is None or set_to.quota_us is None else set_to.quota_us,
            memory_size=fact.config.memory_mib * MIB,
            memory_held=self._scheduler.held(vm),
            memory_active=active,
            memory_entitlement=max(0, memory.division[vm] - memory.division.tree.vms[vm].overhead),
            balloon=balloon,
            balloon_target=target,
            balloon_driver=guest is not None and guest.balloon.driver,
        )


async def _no_wires() -> Mapping[str, tuple[int, int]]:
    """Know of no network."""
    return {}


def _statistics(answer: object) -> Iterator[dict[str, object]]:
    for entry in answer if isinstance(answer, list) else ():
        if isinstance(entry, dict) and isinstance(stats := entry.get("stats"), dict):
            yield stats


def _number(stats: dict[str, object], name: str) -> int:
    value = stats.get(name)
    return value if isinstance(value, int) and value >= 0 else 0
