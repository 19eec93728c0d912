"""Maintenance mode: a host on which no VM runs, for whoever works on it.

It outlasts a reboot, as on ESXi. VMs are not stopped by it: whoever asks for it does that, or
waits. While it is waited for, no VM is started either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Final

from casemate.calls.maintenance import EnterMaintenance, ExitMaintenance
from casemate.calls.messages import TaskReply
from casemate.errors import CancelledError, StateError, TimedOutError
from casemate.kernel.accounts import Session
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import Job, Tasks
from casemate.machine.facts import HostFact, PowerState, VmConfig, VmFact

HOST: Final = "ha-host"
_NAME: Final = "maintenance"
_LOOK: Final = 0.25
"""Seconds between looks at what runs."""

Admission = Callable[[str, VmConfig], AbstractContextManager[None]]


class Maintenance:
    """Enters and leaves the mode, and refuses to start VMs meanwhile."""

    def __init__(self, store: Store, stream: FactStream, tasks: Callable[[], Tasks]) -> None:
        self._store = store
        self._stream = stream
        self._tasks = tasks
        self._entering = False
        self._stopping = False
        self._starting: list[str] = []

    @property
    def on(self) -> bool:
        """Whether the host is in maintenance mode."""
        return self._store.value(_NAME) == "TRUE"

    def handlers(self) -> dict[type, Callable[..., Awaitable[object]]]:
        """Return what answers which request."""
        return {EnterMaintenance: self._enter, ExitMaintenance: self._exit}

    def guarded(self, admission: Admission) -> Admission:
        """Return the admission of VMs that refuses all of them in maintenance mode."""

        @contextmanager
        def starting(vm: str, config: VmConfig) -> Iterator[None]:
            if self.on or self._entering:
                raise StateError(
                    "No VM is started: the host is in maintenance mode, or enters it.",
                    code="maintenance-mode",
                    component=config.name,
                    remedy="Leave maintenance mode first.",
                )
            self._starting.append(config.name)
            try:
                with admission(vm, config):
                    yield
            finally:
                self._starting.remove(config.name)

        return starting

    def stop(self) -> None:
        """End a wait: the host stops."""
        self._stopping = True

    async def _enter(self, request: EnterMaintenance, session: Session) -> TaskReply:
        if self.on:
            raise StateError("The host is in maintenance mode already.", component=HOST)

        async def work(job: Job) -> str:
            await self._drained(job, request.seconds)
            return ""

        operation = "enterMaintenanceMode"
        task = self._tasks().start(
            *(HOST, "HostSystem", operation, session.user, work), cancellable=True
        )
        return TaskReply(task)

    async def _drained(self, job: Job, seconds: int) -> None:
        waited = 0.0
        self._entering = True
        try:
            while running := self._running():
                job.check()
                if self._stopping:
                    raise CancelledError("The host stops.")
                if seconds and waited >= seconds:
                    raise TimedOutError(
                        f"{len(running)} VMs still run, such as {running[0]:.80}.",
                        component=HOST,
                        remedy="Power them off or suspend them, then enter again.",
                    )
                await asyncio.sleep(_LOOK)
                waited += _LOOK
            self._set(on=True)
        finally:
            self._entering = False

    async def _exit(self, _request: ExitMaintenance, session: Session) -> TaskReply:
        if not self.on:
            raise StateError("The host is not in maintenance mode.", component=HOST)

        async def work(_: Job) -> str:
            self._set(on=False)
            return ""

        task = self._tasks().start(HOST, "HostSystem", "exitMaintenanceMode", session.user, work)
        return TaskReply(task)

    def _running(self) -> list[str]:
        """Return the names of the VMs that run, or are just being started."""
        running = [
            fact.config.name
            for fact in self._stream.facts()
            if isinstance(fact, VmFact) and fact.power is PowerState.POWERED_ON
        ]
        return running + self._starting

    def _set(self, *, on: bool) -> None:
        self._store.set_value(_NAME, "TRUE" if on else "FALSE")
        fact = self._stream.fact("HostFact", HOST)
        if isinstance(fact, HostFact):
            self._stream.publish(replace(fact, in_maintenance_mode=on))
