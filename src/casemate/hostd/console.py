"""Consoles in a WebSocket: ``wss://host/ticket/TICKET``, RFB in binary messages.

The ticket in the path is the whole right: it was made for a session that had the privilege, it is
good once, and a page of another origin cannot know it. hostd carries bytes and understands none;
it ends a console whose viewer may not look any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

from starlette.types import Receive, Scope, Send

from casemate.errors import CasemateError
from casemate.hostd.http import CONSOLE_PATH
from casemate.hostd.kernelclient import KernelLink
from casemate.hostd.soap import peer_of, send_response
from casemate.hostd.viewers import Viewers

CONSOLES = 128
"""Consoles open at once: each costs hostd two descriptors and some hundred KiB."""

SUBPROTOCOL = "binary"
_CHUNK = 1 << 16
_TICKET = re.compile(r"[0-9a-f]{64}")
_REFUSED = 1008
_NOT_BINARY = 1003
_GONE = 1000


class ConsoleEndpoint:
    """ASGI application for everything below ``/ticket/``."""

    def __init__(self, link: KernelLink, viewers: Viewers) -> None:
        self._link = link
        self._viewers = viewers
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one console until either end closes it."""
        if scope["type"] != "websocket":
            await send_response(send, 404, b"", {"cache-control": "no-store"})
            return
        await receive()
        ticket = scope["path"].removeprefix(CONSOLE_PATH)
        offered = scope.get("subprotocols", [])
        refused = not _TICKET.fullmatch(ticket) or (offered and SUBPROTOCOL not in offered)
        if refused or self._open >= CONSOLES:
            await _close(send, _REFUSED)
            return
        self._open += 1
        try:
            await self._serve(ticket, peer_of(scope), receive, send, chosen=bool(offered))
        finally:
            self._open -= 1

    async def _serve(
        self, ticket: str, peer: str, receive: Receive, send: Send, *, chosen: bool
    ) -> None:
        # From here on whoever loses the right is told, also while the kernel is being asked.
        with self._viewers.redeemed(ticket) as over:
            try:
                # The kernel is asked in any case: it writes down who tried what.
                reader, writer = await self._link.console(ticket, peer)
            except CasemateError:
                # Whatever was wrong with it: who has no good ticket learns nothing.
                await _close(send, _REFUSED)
                return
            with contextlib.closing(writer):
                if over.is_set():
                    await _close(send, _REFUSED)
                    return
                await self._carry(reader, writer, over, receive, send, chosen=chosen)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        over: asyncio.Event,
        receive: Receive,
        send: Send,
        *,
        chosen: bool,
    ) -> None:
        protocol = SUBPROTOCOL if chosen else None
        await send({"type": "websocket.accept", "subprotocol": protocol})
        ways = [
            asyncio.ensure_future(_to_client(reader, send)),
            asyncio.ensure_future(_to_guest(receive, writer)),
            asyncio.ensure_future(_until(over)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            codes = await asyncio.gather(*ways, return_exceptions=True)
        code = next((one for one in codes if isinstance(one, int)), _GONE)
        await _close(send, code)


async def _to_client(reader: asyncio.StreamReader, send: Send) -> int:
    """Carry what the guest shows; ends with it. A slow client makes QEMU wait."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            await send({"type": "websocket.send", "bytes": data})
    return _GONE


async def _to_guest(receive: Receive, writer: asyncio.StreamWriter) -> int:
    """Carry keys and pointer; ends with the client."""
    with contextlib.suppress(OSError):
        while (message := await receive())["type"] == "websocket.receive":
            data = message.get("bytes")
            if not isinstance(data, bytes):
                return _NOT_BINARY
            writer.write(data)
            await writer.drain()
    return _GONE


async def _until(over: asyncio.Event) -> int:
    """Wait until the viewer may not look any more."""
    await over.wait()
    return _REFUSED


async def _close(send: Send, code: int) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        await send({"type": "websocket.close", "code": code})
