"""Maintenance mode: waits for the last VM, starts none, outlasts a reboot."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from casemate.calls.maintenance import EnterMaintenance, ExitMaintenance
from casemate.errors import StateError
from casemate.kernel.accounts import Session
from casemate.kernel.maintenance import Maintenance
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import Tasks
from casemate.machine.facts import HostFact, PowerState, TaskFact, TaskState, VmConfig
from casemate.testing.fakefacts import HOST, fake_vm

CONFIG = fake_vm(1).config
RUNNING = replace(fake_vm(1), power=PowerState.POWERED_ON)


class World:
    def __init__(self, place: Path) -> None:
        self.store = Store(place / "state.db")
        self.stream = FactStream()
        self.tasks = Tasks(self.stream, lambda: 0.0)
        self.mode = Maintenance(self.store, self.stream, lambda: self.tasks)
        self.stream.publish(HOST)
        self.session = object.__new__(Session)
        object.__setattr__(self.session, "user", "root")

    async def ask(self, request: object) -> TaskFact:
        reply = await self.mode.handlers()[type(request)](request, self.session)
        return self.tasks.find(reply.task)

    async def ended(self, task: TaskFact) -> TaskFact:
        await self.tasks.drain()
        return self.tasks.find(task.task)

    @property
    def shown(self) -> bool:
        fact = self.stream.fact("HostFact", "ha-host")
        assert isinstance(fact, HostFact)
        return fact.in_maintenance_mode

    def starts(self) -> bool:
        @contextmanager
        def admit(_vm: str, _config: VmConfig) -> Iterator[None]:
            yield

        try:
            with self.mode.guarded(admit)("1", CONFIG):
                return True
        except StateError:
            return False


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()


def test_an_idle_host_enters_at_once_starts_nothing_and_leaves(world: World) -> None:
    async def story() -> None:
        task = await world.ended(await world.ask(EnterMaintenance("")))
        assert (task.state, world.mode.on, world.shown) == (TaskState.SUCCESS, True, True)
        assert not world.starts()
        with pytest.raises(StateError):
            await world.ask(EnterMaintenance(""))
        await world.ended(await world.ask(ExitMaintenance("")))
        assert world.starts()
        assert not world.shown
        with pytest.raises(StateError):
            await world.ask(ExitMaintenance(""))

    asyncio.run(story())


def test_it_waits_for_the_last_vm_and_starts_none_meanwhile(world: World) -> None:
    async def story() -> None:
        world.stream.publish(RUNNING)
        task = await world.ask(EnterMaintenance(""))
        await asyncio.sleep(0)
        assert not world.starts()
        assert not world.mode.on
        world.stream.publish(fake_vm(1))
        assert (await world.ended(task)).state is TaskState.SUCCESS

    asyncio.run(story())


def test_it_waits_for_a_vm_that_is_just_being_started(world: World) -> None:
    @contextmanager
    def admit(_vm: str, _config: VmConfig) -> Iterator[None]:
        yield

    async def story() -> None:
        with world.mode.guarded(admit)("1", CONFIG):
            task = await world.ask(EnterMaintenance("", 1))
            await asyncio.sleep(0)
            assert not world.mode.on
            ended = await world.ended(task)
        assert ended.error is not None
        assert CONFIG.name in ended.error.reason
        assert (await world.ended(await world.ask(EnterMaintenance("")))).error is None

    asyncio.run(story())


@pytest.mark.parametrize("how", ["timeout", "cancelled", "stopped"])
def test_a_wait_that_ends_early_leaves_the_host_as_it_was(world: World, how: str) -> None:
    async def story() -> None:
        world.stream.publish(RUNNING)
        task = await world.ask(EnterMaintenance("", 1 if how == "timeout" else 0))
        await asyncio.sleep(0)
        if how == "cancelled":
            world.tasks.cancel(task.task)
        elif how == "stopped":
            world.mode.stop()
        ended = await world.ended(task)
        assert ended.error is not None
        wanted = "Timedout" if how == "timeout" else "RequestCanceled"
        assert ended.error.fault == wanted
        assert world.starts()
        assert not world.mode.on

    asyncio.run(story())


def test_it_outlasts_a_reboot(world: World) -> None:
    async def story() -> None:
        await world.ended(await world.ask(EnterMaintenance("")))

    asyncio.run(story())
    assert Maintenance(world.store, FactStream(), lambda: world.tasks).on
