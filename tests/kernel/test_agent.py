"""Agents in guests: honest ones, silent ones, and ones that want to hold the host up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from casemate.errors import ToolsError
from casemate.kernel.cells import agent
from casemate.kernel.cells.agent import Agent, listens

Conduct = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def honest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'{"return": {"left": "behind"}}\n')
    while line := await reader.readline():
        told = json.loads(line.lstrip(b"\xff"))
        if told["execute"] == "guest-sync-delimited":
            answer = json.dumps({"return": told["arguments"]["id"]}).encode()
            writer.write(b"\xff" + answer + b"\n")
        elif told["execute"] == "guest-get-host-name":
            writer.write(b'{"return": {"host-name": "web"}}\n')
        elif told["execute"] == "guest-bad":
            writer.write(b'{"error": {"class": "CommandNotFound", "desc": "no"}}\n')


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def chatty(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b'{"return": 0}\n' * 1000)
        await writer.drain()


async def gone(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def with_agent(place: Path, conduct: Conduct, body: Callable[[Path], Awaitable[None]]) -> None:
    async def whole() -> None:
        conversations: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            conversations.add(task)
            try:
                await conduct(reader, writer)
            except (OSError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_unix_server(serve, str(place / "a.sock"))
        try:
            await body(place / "a.sock")
        finally:
            server.close()
            for one in conversations:
                one.cancel()
            await asyncio.gather(*conversations, return_exceptions=True)

    asyncio.run(asyncio.wait_for(whole(), 100))


def test_an_honest_agent_is_asked_and_told(tmp_path: Path) -> None:
    async def body(path: Path) -> None:
        async with Agent(path) as guest:
            assert await guest.ask("guest-get-host-name") == {"host-name": "web"}
            # What has no answer when it is done ...
            await guest.tell("guest-shutdown", mode="reboot")
            # ... and what is refused.
            with pytest.raises(ToolsError):
                await guest.tell("guest-bad")
            with pytest.raises(ToolsError):
                await guest.ask("guest-bad")

    with_agent(tmp_path, honest, body)


@pytest.mark.parametrize("conduct", [silent, endless, chatty, gone])
def test_an_agent_that_is_none_costs_little_time(
    tmp_path: Path, conduct: Conduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_SECONDS", 0.3)

    async def body(path: Path) -> None:
        with pytest.raises(ToolsError):
            async with Agent(path) as guest:
                await guest.ask("guest-get-host-name")

    with_agent(tmp_path, conduct, body)


def test_a_guest_that_obeys_so_fast_that_it_is_gone_has_obeyed(tmp_path: Path) -> None:
    async def obeys(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = json.loads((await reader.readline()).lstrip(b"\xff"))
        answer = json.dumps({"return": told["arguments"]["id"]}).encode()
        writer.write(b"\xff" + answer + b"\n")
        await reader.readline()
        writer.close()

    async def body(path: Path) -> None:
        async with Agent(path) as guest:
            await guest.tell("guest-shutdown", mode="powerdown")

    with_agent(tmp_path, obeys, body)


def test_nobody_there_is_told_at_once(tmp_path: Path) -> None:
    async def body() -> None:
        with pytest.raises(ToolsError):
            async with Agent(tmp_path / "nothing.sock"):
                pass

    asyncio.run(body())


@pytest.mark.parametrize(
    ("answer", "open_"),
    [
        ([{"label": "qmp"}, {"label": "agent", "frontend-open": True}], True),
        ([{"label": "agent", "frontend-open": False}], False),
        ([{"label": "agent", "frontend-open": 1}], False),
        ([], False),
        ("agent", False),
        ([7, None], False),
    ],
)
def test_the_port_is_open_when_qemu_says_so(answer: object, open_: bool) -> None:
    class Fake:
        async def execute(self, _command: str) -> object:
            return answer

    assert asyncio.run(listens(Fake())) is open_  # type: ignore[arg-type]
