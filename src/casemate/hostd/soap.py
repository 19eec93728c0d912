"""The SOAP endpoint ``/sdk``: one call in, one answer out, status 200 or 500 and nothing else."""

from __future__ import annotations

import asyncio
import logging
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope, Send

from casemate.errors import CasemateError, LimitError
from casemate.hostd.kernelclient import KernelLink, RefusedError
from casemate.hostd.objects.vmsettings import SPEC_FIELDS
from casemate.hostd.reader import Reader
from casemate.hostd.registry import Context, Registry, Served, check_parameters
from casemate.hostd.replica import Replica
from casemate.hostd.session import COOKIE, Session, Sessions
from casemate.hostd.wellknown import SERVICE
from casemate.vim25 import decode, encode, faults, versions, xmlnodes
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Value

BODY_SECONDS = 30.0
"""How long a client may take to send one request."""

START_SECONDS = 10.0
"""How long a call waits for the kernel's first facts."""

CALL_SECONDS = 120.0
"""How long a call may take that does not wait for changes: the kernel answers within half of it."""

CALLS_AT_ONCE = 40
"""Calls of one session at once: a page or a pool of connections needs a dozen."""

GZIP_SIZE = 16 << 10
"""Bytes from which on an answer is compressed: below, it costs more than it saves."""

PART_SIZE = 128 << 10
"""Characters of a long answer that become bytes and are sent at a time."""

_GZIP_BITS = 31
_NO_WEIGHT = re.compile(r"q=0(\.0*)?")
_AGENT_LIMIT = 256
_MAPPED = "::ffff:"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hostd:
    """The parts that answer calls."""

    replica: Replica
    sessions: Sessions
    link: KernelLink
    registry: Registry


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: whether it is a fault, the envelope in pieces, and a Set-Cookie value."""

    good: bool
    body: list[str]
    cookie: str | None = None


class GoneError(Exception):
    """The client went away."""


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the request's headers, names in lower case; cookies in several are one."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}; {value}" if name == "cookie" and name in found else value
    return found


def peer_of(scope: Scope) -> str:
    """Return the client's address; IPv4 is written as such on a socket for both, too."""
    client = scope.get("client")
    return str(client[0]).removeprefix(_MAPPED) if client else ""


async def read_body(receive: Receive, limit: int) -> bytes:
    """Return the whole body. Raises LimitError, TimeoutError, GoneError."""
    body = bytearray()
    async with asyncio.timeout(BODY_SECONDS):
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise GoneError
            body += message.get("body", b"")
            if len(body) > limit:
                raise LimitError(f"request of more than {limit} bytes")
            if not message.get("more_body", False):
                return bytes(body)


class SoapEndpoint:
    """ASGI application for ``/sdk``."""

    def __init__(self, hostd: Hostd) -> None:
        self._hostd = hostd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = headers_of(scope)
        if scope["method"] != "POST":
            await send_response(send, 405, b"", {"allow": "POST"})
            return
        version = versions.negotiate(headers.get("soapaction"))
        try:
            body = await read_body(receive, xmlnodes.SIZE_LIMIT)
        except GoneError:
            return
        except (CasemateError, TimeoutError) as error:
            reason = getattr(error, "reason", "the request took too long")
            fault = faults.invalid_request(reason)
            envelope = encode.fault_envelope(fault.object, fault.reason, version)
            await _reply(send, Answer(good=False, body=envelope), headers, close=True)
            return
        answer = await self._answer(body, version, headers, scope, receive)
        if answer is not None:
            await _reply(send, answer, headers)

    async def _answer(
        self, body: bytes, version: str, headers: dict[str, str], scope: Scope, receive: Receive
    ) -> Answer | None:
        this = SERVICE
        cookie: str | None = None
        try:
            try:
                call = decode.parse_envelope(body)
            except CasemateError as error:
                raise faults.invalid_request(error.reason) from error
            this = call.this
            context, served = await self._decide(call, version, headers, scope)
            before = context.session
            try:
                value = await run(served, context, receive)
            except GoneError:
                return None
            if context.session is not before:
                cookie = _cookie(context.session, secure=scope["scheme"] == "https")
            return Answer(
                good=True, body=encode.response(call.method, value, version), cookie=cookie
            )
        except CasemateError as error:
            fault = fault_of(error, this)
        except Exception:  # noqa: BLE001  (every request gets an answer, whatever was forgotten)
            _log.exception("a call failed")
            fault = faults.system_error("internal error")
        envelope = encode.fault_envelope(fault.object, fault.reason, version)
        return Answer(good=False, body=envelope, cookie=cookie)

    async def _decide(
        self, call: decode.Call, version: str, headers: dict[str, str], scope: Scope
    ) -> tuple[Context, Served]:
        hostd, peer = self._hostd, peer_of(scope)
        agent = headers.get("user-agent", "")[:_AGENT_LIMIT]
        session = await hostd.sessions.find(headers.get("cookie", ""), peer, agent)
        reader = Reader(hostd.replica, hostd.sessions, session, version)
        try:
            async with asyncio.timeout(START_SECONDS):
                await hostd.replica.ready.wait()
        except TimeoutError:
            raise faults.system_error("the host is starting") from None
        served = hostd.registry.decide(call, reader)
        try:
            arguments = decode.arguments(call)
        except CasemateError as error:
            raise faults.invalid_request(error.reason) from error
        check_parameters(call, arguments, reader)
        context = Context(
            hostd.replica,
            hostd.sessions,
            hostd.link,
            session,
            version,
            peer,
            agent,
            call.this,
            arguments,
        )
        return context, served


