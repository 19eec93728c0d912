"""The web face of a verifier: REST, agents, pages; served over TLS by uvicorn."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from casemate.calls.verdict import finding_json
from casemate.errors import CasemateError, LimitError, NotFoundError
from casemate.verifier.bus import Handler
from casemate.verifier.endpoints import AGENT, API, ENDPOINTS
from casemate.verifier.enrol import token_digest
from casemate.verifier.openapi import describe
from casemate.verifier.pages import Look, Pages
from casemate.verifier.service import Service
from casemate.verifier.web import (
    BODY_LIMIT,
    HEADERS,
    Call,
    error_response,
    serve,
    status_of,
)

_LOG = logging.getLogger("verifier.web")

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 suites: forward secrecy and authenticated encryption only."""

CONNECTION_LIMIT = 2000
"""Connections and requests at once; more are answered 503 at once."""

KEEP_ALIVE_SECONDS = 150
"""Idle time of a connection: more than twice the usual cadence, so that a host greets TLS once."""

BUSY_KEEP_ALIVE_SECONDS = 5
"""The same where half of ``CONNECTION_LIMIT`` is taken: idle ones must not keep others out."""

HEAD_SECONDS = 20.0
"""How long a new connection may stay silent, or the head of a request may take once it began."""

GARBAGE = 20_000
"""New objects between two looks for cycles; evidence makes none."""

STOP_SECONDS = 3
"""How long open requests may take when the verifier stops."""


def make_app(service: Service, look: Look) -> ASGIApp:
    """Return the whole web application."""
    document = describe(ENDPOINTS)

    async def openapi(_request: Request) -> Response:
        return JSONResponse(document, 200, dict(HEADERS))

    async def refused(_request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        answer = error_response(NotFoundError("There is no such page."))
        answer.status_code = status
        return answer

    async def failed(_request: Request, _error: Exception) -> Response:
        return error_response(CasemateError("The verifier failed on this request."))

    routes = [Route(one.path, serve(service, one), methods=[one.method]) for one in ENDPOINTS]
    routes.append(Route(API + "/openapi.json", openapi))
    routes += Pages(service, look).routes()
    handlers: dict[Any, Any] = {HTTPException: refused, Exception: failed}
    whole = Starlette(routes=routes, exception_handlers=handlers)
    short = {one.path: serve(service, one) for one in ENDPOINTS if one.together}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        """Go past routes and middleware for the few paths that a fleet asks all the time."""
        handler = short.get(scope.get("path", ""))
        if handler is None or scope.get("method") != "POST":
            await whole(scope, receive, send)
            return
        try:
            answer = await handler(Request(scope, receive))
        except Exception as error:  # noqa: BLE001 (as the middleware does)
            _LOG.exception("evidence")
            answer = await failed(Request(scope), error)
        await answer(scope, receive, send)

    return app


def settle() -> None:
    """Let the collector of cycles look rarely at what a running verifier keeps anyway."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 50)


def bus_handler(service: Service) -> Handler:
    """Return what answers agents that come over a bus: the same endpoints, the same refusals."""
    known = {one.path.removeprefix(f"{AGENT}/"): one for one in ENDPOINTS if one.agent}

    def handle(operation: str, headers: Mapping[str, str], body: bytes) -> tuple[int, object]:
        try:
            endpoint = known.get(operation)
            if endpoint is None:
                raise NotFoundError("There is no such operation.")
            if len(body) > (endpoint.raw or BODY_LIMIT):
                raise LimitError(f"a body of {len(body)} bytes")
            secret = token_digest(headers.get("secret", ""))
            query = {"nonce": headers.get("nonce", "")}
            return 200, endpoint.handler(service, Call({}, query, {}, body, secret=secret))
        except CasemateError as error:
            return status_of(error), {"error": finding_json(error.finding())}

    return handle


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


class Punctual(asyncio.Protocol):
    """Makes an HTTP protocol of uvicorn's hang up on requests that do not begin, or not get on."""

    limit = HEAD_SECONDS
    _late: asyncio.TimerHandle | None = None

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
        """Forget the timer."""
        self._arrived()
        super().connection_lost(exc)

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


def _protocol() -> type[asyncio.Protocol]:
    """Return uvicorn's protocol: httptools where it is installed, at half the cost of a request."""
    return type("Protocol", (KeepAlive, Punctual, AutoHTTPProtocol), {})


def make_server(app: ASGIApp, certificate: Path, key: Path) -> uvicorn.Server:
    """Return the HTTPS server; run it on a listening socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.load_cert_chain(certificate, key)
    config = uvicorn.Config(
        app,
        http=_protocol(),
        ws="none",
        loop="auto",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_SECONDS,
        limit_concurrency=CONNECTION_LIMIT,
    )
    config.load()
    config.ssl = context
    return uvicorn.Server(config)
