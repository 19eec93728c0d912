"""What every request has in common: bounded bodies, who asks, errors as JSON, safe headers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from casemate.calls.verdict import finding_json
from casemate.errors import (
    ArgumentError,
    BusyError,
    CasemateError,
    FormatError,
    HostError,
    LimitError,
    LoginError,
    NotAuthenticatedError,
    NotFoundError,
    PermissionDeniedError,
    StateError,
    VerificationError,
)
from casemate.verifier.enrol import token_digest
from casemate.verifier.people import Role, Who
from casemate.verifier.service import Service

COOKIE = "__Host-casemate"
"""The browser sends it over HTTPS to this host alone."""

BODY_LIMIT = 64 << 10
"""Bytes of a plain request."""

DIGITS = 9
"""Digits of a number in a query: hours, rounds."""

FLOAT_LIMIT = 1 << 53
"""Whole numbers up to this are floats exactly."""

_NO_TEXT = re.compile("[\0\ud800-\udfff]")

READ_SECONDS = 20.0
"""A body must have arrived by then."""

HEADERS: Mapping[str, str] = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

_STATUS: tuple[tuple[type[CasemateError], int], ...] = (
    (LimitError, 413),
    (FormatError, 400),
    (ArgumentError, 400),
    (LoginError, 401),
    (NotAuthenticatedError, 401),
    (PermissionDeniedError, 403),
    (NotFoundError, 404),
    (StateError, 409),
    (BusyError, 429),
    (VerificationError, 422),
    (HostError, 502),
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read and checked; ``who`` unless anybody may ask.

    ``secret`` is the digest of what an agent showed: the handler asks the store whose it is.
    ``peer`` is the address that the request came from.
    """

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    raw: bytes = b""
    who: Who | None = None
    secret: str = ""
    peer: str = ""

    @property
    def name(self) -> str:
        """The name of the person who asks."""
        return self.who.name if self.who else ""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a JSON body: its Python type, whether it must be there, what it means."""

    kind: type
    about: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A line of the route table; ``role`` None: anybody; ``agent``: a pushing host's agent.

    ``together`` does the same as ``handler`` for requests that come at once.
    """

    method: str
    path: str
    summary: str
    handler: Callable[[Service, Call], object]
    role: Role | None = Role.VIEWER
    agent: bool = False
    fields: Mapping[str, Field] = field(default_factory=dict)
    raw: int = 0
    query: Mapping[str, str] = field(default_factory=dict)
    together: Callable[[Service, Call], Awaitable[object]] | None = None


def error_response(error: CasemateError) -> JSONResponse:
    """Return an error as JSON."""
    status = status_of(error)
    headers = dict(HEADERS)
    if isinstance(error, BusyError):
        headers["retry-after"] = "5"
    return JSONResponse({"error": finding_json(error.finding())}, status, headers)


def status_of(error: CasemateError) -> int:
    """Return the HTTP status of an error."""
    return next((code for kind, code in _STATUS if isinstance(error, kind)), 500)


async def read_body(request: Request, limit: int) -> bytes:
    """Read a body. Raises LimitError, FormatError (``timeout``)."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise LimitError(f"a body of {announced} bytes: the limit is {limit}")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise LimitError(f"a body of more than {limit} bytes")
                parts.append(chunk)
    except TimeoutError as error:
        raise FormatError("the body took too long", code="timeout") from error
    return b"".join(parts)


def read_fields(body: bytes, wanted: Mapping[str, Field]) -> dict[str, Any]:
    """Decode a JSON object and check it. Raises FormatError, ArgumentError."""
    if not wanted:
        return {}
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise FormatError("the body is not JSON", code="bad-json") from error
    if not isinstance(value, dict):
        raise FormatError("the body is not a JSON object", code="bad-json")
    for name, item in value.items():
        if name not in wanted:
            raise ArgumentError(f"unknown field {name!r}", argument=name)
        value[name] = _read_field(name, item, wanted[name].kind)
    for name, one in wanted.items():
        if one.required and name not in value:
            raise ArgumentError(f"{name} is missing", argument=name)
    return value


def _read_field(name: str, item: object, kind: type) -> object:
    if kind is float and type(item) is int and abs(item) <= FLOAT_LIMIT:
        return float(item)
    if type(item) is not kind:
        raise ArgumentError(f"{name} should be {kind.__name__}", argument=name)
    if isinstance(item, str) and _NO_TEXT.search(item):
        raise ArgumentError(f"{name} holds what no store keeps as text", argument=name)
    return item


def bearer(request: Request) -> str:
    """Return the secret of the Authorization header."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def serve(service: Service, endpoint: Endpoint) -> Callable[[Request], Any]:
    """Return the ASGI handler of an endpoint."""
    limit = endpoint.raw or BODY_LIMIT

    def checked(request: Request) -> Who | None:
        return _authenticate(service, endpoint, request)

    def work(request: Request, raw: bytes, *, known: bool, who: Who | None) -> object:
        if not known and not endpoint.agent:  # an agent's handler asks for itself
            who = checked(request)
        body = {} if endpoint.raw else read_fields(raw, endpoint.fields)
        secret = token_digest(bearer(request)) if endpoint.agent else ""
        query, peer = dict(request.query_params), peer_of(request)
        call = Call(request.path_params, query, body, raw, who, secret, peer)
        return endpoint.handler(service, call)

    async def handle(request: Request) -> Response:
        raw: bytes | None = None
        try:
            # Nobody is asked to send much before it is known who sends it.
            small = _announced(request) <= BODY_LIMIT
            who = None if small else await run_in_threadpool(checked, request)
            raw = await read_body(request, limit)
            if endpoint.together is not None:
                secret = token_digest(bearer(request))
                call = Call(request.path_params, request.query_params, {}, raw, None, secret)
                answer = await endpoint.together(service, call)
            else:
                answer = await run_in_threadpool(work, request, raw, known=not small, who=who)
        except CasemateError as error:
            refusal = error_response(error)
            if raw is None:  # the rest of the body is not waited for
                refusal.headers["connection"] = "close"
            return refusal
        if isinstance(answer, Response):
            answer.headers.update(HEADERS)
            return answer
        return _Answer(answer)

    return handle


class _Answer(JSONResponse):
    """A good answer; its headers are written once for all."""

    _FIXED = tuple((name.encode(), value.encode()) for name, value in HEADERS.items())

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        del headers
        size = (b"content-length", str(len(self.body)).encode())
        self.raw_headers = [size, (b"content-type", b"application/json"), *self._FIXED]


def peer_of(request: Request) -> str:
    """Return the address that a request came from."""
    return request.client.host if request.client else ""


def number_of(text: str) -> int | None:
    """Return a number of a query; None where it is none, or longer than any that counts here."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else None


def _announced(request: Request) -> int:
    """Return how many bytes the request says that its body has; one that does not say has many."""
    text = request.headers.get("content-length", "")
    if text.isascii() and text.isdigit():
        return int(text[:16])
    return 0 if request.method == "GET" else BODY_LIMIT + 1


def _authenticate(service: Service, endpoint: Endpoint, request: Request) -> Who | None:
    """Return who asks. Raises NotAuthenticatedError, PermissionDeniedError.

    A cookie alone only reads: what changes something needs the Authorization header, which no
    other site can make a browser send.
    """
    if endpoint.agent:
        service.agent(token_digest(bearer(request)))
        return None
    if endpoint.role is None:
        return None
    handle = bearer(request)
    if not handle and endpoint.method == "GET":
        handle = request.cookies.get(COOKIE, "")
    who = service.people.check(handle)
    who.need(endpoint.role)
    return who
