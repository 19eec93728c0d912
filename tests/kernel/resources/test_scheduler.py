"""The loops with numbers of our own: no guest, no clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.resources.test_pools import World

from casemate.kernel.cells.hostmemory import HostMemory
from casemate.sched.memory import MIB, MemoryState, minimum_free

HOST = 16 << 30
LEAST = minimum_free(HOST)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()


def started(world: World, **entries: str) -> str:
    vm = world.add("one", **entries)
    world.groups.make(vm)
    world.groups.use(vm, held=900 * MIB)
    return vm


def telling(world: World, *, actual: int, available: int) -> None:
    """Let the guest tell about its memory."""
    stats = {"stat-total-memory": 1024 * MIB, "stat-available-memory": available}
    world.qmp.answers["qom-get"] = {"stats": stats, "last-update": 5}
    world.qmp.answers["query-balloon"] = {"actual": actual}


def passes(world: World, free: int) -> None:
    """Let one pass over processors and one over memory happen."""
    world.memory = HostMemory(HOST, free)
    world.now += 60

    async def story() -> None:
        await world.scheduler.share_cpu()
        await world.scheduler.watch_memory()
        await world.scheduler.share_cpu()

    asyncio.run(story())


def test_nothing_is_taken_while_there_is_plenty(world: World) -> None:
    vm = started(world)
    with world.holding(vm):
        telling(world, actual=1024 * MIB, available=900 * MIB)
        passes(world, HOST // 2)
    assert world.scheduler.state is MemoryState.HIGH
    assert world.qmp.target == 0


def test_what_is_missing_is_taken_from_the_idle_and_not_more_than_is_safe(world: World) -> None:
    vm = started(world)
    with world.holding(vm):
        telling(world, actual=1024 * MIB, available=900 * MIB)
        passes(world, LEAST // 2)
        assert world.scheduler.state is MemoryState.SOFT
        assert world.qmp.target >= 1024 * MIB * 35 // 100
        assert world.qmp.target < 1024 * MIB
        (balloon,) = [d for d in world.scheduler.decisions.about(vm, 99) if d.what == "balloon"]
        assert dict(balloon.inputs)["missing"] == LEAST - LEAST // 2


def test_at_its_lowest_a_vm_above_its_part_is_slowed_and_then_let_go(world: World) -> None:
    vm = started(world)
    quota = world.groups.place / vm / "cpu.max"
    with world.holding(vm):
        telling(world, actual=1024 * MIB, available=100 * MIB)
        world.groups.use(vm, held=64 * MIB)
        passes(world, 0)
        assert world.scheduler.state is MemoryState.LOW
        assert quota.read_text() == "10000 100000"
        passes(world, HOST // 2)
        passes(world, HOST // 2)
        assert quota.read_text() == "max 100000"


def test_at_the_lowest_state_a_busy_vm_is_slowed_only_if_it_takes_more(world: World) -> None:
    vm = started(world)
    quota = world.groups.place / vm / "cpu.max"
    with world.holding(vm):
        telling(world, actual=1024 * MIB, available=60 * MIB)
        world.groups.use(vm, held=900 * MIB)
        passes(world, HOST // 2)
        passes(world, 0)
        assert world.scheduler.state is MemoryState.LOW
        assert quota.read_text() == "max 100000"
        world.groups.use(vm, held=940 * MIB)
        passes(world, 0)
        assert quota.read_text() == "10000 100000"


def test_a_memory_limit_below_the_size_is_kept_by_the_balloon(world: World) -> None:
    vm = started(world, sched_mem_max="600")
    with world.holding(vm):
        telling(world, actual=1024 * MIB, available=900 * MIB)
        passes(world, HOST // 2)
        assert world.qmp.target == 600 * MIB
        telling(world, actual=600 * MIB, available=450 * MIB)
        world.qmp.target = 0
        passes(world, HOST // 2)
        assert world.qmp.target == 0, "it is not given back beyond its limit"


def test_a_guest_without_a_driver_is_not_asked_for_ever(world: World) -> None:
    vm = started(world)
    with world.holding(vm):
        for _ in range(3):
            passes(world, LEAST // 3)
        asked = [d for d in world.scheduler.decisions.about(vm, 99) if d.what == "balloon"]
    assert len(asked) <= 2


def test_a_vm_whose_group_has_just_gone_disturbs_nobody(world: World) -> None:
    vm, gone = started(world), world.add("two")
    with world.holding(vm), world.holding(gone):
        passes(world, HOST // 2)
        assert world.scheduler.target(vm) is not None
        assert world.scheduler.target(gone) is None
