"""Disks of leases over HTTP: ``/nfc/TOKEN/disk-0.vmdk``, POST or PUT in, GET out.

The token is the authority, as clients expect: it is as long as a session's secret, belongs to one
lease of one session, and is good as long as both are.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

from starlette.types import Receive, Scope, Send

from casemate.calls.leases import ExportDisk, ImportDisk, LeaseDisk
from casemate.hostd.folder import QUIET_SECONDS, Answer, GoneError, HttpError, answering
from casemate.hostd.lease import Lease, Sent
from casemate.hostd.session import Session
from casemate.hostd.soap import CALLS_AT_ONCE, Hostd, peer_of

NFC: Final = "/nfc"
_TYPE: Final = "application/x-vnd.vmware-streamVmdk"


class NfcEndpoint:
    """ASGI application for everything below ``/nfc``."""

    def __init__(self, hostd: Hostd) -> None:
        self._hostd = hostd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        async with answering(send, scope) as answer:
            await self._answer(scope, receive, answer)

    async def _answer(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        token, _, file = scope["path"].removeprefix(f"{NFC}/").partition("/")
        lease = self._hostd.sessions.leases.get(token)
        disk = lease.disk(file) if lease else None
        session = None
        if lease and disk:
            session = await self._hostd.sessions.with_handle(lease.handle, peer_of(scope), "")
        if lease is None or disk is None or session is None:
            raise HttpError(404, "There is no such lease, or it has no such disk.")
        wanted = {"POST", "PUT"} if lease.importing else {"GET"}
        if scope["method"] not in wanted:
            raise HttpError(405, f"Disks of this lease take {' and '.join(sorted(wanted))}.")
        if session.running >= CALLS_AT_ONCE:
            raise HttpError(503, "This session does too much at once.")
        session.running += 1
        try:
            if lease.importing:
                await self._take(lease, disk, session, receive, answer)
            else:
                await self._give(lease, disk, session, answer)
        finally:
            session.running -= 1

    async def _take(
        self, lease: Lease, disk: LeaseDisk, session: Session, receive: Receive, answer: Answer
    ) -> None:
        request = ImportDisk(session.handle, lease.lent.vm, disk.file_name, "POST /nfc")
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
        await answer.begin(201, {"content-length": "0"})
        await answer.more(b"", last=True)

    async def _give(self, lease: Lease, disk: LeaseDisk, session: Session, answer: Answer) -> None:
        request = ExportDisk(session.handle, lease.lent.vm, disk.file_name, "GET /nfc")
        sha1, sha256, size = hashlib.sha1(usedforsecurity=False), hashlib.sha256(), 0
        async with self._hostd.link.transfer(request) as transfer:
            await answer.begin(200, {"content-type": _TYPE})
            while piece := await transfer.read():
                sha1.update(piece)
                sha256.update(piece)
                size += len(piece)
                async with asyncio.timeout(QUIET_SECONDS):
                    await answer.more(piece)
                self._hostd.sessions.touch(session)
            lease.sent[disk.file_name] = Sent(sha1.hexdigest(), sha256.hexdigest(), size)
            await answer.more(b"", last=True)
