"""Files of datastores over HTTP: ``/folder/PATH?dcPath=ha-datacenter&dsName=datastore1``.

GET (with Range) and HEAD of files, an index of folders, PUT and DELETE of files. Who asks shows a
session's cookie, a ticket's, or name and password. hostd sees the bytes pass; it never has the
file. What a datastore holds comes from strangers, so a browser is told to store it and to run
nothing of it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlencode

from starlette.types import Receive, Scope, Send

from casemate.calls import files as c
from casemate.calls.messages import Empty, Login, SessionReply, TaskReply
from casemate.errors import CasemateError
from casemate.formats import datastorepath
from casemate.hostd import tickets
from casemate.hostd.kernelclient import RefusedError
from casemate.hostd.reader import Reader
from casemate.hostd.session import Session
from casemate.hostd.soap import CALLS_AT_ONCE, START_SECONDS, Hostd, headers_of, peer_of
from casemate.hostd.wellknown import DATACENTER
from casemate.hostd.world import World
from casemate.machine.facts import DatastoreFact
from casemate.vim25 import versions
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef

PREFIX: Final = "/folder"
QUIET_SECONDS: Final = 60.0
"""How long a client may neither send nor take anything of a file."""
_AGENT_LIMIT: Final = 256
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_STATUS: Final = {
    "NotAuthenticated": 401,
    "InvalidLogin": 401,
    "NoPermission": 403,
    "FileNotFound": 404,
    "ManagedObjectNotFound": 404,
    "InvalidDatastorePath": 400,
    "InvalidRequest": 400,
    "FileAlreadyExists": 409,
    "FileLocked": 409,
    "CannotAccessFile": 409,
    "NoDiskSpace": 507,
    "TaskInProgress": 503,
}
_SAFE: Final = {
    "content-security-policy": "default-src 'none'; sandbox",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class HttpError(Exception):
    """An answer that is not the file."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class GoneError(Exception):
    """The client went away."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about; without a datastore it is the list of them."""

    datastore: DatastoreFact | None
    path: str
    query: str


