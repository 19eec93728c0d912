"""Clients that are slow, silent, many or greedy do not keep the host from the honest."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from casemate.hostd import http, soap
from casemate.hostd.http import Protocol
from casemate.hostd.main import tls_context
from casemate.testing.fakekernel import PASSWORD, FakeKernel
from casemate.testing.hostsimulator import HostSimulator, write_certificate
from casemate.testing.soapclient import ENVELOPE
from casemate.vim25.values import MoRef

COLLECTOR = MoRef("PropertyCollector", "ha-property-collector")
HASTE = 0.5
ESTABLISHED = 1
"""TCP's state of a connection that nobody has ended."""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostSimulator]:
    """A host in haste about answers; about requests, only once a test hurries it."""
    monkeypatch.setattr(Protocol, "limit", 100.0)
    monkeypatch.setattr(Protocol, "take_limit", HASTE)
    with HostSimulator(FakeKernel(vms=1500)).running() as running:
        yield running


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on requests must come soon."""
    return lambda: monkeypatch.setattr(Protocol, "limit", HASTE)


def connect(host: HostSimulator) -> ssl.SSLSocket:
    trust = ssl.create_default_context(cadata=host.certificate.decode())
    plain = socket.create_connection(("127.0.0.1", host.port), timeout=60)
    return trust.wrap_socket(plain, server_hostname="localhost")


def ended(connection: ssl.SSLSocket) -> bool:
    with contextlib.suppress(OSError):
        return connection.recv(1) == b""
    return True


def asks(connection: ssl.SSLSocket) -> bool:
    connection.sendall(b"GET /sdk/vimServiceVersions.xml HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection.recv(15) == b"HTTP/1.1 200 OK"


def read_until(connection: ssl.SSLSocket, end: bytes) -> bytes:
    seen = b""
    while not seen.endswith(end):
        more = connection.recv(1 << 16)
        assert more
        seen += more
    return seen


def test_one_header_line_after_the_other_is_hung_up_on(
    host: HostSimulator, hurry: Callable[[], None]
) -> None:
    hurry()
    with connect(host) as slow:
        with contextlib.suppress(OSError):
            slow.sendall(b"POST /sdk HTTP/1.1\r\n")
            for number in range(50):
                slow.sendall(f"X-{number}: x\r\n".encode())
                time.sleep(HASTE / 5)
        assert ended(slow)


def test_a_silent_connection_is_hung_up_on(host: HostSimulator, hurry: Callable[[], None]) -> None:
    hurry()
    with connect(host) as silent:
        assert ended(silent)


def test_between_two_whole_requests_a_client_may_rest(
    host: HostSimulator, hurry: Callable[[], None]
) -> None:
    with connect(host) as honest:
        for _ in range(2):
            assert asks(honest)
            read_until(honest, b"</namespaces>\n")
            hurry()
        time.sleep(HASTE * 2)
        assert asks(honest)


def test_half_a_second_request_is_hung_up_on_as_well(
    host: HostSimulator, hurry: Callable[[], None]
) -> None:
    with connect(host) as slow:
        assert asks(slow)
        read_until(slow, b"</namespaces>\n")
        hurry()
        slow.sendall(b"GET / HT")
        assert ended(slow)


def test_an_answer_that_nobody_takes_is_given_up(host: HostSimulator) -> None:
    with connect(host) as greedy:
        assert asks(greedy)
        read_until(greedy, b"</namespaces>\n")
        ask = "POST /sdk HTTP/1.1\r\nHost: x\r\n{}Content-Length: {}\r\n\r\n{}"
        login = ENVELOPE.format(
            '<Login xmlns="urn:vim25"><_this type="SessionManager">ha-sessionmgr</_this>'
            f"<userName>root</userName><password>{PASSWORD}</password></Login>"
        )
        greedy.sendall(ask.format("", len(login), login).encode())
        head = read_until(greedy, b"Envelope>").decode()
        cookie = re.search(r"vmware_soap_session=[^;]*", head)[0]
        every = "".join(
            f'<objectSet><obj type="VirtualMachine">{number}</obj></objectSet>'
            for number in range(1, 1501)
        )
        read = ENVELOPE.format(
            '<RetrieveProperties xmlns="urn:vim25"><_this type="PropertyCollector">'
            "ha-property-collector</_this><specSet><propSet><type>VirtualMachine</type>"
            f"<pathSet>config</pathSet></propSet>{every}</specSet></RetrieveProperties>"
        )
        greedy.sendall(ask.format(f"Cookie: {cookie}\r\n", len(read), read).encode())
        assert greedy.recv(15) == b"HTTP/1.1 200 OK"
        deadline = time.monotonic() + 100
        while greedy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_thousand_idle_connections_leave_room_for_the_honest() -> None:
    with HostSimulator().running() as host, contextlib.ExitStack() as stack:
        for _ in range(1000):
            idle = socket.create_connection(("127.0.0.1", host.port), timeout=60)
            stack.enter_context(idle)
        with connect(host) as honest:
            assert asks(honest)


def test_one_peer_has_only_so_many_connections(
    host: HostSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Protocol, "of_one", 5)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            assert asks(stack.enter_context(connect(host)))
        more = stack.enter_context(connect(host))
        with contextlib.suppress(OSError):
            more.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ended(more)
    for _ in range(10_000):
        with connect(host) as again, contextlib.suppress(OSError):
            if asks(again):
                break
        time.sleep(0.02)
    else:
        raise AssertionError("the closed connections are still counted")


def test_whoever_has_rested_longest_gives_way_when_all_places_are_taken(
    host: HostSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Protocol, "full", 3)
    with contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(connect(host)) for _ in range(3))
        for one in (second, third, first):
            assert asks(one)
            read_until(one, b"</namespaces>\n")
        fourth = stack.enter_context(connect(host))
        assert asks(fourth)
        assert ended(second)
        assert asks(first)


def test_tls_begins_soon_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(http, "HANDSHAKE_SECONDS", 0.2)
    context = tls_context(*write_certificate(tmp_path))

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, http.Loop)
        loop.set_exception_handler(lambda *_: None)
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=http.Loop) as runner:
        runner.run(story())


def test_a_session_waits_only_so_many_times_at_once(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        waiting = []
        for _ in range(soap.CALLS_AT_ONCE):
            made = await host.root.call("CreatePropertyCollector", COLLECTOR)
            ref = MoRef("PropertyCollector", made.text.split(">session")[1].split("<")[0])
            ref = MoRef("PropertyCollector", f"session{ref.value}")
            waiting.append(asyncio.ensure_future(host.root.call("WaitForUpdatesEx", ref)))
        one_more = MoRef("ServiceInstance", "ServiceInstance")
        for _ in range(10_000):
            if (refused := await host.root.call("CurrentTime", one_more)).status == 500:
                break
            await asyncio.sleep(0.01)
        assert refused.status == 500
        other = await host.reader.call("CurrentTime", one_more)
        assert other.status == 200
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    play(story)
