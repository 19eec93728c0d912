"""A small WebSocket client over TLS, for talking to a server as a console viewer does."""

from __future__ import annotations

import socket
import ssl
from types import TracebackType
from typing import Self

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    RejectConnection,
    Request,
)

from casemate.errors import StateError

SECONDS = 20.0


class WebSocket:
    """A connection to ``wss://localhost:port/path``. Raises StateError when it is refused."""

    def __init__(self, port: int, path: str) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        plain = socket.create_connection(("localhost", port), SECONDS)
        self._socket = context.wrap_socket(plain)
        self._socket.settimeout(SECONDS)
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._buffer = b""
        self.subprotocol = ""
        self._state: str = "connecting"
        asking = Request(host=f"localhost:{port}", target=path, subprotocols=["binary"])
        self._socket.sendall(self._connection.send(asking))
        while self._state == "connecting":
            self._receive()
        if self._state == "closed":
            self._socket.close()
            raise StateError("the WebSocket was refused")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send a binary message."""
        self._socket.sendall(self._connection.send(BytesMessage(data)))

    def take(self, count: int) -> bytes:
        """Return the next bytes, whatever the messages that they come in. Raises StateError."""
        while len(self._buffer) < count:
            if self._state == "closed":
                raise StateError("the WebSocket was closed")
            self._receive()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _receive(self) -> None:
        data = self._socket.recv(1 << 16)
        self._connection.receive_data(data or None)
        for event in self._connection.events():
            if isinstance(event, AcceptConnection):
                self._state, self.subprotocol = "open", event.subprotocol or ""
            elif isinstance(event, BytesMessage):
                self._buffer += bytes(event.data)
            elif isinstance(event, CloseConnection | RejectConnection):
                self._state = "closed"
        if not data:
            self._state = "closed"
