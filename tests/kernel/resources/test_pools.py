"""The pool tree of a host: kept, told, and never promising what is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.registering import registered
from tests.kernel.resources.fakes import FakeGroups, FakeQmp

from casemate.calls import pools as c
from casemate.errors import (
    AdmissionError,
    ArgumentError,
    BusyError,
    NotFoundError,
    PermissionDeniedError,
)
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.ballooning import Balloons
from casemate.kernel.cells.hostmemory import HostMemory
from casemate.kernel.decisions import Decisions
from casemate.kernel.groups import Groups
from casemate.kernel.inventory import Inventory
from casemate.kernel.metering import Meter
from casemate.kernel.poolcalls import PoolCalls
from casemate.kernel.pools import Capacity, Pools, Settings
from casemate.kernel.scheduler import Scheduler
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import Job, Tasks, fault_of
from casemate.machine.facts import Allocation, PoolFact

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
GIB = 1 << 30
EXPANDABLE = Allocation(expandable=True)
OPEN = Settings(EXPANDABLE, EXPANDABLE)

DISK = {"present": "TRUE", "fileName": "a.vmdk"}


class World:
    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "volumes" / "datastore1").mkdir(parents=True, exist_ok=True)
        self.store = Store(place / "casemate.db")
        self.stream = FactStream()
        self.inventory = Inventory(self.store, self.stream, place / "volumes", UUID)
        self.pools = Pools(
            self.store, self.stream, self.inventory, Capacity(6000, 3000, 8 * GIB, "kvm")
        )
        self.groups = FakeGroups(place / "groups")
        self.qmp = FakeQmp()
        self.now = 0.0
        self.memory = HostMemory(16 * GIB, 12 * GIB)

        async def control(_: str) -> FakeQmp:
            return self.qmp

        self.scheduler = Scheduler(
            self.pools,
            Groups(self.groups, 2),
            Meter(self.groups, place / "proc"),
            Balloons(control),
            Decisions(lambda: 0.0),
            lambda: self.now,
            lambda: self.memory,
        )
        self.forbidden = ""
        self.tasks = Tasks(self.stream, lambda: 0.0)
        self.weigher = ""
        self.calls = PoolCalls(
            *(self.pools, self.scheduler, self.inventory, self.check),
            self.tasks.demand_free,
            lambda _: self.weigher,
        )

    def check(self, _session: object, privilege: str, request: object) -> None:
        if getattr(request, "pool", "") == self.forbidden:
            raise PermissionDeniedError("no", privilege=privilege)

    def ask(self, request: Any) -> Any:
        return asyncio.run(self.calls.handlers()[type(request)](request, LOCAL_ROOT))

    def add(self, name: str, **entries: str) -> str:
        folder = self.place / "volumes" / "datastore1" / name
        folder.mkdir()
        lines = {"displayName": name, "memSize": "1024", "numvcpus": "1"}
        lines |= {key.replace("_", "."): value for key, value in entries.items()}
        lines["uuid.bios"] = f"{len(self.inventory.vms()):032x}"
        (folder / f"{name}.vmx").write_text("".join(f'{k} = "{v}"\n' for k, v in lines.items()))
        return registered(self.inventory, f"[datastore1] {name}/{name}.vmx")

    def holding(self, vm: str) -> Any:
        return self.pools.starting(vm, self.inventory.vm(vm).config)

    def facts(self) -> dict[str, PoolFact]:
        self.pools.publish()
        return {fact.name: fact for fact in self.stream.facts() if isinstance(fact, PoolFact)}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()


def test_a_tree_is_found_again_after_a_restart(world: World, tmp_path: Path) -> None:
    web = world.pools.create("ha-root-pool", "web", Settings(Allocation(1000), EXPANDABLE, True))
    front = world.pools.create(web, "front", OPEN)
    vm = world.add("one")
    world.pools.assign(vm, front)
    world.store.close()
    again = World(tmp_path)
    again.inventory.publish_all(1, 1)
    assert again.inventory.vm(vm).pool == front
    facts = again.facts()
    assert facts["front"].parent == web
    assert facts["web"].cpu.reservation == 1000
    assert facts["web"].scale_descendants
    assert facts["Resources"].cpu_usage.reservation_used == 1000
    assert facts["Resources"].cpu_usage.unreserved == 5000
    again.store.close()


def test_levels_count_and_stated_numbers_of_levels_do_not(world: World) -> None:
    pool = world.pools.create(
        "ha-root-pool", "p", Settings(Allocation(shares_level="high", shares=1), EXPANDABLE)
    )
    assert world.pools.pools()[pool].cpu.shares == 8000
    with pytest.raises(ArgumentError):
        world.pools.update(pool, None, Settings(Allocation(shares_level="huge"), EXPANDABLE))


def test_a_refused_change_leaves_the_tree_as_it_was(world: World) -> None:
    fixed = world.pools.create("ha-root-pool", "fixed", Settings(Allocation(2000), EXPANDABLE))
    before = world.pools.pools()
    with pytest.raises(AdmissionError) as refused:
        world.pools.create(fixed, "much", Settings(Allocation(2500), EXPANDABLE))
    assert (refused.value.requested, refused.value.available) == (2500, 2000)
    fault = fault_of(refused.value)
    assert fault.fault == "InsufficientCpuResourcesFault"
    assert dict(fault.details) == {"requested": "2500", "unreserved": "2000"}
    with pytest.raises(ArgumentError):
        world.pools.create("ha-root-pool", "fixed", OPEN)
    with pytest.raises(ArgumentError):
        world.pools.move(fixed, fixed)
    assert world.pools.pools() == before


def test_nothing_is_moved_into_a_pool_of_somebody_else(world: World) -> None:
    theirs = world.pools.create("ha-root-pool", "theirs", OPEN)
    mine = world.pools.create("ha-root-pool", "mine", OPEN)
    vm = world.add("one")
    world.forbidden = theirs
    for request in (c.AssignVm("", vm, theirs), c.MovePool("", mine, theirs)):
        with pytest.raises(PermissionDeniedError):
            world.ask(request)
    assert world.inventory.vm(vm).pool == "ha-root-pool"
    world.ask(c.AssignVm("", vm, mine))
    assert world.inventory.vm(vm).pool == mine


@pytest.mark.parametrize("name", ["", "a" * 81, "two\nlines"])
def test_names_that_nobody_could_read_are_refused(world: World, name: str) -> None:
    with pytest.raises(ArgumentError):
        world.pools.create("ha-root-pool", name, OPEN)


def test_what_is_in_a_removed_pool_moves_up(world: World) -> None:
    outer = world.pools.create("ha-root-pool", "outer", OPEN)
    inner = world.pools.create(outer, "inner", OPEN)
    vm = world.add("one")
    world.pools.assign(vm, inner)
    world.ask(c.RemovePool("", inner))
    assert world.inventory.vm(vm).pool == outer
    assert "inner" not in world.facts()
    with pytest.raises(NotFoundError):
        world.ask(c.RemovePool("", inner))
    with pytest.raises(ArgumentError):
        world.ask(c.RemovePool("", "ha-root-pool"))


def test_a_claim_is_held_while_a_vm_starts_and_given_back_when_that_fails(world: World) -> None:
    vm = world.add("one", sched_cpu_min="2500")
    with world.holding(vm):
        assert world.facts()["Resources"].cpu_usage.reservation_used == 2500
    assert world.facts()["Resources"].cpu_usage.reservation_used == 0


def test_two_starts_at_once_are_not_both_given_the_last_of_it(world: World) -> None:
    vms = [world.add(name, sched_cpu_min="2000", numvcpus="1") for name in ("a", "b", "c", "d")]
    with world.holding(vms[0]), world.holding(vms[1]), world.holding(vms[2]):
        with pytest.raises(AdmissionError) as refused, world.holding(vms[3]):
            pass
        assert refused.value.available == 0
    with world.holding(vms[3]):
        assert world.facts()["Resources"].cpu_usage.reservation_used == 2000


def test_memory_is_refused_with_overhead_counted(world: World) -> None:
    vm = world.add("big", memSize="8192", sched_mem_min="8192")
    with pytest.raises(AdmissionError) as refused, world.holding(vm):
        pass
    assert refused.value.resource == "host-memory"
    assert refused.value.requested > 8 * GIB == refused.value.available


def test_no_vcpu_may_reserve_more_than_a_core(world: World) -> None:
    vm = world.add("fast", sched_cpu_min="3500")
    with pytest.raises(AdmissionError) as refused, world.holding(vm):
        pass
    assert refused.value.resource == "per-cpu"


def test_a_vms_resources_are_written_into_its_file(world: World) -> None:
    vm = world.add("one")
    world.ask(c.ReconfigureResources("", vm, Allocation(500, 2000, "high"), None))
    text = (world.place / "volumes/datastore1/one/one.vmx").read_text()
    assert 'sched.cpu.min = "500"' in text
    assert 'sched.cpu.max = "2000"' in text
    assert world.inventory.vm(vm).config.cpu_allocation.shares == 2000
    with pytest.raises(ArgumentError):
        world.ask(c.ReconfigureResources("", vm, Allocation(500, 400), None))
    with pytest.raises(ArgumentError):
        world.ask(c.ReconfigureResources("", vm, None, Allocation(2048)))


def test_a_vms_resources_are_not_written_while_a_task_has_it_for_itself(world: World) -> None:
    vm = world.add("one")
    file = world.place / "volumes/datastore1/one/one.vmx"
    before = file.read_bytes()
    handler: Any = world.calls.handlers()[c.ReconfigureResources]
    request = c.ReconfigureResources("", vm, Allocation(500), None)

    async def story() -> None:
        ready = asyncio.Event()

        async def work(_: Job) -> str:
            await ready.wait()
            return ""

        world.tasks.start(vm, "VirtualMachine", "clone", "root", work)
        with pytest.raises(BusyError):
            await handler(request, LOCAL_ROOT)
        assert file.read_bytes() == before
        ready.set()
        await world.tasks.drain()
        await handler(request, LOCAL_ROOT)

    asyncio.run(story())
    assert b'sched.cpu.min = "500"' in file.read_bytes()


def test_a_running_vm_is_not_reconfigured_beyond_what_there_is(world: World) -> None:
    vm = world.add("one", numvcpus="2")
    fact = world.inventory.vm(vm)
    wanted = replace(fact.config, cpu_allocation=Allocation(5000))
    with world.holding(vm):
        world.pools.admit_config(fact, wanted)
        world.pools.create("ha-root-pool", "other", Settings(Allocation(2000), EXPANDABLE))
        with pytest.raises(AdmissionError):
            world.pools.admit_config(fact, wanted)
    world.pools.admit_config(fact, wanted)


def test_explanations_and_what_if_agree_with_what_is_done(world: World) -> None:
    vms = [world.add(name, numvcpus="2") for name in ("one", "two")]
    with world.holding(vms[0]), world.holding(vms[1]):
        told = world.ask(c.Explain("", vms[0]))
        assert [reasons.resource for reasons in told.reasons] == ["cpu", "memory"]
        assert told.reasons[0].amount == 3000
        assert told.reasons[0].steps[-1].bound == "shares"
        trial = c.Trial("set", vms[0], cpu=Allocation(shares_level="high"))
        cpu, memory = world.ask(c.WhatIf("", (trial,))).outcomes
        assert {(m.vm, m.before, m.after) for m in cpu.moved} == {
            (vms[0], 3000, 4000),
            (vms[1], 3000, 2000),
        }
        assert memory.moved == ()
        assert world.inventory.vm(vms[0]).config.cpu_allocation.shares_level == "normal"
        world.ask(c.ReconfigureResources("", vms[0], Allocation(shares_level="high")))
    # The claim that was held is of the old configuration: a start in progress is not changed.
    with world.holding(vms[0]), world.holding(vms[1]):
        assert world.ask(c.Explain("", vms[0])).reasons[0].amount == 4000


def test_shares_of_disks_are_told_with_what_weighs_them(world: World) -> None:
    two = {f"scsi0:{unit}.{what}": value for unit in range(2) for what, value in DISK.items()}
    vm = world.add("one", **two, scsi0_present="TRUE", **{"sched.scsi0:1.shares": "high"})
    pool = world.pools.create("ha-root-pool", "p", OPEN)
    with world.holding(vm):
        for weigher in ("", "BFQ"):
            world.weigher = weigher
            told = world.ask(c.Explain("", vm))
            assert (told.disk_shares, told.disk_weigher) == (3000, weigher)
        assert world.ask(c.Explain("", pool)).disk_shares == 0


def test_what_if_stops_at_the_first_refusal(world: World) -> None:
    trials = (
        c.Trial("create", "a", cpu=Allocation(4000)),
        c.Trial("create", "b", cpu=Allocation(4000)),
        c.Trial("create", "c"),
    )
    cpu, memory = world.ask(c.WhatIf("", trials)).outcomes
    assert cpu.admitted == 1
    assert cpu.refusal is not None
    assert cpu.refusal.fault == "InsufficientHostCpuCapacityFault"
    assert memory.refusal is None
    with pytest.raises(ArgumentError):
        world.ask(c.WhatIf("", ()))
    assert world.pools.pools() == {}