async def run(served: Served, context: Context, receive: Receive) -> Value:
    """Run the handler; one that waits ends when its client goes away. Raises GoneError."""
    session = context.session
    if session is None:
        return await _within(served, context)
    if session.running >= CALLS_AT_ONCE:
        raise LimitError(f"a session may make {CALLS_AT_ONCE} calls at once")
    session.running += 1
    try:
        if served.waits:
            return await _wait(served, context, receive)
        return await _within(served, context)
    finally:
        session.running -= 1


async def _within(served: Served, context: Context) -> Value:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            value = await served.handler(context)
            own = context.session.own if context.session is not None else {}
            if isinstance(value, MoRef) and value.type == "Task" and value not in own:
                # The reply overtakes the stream at times; a client asks for its task at once.
                tasks = context.replica.world.tasks
                await context.replica.until(lambda: value.value in tasks)
            return value
    except TimeoutError:
        raise faults.system_error("the call took too long") from None


async def _wait(served: Served, context: Context, receive: Receive) -> Value:
    work = asyncio.ensure_future(served.handler(context))
    gone = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise GoneError
        return work.result()
    finally:
        work.cancel()
        gone.cancel()


def fault_of(error: CasemateError, this: MoRef) -> FaultError:
    """Return the fault for an error, also for a refusal by the kernel."""
    if isinstance(error, RefusedError):
        fact = error.fact
        details = dict(fact.details)
        if entry := details.get("invalidProperty"):
            details["invalidProperty"] = SPEC_FIELDS.get(entry, entry)
        if fact.fault == "NoPermission":
            return faults.no_permission(this, details.get("privilegeId", "System.View"))
        return faults.from_details(fact.fault, fact.reason, details, this)
    return faults.from_error(error, this)


def _cookie(session: Session | None, *, secure: bool) -> str:
    # A page of another site cannot make a browser use it; other clients pass over the word.
    tail = "; Path=/; HttpOnly; SameSite=Strict;" + (" Secure;" if secure else "")
    if session is None:
        return f'{COOKIE}=""; Max-Age=0{tail}'
    return f'{COOKIE}="{session.handle}"{tail}'


async def _reply(
    send: Send, answer: Answer, headers: dict[str, str], *, close: bool = False
) -> None:
    out = {"content-type": "text/xml; charset=utf-8", "cache-control": "no-cache"}
    if answer.cookie is not None:
        out["set-cookie"] = answer.cookie
    if close:
        out["connection"] = "close"
    status, length = 200 if answer.good else 500, _octets(answer.body)
    if length >= GZIP_SIZE and takes_gzip(headers.get("accept-encoding", "")):
        out["content-encoding"] = "gzip"
        await send_response(send, status, await _packed(answer.body), out)
        return
    if length <= PART_SIZE:
        await send_response(send, status, "".join(answer.body).encode(), out)
        return
    # What is long leaves in parts: it is never whole in memory, and others get their turn.
    await _start(send, status, length, out)
    for part in _parts(answer.body):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _octets(pieces: list[str]) -> int:
    if all(map(str.isascii, pieces)):
        return sum(map(len, pieces))
    return sum(len(one.encode()) for one in pieces)


def takes_gzip(accepted: str) -> bool:
    """Tell whether gzip is among the encodings; one with the weight 0 is refused by the client."""
    for one in accepted.lower().split(","):
        name, _, weight = one.partition(";")
        if name.strip() == "gzip":
            return not _NO_WEIGHT.fullmatch(weight.replace(" ", ""))
    return False


async def _packed(pieces: list[str]) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP_BITS)
    packed: list[bytes] = []
    for part in _parts(pieces):
        packed.append(packer.compress(part))
        await asyncio.sleep(0)
    return b"".join([*packed, packer.flush()])


def _parts(pieces: list[str]) -> Iterator[bytes]:
    """Yield the pieces as bytes, together about ``PART_SIZE`` at a time."""
    gathered: list[str] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= PART_SIZE:
            yield "".join(gathered).encode()
            gathered, size = [], 0
    yield "".join(gathered).encode()


async def send_response(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    """Send one response."""
    await _start(send, status, len(body), headers)
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, status: int, length: int, headers: dict[str, str]) -> None:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    pairs.append((b"content-length", str(length).encode()))
    start: Message = {"type": "http.response.start", "status": status, "headers": pairs}
    await send(start)
