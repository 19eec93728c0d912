"""Tasks end, in success or a named fault, and hold their object meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from casemate.errors import (
    BusyError,
    NotFoundError,
    NotSupportedError,
    PowerStateError,
    StateError,
)
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import KEPT, Job, Tasks
from casemate.machine.facts import TaskFact, TaskState


def facts(stream: FactStream) -> list[TaskFact]:
    return [fact for fact in stream.facts() if isinstance(fact, TaskFact)]


async def succeed(_: Job) -> str:
    return "7"


async def forbid(_: Job) -> str:
    raise PowerStateError("no", requested="poweredOn", existing="poweredOn")


async def stumble(_: Job) -> str:
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


def test_work_tells_its_progress_from_any_thread_and_it_only_grows() -> None:
    async def run() -> None:
        stream = FactStream()
        tasks = Tasks(stream, lambda: 1.0)
        seen: list[int] = []

        async def work(job: Job) -> str:
            step = job.counter(200)
            for _ in range(4):
                await asyncio.to_thread(step, 50)
                await asyncio.sleep(0)
                seen.append(facts(stream)[0].progress)
            job.report(1, 200)
            await asyncio.sleep(0)
            seen.append(facts(stream)[0].progress)
            return ""

        tasks.start("1", "VirtualMachine", "clone", "root", work)
        await tasks.drain()
        # A hundred is told by the end alone.
        assert seen == [25, 50, 75, 99, 99]
        assert facts(stream)[0].progress == 100

    asyncio.run(run())


def test_a_cancelled_task_ends_in_requestcanceled_and_can_be_cancelled_no_more() -> None:
    async def run() -> None:
        stream = FactStream()
        tasks = Tasks(stream, lambda: 1.0)

        async def work(job: Job) -> str:
            while True:
                job.check()
                await asyncio.sleep(0)

        task = tasks.start("1", "VirtualMachine", "clone", "root", work, cancellable=True)
        assert facts(stream)[0].cancellable
        tasks.cancel(task)
        assert facts(stream)[0].cancelled
        await tasks.drain()
        (fact,) = facts(stream)
        assert fact.state is TaskState.ERROR
        assert fact.error is not None
        assert (fact.error.fault, fact.cancelled, fact.cancellable) == (
            *("RequestCanceled", True),
            False,
        )
        with pytest.raises(StateError):
            tasks.cancel(task)
        with pytest.raises(NotFoundError):
            tasks.cancel("haTask-2-vim.VirtualMachine.clone-9")

    asyncio.run(run())


def test_a_task_that_cannot_be_left_half_way_is_not_cancelled() -> None:
    async def run() -> None:
        stream = FactStream()
        tasks = Tasks(stream, lambda: 1.0)
        task = tasks.start("1", "VirtualMachine", "powerOn", "root", succeed)
        with pytest.raises(NotSupportedError):
            tasks.cancel(task)
        await tasks.drain()
        assert facts(stream)[0].state is TaskState.SUCCESS

    asyncio.run(run())
