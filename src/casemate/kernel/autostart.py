"""Starts VMs with the host and stops them with it, one after the other."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, replace
from typing import Final

from casemate.calls import autostart as c
from casemate.calls.messages import Empty
from casemate.errors import CasemateError
from casemate.kernel.accounts import Session
from casemate.kernel.host import Handler
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import Job
from casemate.kernel.vmcontext import VmContext
from casemate.kernel.vmpower import VmPower
from casemate.machine.autostart import (
    AutoStartDefaults,
    AutoStartEntry,
    AutoStartFact,
    Turn,
    check_defaults,
    merged,
    starting,
    stopping,
)
from casemate.machine.facts import PowerState, VmFact
from casemate.machine.power import Operation

_KEPT: Final = "autostart"
# Seconds: between looks whether a guest has shut down.
_PAUSE: Final = 0.2
_log = logging.getLogger(__name__)


class AutoStarter:
    """Handlers of the requests about it. ``wait`` sleeps so many seconds."""

    def __init__(
        self,
        context: VmContext,
        power: VmPower,
        stream: FactStream,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._context = context
        self._power = power
        self._stream = stream
        self._wait = wait
        self._jobs: set[asyncio.Task[None]] = set()
        self._setting = _loaded(context.store.value(_KEPT))
        stream.publish(self._setting)

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers by request."""
        return {c.SetAutoStart: self._set, c.AutoStart: self._start, c.AutoStop: self._stop}

    async def boot(self) -> None:
        """Start the VMs that start with the host, if that is switched on."""
        if self._setting.defaults.enabled:
            await self.start()

    async def start(self) -> None:
        """Start the VMs in their order; one that does not start is told of in the log."""
        for turn in starting(self._setting):
            fact = self._find(turn)
            if fact is None or fact.power is PowerState.POWERED_ON:
                continue
            if await self._try(turn, self._begin):
                await self._wait(turn.delay)

    async def stop(self, longest: float = float("inf")) -> None:
        """Stop the VMs in the reverse order; ``longest`` bounds the wait for one guest."""
        for turn in stopping(self._setting):
            fact = self._find(turn)
            if fact is not None and fact.power is PowerState.POWERED_ON:
                delay = min(turn.delay, longest)
                await self._try(replace(turn, delay=int(delay)), self._end)

    async def shut_down(self, longest: float) -> None:
        """Stop the VMs with the host, if that is switched on."""
        await self.close()
        if self._setting.defaults.enabled:
            await self.stop(longest)

    async def close(self) -> None:
        """Stop starting and stopping."""
        for job in tuple(self._jobs):
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    async def _begin(self, turn: Turn, _: Job) -> None:
        await self._power.power_on(self._context.inventory.vm(turn.vm))

    async def _end(self, turn: Turn, job: Job) -> None:
        fact = self._context.inventory.vm(turn.vm)
        if turn.action == "guestShutdown":
            await self._context.cells.shutdown_guest(turn.vm)
            waited = 0.0
            while waited < turn.delay:
                await self._wait(_PAUSE)
                waited += _PAUSE
                if self._context.inventory.vm(turn.vm).power is not PowerState.POWERED_ON:
                    return
        elif turn.action == "suspend":
            await self._power.suspend(fact, job)
            return
        await self._power.power_off(fact)

    async def _try(self, turn: Turn, action: Callable[[Turn, Job], Awaitable[None]]) -> bool:
        """Do it as a task of the VM; returns whether it was done."""
        done = asyncio.get_running_loop().create_future()

        async def work(job: Job) -> str:
            try:
                await action(turn, job)
            except BaseException:
                done.set_result(False)
                raise
            done.set_result(True)
            return ""

        operation = Operation.POWER_ON if turn.action == "powerOn" else Operation.POWER_OFF
        operation = Operation.SUSPEND if turn.action == "suspend" else operation
        try:
            self._context.tasks.start(turn.vm, "VirtualMachine", operation, "", work)
        except CasemateError as error:
            _log.warning("VM %s: %s", turn.vm, error.reason)
            return False
        return bool(await asyncio.shield(done))

    def _find(self, turn: Turn) -> VmFact | None:
        try:
            return self._context.inventory.vm(turn.vm)
        except CasemateError:
            return None

    async def _set(self, request: c.SetAutoStart, _: Session) -> Empty:
        for entry in request.entries:
            self._context.inventory.vm(entry.vm)
        setting = self._setting
        if request.defaults is not None:
            check_defaults(request.defaults)
            setting = replace(setting, defaults=request.defaults)
        known = {fact.vm for fact in self._context.inventory.vms()}
        kept = tuple(entry for entry in setting.entries if entry.vm in known)
        self._setting = merged(replace(setting, entries=kept), request.entries)
        self._context.store.set_value(_KEPT, json.dumps(asdict(self._setting)))
        self._stream.publish(self._setting)
        return Empty()

    async def _start(self, _request: c.AutoStart, _: Session) -> Empty:
        self._run(self.start())
        return Empty()

    async def _stop(self, _request: c.AutoStop, _: Session) -> Empty:
        self._run(self.stop())
        return Empty()

    def run_boot(self) -> None:
        """Begin with what ``boot`` does, beside everything else."""
        self._run(self.boot())

    def _run(self, work: Coroutine[object, object, None]) -> None:
        job = asyncio.ensure_future(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)


def _loaded(text: str | None) -> AutoStartFact:
    if text is None:
        return AutoStartFact()
    kept = json.loads(text)
    entries = tuple(AutoStartEntry(**entry) for entry in kept["entries"])
    return AutoStartFact(AutoStartDefaults(**kept["defaults"]), entries)
