"""Restarting the agents, and ending the machine: init does both, the kernel asks it by a signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable

from casemate.calls.console import EndHost, RestartAgents
from casemate.calls.messages import Empty
from casemate.errors import NotSupportedError
from casemate.kernel.accounts import Session
from casemate.kernel.init import AGENTS_SIGNAL, RESTART_SIGNAL


class HostEnds:
    """Answers the requests. ``send`` signals init, which is this process's parent."""

    def __init__(
        self,
        *,
        own_machine: bool,
        send: Callable[[int], None] = lambda number: os.kill(os.getppid(), number),
    ) -> None:
        self._own_machine = own_machine
        self._send = send

    def handlers(self) -> dict[type, Callable[..., Awaitable[object]]]:
        """Return the handlers of this topic."""
        return {RestartAgents: self._agents, EndHost: self._end}

    async def _agents(self, _request: RestartAgents, _: Session) -> Empty:
        self.restart_agents()
        return Empty()

    def restart_agents(self) -> None:
        """Have init start hostd anew."""
        self._send(AGENTS_SIGNAL)

    async def _end(self, request: EndHost, _: Session) -> Empty:
        if not self._own_machine:
            raise NotSupportedError(
                "This host is a guest of another system, which must not be shut down with it.",
                code="not-own-machine",
                remedy="End it with casemate down.",
            )
        self._send(RESTART_SIGNAL if request.restart else signal.SIGTERM)
        return Empty()
