"""Agents that reach their verifier over a real NATS server with JetStream, over TLS."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.ports import free_port
from tests.verifier.conftest import Web

from casemate.cli import agent, agentways
from casemate.errors import ArgumentError, HostError
from casemate.kernel.certificate import ensure_certificate
from casemate.testing.minifleet import HonestHost
from casemate.testing.smallhost import SmallHost, SmallImage, sign_reference
from casemate.verifier import bus
from casemate.verifier.app import bus_handler
from casemate.verifier.bus import Bus, Place
from casemate.verifier.enrol import Wanted

pytestmark = pytest.mark.host


@dataclass
class Nats:
    """A server of its own that can be stopped and started again."""

    place: Place
    words: list[str]
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.running = subprocess.Popen(
            self.words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        port = int(self.words[self.words.index("-p") + 1])
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        assert self.running is not None
        self.running.terminate()
        self.running.wait(60)


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    pytest.importorskip("nats")
    program = shutil.which("nats-server", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("needs the Debian package nats-server")
    tls = ensure_certificate(tmp_path / "nats-tls", "localhost", 0, datetime.now(UTC))
    port = free_port()
    words = [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(tmp_path / "js")]
    words += ["--tls", "--tlscert", str(tls / "rui.crt"), "--tlskey", str(tls / "rui.key")]
    made = Nats(Place(f"tls://localhost:{port}", tls / "rui.crt"), words)
    made.start()
    yield made
    made.stop()


@contextmanager
def listening(web: Web, nats: Nats) -> Iterator[None]:
    made = Bus(nats.place, bus_handler(web.service))
    made.start()
    try:
        yield
    finally:
        made.close()


@contextmanager
def posting(nats: Nats, secret: str) -> Iterator[agentways.OverNats]:
    made = agentways.OverNats(nats.place, secret)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def secret(web: Web) -> str:
    web.service.book.add(sign_reference(SmallImage().reference()), "anna")
    return web.service.enrolment.invite(Wanted("far"), "anna")[1]


def test_an_agent_is_enrolled_and_judged_over_the_bus(web: Web, nats: Nats, secret: str) -> None:
    host = SmallHost()
    source = HonestHost(host)
    with listening(web, nats), posting(nats, secret) as verifier:
        assert agent.Prover(source, verifier).round()["state"] == "pending"
        web.service.enrolment.approve("far", "anna")
        assert agent.Prover(source, verifier).round()["state"] == "trusted"
        host.reboot(SmallImage(contents={"nic.v00": b"evil"}))
        told = agent.Prover(source, verifier).round()
        assert told["state"] == "failed-latched"
        assert "nic.v00" in told["verdict"]
        with posting(nats, "guess") as stranger, pytest.raises(HostError) as refused:
            agent.Prover(source, stranger).round()
        assert refused.value.code == "not-authenticated"
        with pytest.raises(HostError):
            verifier.post("/token")


def test_what_came_while_the_verifier_was_away_is_not_lost(
    web: Web, nats: Nats, secret: str
) -> None:
    source = HonestHost(SmallHost())
    with listening(web, nats), posting(nats, secret) as verifier:
        agent.Prover(source, verifier).round()
        web.service.enrolment.approve("far", "anna")
    told: list[str] = []

    def later(verifier: agentways.OverNats) -> None:
        told.append(agent.Prover(source, verifier).round()["state"])

    with posting(nats, secret) as verifier:
        thread = threading.Thread(target=later, args=(verifier,))
        thread.start()
        time.sleep(1)
        assert told == []
        with listening(web, nats):
            thread.join(100)
    assert told == ["trusted"]


def test_a_server_that_was_restarted_is_found_again(web: Web, nats: Nats, secret: str) -> None:
    source = HonestHost(SmallHost())
    with listening(web, nats), posting(nats, secret) as verifier:
        agent.Prover(source, verifier).round()
        web.service.enrolment.approve("far", "anna")
        nats.stop()
        nats.start()
        deadline = time.monotonic() + 60
        while True:
            try:
                assert agent.Prover(source, verifier).round()["state"] == "trusted"
            except HostError:
                assert time.monotonic() < deadline
            else:
                break


def test_a_message_cannot_make_the_verifier_talk_to_another_subject(
    web: Web, nats: Nats, secret: str
) -> None:
    async def attack() -> list[bytes]:
        connection = await bus.connect(nats.place, wait=False)
        heard: list[bytes] = []

        async def hear(message: object) -> None:
            heard.append(bytes(getattr(message, "data", b"")))

        await connection.subscribe("elsewhere", cb=hear)
        for inbox in ("elsewhere", "_INBOX.x y", "casemate.agent.nonce"):
            headers = {"secret": secret, "inbox": inbox}
            await connection.jetstream().publish(f"{bus.SUBJECT}.nonce", b"", headers=headers)
        await asyncio.sleep(1)
        await connection.close()
        return heard

    with listening(web, nats):
        time.sleep(1)
        assert asyncio.run(attack()) == []


@pytest.mark.parametrize("url", ["nats://far.example:4222", "http://localhost", "tls://"])
def test_secrets_never_travel_in_the_open(url: str) -> None:
    with pytest.raises(ArgumentError):
        Place(url).check()
