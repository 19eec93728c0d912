"""VI/JSON: ``/sdk/vim25/<release>/<type>/<id>/<method or property>`` over the same registry.

The session travels in a header that no page of another origin can send, so there is nothing to
forge; cookies are not looked at. A call is decided in the same order as over SOAP.
"""

from __future__ import annotations

import asyncio
import json
import logging
from urllib.parse import unquote

from starlette.types import Receive, Scope, Send

from casemate.errors import CasemateError, FormatError
from casemate.hostd.reader import Reader
from casemate.hostd.registry import Context, check_parameters
from casemate.hostd.session import COOKIE, Session
from casemate.hostd.soap import (
    START_SECONDS,
    GoneError,
    Hostd,
    fault_of,
    headers_of,
    peer_of,
    read_body,
    run,
    send_response,
)
from casemate.hostd.wellknown import SERVICE
from casemate.vim25 import decode, faults, hidden, jsoncodec, types, versions, xmlnodes
from casemate.vim25.shapes import Kind, TypeRef
from casemate.vim25.values import MoRef, Value

PREFIX = "/sdk/vim25/"
SESSION_HEADER = "vmware-api-session-id"
_PARTS = 4
_AGENT_LIMIT = 256
_log = logging.getLogger(__name__)


class JsonEndpoint:
    """ASGI application for everything below ``/sdk/vim25/``."""

    def __init__(self, hostd: Hostd) -> None:
        self._hostd = hostd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] not in {"GET", "POST"}:
            await send_response(send, 405, b"", {"allow": "GET, POST"})
            return
        this, version = SERVICE, versions.NEWEST
        try:
            release, this, member = _target(scope)
            version = versions.of_release(release)
            headers = headers_of(scope)
            opened, shown = await self._answer(scope, receive, headers, this, member, version)
        except GoneError:
            return
        except TimeoutError:
            fault = faults.invalid_request("the request took too long")
        except CasemateError as error:
            fault = (
                faults.invalid_request(error.reason)
                if isinstance(error, FormatError)
                else (fault_of(error, this))
            )
        except Exception:  # noqa: BLE001  (every request gets an answer, whatever was forgotten)
            _log.exception("a call failed")
            fault = faults.system_error("internal error")
        else:
            more = {SESSION_HEADER: opened.handle} if opened is not None else {}
            await _reply(send, shown, more)
            return
        body = jsoncodec.fault(fault.object, fault.reason, version)
        await send_response(send, 500, json.dumps(body).encode(), _HEADERS)

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        headers: dict[str, str],
        this: MoRef,
        member: str,
        version: str,
    ) -> tuple[Session | None, object]:
        """Return the session if the call opened one, and what to answer."""
        hostd, peer = self._hostd, peer_of(scope)
        agent = headers.get("user-agent", "")[:_AGENT_LIMIT]
        cookie = f'{COOKIE}="{headers.get(SESSION_HEADER, "")}"'
        session = await hostd.sessions.find(cookie, peer, agent)
        async with asyncio.timeout(START_SECONDS):
            await hostd.replica.ready.wait()
        reader = Reader(hostd.replica, hostd.sessions, session, version)
        if scope["method"] == "GET":
            return None, _property(reader, this, member, version)
        if not (member in hidden.METHODS or member in types.method_owners()):
            raise FormatError(f"There is no method {member:.80}.")
        method = types.method(member)
        body = jsoncodec.parse(await read_body(receive, xmlnodes.SIZE_LIMIT) or b"{}")
        call = decode.Call(method, this, xmlnodes.Node("", member, None, None, nil=False))
        served = hostd.registry.decide(call, reader)
        arguments = jsoncodec.arguments(method, body)
        check_parameters(call, arguments, reader)
        context = Context(
            hostd.replica,
            hostd.sessions,
            hostd.link,
            session,
            version,
            peer,
            agent,
            this,
            arguments,
        )
        value = await run(served, context, receive)
        opened = context.session if context.session is not session else None
        return opened, _shown(value, method.result, version)


def _target(scope: Scope) -> tuple[str, MoRef, str]:
    # The path as it was sent: an id may hold a slash that was escaped.
    raw = scope.get("raw_path") or scope["path"].encode()
    parts = raw.decode("latin-1").partition("?")[0].removeprefix(PREFIX).split("/")
    if len(parts) != _PARTS:
        raise FormatError("The path is <release>/<type>/<id>/<member>.")
    release, kind, key, member = map(unquote, parts)
    if types.kind_of(kind) is not Kind.MOREF:
        raise FormatError(f"There is no managed object type {kind:.80}.")
    return release, jsoncodec.reference(kind, key), member


def _property(reader: Reader, this: MoRef, name: str, version: str) -> object:
    # Without a session nobody learns what exists.
    if not name.isidentifier() or name not in types.managed_type(this.type).by_name:
        raise faults.invalid_property(name[:80])
    reader.allow_property(this, name)
    reader.require(this)
    value, declared = reader.resolve(this, name)
    return jsoncodec.plain(value, declared, version)


def _shown(value: Value, result: TypeRef | None, version: str) -> object:
    return None if result is None else jsoncodec.plain(value, result, version)


_HEADERS = {
    "content-type": "application/json",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


async def _reply(send: Send, shown: object, more: dict[str, str]) -> None:
    if shown is None:
        await send_response(send, 204, b"", {**more, "cache-control": "no-store"})
    else:
        body = json.dumps(shown, separators=(",", ":")).encode()
        await send_response(send, 200, body, {**_HEADERS, **more})
