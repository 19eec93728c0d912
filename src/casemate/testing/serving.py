"""A server on a thread of its own that leaves no connection behind, whatever its clients do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn

START_SECONDS = 60.0
_CLOSE_TURNS = 3
"""Turns of the loop in which an aborted connection is taken down."""


async def _serve(
    server: uvicorn.Server, listener: socket.socket, loops: list[asyncio.AbstractEventLoop]
) -> None:
    loops.append(asyncio.get_running_loop())
    await server.serve(sockets=[listener])
    # A client that does not answer the end of TLS, such as a browser, would keep its connection.
    for connection in list(server.server_state.connections):
        if (transport := getattr(connection, "transport", None)) is not None:
            transport.abort()
    for _ in range(_CLOSE_TURNS):
        await asyncio.sleep(0)


@contextlib.contextmanager
def serving(server: uvicorn.Server, listener: socket.socket) -> Iterator[asyncio.AbstractEventLoop]:
    """Run a server in a ``with`` block, which gets its loop. Raises TimeoutError."""
    loops: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(server, listener, loops)), daemon=True
    )
    thread.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        if not server.started:
            raise TimeoutError("the server did not start")
        yield loops[0]
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
