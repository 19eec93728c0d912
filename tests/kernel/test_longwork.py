"""Copies that take minutes and work that is quick do not wait for each other."""

from __future__ import annotations

import asyncio
import threading

import pytest

from casemate.errors import CancelledError
from casemate.kernel.longwork import AT_ONCE, in_own_thread


def test_many_long_copies_hold_up_no_short_work() -> None:
    go_on = threading.Event()
    begun: list[int] = []

    def copy(number: int) -> int:
        begun.append(number)
        go_on.wait(100)
        return number

    async def body() -> None:
        copies = [asyncio.ensure_future(in_own_thread(copy, number)) for number in range(40)]
        short = [asyncio.to_thread(threading.get_ident) for _ in range(40)]
        await asyncio.wait_for(asyncio.gather(*short), 60)
        assert len(begun) <= AT_ONCE
        go_on.set()
        assert await asyncio.gather(*copies) == list(range(40))

    asyncio.run(body())


def test_what_long_work_raises_comes_to_whoever_waits() -> None:
    def work() -> None:
        raise CancelledError("no more")

    with pytest.raises(CancelledError):
        asyncio.run(in_own_thread(work))
