"""HTTP/1.1 with a limit on how long a request may take to arrive.

uvicorn bounds the time between requests and the application bounds the body; what a client that
sends one header line a minute would hold for ever is bounded here.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

CONSOLE_PATH = "/ticket/"
"""Where consoles are opened, as on ESXi: the ticket follows."""

HEADER_SECONDS = 20.0
"""How long the head of a request may take once its first byte has come, or a new connection may
stay silent."""


class Protocol(H11Protocol):
    """uvicorn's protocol that hangs up on requests which never become whole."""

    _late: asyncio.TimerHandle | None = None
    limit = HEADER_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows the type
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Take in bytes; whole heads become requests."""
        if self._idle():
            self._expect()
        super().data_received(data)
        if not self._idle():
            self._arrived()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand over to the protocol of WebSockets, which has time limits of its own."""
        self._arrived()
        super().handle_websocket_upgrade(event)

    def _should_upgrade_to_ws(self) -> bool:
        """Speak WebSocket where the consoles are, and nowhere else."""
        return self.scope["path"].startswith(CONSOLE_PATH)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._arrived()
        super().connection_lost(exc)

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

    def _hang_up(self) -> None:
        self._late = None
        if self._idle() and not self.transport.is_closing():
            self.transport.close()
