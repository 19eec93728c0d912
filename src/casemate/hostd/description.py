"""The API's WSDL and schemas under ``/sdk/``, for toolkits that make their client from them.

Written when first asked for, in pieces, and kept compressed: some 200 KiB of 2 MiB. The same for
everybody, logged in or not, and nothing in it is of this host but the address it was asked by.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from casemate.hostd.registry import Registry
from casemate.hostd.soap import headers_of, send_response, takes_gzip
from casemate.vim25 import hidden, versions, wsdl

PREFIX = "/sdk"
PATHS = tuple(
    f"{PREFIX}/{name}" for name in (wsdl.SERVICE, wsdl.INTERFACE, wsdl.TYPES, wsdl.MESSAGES)
)
PART_SIZE = 64 << 10
"""Bytes that are written, or sent, before others get their turn."""

_GZIP_BITS = 31
_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_HEADERS = {
    "content-type": "text/xml; charset=utf-8",
    "cache-control": "no-cache",
    "vary": "accept-encoding, host",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Document:
    """One document, compressed; ``tag`` is its entity tag."""

    packed: bytes
    size: int
    tag: str


class Description:
    """ASGI application for the documents."""

    def __init__(self, registry: Registry) -> None:
        self._methods = sorted(one.name for one in registry if one.name not in hidden.METHODS)
        self._documents: dict[str, Document] = {}
        self._writing = asyncio.Lock()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one request for a document; a query ``wsdl`` asks for the service's."""
        if scope["method"] not in {"GET", "HEAD"}:
            await send_response(send, 405, b"", {"allow": "GET, HEAD"})
            return
        headers = headers_of(scope)
        found = await self._document(scope["path"], headers.get("host", ""))
        out = {**_HEADERS, "etag": found.tag}
        if headers.get("if-none-match", "") == found.tag:
            await send_response(send, 304, b"", out)
            return
        if takes_gzip(headers.get("accept-encoding", "")):
            await send_response(send, 200, found.packed, {**out, "content-encoding": "gzip"})
            return
        out["content-length"] = str(found.size)
        pairs = [(name.encode(), value.encode()) for name, value in out.items()]
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        if scope["method"] == "GET":
            unpacker = zlib.decompressobj(_GZIP_BITS)
            left = found.packed
            while left:
                part = unpacker.decompress(left, PART_SIZE)
                left = unpacker.unconsumed_tail
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": unpacker.flush(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _document(self, path: str, host: str) -> Document:
        name = path.rpartition("/")[2]
        match name:
            case wsdl.INTERFACE:
                written = wsdl.interface(self._methods, versions.RELEASES[0])
            case wsdl.MESSAGES:
                written = wsdl.messages(self._methods)
            case wsdl.TYPES:
                written = wsdl.schema()
            case _:
                asked = host if _HOST.fullmatch(host) else "localhost"
                place = PREFIX.removeprefix("/") + "/" if path == PREFIX else ""
                return await _packed(wsdl.service(f"https://{asked}{PREFIX}/vimService", place))
        # Whoever comes meanwhile waits, and writes nothing again.
        async with self._writing:
            if name not in self._documents:
                self._documents[name] = await _packed(written)
            return self._documents[name]


class Calls:
    """ASGI application for where calls go: a ``?wsdl`` there asks for the description."""

    def __init__(self, soap: ASGIApp, description: ASGIApp) -> None:
        self._soap = soap
        self._description = description

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        described = scope["method"] != "POST" and scope["query_string"].lower() == b"wsdl"
        await (self._description if described else self._soap)(scope, receive, send)


async def _packed(written: Iterator[str]) -> Document:
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP_BITS)
    digest = hashlib.sha256()
    packed: list[bytes] = []
    size = 0
    for piece in written:
        data = piece.encode()
        digest.update(data)
        packed.append(packer.compress(data))
        if size // PART_SIZE != (size + len(data)) // PART_SIZE:
            await asyncio.sleep(0)
        size += len(data)
    return Document(b"".join([*packed, packer.flush()]), size, f'W/"{digest.hexdigest()[:32]}"')
