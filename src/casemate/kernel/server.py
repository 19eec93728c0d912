"""The calls socket: one Unix socket, peer credentials checked, a closed list of requests.

Root and hostd's own uid may connect; everybody else is cut off before a byte is read. A request
that is not on the list, or not well-formed, ends the connection: both ends are ours, so a
malformed frame means the other end is not what it should be.

Whoever asks for a change and hangs up gets it all the same: a change that ends in its middle is
neither the old state nor the new one. Only what reads ends with its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.calls import files, leases
from casemate.calls.codec import REQUEST_LIMIT, FrameReader, decode, encode
from casemate.calls.messages import Refusal, Subscribe
from casemate.calls.vmconsole import OpenConsole
from casemate.calls.vocabulary import REQUESTS
from casemate.errors import CasemateError, FormatError
from casemate.kernel.home import CONSOLE_UID
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import fault_of

CONNECTIONS: Final = 512
"""Connections of one user at once: hostd, caught, must not take all descriptors from root."""
CONCURRENT: Final = 64
"""Requests of one connection worked on at once; more wait in the socket."""
LEFT_BEHIND: Final = 256
"""Changes whose askers have left; beyond them nobody new is served until some are done."""
STOP_SECONDS: Final = 20.0
"""How long ``stop`` waits for changes: init ends a kernel that takes 30 s."""

_CHUNK = 1 << 16
_LET_GO_SECONDS = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is on the other end of the socket."""

    uid: int
    pid: int


class Transfer(ABC):
    """What a connection turns into: a file's content, a console.

    ``silent``: pieces are going out, among which nothing can be said any more.
    """

    silent = False

    @abstractmethod
    async def run(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Callable[..., None]
    ) -> None:
        """Carry it out; ``reply`` sends a message. Raises our errors."""


Handler = Callable[[object, Caller], Awaitable[object]]
"""Answers with a reply; a request of ``TRANSFERS`` and OpenConsole with a Transfer."""


class CallsServer:
    """Serves the calls socket. ``handle`` answers one request or raises one of our errors."""

    def __init__(
        self, path: Path, allowed: frozenset[int], stream: FactStream, handle: Handler
    ) -> None:
        self._path = path
        self._allowed = allowed
        self._stream = stream
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._left: set[asyncio.Task[None]] = set()
        self._callers: Counter[int] = Counter()

    async def start(self, group: int) -> None:
        """Bind and listen; only root, the console and ``group`` can reach the socket at all."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._path))
        os.chown(self._path, CONSOLE_UID, group)
        self._path.chmod(0o660)
        self._server = await asyncio.start_unix_server(self._accept, sock=listener)

    async def stop(self) -> None:
        """Close the socket and every connection, and wait for the changes that are being made."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.cancel()
        if self._connections:
            await asyncio.wait(tuple(self._connections))
        if self._left:
            await asyncio.wait(tuple(self._left), timeout=STOP_SECONDS)
        for job in tuple(self._left):
            job.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = writer.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        pid, uid, _ = struct.unpack("3i", raw)
        if uid not in self._allowed:
            _log.warning("uid %d (pid %d) refused on the calls socket", uid, pid)
            writer.close()
            return
        if self._callers[uid] >= CONNECTIONS:
            writer.close()
            return
        if len(self._left) > LEFT_BEHIND:
            _log.warning("uid %d (pid %d) must wait: too many changes are being made", uid, pid)
            writer.close()
            return
        connection = asyncio.ensure_future(self._serve(reader, writer, Caller(uid, pid)))
        self._connections.add(connection)
        self._callers[uid] += 1
        connection.add_done_callback(lambda done: self._ended(done, uid))

    def _ended(self, connection: asyncio.Task[None], uid: int) -> None:
        self._connections.discard(connection)
        self._callers[uid] -= 1

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: Caller
    ) -> None:
        frames = FrameReader(REQUEST_LIMIT)
        gate = asyncio.Semaphore(CONCURRENT)
        reading: set[asyncio.Task[None]] = set()
        changing: set[asyncio.Task[None]] = set()
        try:
            while data := await reader.read(_CHUNK):
                frames.feed(data)
                while (body := frames.next()) is not None:
                    number, request = decode(body, REQUESTS)
                    if isinstance(request, Subscribe):
                        await self._stream_out(writer, number)
                        return
                    if isinstance(request, (*files.TRANSFERS, *leases.TRANSFERS, OpenConsole)):
                        answer = self._handle(request, caller)
                        await carry_out(answer, reader, writer, number)
                        return
                    await gate.acquire()
                    # Whoever does not read its answers is asked nothing more.
                    await writer.drain()
                    job = asyncio.ensure_future(self._answer(writer, number, request, caller))
                    working = changing if _changes(request) else reading
                    working.add(job)
                    job.add_done_callback(working.discard)
                    job.add_done_callback(lambda _: gate.release())
        except FormatError as error:
            _log.warning("calls connection of pid %d ended: %s", caller.pid, error.reason)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            for job in reading:
                job.cancel()
            for job in changing:
                self._left.add(job)
                job.add_done_callback(self._left.discard)
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, number: int, request: object, caller: Caller
    ) -> None:
        try:
            reply = await self._handle(request, caller)
            frame = encode(number, reply)
        except CasemateError as error:
            frame = encode(number, Refusal(fault_of(error)))
        except Exception:  # noqa: BLE001  (every request gets an answer, whatever was forgotten)
            _log.exception("%s failed", type(request).__name__)
            frame = encode(number, Refusal(fault_of(CasemateError("A system error occurred"))))
        if not writer.is_closing():
            writer.write(frame)

    async def _stream_out(self, writer: asyncio.StreamWriter, number: int) -> None:
        subscription = self._stream.subscribe()
        try:
            while (reply := await subscription.queue.get()) is not None:
                writer.write(encode(number, reply))
                await writer.drain()
        finally:
            self._stream.unsubscribe(subscription)


def _changes(request: object) -> bool:
    """Tell whether a request changes something: those are the ones that are audited."""
    return bool(vars(type(request)).get("audited", True))


async def carry_out(
    answer: Awaitable[object],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    number: int,
) -> None:
    """Carry out a transfer, the last thing that a connection is for."""
    transfer: object = None

    async def refuse(error: CasemateError) -> None:
        if not (isinstance(transfer, Transfer) and transfer.silent):
            reply(Refusal(fault_of(error)))
            await _let_go(reader)

    def reply(message: object) -> None:
        writer.write(encode(number, message))

    try:
        transfer = await answer
        if isinstance(transfer, Transfer):
            await transfer.run(reader, writer, reply)
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    except CasemateError as error:
        await refuse(error)
    except Exception:  # noqa: BLE001  (every request gets an answer, whatever was forgotten)
        _log.exception("a transfer failed")
        await refuse(CasemateError("A system error occurred"))


async def _let_go(reader: asyncio.StreamReader) -> None:
    """Let the other end read the refusal: it is still sending, and a reset would hide it."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LET_GO_SECONDS):
            while await reader.read(_CHUNK):
                pass
