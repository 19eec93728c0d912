"""A SOAP client that calls the application in process: no sockets, one request at a time."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.types import Message, Scope

from casemate.vim25.values import MoRef

ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"'
    ' xmlns:xsd="http://www.w3.org/2001/XMLSchema"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    "<soapenv:Body>{}</soapenv:Body></soapenv:Envelope>"
)
NEWEST_ACTION = '"urn:vim25/9.1.0.0"'

_FAULT = re.compile(r'<(\w+)Fault xmlns="urn:vim25"')
_COOKIE = re.compile(r'vmware_soap_session="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: status, headers, body as text."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def fault(self) -> str:
        """The type of the fault, or nothing."""
        match = _FAULT.search(self.text)
        return match[1] if match else ""


@dataclass(slots=True)
class SoapClient:
    """Talks to one application and keeps the session cookie."""

    app: Starlette
    cookie: str = ""
    action: str = NEWEST_ACTION
    peer: str = "192.0.2.1"
    extra: dict[str, str] = field(default_factory=dict)

    async def call(self, name: str, this: MoRef, inner: str = "") -> Reply:
        """Call a method; ``inner`` holds the parameters as XML."""
        head = f'<_this type="{this.type}">{this.value}</_this>'
        body = f'<{name} xmlns="urn:vim25">{head}{inner}</{name}>'
        return await self.post(ENVELOPE.format(body).encode())

    async def login(self, user: str, password: str) -> Reply:
        """Log in and keep the cookie."""
        inner = f"<userName>{user}</userName><password>{password}</password>"
        return await self.call("Login", MoRef("SessionManager", "ha-sessionmgr"), inner)

    async def post(self, body: bytes) -> Reply:
        """Send a raw body to ``/sdk``."""
        headers = {"content-type": "text/xml", "soapaction": self.action, **self.extra}
        if self.cookie:
            headers["cookie"] = f'vmware_soap_session="{self.cookie}"; Path=/; HttpOnly;'
        reply = await self.send("POST", "/sdk", body, headers)
        match = _COOKIE.search(reply.headers.get("set-cookie", ""))
        if match:
            self.cookie = match[1]
        return reply

    async def send(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        """Send one request; ``path`` may have a query."""
        plain, _, query = path.partition("?")
        pairs = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": plain,
            "raw_path": plain.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": pairs,
            "client": (self.peer, 1),
            "server": ("test", 443),
        }
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Message] = []

        async def receive() -> Message:
            if pending:
                return pending.pop()
            # The client stays until it has its answer.
            return await _never()

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start = sent[0]
        found = {k.decode().lower(): v.decode() for k, v in start["headers"]}
        content = b"".join(message.get("body", b"") for message in sent[1:])
        text = content.decode("utf-8", "replace")
        return Reply(int(start["status"]), found, text)


async def _never() -> Message:
    await asyncio.get_running_loop().create_future()
    raise AssertionError
