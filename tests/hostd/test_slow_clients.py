"""Clients that are slow, silent, many or greedy do not keep the host from the honest."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest

from casemate.hostd import soap
from casemate.hostd.http import Protocol
from casemate.testing.hostsimulator import HostSimulator
from casemate.vim25.values import MoRef

COLLECTOR = MoRef("PropertyCollector", "ha-property-collector")
HASTE = 0.5


@pytest.fixture
def host() -> Iterator[HostSimulator]:
    kept, Protocol.limit = Protocol.limit, HASTE
    try:
        with HostSimulator().running() as running:
            yield running
    finally:
        Protocol.limit = kept


def connect(host: HostSimulator) -> ssl.SSLSocket:
    trust = ssl.create_default_context(cadata=host.certificate.decode())
    plain = socket.create_connection(("127.0.0.1", host.port), timeout=10)
    return trust.wrap_socket(plain, server_hostname="localhost")


def ended(connection: ssl.SSLSocket) -> bool:
    with contextlib.suppress(OSError):
        return connection.recv(1) == b""
    return True


def asks(connection: ssl.SSLSocket) -> bool:
    connection.sendall(b"GET /sdk/vimServiceVersions.xml HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection.recv(15) == b"HTTP/1.1 200 OK"


def test_one_header_line_after_the_other_is_hung_up_on(host: HostSimulator) -> None:
    with connect(host) as slow:
        slow.sendall(b"POST /sdk HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            for number in range(50):
                slow.sendall(f"X-{number}: x\r\n".encode())
                time.sleep(HASTE / 5)
        assert ended(slow)


def test_a_silent_connection_is_hung_up_on(host: HostSimulator) -> None:
    with connect(host) as silent:
        assert ended(silent)


def test_between_two_whole_requests_a_client_may_rest(host: HostSimulator) -> None:
    with connect(host) as honest:
        assert asks(honest)
        while not honest.recv(1 << 16).endswith(b"</namespaces>\n"):
            continue
        time.sleep(HASTE * 2)
        assert asks(honest)


def test_half_a_second_request_is_hung_up_on_as_well(host: HostSimulator) -> None:
    with connect(host) as slow:
        assert asks(slow)
        while not slow.recv(1 << 16).endswith(b"</namespaces>\n"):
            continue
        slow.sendall(b"GET / HT")
        assert ended(slow)


def test_a_thousand_idle_connections_leave_room_for_the_honest() -> None:
    with HostSimulator().running() as host, contextlib.ExitStack() as stack:
        for _ in range(1000):
            idle = socket.create_connection(("127.0.0.1", host.port), timeout=10)
            stack.enter_context(idle)
        with connect(host) as honest:
            assert asks(honest)


def test_a_session_waits_only_so_many_times_at_once(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        waiting = []
        for _ in range(soap.CALLS_AT_ONCE):
            made = await host.root.call("CreatePropertyCollector", COLLECTOR)
            ref = MoRef("PropertyCollector", made.text.split(">session")[1].split("<")[0])
            ref = MoRef("PropertyCollector", f"session{ref.value}")
            waiting.append(asyncio.ensure_future(host.root.call("WaitForUpdatesEx", ref)))
        await asyncio.sleep(0.1)
        refused = await host.root.call("CurrentTime", MoRef("ServiceInstance", "ServiceInstance"))
        assert refused.status == 500
        other = await host.reader.call("CurrentTime", MoRef("ServiceInstance", "ServiceInstance"))
        assert other.status == 200
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    play(story)
