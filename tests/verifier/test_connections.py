"""Connections as attacks: slow bodies, bodies nobody asked for, too many, TLS that never begins."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
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


def served(web: Web, source: str, stack: contextlib.ExitStack) -> ssl.SSLSocket | None:
    """Return a connection that is served, None where it was turned away."""
    with contextlib.suppress(OSError):
        connection = stack.enter_context(web.connection(source))
        return connection if answers(connection) else None
    return None


def wait_for_room(web: Web, source: str) -> None:
    def has_room() -> bool:
        with contextlib.ExitStack() as stack:
            return served(web, source, stack) is not None

    wait_for(has_room)


def half_open(web: Web, source: str) -> socket.socket:
    """Return a connection on which TLS never begins."""
    address = (web.client.base_url.host, web.client.base_url.port or 0)
    return socket.create_connection(address, timeout=120, source_address=(source, 0))


def test_one_peer_takes_not_all_places_and_another_is_served(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections.Places, "count", PLACES)
    monkeypatch.setattr(connections.Punctual, "limit", 600.0)
    with contextlib.ExitStack() as stack:
        flood = [served(web, "127.0.0.66", stack) for _ in range(3 * PLACES)]
        held = [one for one in flood if one is not None]
        assert len(held) == PLACES // 2
        assert all(served(web, "127.0.0.7", stack) for _ in range(2))
        assert all(map(answers, held))  # nobody was thrown out for it
        assert served(web, "127.0.0.66", stack) is None
        for one in held:
            one.close()
        wait_for_room(web, "127.0.0.66")


def test_handshakes_that_one_peer_never_ends_take_not_all_places(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections.Places, "count", PLACES)
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 600.0)
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(half_open(web, "127.0.0.66")) for _ in range(3 * PLACES)]

        def turned_away() -> int:
            return len(select.select(flood, [], [], 0)[0])

        wait_for(lambda: turned_away() == 3 * PLACES - PLACES // 2)
        assert all(served(web, "127.0.0.7", stack) for _ in range(2))
        assert served(web, "127.0.0.66", stack) is None
        assert turned_away() == 3 * PLACES - PLACES // 2
        for one in flood:
            one.close()
        wait_for_room(web, "127.0.0.66")


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\x04\x01\0\0\0"])
def test_a_handshake_that_fails_or_takes_too_long_gives_its_place_back(
    web: Web, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(connections.Places, "count", 2)
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.3)
    for _ in range(3):
        with half_open(web, "127.0.0.66") as one, contextlib.suppress(ConnectionError):
            one.sendall(said)
            while one.recv(4096):
                pass
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 120.0)
    wait_for_room(web, "127.0.0.66")


def test_places_are_shared_by_peers_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections.Places, "count", 9)
    places = connections.Places()

    def arrive(address: str, count: int) -> list[connections.Place]:
        taken = [places.take(address) for _ in range(count)]
        return [one for one in taken if one is not None]

    first = arrive("2001:db8:1:2::1", 20)
    same_site = arrive("2001:db8:1:2:ffff::9", 20)
    assert (len(first), same_site) == (5, [])
    assert len(arrive("2001:db8:1:3::1", 20)) == 2
    assert len(arrive("198.51.100.1", 20)) == 1
    assert len(arrive("::ffff:198.51.100.1", 1)) == 0
    for one in (*first, *first):
        one.give_back()
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
