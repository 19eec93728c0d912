"""HTTP/1.1 with limits on how long a request may take to arrive and an answer to be taken.

uvicorn bounds the time between requests and the application bounds the body; what a client that
sends one header line a minute, or never reads, would hold for ever is bounded here, and how many
connections one peer may have.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import Counter, OrderedDict
from typing import Any, ClassVar
from urllib.parse import unquote

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from casemate.policy.quotas import peer_of_address

CONSOLE_PATH = "/ticket/"
"""Where consoles are opened, as on ESXi: the ticket follows."""

HEADER_SECONDS = 20.0
"""How long the head of a request may take once its first byte has come, or a new connection may
stay silent."""


_FULL_TARGET = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)

TAKE_SECONDS = 60.0
"""How long a client may take none of an answer that waits for it: a part is a few hundred KiB."""


CONNECTIONS_OF_ONE = 1500
"""Connections of one peer at once: the largest pools of clients have some hundreds."""

FULL = 3500
"""Connections from which on the one that has rested longest gives way to a new one."""

HANDSHAKE_SECONDS = 10.0
"""How long the beginning of TLS may take: two round trips, and something lost on the way."""

_FORGET = struct.pack("ii", 1, 0)


class OriginForm:
    """ASGI application around another: a target may name scheme and host as well (RFC 9112)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and not scope["path"].startswith("/"):
            raw = _FULL_TARGET.sub(b"", scope.get("raw_path") or b"", count=1)
            scope = {**scope, "raw_path": raw or b"/", "path": unquote(raw.decode("ascii")) or "/"}
        await self._app(scope, receive, send)


class Protocol(H11Protocol):
    """uvicorn's protocol that hangs up on requests, and answers, that do not get on."""

    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _peer: str | None = None
    _of_peer: ClassVar[Counter[str]] = Counter()
    _resting: ClassVar[OrderedDict[Protocol, None]] = OrderedDict()
    limit = HEADER_SECONDS
    take_limit = TAKE_SECONDS
    of_one = CONNECTIONS_OF_ONE
    full = FULL

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows the type
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._peer = peer_of_address(self.client[0]) if self.client else ""
        self._of_peer[self._peer] += 1
        if self._of_peer[self._peer] > self.of_one:
            self.transport.abort()
            return
        if len(self.connections) > self.full and self._resting:
            longest, _ = self._resting.popitem(last=False)
            longest.transport.close()
        self._resting[self] = None
        self._expect()

    def on_response_complete(self) -> None:
        """Rest until the next request."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._resting[self] = None

    def data_received(self, data: bytes) -> None:
        """Take in bytes; whole heads become requests."""
        self._resting.pop(self, None)
        if self._idle():
            self._expect()
        super().data_received(data)
        if not self._idle():
            self._arrived()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand over to the protocol of WebSockets, which has time limits of its own."""
        self._leave()
        super().handle_websocket_upgrade(event)

    def _should_upgrade_to_ws(self) -> bool:
        """Speak WebSocket where the consoles are, and nowhere else."""
        return self.scope["path"].startswith(CONSOLE_PATH)

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        if self._stuck is None:
            loop = asyncio.get_running_loop()
            self._stuck = loop.call_later(self.take_limit, self._give_up)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._taken()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._leave()
        super().connection_lost(exc)

    def _leave(self) -> None:
        self._arrived()
        self._taken()
        self._resting.pop(self, None)
        if self._peer is not None:
            self._of_peer[self._peer] -= 1
            if not self._of_peer[self._peer]:
                del self._of_peer[self._peer]
            self._peer = None

    def _idle(self) -> bool:
        """Tell whether no request is being answered."""
        cycle = vars(self).get("cycle")
        return cycle is None or bool(cycle.response_complete)

    def _expect(self) -> None:
        if self._late is None:
            self._late = asyncio.get_running_loop().call_later(self.limit, self._hang_up)

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _taken(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _give_up(self) -> None:
        self._stuck = None
        # Otherwise Linux goes on offering what it holds of the answer.
        peer = self.transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FORGET)
        self.transport.abort()

    def _hang_up(self) -> None:
        self._late = None
        if self._idle() and not self.transport.is_closing():
            self.transport.close()


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop, on which TLS begins soon or not at all."""

    async def create_server(self, *given: Any, **named: Any) -> asyncio.Server:  # noqa: ANN401  (as asyncio declares it)
        """See ``asyncio``."""
        if named.get("ssl") is not None:
            named.setdefault("ssl_handshake_timeout", HANDSHAKE_SECONDS)
        return await super().create_server(*given, **named)
