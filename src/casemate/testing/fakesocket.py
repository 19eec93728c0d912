"""A FakeKernel behind a real calls socket, for tests of whole processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from casemate.calls.codec import FrameReader, decode, encode
from casemate.calls.messages import Refusal, Subscribe
from casemate.calls.vocabulary import REQUESTS
from casemate.errors import CasemateError
from casemate.hostd.kernelclient import KernelLink, RefusedError
from casemate.machine.facts import FaultFact

_CHUNK = 1 << 16


@contextlib.asynccontextmanager
async def serving(kernel: KernelLink, path: Path) -> AsyncIterator[None]:
    """Serve the kernel on a Unix socket for the duration of a ``with`` block."""
    open_now: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        job = asyncio.ensure_future(_serve(kernel, reader, writer))
        open_now.add(job)
        job.add_done_callback(open_now.discard)

    server = await asyncio.start_unix_server(accept, str(path))
    try:
        yield
    finally:
        server.close()
        for job in tuple(open_now):
            job.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        await kernel.close()


async def _serve(
    kernel: KernelLink, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    frames = FrameReader()
    try:
        while data := await reader.read(_CHUNK):
            frames.feed(data)
            while (body := frames.next()) is not None:
                number, request = decode(body, REQUESTS)
                if isinstance(request, Subscribe):
                    async for reply in kernel.facts():
                        if reply is not None:
                            writer.write(encode(number, reply))
                            await writer.drain()
                writer.write(encode(number, await _answer(kernel, request)))
    except ConnectionError:
        return
    finally:
        writer.close()


async def _answer(kernel: KernelLink, request: object) -> object:
    try:
        return await kernel.ask(request, object)
    except RefusedError as error:
        return Refusal(error.fact)
    except CasemateError as error:
        return Refusal(FaultFact(error.fault, error.code, error.reason, error.remedy))
