"""Talks to the agent in a guest, where it runs one: bounded in bytes and in time."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from pathlib import Path
from typing import Final, Self

from casemate.errors import CasemateError, FormatError, HostError, ToolsError
from casemate.kernel.cells.channels import connect
from casemate.kernel.cells.qmp import Qmp
from casemate.machine.guestagent import REPLY_LIMIT, RESET, command, sync, value
from casemate.machine.plan import AGENT_CHANNEL

# Seconds for everything that is asked of a guest in one go.
_SECONDS: Final = 5.0
# ... for a guest to write out its caches,
_FREEZE_SECONDS: Final = 60.0
# ... and for an agent to say that it does not do what has no answer when it does.
_REFUSAL_SECONDS: Final = 0.5
_CHUNK: Final = 1 << 12
_ID_BITS: Final = 31


async def listens(qmp: Qmp) -> bool:
    """Tell whether a program in the guest has opened the agent's port."""
    answer = await qmp.execute("query-chardev")
    for one in answer if isinstance(answer, list) else []:
        if isinstance(one, dict) and one.get("label") == AGENT_CHANNEL:
            return one.get("frontend-open") is True
    return False


class _GoneError(HostError):
    """The other end of the port is closed."""


class Agent:
    """A conversation with a guest's agent; an asynchronous context manager.

    Raises ToolsError where nobody answers in time, or what answers is no agent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._channel: socket.socket | None = None
        self._buffer = b""

    async def __aenter__(self) -> Self:
        try:
            self._channel = connect(self._path)
            number = secrets.randbits(_ID_BITS)
            async with asyncio.timeout(_SECONDS):
                await self._send(sync(number))
                await self._synchronize(number)
        except (CasemateError, OSError, TimeoutError) as error:
            self._close()
            raise _absent(error) from error
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    async def ask(self, name: str, **arguments: object) -> object:
        """Return what a command returns. Raises ToolsError."""
        return await self._asked(_SECONDS, name, arguments)

    async def freeze(self) -> None:
        """Let the guest write out what it holds and then keep its file systems still.

        Raises:
            ToolsError: It does not, or not in time; it may be frozen or not.
        """
        await self._asked(_FREEZE_SECONDS, "guest-fsfreeze-freeze", {})

    async def _asked(self, seconds: float, name: str, arguments: dict[str, object]) -> object:
        try:
            async with asyncio.timeout(seconds):
                await self._send(command(name, **arguments))
                return value(await self._line())
        except (CasemateError, OSError, TimeoutError) as error:
            raise _absent(error) from error

    async def tell(self, name: str, **arguments: object) -> None:
        """Give a command that has no answer unless it is refused. Raises ToolsError."""
        try:
            async with asyncio.timeout(_REFUSAL_SECONDS):
                await self._send(command(name, **arguments))
                value(await self._line())
        except (TimeoutError, _GoneError):
            # A guest that obeys at once is gone before it could have refused.
            return
        except (CasemateError, OSError) as error:
            raise _absent(error) from error

    async def _synchronize(self, number: int) -> None:
        """Skip what an earlier conversation left behind."""
        skipped = 0
        while True:
            line = await self._line()
            skipped += len(line)
            if skipped > REPLY_LIMIT:
                raise FormatError("the agent does not come to an end", code="guest-agent")
            with contextlib.suppress(FormatError):
                if value(line.rpartition(RESET)[2]) == number:
                    return

    async def _send(self, data: bytes) -> None:
        if self._channel is None:
            raise HostError("the agent's port is closed", code="guest-agent")
        await asyncio.get_running_loop().sock_sendall(self._channel, data)

    async def _line(self) -> bytes:
        if self._channel is None:
            raise HostError("the agent's port is closed", code="guest-agent")
        loop = asyncio.get_running_loop()
        while b"\n" not in self._buffer:
            if len(self._buffer) > REPLY_LIMIT:
                raise FormatError("the agent's answer is too long", code="guest-agent")
            data = await loop.sock_recv(self._channel, _CHUNK)
            if not data:
                raise _GoneError("the agent's port was closed", code="guest-agent")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _absent(error: BaseException) -> ToolsError:
    why = error.reason if isinstance(error, CasemateError) else "nobody answers in time"
    return ToolsError(
        f"Cannot complete the operation: no agent answers in the guest ({why:.80}).",
        remedy="Install qemu-guest-agent in the guest and let it run.",
    )
