"""Tasks end, in success or a named fault, and hold their object meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from casemate.errors import BusyError, PowerStateError
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import KEPT, Tasks
from casemate.machine.facts import TaskFact, TaskState


def facts(stream: FactStream) -> list[TaskFact]:
    return [fact for fact in stream.facts() if isinstance(fact, TaskFact)]


async def succeed() -> str:
    return "7"


async def forbid() -> str:
    raise PowerStateError("no", requested="poweredOn", existing="poweredOn")


async def stumble() -> str:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("work", "state", "fault"),
    [
        (succeed, TaskState.SUCCESS, None),
        (forbid, TaskState.ERROR, "InvalidPowerState"),
        (stumble, TaskState.ERROR, "SystemError"),
    ],
)
def test_every_task_ends_in_success_or_a_named_fault(
    work: object, state: TaskState, fault: str | None
) -> None:
    async def run() -> None:
        stream = FactStream()
        tasks = Tasks(stream, lambda: 1.0)
        tasks.start("1", "VirtualMachine", "powerOn", "root", work)  # type: ignore[arg-type]
        await tasks.drain()
        (fact,) = facts(stream)
        assert fact.state is state
        assert (fact.error.fault if fact.error else None) == fault
        assert fact.completed == 1.0

    asyncio.run(run())


def test_an_object_serves_one_task_at_a_time_and_is_free_again_after_a_failure() -> None:
    async def run() -> None:
        tasks = Tasks(FactStream(), lambda: 1.0)
        tasks.start("1", "VirtualMachine", "powerOn", "root", stumble)
        with pytest.raises(BusyError):
            tasks.start("1", "VirtualMachine", "powerOff", "root", succeed)
        tasks.start("2", "VirtualMachine", "powerOff", "root", succeed)
        await tasks.drain()
        tasks.start("1", "VirtualMachine", "powerOff", "root", succeed)
        await tasks.drain()

    asyncio.run(run())


def test_finished_tasks_are_forgotten_in_order() -> None:
    async def run() -> None:
        stream = FactStream()
        tasks = Tasks(stream, lambda: 1.0)
        for number in range(KEPT + 20):
            tasks.start(str(number), "VirtualMachine", "powerOn", "root", succeed)
        await tasks.drain()
        kept = facts(stream)
        assert len(kept) == KEPT
        assert "0" not in {fact.entity for fact in kept}

    asyncio.run(run())
