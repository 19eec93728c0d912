"""Connections that hold nobody else up: none that is silent, and none too many of one peer."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from typing import Final

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from casemate.policy.quotas import peer_of_address

CONNECTION_LIMIT = 2000
"""Connections and requests at once; more are answered 503 at once."""

KEEP_ALIVE_SECONDS = 150
"""Idle time of a connection: more than twice the usual cadence, so that a host greets TLS once."""

BUSY_KEEP_ALIVE_SECONDS = 5
"""The same where half of ``CONNECTION_LIMIT`` is taken: idle ones must not keep others out."""

HEAD_SECONDS = 20.0
"""How long a new connection may stay silent, or the head of a request may take once it began."""

TAKE_SECONDS = 60.0
"""How long a peer may take none of an answer that waits for it."""

_FORGET: Final = struct.pack("ii", 1, 0)

HANDSHAKE_SECONDS: Final = 10.0
"""How long the beginning of TLS may take: two round trips, and something lost on the way."""


class KeepAlive:
    """Lets an HTTP protocol of uvicorn's end idle connections sooner where there are many."""

    connections: set[object]

    @property
    def timeout_keep_alive(self) -> int:
        """Seconds from a response to the end of the connection."""
        crowded = len(self.connections) > CONNECTION_LIMIT // 2
        return BUSY_KEEP_ALIVE_SECONDS if crowded else KEEP_ALIVE_SECONDS

    @timeout_keep_alive.setter
    def timeout_keep_alive(self, _configured: int) -> None:
        """Leave it: what is configured is the same for all."""


class Fair(asyncio.Protocol):
    """Makes an HTTP protocol of uvicorn's turn a peer away that has as many as are left for others.

    One peer alone, such as the router of a site, gets half of all places, of two each a third:
    there is always room for one more. Of IPv6, a whole /64 is one peer.
    """

    places = CONNECTION_LIMIT
    connections: set[object]
    peers: Counter[str]
    _peer: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, if there is one for this peer."""
        address = transport.get_extra_info("peername")
        peer = peer_of_address(str(address[0])) if isinstance(address, tuple) else ""
        if self.peers[peer] >= self.places - len(self.connections):
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
            return
        self.peers[peer] += 1
        self._peer = peer
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take in bytes, unless the peer was turned away."""
        if self._peer is not None:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        if self._peer is None:
            return
        self.peers[self._peer] -= 1
        if not self.peers[self._peer]:
            del self.peers[self._peer]
        self._peer = None
        super().connection_lost(exc)


class Punctual(asyncio.Protocol):
    """Makes an HTTP protocol of uvicorn's hang up where nothing gets on.

    That is on requests that do not begin, or whose head does not end, and on who takes no answer.
    """

    limit = HEAD_SECONDS
    take_limit = TAKE_SECONDS
    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._await_head(transport)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; whole heads become requests."""
        super().data_received(data)
        if not self._idle():
            self._arrived()
        elif self._late is None:
            self._await_head(vars(self)["transport"])

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._arrived()
        self._taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the peer to read."""
        super().pause_writing()
        if self._stuck is None:
            transport, loop = vars(self)["transport"], asyncio.get_running_loop()
            self._stuck = loop.call_later(self.take_limit, _give_up, transport)

    def resume_writing(self) -> None:
        """Go on: the peer has read."""
        self._taken()
        super().resume_writing()

    def _taken(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _idle(self) -> bool:
        cycle = vars(self).get("cycle")
        return cycle is None or bool(cycle.response_complete)

    def _await_head(self, transport: asyncio.BaseTransport) -> None:
        if not transport.is_closing():
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(self.limit, self._hang_up, transport)

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _hang_up(self, transport: asyncio.BaseTransport) -> None:
        self._late = None
        if self._idle() and not transport.is_closing():
            transport.close()


def _give_up(transport: asyncio.Transport) -> None:
    # Otherwise Linux goes on offering what it holds of the answer.
    peer = transport.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FORGET)
    transport.abort()


def make_protocol() -> type[asyncio.Protocol]:
    """Return the protocol of one server: httptools where it is installed, at half the cost."""
    return type(
        "Protocol", (KeepAlive, Fair, Punctual, AutoHTTPProtocol), {"peers": Counter[str]()}
    )


class Server(uvicorn.Server):
    """uvicorn's server, with which TLS begins soon or not at all."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on listening sockets."""
        await super().startup(sockets=[])
        config, loop = self.config, asyncio.get_running_loop()

        def connect() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn calls it
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )

        for listener in sockets or []:
            server = await loop.create_server(
                connect,
                sock=listener,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
            self.servers.append(server)
