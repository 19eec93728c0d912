"""The way to the kernel: one connection for requests and replies, one for the event stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from casemate.calls.codec import FRAME_LIMIT, FrameReader, decode, encode, encode_request
from casemate.calls.files import CHUNK_LIMIT
from casemate.calls.hardening import HardeningAudit
from casemate.calls.messages import Empty, FactReply, Refusal, Subscribe
from casemate.calls.modules import ModuleList, ModuleLoad, ModuleSet
from casemate.calls.software import AcceptanceSet, DepotList, SoftwareChange, SoftwareValidate
from casemate.calls.vmconsole import OpenConsole
from casemate.calls.vocabulary import REQUESTS
from casemate.errors import CasemateError, FormatError
from casemate.machine.facts import FaultFact

R = TypeVar("R")

ANSWER_SECONDS = 60.0
"""How long a request may take: a quote over several banks needs some seconds."""

WRITING_SECONDS = 900.0
"""How long one may take for which all of an image is read, or written: gigabytes at times."""

_WRITING: Final = (
    *(SoftwareChange, SoftwareValidate, AcceptanceSet, DepotList),
    *(ModuleList, ModuleLoad, ModuleSet, HardeningAudit),
)

SETTLE_SECONDS = 600.0
"""How long a file may take to be on the disk when all of it has been sent."""

REPLY_LIMIT = 1 << 16
"""Bytes of the reply before a console: a refusal with its reason."""

RETRY_START = 0.05
RETRY_LIMIT = 2.0
"""Seconds between attempts to reach the kernel: doubled each time, up to the limit."""

_CHUNK = 1 << 16
_PIECE = 1 << 18
_REPLIES: tuple[type, ...] = (
    *{kind for request in REQUESTS if isinstance(kind := vars(request)["reply"], type)},
    Refusal,
)
_log = logging.getLogger(__name__)


class RefusedError(CasemateError):
    """The kernel refused a request; ``fact`` says with which fault and why."""

    default_code = "refused"

    def __init__(self, fact: FaultFact) -> None:
        super().__init__(fact.reason, code=fact.code, remedy=fact.remedy)
        self.fact = fact


class Transfer:
    """The content of a file on its way; ``reply`` is what the kernel answered at first."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._outcome: asyncio.Future[object] | None = None
        self.reply: object = None

    async def begin(self, request: object) -> None:
        """Send the request and take the first reply. Raises RefusedError, CasemateError."""
        self._writer.write(encode_request(1, request))
        async with asyncio.timeout(ANSWER_SECONDS):
            self.reply = await self._answer()

    async def read(self) -> bytes:
        """Return some of the file; nothing at its end. Raises CasemateError before that."""
        try:
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            return await self._reader.readexactly(min(size, CHUNK_LIMIT))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise _unreachable() from error

    async def write(self, data: bytes) -> None:
        """Send some of the file. Raises RefusedError as soon as the kernel refuses to go on."""
        outcome = self._last()
        try:
            for start in range(0, len(data), CHUNK_LIMIT):
                if outcome.done():
                    break
                piece = data[start : start + CHUNK_LIMIT]
                self._writer.write(len(piece).to_bytes(4, "big") + piece)
                await self._writer.drain()
        except OSError as error:
            raise _unreachable() from error
        if outcome.done():
            outcome.result()

    async def end(self) -> None:
        """Say that the file is complete, and wait until it stands. Raises as ``write``."""
        outcome = self._last()
        self._writer.write(bytes(4))
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await outcome
        except TimeoutError as error:
            raise _unreachable() from error

    async def close(self) -> None:
        """Give up what has not ended."""
        self._writer.close()
        if self._outcome is not None:
            self._outcome.cancel()
            await asyncio.gather(self._outcome, return_exceptions=True)

    def _last(self) -> asyncio.Future[object]:
        if self._outcome is None:
            self._outcome = asyncio.ensure_future(self._answer())
        return self._outcome

    async def _answer(self) -> object:
        try:
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            if size > FRAME_LIMIT:
                raise FormatError("the kernel answered with too much")
            body = await self._reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise _unreachable() from error
        _, reply = decode(body, _REPLIES)
        if isinstance(reply, Refusal):
            raise RefusedError(reply.fault)
        return reply


