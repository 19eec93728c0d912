"""The calls socket: who may connect, what ends a connection, and the event stream."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import cbor2
import pytest

from casemate.calls.codec import REQUEST_LIMIT, FrameReader, decode, encode
from casemate.calls.messages import (
    Empty,
    FactReply,
    Logout,
    PowerOn,
    Refusal,
    Status,
    Subscribe,
)
from casemate.calls.software import SoftwareChange
from casemate.errors import PermissionDeniedError
from casemate.kernel import server as calls_server
from casemate.kernel.server import Caller, CallsServer
from casemate.kernel.stream import QUEUE_LIMIT, FactStream
from casemate.machine.facts import Allocation, FaultFact, PoolFact

HERE = frozenset({os.geteuid()})
Handle = Callable[[object, Caller], Awaitable[object]]


async def agree(_request: object, _caller: Caller) -> object:
    return Empty()


@asynccontextmanager
async def served(
    place: Path, *, allowed: frozenset[int] = HERE, handle: Handle = agree
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, FactStream]]:
    stream = FactStream()
    server = CallsServer(place / "calls.sock", allowed, stream, handle)
    await server.start(os.getegid())
    reader, writer = await asyncio.open_unix_connection(str(place / "calls.sock"))
    try:
        yield reader, writer, stream
    finally:
        writer.close()
        await server.stop()


async def receive(reader: asyncio.StreamReader, frames: FrameReader) -> object:
    while (body := frames.next()) is None:
        data = await asyncio.wait_for(reader.read(1 << 16), 60)
        assert data, "connection ended"
        frames.feed(data)
    return decode(body, (Empty, Refusal, FactReply))[1]


def test_a_stranger_is_cut_off_before_a_byte_is_answered(tmp_path: Path) -> None:
    async def attack() -> None:
        nobody = frozenset({os.geteuid() + 1})
        async with served(tmp_path, allowed=nobody) as (reader, writer, _):
            writer.write(encode(1, Logout("x")))
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                answer = await asyncio.wait_for(reader.read(), 60)
            assert answer == b""

    asyncio.run(attack())


def test_a_request_off_the_list_ends_the_connection(tmp_path: Path) -> None:
    async def attack() -> None:
        async with served(tmp_path) as (reader, writer, _):
            body = cbor2.dumps({"id": 1, "is": "ReadFile", "of": {"path": "/etc/shadow"}})
            writer.write(len(body).to_bytes(4, "big") + body)
            assert await asyncio.wait_for(reader.read(), 60) == b""

    asyncio.run(attack())


def test_a_refusal_carries_fault_reason_and_privilege(tmp_path: Path) -> None:
    async def refuse(_request: object, _caller: Caller) -> object:
        raise PermissionDeniedError("no", privilege="VirtualMachine.Interact.PowerOn")

    async def attack() -> None:
        async with served(tmp_path, handle=refuse) as (reader, writer, _):
            writer.write(encode(1, PowerOn("s", "1")))
            answer = await receive(reader, FrameReader())
            assert isinstance(answer, Refusal)
            assert answer.fault.fault == "NoPermission"
            assert dict(answer.fault.details)["privilegeId"] == "VirtualMachine.Interact.PowerOn"

    asyncio.run(attack())


def test_a_defect_in_a_handler_is_answered_without_its_words(tmp_path: Path) -> None:
    async def stumble(_request: object, _caller: Caller) -> object:
        raise KeyError("secret")

    async def attack() -> None:
        async with served(tmp_path, handle=stumble) as (reader, writer, _):
            writer.write(encode(1, Logout("x")))
            answer = await receive(reader, FrameReader())
            assert isinstance(answer, Refusal)
            assert "secret" not in answer.fault.reason

    asyncio.run(attack())


def pool(number: int) -> PoolFact:
    return PoolFact("ha-root-pool", str(number), "", Allocation(), Allocation())


def test_a_subscriber_gets_what_is_true_then_each_change_once(tmp_path: Path) -> None:
    async def follow() -> None:
        async with served(tmp_path) as (reader, writer, stream):
            stream.publish(pool(1))
            writer.write(encode(7, Subscribe()))
            frames = FrameReader()
            first = await receive(reader, frames)
            assert isinstance(first, FactReply)
            assert first.fact == pool(1)
            stream.publish(pool(1))
            stream.publish(pool(2))
            second = await receive(reader, frames)
            assert isinstance(second, FactReply)
            assert (second.fact, second.sequence) == (pool(2), first.sequence + 1)
            stream.retract(PoolFact, "ha-root-pool")
            third = await receive(reader, frames)
            assert isinstance(third, FactReply)
            assert (third.gone, third.fact, third.sequence) == (True, None, first.sequence + 2)

    asyncio.run(follow())


def test_a_subscriber_that_does_not_read_is_cut_off_and_costs_bounded_memory() -> None:
    async def lag() -> None:
        stream = FactStream()
        lazy = stream.subscribe()
        for number in range(QUEUE_LIMIT * 2):
            stream.publish(pool(number))
        assert lazy.queue.qsize() <= QUEUE_LIMIT + 1
        items = [lazy.queue.get_nowait() for _ in range(lazy.queue.qsize())]
        assert items[-1] is None

    asyncio.run(lag())


def test_a_change_is_made_whole_whoever_hangs_up_and_stop_waits_for_it(tmp_path: Path) -> None:
    seen: list[str] = []
    begun, go_on, cut = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(request: object, _caller: Caller) -> object:
        begun.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            seen.append(f"{type(request).__name__} cut")
            cut.set()
            raise
        seen.append(f"{type(request).__name__} done")
        return Empty()

    async def attack() -> None:
        async with served(tmp_path, handle=work) as (_, writer, _stream):
            for request in (Status("s"), SoftwareChange("s", "install")):
                begun.clear()
                writer.write(encode(1, request))
                await asyncio.wait_for(begun.wait(), 60)
            writer.transport.abort()
            await asyncio.wait_for(cut.wait(), 60)
            assert seen == ["Status cut"]
            asyncio.get_running_loop().call_later(0.05, go_on.set)
        assert seen == ["Status cut", "SoftwareChange done"]

    asyncio.run(attack())


def test_who_asks_and_never_reads_costs_bounded_memory(tmp_path: Path) -> None:
    answered = 0

    async def answer(_request: object, _caller: Caller) -> object:
        nonlocal answered
        answered += 1
        return Refusal(FaultFact("Fault", "code", "x" * 10_000, ""))

    async def flood() -> None:
        async with served(tmp_path, handle=answer) as (_, writer, _stream):
            for number in range(20_000):
                writer.write(encode(number, Status()))
            last = -1
            while last != answered:
                last = answered
                for _ in range(200):
                    await asyncio.sleep(0)
            writer.transport.abort()
            for _ in range(50):
                await asyncio.sleep(0)
            assert 0 < answered < 1000

    asyncio.run(flood())


def test_one_user_does_not_take_all_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_server, "CONNECTIONS", 2)

    async def attack() -> None:
        async with served(tmp_path) as (reader, writer, _):
            more = [await asyncio.open_unix_connection(str(tmp_path / "calls.sock"))]
            for each in ((reader, writer), *more):
                each[1].write(encode(1, Logout("x")))
                await receive(each[0], FrameReader())
            late, its = await asyncio.open_unix_connection(str(tmp_path / "calls.sock"))
            assert await asyncio.wait_for(late.read(), 60) == b""
            its.close()
            more[0][1].close()
            await asyncio.sleep(0)
            while True:
                again, other = await asyncio.open_unix_connection(str(tmp_path / "calls.sock"))
                other.write(encode(1, Logout("x")))
                answer = b""
                with contextlib.suppress(ConnectionError):
                    answer = await asyncio.wait_for(again.read(100), 60)
                other.close()
                if answer:
                    return

    asyncio.run(attack())


def test_a_request_that_would_take_a_gigabyte_of_memory_ends_the_connection(tmp_path: Path) -> None:
    async def attack() -> None:
        async with served(tmp_path) as (reader, writer, _):
            writer.write((REQUEST_LIMIT + 1).to_bytes(4, "big") + b"\x9a")
            assert await asyncio.wait_for(reader.read(), 60) == b""

    asyncio.run(attack())
