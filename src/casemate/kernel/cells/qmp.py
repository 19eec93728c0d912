"""QMP, QEMU's control protocol, with our errors and time limits.

A guest may have taken over the QEMU at the other end, so nothing that it says is trusted: every
answer has a time limit, and only the values asked for are looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError, Runstate

from casemate.errors import HostError
from casemate.kernel.cells.channels import connect

# Seconds for the greeting (QEMU has loaded its firmware by then) and for an answer.
CONNECT_TIMEOUT: Final = 15.0
ANSWER_TIMEOUT: Final = 5.0
# Seconds to notice that the other end is gone.
_DRAIN_TIMEOUT: Final = 0.5
EventHandler = Callable[[str, Mapping[str, object]], None]

# The library logs what we raise anyway.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class Qmp:
    """One connection to one QEMU."""

    def __init__(self, client: QMPClient, handler: EventHandler) -> None:
        self._client = client
        self._handler = handler
        self._listener = EventListener()
        client.register_listener(self._listener)
        self._pump = asyncio.create_task(self._events())
        self._passing = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path, handler: EventHandler) -> Qmp:
        """Connect and negotiate; ``handler`` gets the name and data of each event.

        Raises:
            HostError: ``qmp``: nobody answers in time, or the other end went away.
        """
        client = QMPClient(path.parent.name)
        channel = connect(path)
        try:
            await asyncio.wait_for(client.connect(channel), CONNECT_TIMEOUT)
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            channel.close()
            with contextlib.suppress(Exception):
                await client.disconnect()
            raise _failed("the control connection could not be made", error) from error
        return cls(client, handler)

    @property
    def connected(self) -> bool:
        """Whether the other end is there, as far as is known."""
        return bool(self._client.runstate == Runstate.RUNNING)

    async def execute(self, command: str, **arguments: object) -> object:
        """Run one command.

        Raises:
            HostError: ``qmp-refused`` when QEMU refuses it, ``qmp`` when the connection fails.
        """
        try:
            return await asyncio.wait_for(
                self._client.execute(command, arguments or None), ANSWER_TIMEOUT
            )
        except ExecuteError as error:
            raise HostError(
                f"QEMU refused {command}: {str(error)[:200]}",
                code="qmp-refused",
                remedy="Look at the log of the VM.",
            ) from error
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            raise _failed(f"no answer to {command}", error) from error

    async def execute_with(self, descriptor: int, command: str, **arguments: object) -> object:
        """Run a command that takes an open file along (``getfd``, ``add-fd``).

        Raises:
            HostError: As for ``execute``.
        """
        async with self._passing:
            try:
                self._client.send_fd_scm(descriptor)
            except (QMPError, OSError) as error:
                raise _failed(f"no file could be passed for {command}", error) from error
            return await self.execute(command, **arguments)

    async def status(self) -> str:
        """Return QEMU's run state: ``running``, ``paused``, ``guest-panicked``, ..."""
        answer = await self.execute("query-status")
        state = answer.get("status") if isinstance(answer, dict) else None
        if not isinstance(state, str):
            raise HostError("QEMU answered query-status without a state", code="qmp")
        return state

    async def drain(self) -> None:
        """Handle the events that were sent before the other end went away."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                while self.connected:
                    await self._client.runstate_changed()
        for event in self._listener.clear():
            self._handle(event)

    async def close(self) -> None:
        """End the connection; QEMU goes on."""
        self._pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pump
        with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
            await asyncio.wait_for(self._client.disconnect(), ANSWER_TIMEOUT)

    async def _events(self) -> None:
        async for event in self._listener:
            self._handle(event)

    def _handle(self, event: Mapping[str, object]) -> None:
        name, data = event.get("event"), event.get("data")
        if isinstance(name, str):
            self._handler(name, data if isinstance(data, dict) else {})


def _failed(what: str, error: BaseException) -> HostError:
    why = str(error).strip() or type(error).__name__
    return HostError(f"{what}: {why[:200]}", code="qmp", remedy="Look at the log of the VM.")
