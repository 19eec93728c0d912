"""Guests with an agent: what they say of themselves, shutting down and starting anew."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.errors import CasemateError, ToolsError
from casemate.kernel.accounts import Session
from casemate.kernel.cells.agent import Agent, listens
from casemate.kernel.host import Handler
from casemate.kernel.vmcontext import VmContext
from casemate.machine.facts import GuestFacts, PowerState, VmFact
from casemate.machine.guestagent import host_name, interfaces
from casemate.machine.power import Operation

_LOOK_SECONDS: Final = 15.0
# Guests asked at once: each may take seconds, and all of them together shall not take minutes.
_AT_ONCE: Final = 16
# A frozen guest that is not let go stands still: its agent is asked again, pauses in seconds.
_THAW_TRIES: Final = 3
_THAW_PAUSE: Final = 1.0
_log = logging.getLogger(__name__)


class Guests:
    """Handlers of the requests to guests; ``run`` keeps what is known of them."""

    def __init__(self, context: VmContext) -> None:
        self._context = context
        self._busy: dict[str, asyncio.Lock] = {}

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers by request."""
        return {
            m.ShutdownGuest: self._shutdown,
            c.RebootGuest: self._reboot,
            c.StandbyGuest: self._standby,
        }

    async def run(self) -> None:
        """Ask the guests for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self.look()
            except Exception:  # noqa: BLE001  (one guest's strange words must not end all asking)
                _log.exception("asking the guests failed")

    async def look(self) -> None:
        """Ask every running guest once what it says of itself."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(fact: VmFact) -> None:
            async with gate:
                guest = await self._facts(fact.vm)
            with contextlib.suppress(CasemateError):
                fact = self._context.inventory.vm(fact.vm)
                if fact.power is PowerState.POWERED_ON and fact.guest != guest:
                    self._context.inventory.update(replace(fact, guest=guest))

        running = [f for f in self._context.inventory.vms() if f.power is PowerState.POWERED_ON]
        self._busy = {vm: lock for vm, lock in self._busy.items() if vm in {f.vm for f in running}}
        await asyncio.gather(*(one(fact) for fact in running))

    async def _facts(self, vm: str) -> GuestFacts:
        try:
            async with self._lock(vm), await self._agent(vm) as agent:
                name = host_name(await agent.ask("guest-get-host-name"))
                found = interfaces(await agent.ask("guest-network-get-interfaces"))
        except CasemateError:
            return GuestFacts()
        return GuestFacts(agent=True, host_name=name, interfaces=found)

    async def _agent(self, vm: str) -> Agent:
        """Return the way to a guest's agent. Raises ToolsError where there is none."""
        if not await listens(await self._context.cells.control(vm, Operation.REBOOT_GUEST)):
            raise ToolsError("Cannot complete the operation: no agent runs in the guest.")
        return Agent(self._context.cells.agent_socket(vm))

    def _lock(self, vm: str) -> asyncio.Lock:
        return self._busy.setdefault(vm, asyncio.Lock())

    async def _shutdown(self, request: m.ShutdownGuest, _: Session) -> m.Empty:
        fact = self._context.demand(request.vm, Operation.SHUTDOWN_GUEST)
        try:
            async with self._lock(fact.vm), await self._agent(fact.vm) as agent:
                await agent.tell("guest-shutdown", mode="powerdown")
        except ToolsError:
            await self._context.cells.shutdown_guest(fact.vm)
        return m.Empty()

    async def _standby(self, request: c.StandbyGuest, _: Session) -> m.Empty:
        fact = self._context.demand(request.vm, Operation.STANDBY_GUEST)
        async with self._lock(fact.vm), await self._agent(fact.vm) as agent:
            await agent.tell("guest-suspend-ram")
        return m.Empty()

    @contextlib.asynccontextmanager
    async def frozen(self, vm: str) -> AsyncIterator[None]:
        """Keep a guest's file systems still while this lasts.

        Raises:
            ToolsError: No agent answers, or the guest's cannot; or they could not be let go again.
        """
        asked = False
        async with self._lock(vm):
            try:
                async with await self._agent(vm) as agent:
                    asked = True
                    await agent.freeze()
                yield
            finally:
                if asked:
                    await self._thaw(vm)

    async def _thaw(self, vm: str) -> None:
        """Let a guest's file systems go, also when nobody knows whether they are still."""
        for left in reversed(range(_THAW_TRIES)):
            try:
                async with await self._agent(vm) as agent:
                    await agent.ask("guest-fsfreeze-thaw")
            except ToolsError:
                if not left:
                    raise
                await asyncio.sleep(_THAW_PAUSE)
            else:
                return

    async def _reboot(self, request: c.RebootGuest, _: Session) -> m.Empty:
        fact = self._context.demand(request.vm, Operation.REBOOT_GUEST)
        async with self._lock(fact.vm), await self._agent(fact.vm) as agent:
            await agent.tell("guest-shutdown", mode="reboot")
        return m.Empty()
