"""A verifier without its web face, over SQLite or PostgreSQL, and hosts in miniature."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from argon2 import PasswordHasher

from casemate.machine.fleet import FleetHost
from casemate.testing.minifleet import MiniFleet
from casemate.testing.pki import NOW, issue, shared_pki
from casemate.testing.serving import serving
from casemate.testing.smallhost import SmallImage, ek_maker, sign_reference
from casemate.ui.verifier import render
from casemate.verifier import store
from casemate.verifier.alarms import Notifier
from casemate.verifier.app import make_app, make_server
from casemate.verifier.client import HostClient
from casemate.verifier.database import Database, open_database
from casemate.verifier.enrol import Enrolment, Wanted
from casemate.verifier.ledger import Ledger
from casemate.verifier.people import People, Role
from casemate.verifier.references import Anchors, ReferenceBook
from casemate.verifier.rounds import Rounds
from casemate.verifier.rulebook import RuleBook
from casemate.verifier.scheduler import Scheduler
from casemate.verifier.schema import SCHEMA
from casemate.verifier.service import Service, Settings
from casemate.verifier.web import COOKIE


def connect(address: str) -> HostClient:
    host, _, port = address.partition(":")
    return HostClient(host, int(port), timeout=60)


@dataclass
class Engine:
    """Everything behind the web face; ``workers`` are its schedulers."""

    database: Database
    anchors: Anchors
    workers: list[Scheduler] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.notifier = Notifier(self.database)
        self.book = ReferenceBook(self.database, self.anchors, clock=lambda: NOW)
        self.ledger = Ledger(self.database, self.notifier)
        self.rules = RuleBook(self.database, self.anchors, clock=lambda: NOW)
        self.rounds = Rounds(
            self.database, self.book, self.rules, self.anchors, self.ledger, connect
        )
        self.enrolment = Enrolment(self.database, self.anchors, connect)

    def reference(self, image: SmallImage | None = None) -> None:
        self.book.add(sign_reference((image or SmallImage()).reference()), "anna")

    def enrol(self, fleet: MiniFleet, cadence: float = 60.0) -> None:
        for name, address in fleet.addresses.items():
            self.enrolment.pull(Wanted(name, address, cadence=cadence), "anna")
            self.enrolment.approve(name, "anna")

    def host(self, name: str) -> FleetHost:
        with self.database.transaction() as step:
            return store.get_host(step, name)

    def states(self) -> dict[str, str]:
        with self.database.transaction() as step:
            return {host.name: host.state for host in store.all_hosts(step)}

    def round(self, name: str) -> FleetHost:
        """Do one round now, as a scheduler does."""
        with self.database.transaction() as step:
            step.run("UPDATE host SET next_due=1e12 WHERE name<>?", name)
            store.due_now(step, name)
        for leased in store.lease_due(self.database, "test", 60):
            self.rounds.pull(leased)
        return self.host(name)

    def worker(self, name: str) -> Scheduler:
        worker = Scheduler(self.database, self.rounds, self.ledger, self.notifier, name)
        worker.start()
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()
        self.notifier.close()
        self.database.close()


def make_anchors(place: Path) -> Anchors:
    trust = place / "trust"
    for level in ("certified", "ek"):
        (trust / level).mkdir(parents=True)
    (trust / "certified" / "ca.pem").write_bytes(shared_pki().issuers["certified"].pem)
    (trust / "ek" / "maker.pem").write_bytes(ek_maker().pem)
    return Anchors(trust)


@pytest.fixture
def anchors(tmp_path: Path) -> Anchors:
    return make_anchors(tmp_path)


@pytest.fixture
def engine(tmp_path: Path, anchors: Anchors) -> Iterator[Engine]:
    made = Engine(open_database(str(tmp_path / "verifier.db"), SCHEMA), anchors)
    yield made
    made.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Callable[[int], MiniFleet]]:
    made: list[MiniFleet] = []

    def make(count: int) -> MiniFleet:
        made.append(MiniFleet(count, tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A real PostgreSQL of its own, reached over a Unix socket."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found or os.getuid() != 0:
        pytest.skip("needs root and the Debian package postgresql")
    place = Path(tempfile.mkdtemp(prefix="casemate-pg-"))  # a socket's path must be short
    shutil.chown(place, "postgres", "postgres")
    data, tool = place / "data", str(found[-1])

    def as_postgres(*words: str) -> None:
        subprocess.run(["runuser", "-u", "postgres", "--", *words], check=True, timeout=99, cwd="/")

    as_postgres(tool, "initdb", "-s", "-D", str(data), "-o", "-A trust --no-sync")
    options = f"-c listen_addresses='' -k {place} -c fsync=off -c max_connections=60"
    as_postgres(tool, "-D", str(data), "-l", str(place / "log"), "-o", options, "-w", "start")
    yield f"postgresql:///postgres?host={place}&user=postgres"
    as_postgres(tool, "-D", str(data), "-m", "immediate", "-w", "stop")
    shutil.rmtree(place)


PASSWORD = "correct horse battery"


@dataclass
class Web:
    service: Service
    client: httpx.Client

    def login(self, user: str) -> dict[str, str]:
        body = {"user": user, "password": PASSWORD}
        answer = self.client.post("/api/v1/login", json=body)
        return {"authorization": f"Bearer {answer.json()['session']}"}

    def browse(self, user: str = "olga") -> str:
        """Log the browser in and return its session's secret for forms."""
        form = {"user": user, "password": PASSWORD}
        answer = self.client.post("/login", data=form, follow_redirects=False)
        assert answer.status_code == 303
        return self.service.people.check(self.client.cookies[COOKIE]).csrf

    def connection(self, source: str = "127.0.0.1") -> ssl.SSLSocket:
        """Return a connection with TLS on which nothing was sent yet."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # a default one reads all CAs
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        address = (self.client.base_url.host, self.client.base_url.port or 0)
        plain = socket.create_connection(address, timeout=120, source_address=(source, 0))
        return context.wrap_socket(plain)

    def handle(self) -> str:
        """Log the browser in and return its session."""
        self.browse()
        return self.client.cookies[COOKIE]

    def round(self, name: str) -> None:
        with self.service.database.transaction() as step:
            store.due_now(step, name)
        for leased in store.lease_due(self.service.database, "test", 60):
            self.service.rounds.pull(leased)


@contextmanager
def serve_web(place: Path) -> Iterator[Web]:
    """Serve a verifier with its pages, over the trust that ``make_anchors`` has put there."""
    service = Service(Settings(place))
    service.people = People(service.database, PasswordHasher(1, 8, 1))
    for name, role in zip(("vera", "rita", "olga", "anna"), Role, strict=True):
        service.people.put(name, role, PASSWORD, "test")
    identity = issue("verifier")
    certificate, key = place / "tls.crt", place / "tls.key"
    certificate.write_bytes(identity.pem)
    key.write_bytes(identity.key_pem)
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(make_app(service, render), certificate, key)
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        listener,
        serving(server, listener),
        httpx.Client(base_url=url, verify=context, follow_redirects=True, timeout=60) as client,
    ):
        yield Web(service, client)
    service.close()


@pytest.fixture
def web(tmp_path: Path, anchors: Anchors) -> Iterator[Web]:
    assert anchors.place == tmp_path / "trust"
    with serve_web(tmp_path) as served:
        yield served
