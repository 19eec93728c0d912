"""Tasks: long operations, one at a time per object, each ending in success or a named fault."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace

from casemate.errors import AdmissionError, BusyError, CasemateError, PowerStateError
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
    elif argument := getattr(error, "argument", ""):
        details = (("invalidProperty", str(argument)),)
    elif privilege := getattr(error, "privilege", ""):
        details = (("privilegeId", str(privilege)),)
    return FaultFact(name, error.code, error.reason, error.remedy, details)


class Tasks:
    """Starts tasks and publishes what becomes of them. ``clock`` gives Unix seconds."""

    def __init__(self, stream: FactStream, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._number = 0
        self._busy: dict[str, str] = {}
        self._done: OrderedDict[str, None] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()

    def start(
        self,
        entity: str,
        entity_kind: str,
        operation: str,
        user: str,
        work: Callable[[], Awaitable[str]],
        *,
        exclusive: bool = True,
    ) -> str:
        """Start the work as a task and return its id. Raises BusyError when the object is taken.

        A task that is not ``exclusive`` runs beside others on its object: a folder's.
        """
        if exclusive and (holder := self._busy.get(entity)) is not None:
            raise BusyError(f"Another task ({holder}) is already in progress.", component=entity)
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
        )
        if exclusive:
            self._busy[entity] = fact.task
        self._stream.publish(fact)
        running = asyncio.ensure_future(self._run(fact, work))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return fact.task

    async def drain(self) -> None:
        """Wait for all running tasks."""
        while self._running:
            await asyncio.wait(tuple(self._running))

    async def _run(self, fact: TaskFact, work: Callable[[], Awaitable[str]]) -> None:
        try:
            result = await work()
            fact = replace(fact, state=TaskState.SUCCESS, progress=100, result=result)
        except CasemateError as error:
            fact = replace(fact, state=TaskState.ERROR, error=fault_of(error))
        except Exception:  # noqa: BLE001  (a task must always end, whatever was forgotten inside it)
            _log.exception("task %s failed", fact.task)
            error_fact = fault_of(CasemateError("A general system error occurred"))
            fact = replace(fact, state=TaskState.ERROR, error=error_fact)
        finally:
            if self._busy.get(fact.entity) == fact.task:
                del self._busy[fact.entity]
        self._stream.publish(replace(fact, completed=self._clock()))
        self._done[fact.task] = None
        while len(self._done) > KEPT:
            old, _ = self._done.popitem(last=False)
            self._stream.retract(TaskFact, old)
