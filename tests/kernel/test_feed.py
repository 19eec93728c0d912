"""A file that arrives in pieces is read as if it lay there."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.errors import StateError
from casemate.kernel.feed import AHEAD, Feed


@settings(max_examples=40, deadline=None)
@given(
    st.binary(max_size=400),
    st.lists(st.integers(1, 60), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 90)), max_size=12),
)
def test_reads_give_what_a_file_gives(
    content: bytes, cuts: list[int], reads: list[tuple[int, int]]
) -> None:
    async def story() -> None:
        feed = Feed()

        def read() -> None:
            offset = 0
            for ahead, size in reads:
                offset += ahead
                assert feed.read(offset, size) == content[offset : offset + size]

        work = asyncio.ensure_future(asyncio.to_thread(read))
        work.add_done_callback(lambda _: feed.let_go())
        position, number = 0, 0
        while position < len(content) and not work.done():
            size = cuts[number % len(cuts)]
            await feed.put(content[position : position + size])
            position, number = position + size, number + 1
        feed.end(whole=True)
        await asyncio.wait_for(work, 60)

    asyncio.run(story())


def test_a_file_that_breaks_off_is_no_end() -> None:
    async def story() -> None:
        feed = Feed()
        await feed.put(b"half")
        feed.end(whole=False)
        assert feed.read(0, 4) == b"half"
        with pytest.raises(StateError):
            feed.read(0, 5)

    asyncio.run(story())


def test_a_sender_is_held_back_while_the_reader_is_behind() -> None:
    async def story() -> None:
        feed = Feed()
        for _ in range(AHEAD):
            await feed.put(b"x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(feed.put(b"x"), 0.05)
        feed.read(0, 1)
        await asyncio.wait_for(feed.put(b"x"), 60)

    asyncio.run(story())