class FolderEndpoint:
    """ASGI application for everything below ``/folder``."""

    def __init__(self, hostd: Hostd) -> None:
        self._hostd = hostd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        async with answering(send, scope) as answer:
            await self._answer(scope, receive, answer)

    async def _answer(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        method = scope["method"]
        if method not in {"GET", "HEAD", "PUT", "DELETE"}:
            raise HttpError(405, "Files are read, written with PUT, and removed with DELETE.")
        async with self._session(scope) as session:
            if session.running >= CALLS_AT_ONCE:
                raise HttpError(503, "This session does too much at once.")
            session.running += 1
            try:
                async with asyncio.timeout(START_SECONDS):
                    await self._hostd.replica.ready.wait()
                target = self._target(scope)
                if method == "PUT":
                    await self._put(scope, receive, answer, session, target)
                elif method == "DELETE":
                    await self._delete(answer, session, target)
                else:
                    await self._get(scope, answer, session, target)
            finally:
                session.running -= 1

    @asynccontextmanager
    async def _session(self, scope: Scope) -> AsyncIterator[Session]:
        """Find the session; one that was opened by name and password ends with the request."""
        hostd, headers, peer = self._hostd, headers_of(scope), peer_of(scope)
        agent = headers.get("user-agent", "")[:_AGENT_LIMIT]
        cookies = headers.get("cookie", "")
        session = None
        if name := _cookie(cookies, tickets.COOKIE):
            path, query = _raw(scope)
            handle = hostd.sessions.tickets.redeem(name, scope["method"], path, query)
            session = await hostd.sessions.with_handle(handle, peer, agent) if handle else None
        if session is None:
            session = await hostd.sessions.find(cookies, peer, agent)
        if session is not None:
            yield session
            return
        given = _credentials(headers.get("authorization", ""))
        if given is None:
            raise HttpError(401, "Log in first, or bring a ticket.")
        reply = await hostd.link.ask(Login(*given, peer), SessionReply)
        session = hostd.sessions.open(reply, peer, agent)
        try:
            yield session
        finally:
            await hostd.sessions.end(session)

    def _target(self, scope: Scope) -> Target:
        raw_path, query = _raw(scope)
        try:
            path = unquote(raw_path, errors="strict").removeprefix(PREFIX).strip("/")
        except UnicodeDecodeError:
            raise HttpError(400, "The path is not UTF-8.") from None
        asked = parse_qs(query, keep_blank_values=True)
        if asked.get("dcPath", [DATACENTER.value])[0].strip("/") not in {"", DATACENTER.value}:
            raise HttpError(404, "There is no such datacenter.")
        name = asked.get("dsName", [""])[0]
        if not name:
            if path:
                raise HttpError(404, "Say on which datastore: ?dsName=NAME.")
            return Target(None, "", query)
        path = "/".join(datastorepath.parts(path))
        if (fact := named(self._hostd.replica.world, name)) is None:
            raise HttpError(404, "There is no such datastore.")
        return Target(fact, path, urlencode({"dcPath": DATACENTER.value, "dsName": name}))

    def _allow(self, session: Session, fact: DatastoreFact, privilege: str) -> None:
        hostd = self._hostd
        reader = Reader(hostd.replica, hostd.sessions, session, versions.NEWEST)
        reader.allow(MoRef("Datastore", fact.datastore), privilege)

    def _readable(self, session: Session) -> Iterator[str]:
        """Yield the names of the datastores that the session may look into."""
        hostd = self._hostd
        reader = Reader(hostd.replica, hostd.sessions, session, versions.NEWEST)
        for fact in hostd.replica.world.datastores.values():
            if reader.may(MoRef("Datastore", fact.datastore), c.StatFile.privilege):
                yield fact.name

    async def _get(self, scope: Scope, answer: Answer, session: Session, target: Target) -> None:
        fact = target.datastore
        if fact is None:
            names = sorted(self._readable(session))
            await answer.page(_index("datastores", [_store_row(name) for name in names]))
            return
        self._allow(session, fact, c.StatFile.privilege)
        link = self._hostd.link
        stat = c.StatFile(session.handle, fact.datastore, target.path)
        entry = (await link.ask(stat, c.FileReply)).file
        if entry.folder:
            search = c.SearchFiles(session.handle, fact.datastore, target.path)
            found = (await link.ask(search, c.FoldersReply)).folders[0].files
            title = f"Index of {target.path} on datastore {fact.name}"
            await answer.page(_index(title, [_row(target, one) for one in found]))
            return
        self._allow(session, fact, c.ReadFile.privilege)
        headers = headers_of(scope)
        offset, length, status = _part(headers.get("range", ""), entry.size)
        out = {
            "content-type": "application/octet-stream",
            "content-disposition": f"attachment; filename*=UTF-8''{quote(entry.name, safe='')}",
            "last-modified": formatdate(entry.modified, usegmt=True),
            "accept-ranges": "bytes",
            "content-length": str(length),
        }
        if status == 206:  # noqa: PLR2004  (Partial Content)
            out["content-range"] = f"bytes {offset}-{offset + length - 1}/{entry.size}"
        if answer.head:
            await answer.begin(status, out)
            await answer.more(b"", last=True)
            return
        request = c.ReadFile(
            session.handle, fact.datastore, target.path, offset, length, "GET /folder"
        )
        async with link.transfer(request) as transfer:
            await answer.begin(status, out)
            while piece := await transfer.read():
                async with asyncio.timeout(QUIET_SECONDS):
                    await answer.more(piece)
                self._hostd.sessions.touch(session)
            await answer.more(b"", last=True)

    async def _put(
        self, scope: Scope, receive: Receive, answer: Answer, session: Session, target: Target
    ) -> None:
        fact = target.datastore
        if fact is None or not target.path:
            raise HttpError(400, "A file is written to a path on a datastore.")
        self._allow(session, fact, c.WriteFile.privilege)
        await self._make_folder(session, fact, target.path.rpartition("/")[0])
        announced = headers_of(scope).get("content-length", "-1")
        request = c.WriteFile(
            session.handle, fact.datastore, target.path, int(announced), "PUT /folder"
        )
        async with self._hostd.link.transfer(request) as transfer:
            while True:
                async with asyncio.timeout(QUIET_SECONDS):
                    message = await receive()
                if message["type"] != "http.request":
                    raise GoneError
                if body := message.get("body", b""):
                    await transfer.write(body)
                    self._hostd.sessions.touch(session)
                if not message.get("more_body", False):
                    break
            await transfer.end()
            new = not (isinstance(transfer.reply, c.WriteReply) and transfer.reply.replaces)
        await answer.begin(201 if new else 200, {"content-length": "0"})
        await answer.more(b"", last=True)

    async def _make_folder(self, session: Session, fact: DatastoreFact, path: str) -> None:
        """Make the folder of a file that is uploaded, as ESXi does, unless it is there."""
        if not path:
            return
        link = self._hostd.link
        try:
            await link.ask(c.StatFile(session.handle, fact.datastore, path), c.FileReply)
        except RefusedError as error:
            if error.fact.fault != "FileNotFound":
                raise
            self._allow(session, fact, c.MakeDirectory.privilege)
            request = c.MakeDirectory(
                session.handle, fact.datastore, path, parents=True, why="PUT /folder"
            )
            await link.ask(request, Empty)

    async def _delete(self, answer: Answer, session: Session, target: Target) -> None:
        fact = target.datastore
        if fact is None or not target.path:
            raise HttpError(405, "A file on a datastore is removed.")
        self._allow(session, fact, c.DeleteFile.privilege)
        link, replica = self._hostd.link, self._hostd.replica
        stat = c.StatFile(session.handle, fact.datastore, target.path)
        if (await link.ask(stat, c.FileReply)).file.folder:
            raise HttpError(405, "A folder is removed through the API, with all that is in it.")
        request = c.DeleteFile(session.handle, fact.datastore, target.path, "DELETE /folder")
        key = (await link.ask(request, TaskReply)).task
        tasks = replica.world.tasks
        await replica.until(lambda: key in tasks and tasks[key].completed is not None)
        error = tasks[key].error if key in tasks else None
        if error is not None:
            raise RefusedError(error)
        await answer.begin(204, {})
        await answer.more(b"", last=True)


def named(world: World, name: str) -> DatastoreFact | None:
    """Return the datastore of this name, else the one with this id."""
    held = world.datastores
    return next((fact for fact in held.values() if fact.name == name), held.get(name))


class Answer:
    """One response; once begun it cannot become another."""

    def __init__(self, send: Send, *, head: bool) -> None:
        self._send = send
        self._begun = False
        self.head = head

    async def begin(self, status: int, headers: dict[str, str]) -> None:
        """Send status and headers."""
        self._begun = True
        pairs = [
            (name.encode(), value.encode("latin-1", "replace"))
            for name, value in {**_SAFE, **headers}.items()
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def more(self, data: bytes, *, last: bool = False) -> None:
        """Send some of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def page(self, text: str) -> None:
        """Send a page."""
        body = text.encode()
        headers = {"content-type": "text/html; charset=utf-8", "content-length": str(len(body))}
        await self.begin(200, headers)
        await self.more(b"" if self.head else body, last=True)

    async def refuse(self, status: int, reason: str) -> None:
        """Say why not; a body that is still to come is not waited for."""
        if self._begun:
            # Less than was announced: only an ended connection tells the client.
            raise GoneError
        body = f"{reason}\n".encode()
        headers = {
            "content-type": "text/plain; charset=utf-8",
            "content-length": str(len(body)),
            "connection": "close",
        }
        if status == 401:  # noqa: PLR2004  (Unauthorized)
            headers["www-authenticate"] = 'Basic realm="VMware HTTP server"'
        await self.begin(status, headers)
        await self.more(b"" if self.head else body, last=True)


@asynccontextmanager
async def answering(send: Send, scope: Scope) -> AsyncIterator[Answer]:
    """Give an answer to fill; what is raised meanwhile becomes one."""
    answer = Answer(send, head=scope["method"] == "HEAD")
    try:
        try:
            yield answer
        except HttpError as error:
            await answer.refuse(error.status, error.reason)
        except RefusedError as error:
            await answer.refuse(_STATUS.get(error.fact.fault, 500), error.reason)
        except FaultError as error:
            await answer.refuse(_STATUS.get(error.object.type, 500), error.reason)
        except CasemateError as error:
            await answer.refuse(_STATUS.get(error.fault, 500), error.reason)
        except TimeoutError:
            await answer.refuse(408, "The request took too long.")
    except GoneError:
        return


def _raw(scope: Scope) -> tuple[str, str]:
    """Return path and query as they were sent."""
    raw = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string", b"")
    return raw.decode("latin-1").partition("?")[0], query.decode("latin-1")


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _credentials(header: str) -> tuple[str, str] | None:
    """Return name and password of Basic authentication."""
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, password) if colon else None


def _part(header: str, size: int) -> tuple[int, int, int]:
    """Return offset, length and status for a Range header; what is not one part is the whole."""
    found = _RANGE.fullmatch(header.strip())
    if found is None or not (found[1] or found[2]):
        return 0, size, 200
    if not found[1]:
        first, last = max(0, size - int(found[2])), size - 1
    else:
        first, last = int(found[1]), min(int(found[2] or size - 1), size - 1)
    if first >= size or first > last:
        raise HttpError(416, f"The file has {size} bytes.")
    return first, last - first + 1, 206


def _store_row(name: str) -> str:
    query = urlencode({"dcPath": DATACENTER.value, "dsName": name})
    return f'<tr><td><a href="{PREFIX}?{escape(query)}">{escape(name)}</a></td></tr>'


def _row(target: Target, entry: c.FileEntry) -> str:
    tail = "/" if entry.folder else ""
    path = "/".join(part for part in (target.path, entry.name) if part) + tail
    link = f"{PREFIX}/{quote(path)}?{escape(target.query)}"
    size = "-" if entry.folder else str(entry.size)
    return (
        f'<tr><td><a href="{link}">{escape(entry.name)}{tail}</a></td>'
        f"<td>{formatdate(entry.modified, usegmt=True)}</td><td>{size}</td></tr>"
    )


def _index(title: str, rows: list[str]) -> str:
    head = "<tr><th>Name</th><th>Last modified</th><th>Size</th></tr>"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title></head><body><h1>{escape(title)}</h1><table>{head}{''.join(rows)}</table>"
        "</body></html>\n"
    )
