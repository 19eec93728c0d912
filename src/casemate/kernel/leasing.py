"""Keeps a DHCP server running for each switch with NAT, and tells it whose address is which."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from casemate.errors import CasemateError, Finding, HostError
from casemate.kernel import confine
from casemate.kernel.boot.settings import ENVIRONMENT, PYTHON
from casemate.kernel.dhcpd import CONTROL, FRAMES
from casemate.kernel.ownroot import hide_all_but
from casemate.kernel.roots import visor_root
from casemate.kernel.sys import spawn
from casemate.kernel.sys.namespaces import Namespace, unshare
from casemate.machine.dhcp import DhcpService
from casemate.machine.networkplan import Router
from casemate.machine.processplan import DHCP

BACKOFF: Final = 0.5
BACKOFF_LIMIT: Final = 30.0
"""Seconds until a server that ended is started again: doubled each time, up to the limit."""
STEADY_SECONDS: Final = 2 * BACKOFF_LIMIT
"""Who ran so long is started again as soon as the first time."""
STOP_SECONDS: Final = 2.0
"""For a server to end when its kernel has let go of it, before it is killed."""
_TRIES: Final = 40
_TRY_SECONDS: Final = 0.05
"""While the server of a former kernel still holds its interface."""
_log = logging.getLogger(__name__)


def start_server(frames: int, control: int) -> spawn.Child:
    """Start a server, confined, with its two descriptors. Raises HostError."""

    def prepare() -> None:
        unshare(Namespace.NET)
        hide_all_but(root=visor_root())

    argv = (PYTHON, "-I", "-B", "-m", "casemate.kernel.enter", DHCP.name)
    program = spawn.Program(argv, ENVIRONMENT, {2: 2, FRAMES: frames, CONTROL: control})
    return confine.start(DHCP, program, prepare=prepare)


@dataclass(slots=True)
class _Server:
    """A switch's server. ``frames`` is its interface, which is kept while servers come and go.

    ``changing`` is held while it starts or ends, ``over`` set when none shall start any more;
    ``started`` is when, by the loop's clock.
    """

    frames: int
    said: bytes = b""
    control: socket.socket | None = None
    child: spawn.Child | None = None
    backoff: float = BACKOFF
    started: float = 0.0
    again: asyncio.TimerHandle | None = None
    over: bool = False
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Leasing:
    """The servers of a home. ``listen`` makes the interface of one."""

    def __init__(
        self,
        listen: Callable[[str], Awaitable[int]],
        start: Callable[[int, int], spawn.Child] = start_server,
    ) -> None:
        self._listen = listen
        self._start = start
        self._servers: dict[str, _Server] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._lost: HostError | None = None

    def findings(self) -> tuple[Finding, ...]:
        """Return why guests get no address, where they get none."""
        return () if self._lost is None else (self._lost.finding(),)

    async def listen(self, routers: Iterable[Router]) -> None:
        """Have an interface for each router, and none for others. Raises HostError."""
        wanted = {router.listener for router in routers}
        for name in self._servers.keys() - wanted:
            await self._end(self._servers.pop(name))
        for name in sorted(wanted - self._servers.keys()):
            self._servers[name] = _Server(await self._open(name))

    async def tell(self, routers: Iterable[Router], name_servers: tuple[str, ...]) -> None:
        """Have a server for each router, which knows what holds now."""
        for router in routers:
            server = self._servers[router.listener]
            said = _service(router, name_servers).dump()
            fresh = server.said != said
            server.said = said
            if server.child is None and server.again is None:
                await self._begin(router.listener, server)
            elif fresh:
                _say(server)

    async def close(self) -> None:
        """End all servers."""
        for server in self._servers.values():
            await self._end(server)
        self._servers.clear()
        if self._jobs:
            await asyncio.wait(tuple(self._jobs))

    async def _open(self, name: str) -> int:
        for left in range(_TRIES, 0, -1):
            try:
                return await self._listen(name)
            except HostError as error:
                if error.code != "host-ebusy" or left == 1:
                    raise
            await asyncio.sleep(_TRY_SECONDS)
        raise AssertionError

    async def _begin(self, name: str, server: _Server) -> None:
        async with server.changing:
            if server.child is None and not server.over:
                await self._start_one(name, server)

    async def _start_one(self, name: str, server: _Server) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            child = await asyncio.to_thread(self._start, server.frames, theirs.fileno())
        except CasemateError as error:
            ours.close()
            self._fail(name, server, error.reason)
            return
        finally:
            theirs.close()
        ours.setblocking(False)
        server.control, server.child, self._lost = ours, child, None
        _say(server)
        loop = asyncio.get_running_loop()
        server.started = loop.time()
        loop.add_reader(child.pidfd, self._ended, name, server)
        _log.info("DHCP server of %s started as pid %d", name, child.pid)

    def _ended(self, name: str, server: _Server) -> None:
        self._let_go(server)
        if asyncio.get_running_loop().time() - server.started >= STEADY_SECONDS:
            server.backoff = BACKOFF
        self._fail(name, server, "it ended")

    def _fail(self, name: str, server: _Server, why: str) -> None:
        self._lost = HostError(
            f"the DHCP server of {name} does not run: {why}",
            code="dhcp-lost",
            component=name,
            remedy="Look at the log of the kernel; it is started again by itself.",
        )
        _log.warning("%s; again in %.1f s", self._lost.reason, server.backoff)
        server.again = asyncio.get_running_loop().call_later(
            server.backoff, self._again, name, server
        )
        server.backoff = min(server.backoff * 2, BACKOFF_LIMIT)

    def _again(self, name: str, server: _Server) -> None:
        server.again = None
        if self._servers.get(name) is server:
            job = asyncio.ensure_future(self._begin(name, server))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)

    def _let_go(self, server: _Server) -> None:
        child, control = server.child, server.control
        server.child = server.control = None
        if control is not None:
            control.close()
        if child is not None:
            asyncio.get_running_loop().remove_reader(child.pidfd)
            spawn.reap([child.pid])
            os.close(child.pidfd)

    async def _end(self, server: _Server) -> None:
        server.over = True
        async with server.changing:
            await self._end_one(server)

    async def _end_one(self, server: _Server) -> None:
        if server.again is not None:
            server.again.cancel()
        if server.child is not None and server.control is not None:
            asyncio.get_running_loop().remove_reader(server.child.pidfd)
            server.control.close()
            gone = await asyncio.to_thread(spawn.wait_gone, server.child.pidfd, STOP_SECONDS)
            if not gone:
                spawn.kill(server.child.pidfd)
                await asyncio.to_thread(spawn.wait_gone, server.child.pidfd, STOP_SECONDS)
        self._let_go(server)
        os.close(server.frames)


def _say(server: _Server) -> None:
    """Tell a server; one that cannot be told now is told the next time."""
    if server.control is None:
        return
    try:
        server.control.send(server.said)
    except OSError as error:
        server.said = b""
        _log.warning("a DHCP server cannot be told: %s", error.strerror)


def _service(router: Router, name_servers: tuple[str, ...]) -> DhcpService:
    nat = router.nat
    return DhcpService(
        nat.network,
        str(nat.gateway),
        router.mac,
        nat.name_servers or name_servers,
        router.mtu,
        dict(router.cards),
    )
