"""Tasks: long operations, one at a time per object, each ending in success or a named fault."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace

from casemate.errors import (
    AdmissionError,
    BusyError,
    CancelledError,
    CasemateError,
    FileError,
    NamedError,
    NotFoundError,
    NotSupportedError,
    PowerStateError,
    StateError,
    file_details,
)
from casemate.kernel.stream import FactStream
from casemate.machine.facts import FaultFact, TaskFact, TaskState
from casemate.sched.admission import FAULTS

KEPT = 200
"""Finished tasks remembered: what an ESXi host's recent task list holds."""

_log = logging.getLogger(__name__)


def fault_of(error: CasemateError) -> FaultFact:
    """Turn an error into the fault that goes out."""
    details: tuple[tuple[str, str], ...] = ()
    name = error.fault
    if isinstance(error, AdmissionError):
        name = FAULTS.get(error.resource, name)
        details = (("unreserved", str(error.available)), ("requested", str(error.requested)))
    elif isinstance(error, PowerStateError):
        details = (("requestedState", error.requested), ("existingState", error.existing))
    elif isinstance(error, BusyError) and error.task:
        details = (("task", f"Task:{error.task}"),)
    elif isinstance(error, FileError):
        details = tuple(file_details(error).items())
    elif isinstance(error, NamedError):
        details = (("name", error.name), ("object", getattr(error, "holder", "")))
    elif argument := getattr(error, "argument", ""):
        details = (("invalidProperty", str(argument)),)
    elif privilege := getattr(error, "privilege", ""):
        details = (("privilegeId", str(privilege)),)
    return FaultFact(name, error.code, error.reason, error.remedy, details)


class Job:
    """A task as its work sees it; all methods may be called from any thread.

    ``publish`` is told the percent done, in the thread of the event loop.
    """

    def __init__(self, publish: Callable[[int], None]) -> None:
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._cancelled = threading.Event()
        self._percent = 0

    def cancel(self) -> None:
        """Ask the work to end."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise CancelledError once the task was cancelled."""
        if self._cancelled.is_set():
            raise CancelledError("The task was canceled by a user.")

    def report(self, done: int, total: int) -> None:
        """Tell how far the work is. Raises CancelledError as ``check`` does."""
        self.check()
        percent = min(99, 100 * done // max(total, 1))
        if percent > self._percent:
            self._percent = percent
            self._loop.call_soon_threadsafe(self._publish, percent)

    def counter(self, total: int) -> Callable[[int], None]:
        """Return what is told of each further part that is done, of ``total``."""
        done = 0

        def step(amount: int) -> None:
            nonlocal done
            done += amount
            self.report(done, total)

        return step


Work = Callable[[Job], Awaitable[str]]


class Tasks:
    """Starts tasks and publishes what becomes of them. ``clock`` gives Unix seconds."""

    def __init__(self, stream: FactStream, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._number = 0
        self._busy: dict[str, str] = {}
        self._done: OrderedDict[str, None] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()
        self._jobs: dict[str, Job] = {}

    def start(
        self,
        entity: str,
        entity_kind: str,
        operation: str,
        user: str,
        work: Work,
        *,
        exclusive: bool = True,
        cancellable: bool = False,
    ) -> str:
        """Start the work as a task and return its id. Raises BusyError when the object is taken.

        A task that is not ``exclusive`` runs beside others on its object: a folder's. The work of
        a ``cancellable`` one asks its job now and then whether it shall go on.
        """
        if exclusive:
            self.demand_free(entity)
        self._number += 1
        fact = TaskFact(
            task=f"haTask-{entity}-vim.{entity_kind}.{operation}-{self._number}",
            entity=entity,
            entity_kind=entity_kind,
            operation=operation,
            state=TaskState.RUNNING,
            progress=0,
            queued=self._clock(),
            user=user,
            started=self._clock(),
            cancellable=cancellable,
        )
        job = Job(lambda percent: self._progress(fact.task, percent))
        self._jobs[fact.task] = job
        if exclusive:
            self._busy[entity] = fact.task
        self._stream.publish(fact)
        running = asyncio.ensure_future(self._run(fact, work, job))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return fact.task

    def demand_free(self, entity: str) -> None:
        """Raise BusyError where a task has the object for itself."""
        if (holder := self._busy.get(entity)) is not None:
            reason = f"Another task ({holder}) is already in progress."
            raise BusyError(reason, component=entity, task=holder)

    def find(self, task: str) -> TaskFact:
        """Return a task. Raises NotFoundError."""
        fact = self._stream.fact("TaskFact", task)
        if not isinstance(fact, TaskFact):
            raise NotFoundError(f"there is no task {task[:120]!r}", component=task)
        return fact

    def cancel(self, task: str) -> None:
        """Ask a task to end; it does so at its next look, undone.

        Raises:
            NotFoundError: There is no such task.
            StateError: It has ended already.
            NotSupportedError: It cannot be left half-way.
        """
        fact = self.find(task)
        if (job := self._jobs.get(task)) is None:
            raise StateError("The task has ended already.", code="task-ended", component=task)
        if not fact.cancellable:
            raise NotSupportedError("This task cannot be cancelled.", component=task)
        self._stream.publish(replace(fact, cancelled=True))
        job.cancel()

    async def drain(self) -> None:
        """Wait for all running tasks."""
        while self._running:
            await asyncio.wait(tuple(self._running))

    def _progress(self, task: str, percent: int) -> None:
        """Publish how far a task is, unless it has ended meanwhile."""
        if task in self._jobs:
            self._stream.publish(replace(self.find(task), progress=percent))

    async def _run(self, fact: TaskFact, work: Work, job: Job) -> None:
        error: FaultFact | None = None
        result = ""
        try:
            result = await work(job)
        except CasemateError as raised:
            error = fault_of(raised)
        except Exception:  # noqa: BLE001  (a task must always end, whatever was forgotten inside it)
            _log.exception("task %s failed", fact.task)
            error = fault_of(CasemateError("A general system error occurred"))
        finally:
            del self._jobs[fact.task]
            if self._busy.get(fact.entity) == fact.task:
                del self._busy[fact.entity]
        fact = replace(self.find(fact.task), completed=self._clock(), cancellable=False)
        if error is None:
            fact = replace(fact, state=TaskState.SUCCESS, progress=100, result=result)
        else:
            fact = replace(fact, state=TaskState.ERROR, error=error)
        self._stream.publish(fact)
        self._done[fact.task] = None
        while len(self._done) > KEPT:
            old, _ = self._done.popitem(last=False)
            self._stream.retract(TaskFact, old)
