"""Connections as attacks: slow bodies, bodies nobody asked for, too many, TLS that never begins."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.verifier.conftest import Web
from tests.verifier.hooks import wait_for

from casemate.verifier import connections
from casemate.verifier import web as face

ASK = b"GET /assets/none HTTP/1.1\r\nhost: a\r\n\r\n"
PLACES = 12


def answers(connection: ssl.SSLSocket) -> bool:
    """Tell whether a connection is served, or was ended."""
    try:
        connection.sendall(ASK)
        found = b""
        while not found.endswith(b"There is no such file."):
            part = connection.recv(4096)
            if not part:
                return False
            found += part
        return found.startswith(b"HTTP/1.1 404")
    except OSError:
        return False


def told(connection: ssl.SSLSocket) -> bytes:
    """Return all that comes until the connection ends."""
    found = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while part := connection.recv(4096):
            found += part
    return found


@contextlib.contextmanager
def dripping(connection: ssl.SSLSocket) -> Iterator[None]:
    """Send a byte now and then until the connection ends."""
    over = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError, ValueError):
            while not over.wait(0.02):
                connection.sendall(b"a")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("path", ["/api/v1/login", "/login", "/agent/v1/nonce"])
def test_body_that_comes_byte_by_byte_ends_its_connection_and_others_are_served(
    web: Web, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(face, "READ_SECONDS", 0.3)
    with web.connection() as slow, web.connection() as honest:
        slow.sendall(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 9000\r\n\r\n".encode())
        with dripping(slow):
            assert answers(honest)
            told_slow = told(slow)
        assert b"400" in told_slow.split(b"\r\n")[0]
        assert answers(honest)


@pytest.mark.parametrize("head", [b"GET /assets/none", b"POST /nowhere", b"DELETE /login"])
def test_body_that_nobody_reads_ends_its_connection_as_well(
    web: Web, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    with web.connection() as slow:
        slow.sendall(head + b" HTTP/1.1\r\nhost: a\r\ncontent-length: 9000000\r\n\r\n")
        assert slow.recv(4096).startswith(b"HTTP/1.1 40")
        monkeypatch.setattr(connections.Punctual, "limit", 0.3)
        with dripping(slow):
            told(slow)


def test_answers_that_nobody_takes_are_given_up(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections.Punctual, "take_limit", 0.3)
    ask = b"GET /api/v1/openapi.json HTTP/1.1\r\nhost: a\r\n\r\n"
    with web.connection() as deaf:
        deaf.sendall(ask * 2000)  # some 100 MB of answers
        wait_for(lambda: deaf.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0)


def test_one_peer_takes_not_all_places_and_another_is_served(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections.Fair, "places", PLACES)
    monkeypatch.setattr(connections.Punctual, "limit", 600.0)
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(web.connection("127.0.0.66")) for _ in range(3 * PLACES)]
        served = [one for one in flood if answers(one)]
        assert len(served) == PLACES // 2
        honest = [stack.enter_context(web.connection("127.0.0.7")) for _ in range(2)]
        assert all(map(answers, honest))
        assert all(map(answers, served))  # nobody was thrown out for it
        assert not answers(stack.enter_context(web.connection("127.0.0.66")))
        for one in flood:
            one.close()

        def has_room() -> bool:
            with web.connection("127.0.0.66") as again:
                return answers(again)

        wait_for(has_room)


def test_places_are_shared_by_peers_and_given_back() -> None:
    class Transport(asyncio.Transport):
        aborted = False

        def __init__(self, address: str) -> None:
            super().__init__({"peername": (address, 1)})

        def abort(self) -> None:
            self.aborted = True

    class Base(asyncio.Protocol):
        def connection_made(self, _transport: asyncio.BaseTransport) -> None:
            everybody.add(self)

        def connection_lost(self, _exc: Exception | None) -> None:
            everybody.discard(self)

    everybody: set[object] = set()
    protocol = type(
        "Protocol",
        (connections.Fair, Base),
        {"peers": Counter[str](), "connections": everybody, "places": 9},
    )

    def arrive(address: str, count: int) -> list[connections.Fair]:
        taken = []
        for _ in range(count):
            one, transport = protocol(), Transport(address)
            one.connection_made(transport)
            assert transport.aborted == (one not in everybody)
            taken += [] if transport.aborted else [one]
        return taken

    first = arrive("2001:db8:1:2::1", 20)
    same_site = arrive("2001:db8:1:2:ffff::9", 20)
    assert (len(first), same_site) == (5, [])
    assert len(arrive("2001:db8:1:3::1", 20)) == 2
    assert len(arrive("198.51.100.1", 20)) == 1
    assert len(arrive("::ffff:198.51.100.1", 1)) == 0
    for one in first:
        one.connection_lost(None)
    assert "2001:db8:1:2::/64" not in protocol.peers
    assert len(arrive("2001:db8:1:2::1", 20)) == 3


def test_tls_that_does_not_begin_ends(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.3)
    monkeypatch.setattr("asyncio.constants.SSL_HANDSHAKE_TIMEOUT", 600.0)  # not by itself
    web: Web = request.getfixturevalue("web")
    address = (web.client.base_url.host, web.client.base_url.port or 0)
    with socket.create_connection(address, timeout=120) as silent:
        assert silent.recv(1) == b""
