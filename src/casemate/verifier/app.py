"""The web face of a verifier: REST, agents, pages; served over TLS by uvicorn."""

from __future__ import annotations

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

from casemate.calls.verdict import finding_json
from casemate.errors import CasemateError, LimitError, NotFoundError
from casemate.verifier.bus import Handler
from casemate.verifier.connections import CONNECTION_LIMIT, Server, make_protocol
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


def make_server(app: ASGIApp, certificate: Path, key: Path) -> uvicorn.Server:
    """Return the HTTPS server; run it on a listening socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.load_cert_chain(certificate, key)
    config = uvicorn.Config(
        app,
        http=make_protocol(),
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
    return Server(config)
