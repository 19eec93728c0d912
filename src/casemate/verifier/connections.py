"""Connections that hold nobody else up: none that is silent, and none too many of one peer."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable
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

ACCEPTED: Final = 100
"""Connections that are taken in a row before others get their turn."""

AGAIN_SECONDS: Final = 1.0
"""Until connections are taken again where there were no descriptors for them."""

_LOG = logging.getLogger("verifier.connections")


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


class Place:
    """A place that a peer has taken, until it is given back."""

    def __init__(self, places: Places, peer: str) -> None:
        self._places = places
        self._peer: str | None = peer

    def give_back(self) -> None:
        """Let another have it; once."""
        if self._peer is not None:
            self._places.free(self._peer)
            self._peer = None


class Places:
    """Places of connections, each taken before TLS begins: as many are left for others.

    One peer alone, such as the router of a site, gets half of all places, of two each a third:
    there is always room for one more. Of IPv6, a whole /64 is one peer.
    """

    count = CONNECTION_LIMIT

    def __init__(self) -> None:
        self._peers = Counter[str]()
        self._taken = 0

    def take(self, address: str) -> Place | None:
        """Return a place for a peer; None: there is none for it."""
        peer = peer_of_address(address)
        if self._peers[peer] >= self.count - self._taken:
            return None
        self._peers[peer] += 1
        self._taken += 1
        return Place(self, peer)

    def free(self, peer: str) -> None:
        """Count one less of a peer."""
        self._taken -= 1
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]


class Placed(asyncio.Protocol):
    """Makes an HTTP protocol of uvicorn's give its place back when its connection ends."""

    place: Place | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        if self.place is not None:
            self.place.give_back()
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
    """Return the protocol of a server: httptools where it is installed, at half the cost."""
    return type("Protocol", (KeepAlive, Placed, Punctual, AutoHTTPProtocol), {})


class Listener:
    """Takes connections and lets TLS begin on those for which there is a place.

    Otherwise a peer that lets TLS begin and never end would hold what nobody has counted.
    """

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext | None,
        make: Callable[[Place], asyncio.Protocol],
        places: Places,
    ) -> None:
        self._listening = listening
        self._context = context
        self._make = make
        self._places = places
        self._loop = asyncio.get_running_loop()
        self._greetings: set[asyncio.Task[None]] = set()
        self._later: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Take none any more, and end those that have only begun; the socket is the caller's."""
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._listening)
        for greeting in self._greetings:
            # Not before it has begun: nobody else would close its connection.
            self._loop.call_soon(greeting.cancel)

    async def wait_closed(self) -> None:
        """Wait for the end of those that had only begun."""
        await asyncio.gather(*self._greetings, return_exceptions=True)

    def _listen(self) -> None:
        self._later = None
        self._loop.add_reader(self._listening, self._take)

    def _take(self) -> None:
        for _ in range(ACCEPTED):
            try:
                taken, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors or memory: they wait in Linux
                _LOG.error("no connection can be taken: %s", error.strerror)
                self._loop.remove_reader(self._listening)
                self._later = self._loop.call_later(AGAIN_SECONDS, self._listen)
                return
            place = self._places.take(str(address[0]))
            if place is None:
                taken.close()
                continue
            taken.setblocking(False)
            greeting = self._loop.create_task(self._greet(taken, place))
            self._greetings.add(greeting)
            greeting.add_done_callback(self._greetings.discard)

    async def _greet(self, taken: socket.socket, place: Place) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make(place),
                taken,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except OSError:
            place.give_back()
        except BaseException:
            place.give_back()
            raise


class Server(uvicorn.Server):
    """uvicorn's server, with which TLS begins soon or not at all, and for no peer too often."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on listening sockets."""
        await super().startup(sockets=[])
        config, places = self.config, Places()

        def make(place: Place) -> asyncio.Protocol:
            made = config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn calls it
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            made.place = place  # type: ignore[attr-defined]  # it is ours
            return made

        for listening in sockets or []:
            listening.setblocking(False)
            listening.listen(config.backlog)
            self.servers.append(Listener(listening, config.ssl, make, places))  # type: ignore[arg-type]  # all that is asked of one
