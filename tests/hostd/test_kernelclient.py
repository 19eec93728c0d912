"""hostd's end of the calls socket, against the real server and against broken ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from casemate.calls.codec import encode
from casemate.calls.messages import Empty, FactReply, Identity, Logout, SessionReply
from casemate.calls.software import ChangeReply, SoftwareChange
from casemate.errors import CasemateError, FormatError
from casemate.hostd.kernelclient import RefusedError, SocketLink
from casemate.machine.facts import FaultFact
from casemate.testing.fakefacts import DATASTORE
from casemate.testing.fakekernel import FakeKernel
from casemate.vim25.values import MoRef

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@asynccontextmanager
async def serving(path: Path, serve: Serve) -> AsyncIterator[SocketLink]:
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await serve(reader, writer)

    server = await asyncio.start_unix_server(accept, str(path))
    link = SocketLink(path)
    try:
        yield link
    finally:
        await link.close()
        for writer in writers:
            writer.close()
        server.close()


def run(story) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


def test_a_kernel_that_is_not_there_is_an_error_not_a_hang(tmp_path: Path) -> None:
    async def story() -> None:
        link = SocketLink(tmp_path / "calls")
        with pytest.raises(CasemateError) as error:
            await link.ask(Logout("x"), Empty)
        assert error.value.code == "kernel-unreachable"

    run(story())


def test_a_late_kernel_is_told_from_one_that_is_gone_and_whole_images_take_longer(
    tmp_path: Path,
) -> None:
    done = ChangeReply("It is done.", (), ("driver",), (), reboot_required=True)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(encode(2, done))

    async def story() -> None:
        async with serving(tmp_path / "calls", serve):
            link = SocketLink(tmp_path / "calls", seconds=(0.0, 60.0))
            with pytest.raises(CasemateError) as error:
                await link.ask(Logout("x"), Empty)
            assert error.value.code == "kernel-late"
            change = SoftwareChange("s", "remove", names=("driver",))
            assert await link.ask(change, ChangeReply) == done
            await link.close()

    run(story())


def test_replies_find_their_requests_in_any_order(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        first = SessionReply("h", "k", "one", "One", (), 0.0)
        writer.write(encode(2, Empty()) + encode(1, first))

    async def story() -> None:
        async with serving(tmp_path / "calls", serve) as link:
            one = asyncio.ensure_future(link.ask(Logout("a"), SessionReply))
            two = asyncio.ensure_future(link.ask(Logout("b"), Empty))
            assert (await one).user == "one"
            assert await two == Empty()

    run(story())


def test_a_reply_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(1, Empty()))

    async def story() -> None:
        async with serving(tmp_path / "calls", serve) as link:
            with pytest.raises(FormatError):
                await link.ask(Identity(), SessionReply)

    run(story())


@pytest.mark.parametrize("answer", [b"", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\x00"])
def test_a_broken_connection_fails_the_waiting_request(answer: bytes, tmp_path: Path) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def story() -> None:
        async with serving(tmp_path / "calls", serve) as link:
            with pytest.raises(CasemateError):
                await link.ask(Identity(), Empty)

    run(story())


def test_after_a_loss_the_next_request_connects_again(tmp_path: Path) -> None:
    count = [0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count[0] += 1
        await reader.readexactly(4)
        if count[0] > 1:
            writer.write(encode(2, Empty()))
        else:
            writer.close()

    async def story() -> None:
        async with serving(tmp_path / "calls", serve) as link:
            with pytest.raises(CasemateError):
                await link.ask(Logout("x"), Empty)
            assert await link.ask(Logout("x"), Empty) == Empty()

    run(story())


def test_the_stream_begins_again_after_a_loss(tmp_path: Path) -> None:
    fact = FactReply("e", 1, "DatastoreFact", DATASTORE.key, DATASTORE)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(1, fact))
        await writer.drain()
        writer.close()

    async def story() -> None:
        seen: list[FactReply | None] = []
        async with serving(tmp_path / "calls", serve) as link:
            async for reply in link.facts():
                seen.append(reply)
                if len(seen) == 4:
                    break
        assert seen == [None, fact, None, fact]

    run(story())


def test_what_a_new_stream_does_not_state_again_is_gone(play: Callable[..., None]) -> None:
    class Restarting(FakeKernel):
        async def facts(self):
            async for reply in super().facts():
                yield reply
                if reply is not None and reply.key == "2":
                    break
            yield None
            async for reply in super().facts():
                if reply is not None and reply.key != "2":
                    yield reply

    async def story(host) -> None:
        deadline = asyncio.get_running_loop().time() + 50
        while asyncio.get_running_loop().time() < deadline:
            reply = await host.root.call(
                "Fetch", MoRef("Folder", "ha-folder-vm"), "<prop>childEntity</prop>"
            )
            if ">2<" not in reply.text:
                break
            await asyncio.sleep(0.05)
        assert ">1<" in reply.text
        assert ">2<" not in reply.text

    play(story, Restarting())


def test_a_refusal_keeps_its_details() -> None:
    fact = FaultFact("InvalidPowerState", "power-state", "why", "what", (("a", "b"),))
    error = RefusedError(fact)
    assert (error.reason, error.code, error.remedy, error.fact) == (
        "why",
        "power-state",
        "what",
        fact,
    )
