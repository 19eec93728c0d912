"""Contents of files on their way: what ends a transfer, and that nothing half-done stands."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from casemate.calls.files import CHUNK_LIMIT, ReadFile, WriteFile
from casemate.calls.messages import Login, Logout, SessionReply
from casemate.errors import CasemateError
from casemate.hostd.kernelclient import RefusedError, Transfer
from casemate.kernel import transfers
from casemate.testing.fakefacts import DATASTORE, fake_vm
from casemate.testing.fakekernel import PASSWORD, READER, USER, FakeKernel

STORE = DATASTORE.datastore
Story = Callable[[FakeKernel, str], Awaitable[None]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "datastore1"
    made.mkdir()
    (made / "old").write_bytes(b"old")
    return made


@pytest.fixture
def play(place: Path) -> Callable[[Story], None]:
    """Run a story with a kernel and a session; nothing half-done may be left."""

    def run(story: Story) -> None:
        async def whole() -> None:
            kernel = FakeKernel(volumes=place.parent)
            reply = await kernel.ask(Login(USER, PASSWORD, ""), SessionReply)
            await story(kernel, reply.handle)
            await kernel.close()

        asyncio.run(asyncio.wait_for(whole(), 100))
        assert not list(place.rglob(".casemate-*"))

    return run


def test_an_upload_of_a_session_that_ended_meanwhile_does_not_stand(play, place: Path) -> None:
    async def story(kernel: FakeKernel, handle: str) -> None:
        async with kernel.transfer(WriteFile(handle, STORE, "old")) as transfer:
            await transfer.write(b"new")
            await kernel.ask(Logout(handle), object)
            with pytest.raises(RefusedError, match="not authenticated"):
                await transfer.end()

    play(story)
    assert (place / "old").read_bytes() == b"old"


def test_an_upload_in_drops_ends_with_its_session(
    play, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casemate.kernel.transfers._LOOK_SECONDS", 0.0)

    async def drip(transfer: Transfer) -> None:
        for _ in range(10_000):
            await transfer.write(b"e")
            await asyncio.sleep(0)

    async def story(kernel: FakeKernel, handle: str) -> None:
        async with kernel.transfer(WriteFile(handle, STORE, "old")) as transfer:
            await transfer.write(b"n")
            await kernel.ask(Logout(handle), object)
            with pytest.raises(RefusedError, match="not authenticated"):
                await drip(transfer)

    play(story)
    assert (place / "old").read_bytes() == b"old"


def test_an_upload_that_is_given_up_or_of_another_size_does_not_stand(play, place: Path) -> None:
    async def story(kernel: FakeKernel, handle: str) -> None:
        async with kernel.transfer(WriteFile(handle, STORE, "old")) as transfer:
            await transfer.write(b"half")
        async with kernel.transfer(WriteFile(handle, STORE, "old", 7)) as transfer:
            await transfer.write(b"six...")
            with pytest.raises(RefusedError, match="announced"):
                await transfer.end()

    play(story)
    assert (place / "old").read_bytes() == b"old"


def test_a_file_that_became_a_vm_s_meanwhile_is_not_replaced(play, place: Path) -> None:
    (place / "vm9").mkdir()

    async def story(kernel: FakeKernel, handle: str) -> None:
        async with kernel.transfer(WriteFile(handle, STORE, "vm9/vm9.vmx")) as transfer:
            await transfer.write(b"planted")
            kernel.state(fake_vm(9))
            with pytest.raises(RefusedError) as refused:
                await transfer.end()
            assert refused.value.fact.fault == "FileLocked"

    play(story)
    assert list((place / "vm9").iterdir()) == []


def test_a_piece_that_is_too_long_ends_the_transfer(play, place: Path) -> None:
    async def story(kernel: FakeKernel, handle: str) -> None:
        async with kernel.transfer(WriteFile(handle, STORE, "new")) as transfer:
            transfer._writer.write((CHUNK_LIMIT + 1).to_bytes(4, "big"))
            with pytest.raises(RefusedError, match="the limit is"):
                await transfer.end()

    play(story)
    assert not (place / "new").exists()


def test_a_transfer_in_which_nothing_moves_is_ended(
    play, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "QUIET_SECONDS", 0.05)

    async def now_and_then(transfer: Transfer) -> None:
        for _ in range(500):
            await transfer.write(b"x")
            await asyncio.sleep(0.2)

    async def story(kernel: FakeKernel, handle: str) -> None:
        async with kernel.transfer(WriteFile(handle, STORE, "new")) as transfer:
            with pytest.raises(RefusedError, match="nothing moved"):
                await now_and_then(transfer)

    play(story)
    assert not (place / "new").exists()


def test_more_transfers_than_there_may_be_are_refused_and_the_others_go_on(play) -> None:
    async def story(kernel: FakeKernel, handle: str) -> None:
        other = (await kernel.ask(Login(USER, PASSWORD, ""), SessionReply)).handle
        handles = [handle] * transfers.OF_ONE
        handles += [other] * (transfers.AT_ONCE - transfers.OF_ONE)
        async with AsyncExitStack() as opened:
            first = []
            for number, one in enumerate(handles):
                if number == transfers.OF_ONE:
                    with pytest.raises(RefusedError, match="already"):
                        async with kernel.transfer(WriteFile(handle, STORE, "more")):
                            pass
                request = WriteFile(one, STORE, f"new{number}")
                first.append(await opened.enter_async_context(kernel.transfer(request)))
            with pytest.raises(RefusedError, match="already"):
                async with kernel.transfer(WriteFile(other, STORE, "more")):
                    pass
            await first[0].end()
        async with kernel.transfer(WriteFile(handle, STORE, "more")) as transfer:
            await transfer.end()

    play(story)


async def rest(transfer: Transfer) -> None:
    while await transfer.read():
        pass


def test_a_file_that_is_cut_while_it_is_read_is_no_shorter_file(play, place: Path) -> None:
    (place / "long").write_bytes(bytes(8 << 20))

    async def story(kernel: FakeKernel, handle: str) -> None:
        async with kernel.transfer(ReadFile(handle, STORE, "long", 0, 8 << 20)) as transfer:
            assert await transfer.read()
            os.truncate(place / "long", 0)
            with pytest.raises(CasemateError):
                await rest(transfer)

    play(story)


def test_who_lacks_the_privilege_transfers_nothing(play, place: Path) -> None:
    async def story(kernel: FakeKernel, _: str) -> None:
        reader = await kernel.ask(Login(READER, PASSWORD, ""), SessionReply)
        for request in (
            WriteFile(reader.handle, STORE, "new"),
            ReadFile(reader.handle, STORE, "old", 0, 3),
            replace(ReadFile("", STORE, "old", 0, 3), session="nobody"),
        ):
            with pytest.raises(RefusedError):
                async with kernel.transfer(request):
                    pass

    play(story)
    assert not (place / "new").exists()
