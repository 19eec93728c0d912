"""The web face of a verifier: REST, agents, pages; served over TLS by uvicorn."""

from __future__ import annotations

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

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 suites: forward secrecy and authenticated encryption only."""

CONNECTION_LIMIT = 2000
"""Connections and requests at once; more are answered 503 at once."""

STOP_SECONDS = 3
"""How long open requests may take when the verifier stops."""


def make_app(service: Service, look: Look) -> Starlette:
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

    often = sorted(ENDPOINTS, key=lambda one: not one.agent)  # routes are tried in order
    routes = [Route(one.path, serve(service, one), methods=[one.method]) for one in often]
    routes.append(Route(API + "/openapi.json", openapi))
    routes += Pages(service, look).routes()
    handlers: dict[Any, Any] = {HTTPException: refused, Exception: failed}
    return Starlette(routes=routes, exception_handlers=handlers)


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


def make_server(app: Starlette, certificate: Path, key: Path) -> uvicorn.Server:
    """Return the HTTPS server; run it on a listening socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.load_cert_chain(certificate, key)
    config = uvicorn.Config(
        app,
        http="auto",  # httptools and uvloop where they are installed: half the cost of a request
        ws="none",
        loop="auto",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
        limit_concurrency=CONNECTION_LIMIT,
    )
    config.load()
    config.ssl = context
    return uvicorn.Server(config)
