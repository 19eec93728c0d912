"""Command line of hostd: TLS on an inherited listening socket, the kernel behind its calls socket.

It needs no privileges, opens nothing but what it is given, and writes nothing but its log on
standard error.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import signal
import socket
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from casemate.hostd.app import make_app
from casemate.hostd.http import Loop, Protocol
from casemate.hostd.kernelclient import SocketLink
from casemate.hostd.limits import Rate, Sparing
from casemate.hostd.world import Endpoint

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 suites: forward secrecy and authenticated encryption only."""

KEEP_ALIVE_SECONDS = 905
"""Idle time of a connection: a little longer than pyVmomi's pool keeps one (900 s)."""

MESSAGE_LIMIT = 1 << 16
"""Bytes of one WebSocket message of a client: keys, pointer, and now and then a clipboard."""

LOG_LINES = Rate(1.0, 200.0)
"""Lines a second in the log, and at once: a day of nothing but bad requests is some MiB."""

STOP_SECONDS = 1
"""How long open calls may take when hostd stops; waiting ones are cut off."""

CONNECTION_LIMIT = 4000
"""Connections and calls at once; more are answered 503 at once."""


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the server's TLS context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.load_cert_chain(certificate, key)
    return context


def endpoint_of(certificate: Path, port: int) -> Endpoint:
    """Return what clients are told of this endpoint."""
    text = certificate.read_text("ascii")
    end = "-----END CERTIFICATE-----"
    first = text[: text.index(end) + len(end)] + "\n"
    digest = hashlib.sha1(ssl.PEM_cert_to_DER_cert(first), usedforsecurity=False).hexdigest()
    pairs = (digest[place : place + 2] for place in range(0, len(digest), 2))
    return Endpoint(port, first.encode(), ":".join(pairs).upper())


def make_server(app: Starlette, context: ssl.SSLContext) -> uvicorn.Server:
    """Return the HTTP server."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="auto",
        ws_max_size=MESSAGE_LIMIT,
        ws_per_message_deflate=False,
        loop=f"{Loop.__module__}:{Loop.__name__}",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        limit_concurrency=CONNECTION_LIMIT,
    )
    config.load()
    config.ssl = context
    return uvicorn.Server(config)


def no_delay(listener: socket.socket) -> None:
    """Send answers at once: connections inherit it, whoever made the listening socket."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hostd", description="The vSphere API of this host.")
    parser.add_argument("--socket-fd", type=int, required=True, help="listening TCP socket")
    parser.add_argument("--calls", type=Path, required=True, help="the kernel's calls socket")
    parser.add_argument("--tls", type=Path, required=True, help="directory of rui.crt, rui.key")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM."""
    arguments = _arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(Sparing(LOG_LINES, time.monotonic))
    certificate = arguments.tls / "rui.crt"
    context = tls_context(certificate, arguments.tls / "rui.key")
    with socket.socket(fileno=arguments.socket_fd) as listener:
        listener.setblocking(False)
        no_delay(listener)
        app = make_app(
            SocketLink(arguments.calls),
            clock=lambda: datetime.now(UTC),
            ticks=time.monotonic,
            endpoint=endpoint_of(certificate, int(listener.getsockname()[1])),
            # init starts this process again, as it does whenever it ends.
            give_up=lambda: signal.raise_signal(signal.SIGTERM),
        )
        make_server(app, context).run(sockets=[listener])
    return 0
