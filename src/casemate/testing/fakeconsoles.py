"""Tickets, pictures and keys of FakeKernel's VMs; the screen itself is FakeScreen."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Protocol

from casemate.calls.messages import Empty, TaskReply
from casemate.calls.vmconsole import AcquireTicket, SendKeys, TakeScreenshot, TicketReply
from casemate.hostd.kernelclient import RefusedError
from casemate.machine.facts import FaultFact, VmFact
from casemate.testing.fakescreen import FakeScreen


class Machines(Protocol):
    """What the fake consoles need of the fake kernel."""

    def must_run(self, key: str) -> VmFact:
        """Return a running VM. Raises RefusedError."""

    def run(
        self, session: str, entity: str, kind: str, operation: str, finish: Callable[[], str]
    ) -> TaskReply:
        """Run a task."""


class FakeConsoles:
    """Answers the requests of ``calls.vmconsole``; ``tickets`` are those not redeemed yet."""

    def __init__(self, kernel: Machines, screen: FakeScreen) -> None:
        self._kernel = kernel
        self._screen = screen
        self.tickets: set[str] = set()

    def answers(self) -> dict[type, Callable[[object], object]]:
        """Return the answer to each request."""
        return {
            AcquireTicket: self._ticket,
            TakeScreenshot: self._screenshot,
            SendKeys: self._keys,
        }

    async def open(self, ticket: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Redeem a ticket. Raises RefusedError."""
        if ticket not in self.tickets:
            reason = "The ticket is not, or no longer, good."
            raise RefusedError(FaultFact("SecurityError", "fake", reason, "none"))
        self.tickets.discard(ticket)
        return await self._screen.connect()

    def _ticket(self, request: object) -> TicketReply:
        assert isinstance(request, AcquireTicket)
        self._kernel.must_run(request.vm)
        ticket = secrets.token_hex(32)
        self.tickets.add(ticket)
        return TicketReply(ticket, 60)

    def _screenshot(self, request: object) -> TaskReply:
        assert isinstance(request, TakeScreenshot)
        vm = self._kernel.must_run(request.vm)
        path = vm.config.vmx_path.replace(".vmx", "-1.png")
        return self._kernel.run(
            request.session, vm.vm, "VirtualMachine", "createScreenshot", lambda: path
        )

    def _keys(self, request: object) -> Empty:
        assert isinstance(request, SendKeys)
        self._kernel.must_run(request.vm)
        return Empty()
