"""Contents of files on their way between a datastore and a connection of the calls socket.

hostd never gets a file: it sends and takes bytes, and only while the kernel goes along. A transfer
ends when its session does, when nothing moves for a while, and when space runs out.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final, TypeVar

from casemate.calls import files as c
from casemate.calls.messages import Empty
from casemate.errors import BusyError, FormatError, StateError
from casemate.kernel.accounts import Session
from casemate.kernel.datastores import Check, Datastores, Handler
from casemate.kernel.server import Transfer
from casemate.kernel.sys.files import write_all
from casemate.kernel.volume import Volume

AT_ONCE: Final = 16
"""Transfers at once: more than a disk or a network card makes faster."""
OF_ONE: Final = 10
"""... of one session: it leaves some to others."""
QUIET_SECONDS: Final = 120.0
"""How long the other end may neither send nor take anything."""
_PIECE: Final = c.CHUNK_LIMIT
_LOOK_EVERY: Final = 64 << 20
"""Bytes between two looks at the session and at the free space, and ..."""
_LOOK_SECONDS: Final = 5.0
"""... seconds, for what comes in drops."""

T = TypeVar("T")

Alive = Callable[[], None]
"""Raises when the session that asked is over, or has lost the privilege."""


class Transfers:
    """Handlers of the requests that turn a connection into a transfer.

    ``session_of`` returns the session of a handle, or raises when it is over.
    """

    def __init__(
        self, datastores: Datastores, session_of: Callable[[str], Session], check: Check
    ) -> None:
        self._datastores = datastores
        self._session_of = session_of
        self._check = check
        self._running: Counter[str] = Counter()

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers by request."""
        return {c.ReadFile: self._read, c.WriteFile: self._write}

    async def _read(self, request: c.ReadFile, session: Session) -> Transfer:
        if request.offset < 0 or request.length < 0:
            raise FormatError("a file has no bytes before its first")
        return _Reading(self, request, session.key, self._alive(request, session))

    async def _write(self, request: c.WriteFile, session: Session) -> Transfer:
        await self._datastores.demand_free(request.datastore, request.path)
        return _Writing(self, request, session.key, self._alive(request, session))

    def open(self, datastore: str) -> Volume:
        """Open a datastore."""
        return self._datastores.open(datastore)

    def done(self) -> None:
        """Take note that a datastore has changed."""
        self._datastores.refresh()

    def held(self, request: c.WriteFile) -> AbstractContextManager[None]:
        """Keep the file from becoming a VM's. Raises FileLockedError: it is one's by now."""
        return self._datastores.held((request.datastore, request.path))

    @contextmanager
    def slot(self, owner: str) -> Iterator[None]:
        """Count a transfer of a session. Raises BusyError when there are too many."""
        if self._running.total() >= AT_ONCE or self._running[owner] >= OF_ONE:
            raise BusyError("too many files are being transferred already")
        self._running[owner] += 1
        try:
            yield
        finally:
            self._running[owner] -= 1
            self._running += Counter()

    def _alive(self, request: c.ReadFile | c.WriteFile, session: Session) -> Alive:
        def look() -> None:
            now = self._session_of(request.session) if request.session else session
            self._check(now, type(request).privilege, request)

        return look


class _Looks:
    """Tells when to look again whether a transfer may go on."""

    def __init__(self, position: int) -> None:
        self._clock = asyncio.get_running_loop().time
        self._position, self._time = position, self._clock()

    def due(self, position: int) -> bool:
        """Tell whether it is time at this place in the file; it is noted then."""
        now = self._clock()
        if position - self._position < _LOOK_EVERY and now - self._time < _LOOK_SECONDS:
            return False
        self._position, self._time = position, now
        return True


class _Reading(Transfer):
    """Sends a file."""

    def __init__(self, around: Transfers, request: c.ReadFile, owner: str, alive: Alive) -> None:
        self._around = around
        self._owner = owner
        self._request = request
        self._alive = alive

    async def run(
        self,
        _reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        reply: Callable[..., None],
    ) -> None:
        """See ``Transfer.run``."""
        request = self._request
        with self._around.slot(self._owner), ExitStack() as opened:
            volume = opened.enter_context(self._around.open(request.datastore))
            entry = await asyncio.to_thread(volume.entry, request.path)
            handle = await asyncio.to_thread(volume.open_read, request.path)
            opened.callback(os.close, handle)
            reply(c.FileReply(entry))
            self.silent = True
            position, end = request.offset, min(request.offset + request.length, entry.size)
            looks = _Looks(position)
            while position < end:
                piece = await asyncio.to_thread(
                    os.pread, handle, min(_PIECE, end - position), position
                )
                if not piece:
                    return
                await send_piece(writer, piece)
                position += len(piece)
                if looks.due(position):
                    self._alive()
            await send_piece(writer, b"")


class _Writing(Transfer):
    """Takes a file."""

    def __init__(self, around: Transfers, request: c.WriteFile, owner: str, alive: Alive) -> None:
        self._around = around
        self._owner = owner
        self._request = request
        self._alive = alive

    async def run(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        reply: Callable[..., None],
    ) -> None:
        """See ``Transfer.run``."""
        request = self._request
        with self._around.slot(self._owner), self._around.open(request.datastore) as volume:
            shown = volume.shown(request.path)
            volume.demand_space(max(0, request.size), shown)
            with ExitStack() as held, ExitStack() as opened, volume.faults(shown):
                handle = opened.enter_context(volume.writing(request.path, force=True))
                reply(c.WriteReply(volume.exists(request.path)))
                await writer.drain()
                position = 0
                looks = _Looks(position)
                while piece := await receive_piece(reader):
                    await asyncio.to_thread(write_all, handle, piece, position)
                    position += len(piece)
                    if looks.due(position):
                        self._alive()
                        volume.demand_space(0, shown)
                if request.size not in {-1, position}:
                    raise FormatError(f"{position} bytes came where {request.size} were announced")
                await asyncio.to_thread(os.fsync, handle)
                # Till the file has taken its place.
                await asyncio.to_thread(held.enter_context, self._around.held(request))
                self._alive()
            self._around.done()
            reply(Empty())


async def send_piece(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a piece; one without bytes ends the file. Raises StateError when nobody takes it."""
    writer.write(len(data).to_bytes(4, "big") + data)
    await _soon(writer.drain())


async def receive_piece(reader: asyncio.StreamReader) -> bytes:
    """Return the next piece; nothing at the end of the file.

    Raises:
        StateError: It does not come.
        FormatError: It is too long.
    """
    return await _soon(_piece(reader))


async def _piece(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > c.CHUNK_LIMIT:
        raise FormatError(f"a piece of {size} bytes: the limit is {c.CHUNK_LIMIT}")
    return await reader.readexactly(size)


async def _soon(step: Awaitable[T]) -> T:
    """Wait for the other end, but not for ever."""
    try:
        async with asyncio.timeout(QUIET_SECONDS):
            return await step
    except TimeoutError:
        raise StateError(
            f"nothing moved for {QUIET_SECONDS:.0f} seconds", code="transfer-quiet"
        ) from None
