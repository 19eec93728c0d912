"""A kernel does not serve on as if a part of it that has ended went on."""

from __future__ import annotations

import asyncio

import pytest

from casemate.errors import HostError
from casemate.kernel.__main__ import end, until_stopped


async def for_ever() -> None:
    await asyncio.Event().wait()


async def fails() -> None:
    raise HostError("the audit has ended")


def test_a_part_that_ends_ends_the_kernel() -> None:
    async def body() -> None:
        loops = asyncio.gather(for_ever(), fails())
        with pytest.raises(HostError, match="the audit has ended"):
            await until_stopped(asyncio.Event(), loops)
        await end(loops)

    asyncio.run(body())


def test_a_signal_to_stop_is_no_failure() -> None:
    async def body() -> None:
        stopping = asyncio.Event()
        loops = asyncio.gather(for_ever(), for_ever())
        asyncio.get_running_loop().call_soon(stopping.set)
        await until_stopped(stopping, loops)
        await end(loops)

    asyncio.run(body())
