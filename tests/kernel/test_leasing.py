"""A DHCP server that is starting ends with its switch, and is started once."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from casemate.errors import HostError
from casemate.kernel import leasing
from casemate.kernel.leasing import Leasing
from casemate.kernel.sys.spawn import Child
from casemate.machine.nat import Nat
from casemate.machine.networkplan import Router

ROUTER = Router(1, "b1", "r1", Nat("10.1.0.0/24"), 1500)


class SlowStart:
    """Starts servers that end when they are let go of, not before it is told to go on."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.failing = True
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def start(self, frames: int, control: int) -> Child:
        assert Path(f"/proc/self/fd/{frames}").readlink() == Path("/dev/null")
        if self.failing:
            self.failing = False
            raise HostError("no program", code="host-enoent")
        self.begun.set()
        assert self.go_on.wait(60)
        null = (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)
        actions = [(os.POSIX_SPAWN_DUP2, control, 0), null]
        pid = os.posix_spawn("/bin/cat", ["cat"], {}, file_actions=actions)
        self.pids.append(pid)
        return Child(pid, os.pidfd_open(pid))


class Ending:
    """Starts servers that end at once."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def start(self, _frames: int, _control: int) -> Child:
        pid = os.posix_spawn("/bin/true", ["true"], {})
        self.pids.append(pid)
        return Child(pid, os.pidfd_open(pid))


def backoff_after(ends: int, steady: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return how long is waited once a server has ended so often; ``steady``: see there."""
    monkeypatch.setattr(leasing, "BACKOFF", 0.001)
    monkeypatch.setattr(leasing, "STEADY_SECONDS", steady)
    ending = Ending()

    async def body() -> float:
        servers = Leasing(listen, ending.start)
        await servers.listen([ROUTER])
        server = servers._servers[ROUTER.listener]
        server.backoff = 0.001
        await servers.tell([ROUTER], ())
        async with asyncio.timeout(60):
            while True:
                if len(ending.pids) > ends and server.again is not None:
                    break
                await asyncio.sleep(0.001)
        found = server.backoff
        await servers.close()
        return found

    return asyncio.run(body())


def test_a_server_that_ends_again_and_again_is_started_ever_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert backoff_after(4, 3600.0, monkeypatch) >= 0.001 * 2**4


def test_a_server_that_ran_for_long_is_started_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert backoff_after(4, 0.0, monkeypatch) == 0.001 * 2


async def listen(_name: str) -> int:
    return os.open("/dev/null", os.O_RDWR)


def test_a_switch_that_goes_while_its_server_starts_again_leaves_no_server() -> None:
    slow = SlowStart()

    async def body() -> None:
        servers = Leasing(listen, slow.start)
        await servers.listen([ROUTER])
        servers._servers[ROUTER.listener].backoff = 0.0
        await servers.tell([ROUTER], ())
        await asyncio.to_thread(slow.begun.wait, 60)
        again = asyncio.ensure_future(servers.tell([ROUTER], ()))
        gone = asyncio.ensure_future(servers.listen([]))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not gone.done()
        slow.go_on.set()
        await again
        await gone
        await servers.close()

    asyncio.run(body())
    assert len(slow.pids) == 1
    assert not Path(f"/proc/{slow.pids[0]}").exists()