class KernelLink(ABC):
    """All that hostd can ask of a kernel."""

    @abstractmethod
    async def ask(self, request: object, kind: type[R]) -> R:
        """Send one of ``REQUESTS`` and return its reply, a ``kind``.

        Raises RefusedError when the kernel refuses, CasemateError when it cannot be reached.
        """

    @abstractmethod
    def facts(self) -> AsyncIterator[FactReply | None]:
        """Yield the present facts and then every change, without end.

        ``None`` means that the stream begins (again) and all present facts follow.
        """

    @abstractmethod
    def transfer(self, request: object) -> AbstractAsyncContextManager[Transfer]:
        """Begin one of ``TRANSFERS``; leaving the block before its end gives it up.

        Raises like ``ask``.
        """

    @abstractmethod
    async def console(
        self, ticket: str, peer: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Redeem a ticket and return the connection to the guest's screen; to be closed.

        Raises RefusedError when the ticket is not good, CasemateError as for ``ask``.
        """

    @abstractmethod
    async def close(self) -> None:
        """Give up all connections."""


class SocketLink(KernelLink):
    """The kernel behind its calls socket; connects on demand and again after a loss.

    ``seconds`` is how long a request may take to be answered, and one about whole images.
    """

    def __init__(
        self, path: Path, seconds: tuple[float, float] = (ANSWER_SECONDS, WRITING_SECONDS)
    ) -> None:
        self._path = path
        self._seconds = seconds
        self._number = 0
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def ask(self, request: object, kind: type[R]) -> R:
        """See ``KernelLink.ask``."""
        writer = await self._connected()
        self._number += 1
        number = self._number
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        seconds = self._seconds[isinstance(request, _WRITING)]
        try:
            writer.write(encode_request(number, request))
            async with asyncio.timeout(seconds):
                await writer.drain()
                reply = await answer
        except TimeoutError as error:
            raise CasemateError(
                f"The kernel of this host has not answered for {seconds:.0f} seconds.",
                code="kernel-late",
                remedy="It may still do what was asked: look before you ask again.",
            ) from error
        except OSError as error:
            raise _unreachable() from error
        finally:
            self._waiting.pop(number, None)
        if isinstance(reply, Refusal):
            raise RefusedError(reply.fault)
        if not isinstance(reply, kind):
            raise FormatError(f"the kernel answered with a {type(reply).__name__}")
        return reply

    async def facts(self) -> AsyncIterator[FactReply | None]:
        """See ``KernelLink.facts``."""
        pause = RETRY_START
        while True:
            try:
                async for reply in self._subscribed():
                    pause = RETRY_START
                    yield reply
            except (OSError, FormatError) as error:
                _log.debug("event stream: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_LIMIT)

    async def _subscribed(self) -> AsyncIterator[FactReply | None]:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        try:
            writer.write(encode(1, Subscribe()))
            yield None
            async for _, reply in _frames(reader, (FactReply,)):
                if isinstance(reply, FactReply):
                    yield reply
        finally:
            writer.close()

    @asynccontextmanager
    async def transfer(self, request: object) -> AsyncIterator[Transfer]:
        """See ``KernelLink.transfer``."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._path), limit=_PIECE)
        except OSError as error:
            raise _unreachable() from error
        transfer = Transfer(reader, writer)
        try:
            await transfer.begin(request)
            yield transfer
        finally:
            await transfer.close()

    async def console(
        self, ticket: str, peer: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See ``KernelLink.console``."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._path))
        except OSError as error:
            raise _unreachable() from error
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                writer.write(encode(1, OpenConsole(ticket, peer)))
                # Not a byte more than the reply: what follows is the console's.
                size = int.from_bytes(await reader.readexactly(4), "big")
                body = await reader.readexactly(min(size, REPLY_LIMIT))
            _, reply = decode(body, (Empty, Refusal))
        except (OSError, EOFError, TimeoutError) as error:
            writer.close()
            raise _unreachable() from error
        except BaseException:
            writer.close()
            raise
        if isinstance(reply, Refusal):
            writer.close()
            raise RefusedError(reply.fault)
        return reader, writer

    async def close(self) -> None:
        """See ``KernelLink.close``."""
        if self._receiver is not None:
            self._receiver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._receiver
        self._lost()

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None:
                try:
                    reader, self._writer = await asyncio.open_unix_connection(str(self._path))
                except OSError as error:
                    raise _unreachable() from error
                self._receiver = asyncio.ensure_future(self._receive(reader))
            return self._writer

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        try:
            async for number, reply in _frames(reader, _REPLIES):
                answer = self._waiting.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(reply)
        except (OSError, FormatError) as error:
            _log.warning("calls connection: %s", error)
        finally:
            self._lost()

    def _lost(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(_unreachable())


def _unreachable() -> CasemateError:
    return CasemateError(
        "The kernel of this host cannot be reached.",
        code="kernel-unreachable",
        remedy="It is starting or stopping: try again, then look at the kernel's log.",
    )


async def _frames(
    reader: asyncio.StreamReader, vocabulary: tuple[type, ...]
) -> AsyncIterator[tuple[int, object]]:
    frames = FrameReader()
    while data := await reader.read(_CHUNK):
        frames.feed(data)
        while (body := frames.next()) is not None:
            yield decode(body, vocabulary)
