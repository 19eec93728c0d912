"""A host over a fake kernel, in process, for one test at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from casemate.hostd.app import make_app
from casemate.testing.fakekernel import PASSWORD, READER, USER, FakeKernel
from casemate.testing.soapclient import SoapClient

LIMIT = 120.0


@dataclass
class Running:
    """A started application, its kernel, and clients."""

    kernel: FakeKernel
    anonymous: SoapClient
    root: SoapClient
    reader: SoapClient

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)


@asynccontextmanager
async def _running(kernel: FakeKernel) -> AsyncIterator[Running]:
    app = make_app(kernel, clock=lambda: datetime.now(UTC), ticks=time.monotonic)
    async with app.router.lifespan_context(app):
        root, reader = SoapClient(app), SoapClient(app)
        assert (await root.login(USER, PASSWORD)).status == 200
        assert (await reader.login(READER, PASSWORD)).status == 200
        yield Running(kernel, SoapClient(app), root, reader)


Story = Callable[[Running], Coroutine[object, object, None]]


@pytest.fixture
def play() -> Callable[..., None]:
    """Run a story against a fresh host."""

    def run(story: Callable[[Running], Awaitable[None]], kernel: FakeKernel | None = None) -> None:
        async def whole() -> None:
            async with _running(kernel or FakeKernel()) as host:
                await story(host)

        async def bounded() -> None:
            await asyncio.wait_for(whole(), LIMIT)

        asyncio.run(bounded())

    return run
