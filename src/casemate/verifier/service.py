"""A verifier put together: store, references, rounds, people, tokens, one scheduler."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from casemate.errors import ArgumentError, NotFoundError, StateError
from casemate.machine.fleet import FleetHost
from casemate.verifier import alarmstore, audit, store
from casemate.verifier.alarms import Notifier
from casemate.verifier.client import HostClient
from casemate.verifier.database import open_database
from casemate.verifier.enrol import Enrolment
from casemate.verifier.intake import Intake
from casemate.verifier.ledger import Ledger
from casemate.verifier.oidc import SingleSignOn, provider_from
from casemate.verifier.people import People, Role
from casemate.verifier.references import Anchors, ReferenceBook
from casemate.verifier.rounds import Rounds
from casemate.verifier.rulebook import RuleBook
from casemate.verifier.scheduler import Scheduler
from casemate.verifier.schema import SCHEMA
from casemate.verifier.tokens import Tokens

FIRST_USER = "admin"

HTTPS_PORT = 443


@dataclass(frozen=True, slots=True)
class Settings:
    """How a verifier runs.

    Attributes:
        state: its directory: database, TLS certificate, trust anchors.
        database: ``postgresql://...``; empty: SQLite in the directory.
        latch: whether a failed host stays failed until an operator clears it.
        webhook, webhook_secret, syslog: where alarms go; the same for all on one database.
        nats, nats_ca, nats_credentials: a bus over which agents may come; empty: none.
        oidc: the OpenID provider for single sign-on (``oidc.provider_from``); empty: none.
    """

    state: Path
    database: str = ""
    latch: bool = True
    webhook: str = ""
    webhook_secret: str = ""
    syslog: str = ""
    nats: str = ""
    nats_ca: str = ""
    nats_credentials: str = ""
    oidc: Mapping[str, Any] = field(default_factory=dict)


class Service:
    """Everything behind the web face."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._asking = False
        self.anchors = Anchors(settings.state / "trust")
        self.database = open_database(
            settings.database or str(settings.state / "verifier.db"), SCHEMA
        )
        self.audit = audit.Checker(self.database)
        self.notifier = Notifier(
            self.database, settings.webhook, settings.webhook_secret, settings.syslog
        )
        self.book = ReferenceBook(self.database, self.anchors, lambda: datetime.now(UTC))
        self.ledger = Ledger(self.database, self.notifier, latch=settings.latch)
        self.rules = RuleBook(self.database, self.anchors, lambda: datetime.now(UTC))
        self.rounds = Rounds(
            self.database, self.book, self.rules, self.anchors, self.ledger, connect
        )
        self.intake = Intake(self.rounds)
        self.enrolment = Enrolment(self.database, self.anchors, connect)
        self.people = People(self.database)
        provider = provider_from(settings.oidc)
        self.sign_on = (
            SingleSignOn(provider, self.database, self.people) if provider is not None else None
        )
        self.tokens = Tokens(self.database)
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.scheduler = Scheduler(self.database, self.rounds, self.ledger, self.notifier, name)

    def first_user(self) -> str:
        """Make the first user where there is none; returns the password, else an empty string."""
        if self.people.all():
            return ""
        password = secrets.token_urlsafe(15)
        self.people.put(FIRST_USER, Role.ADMINISTRATOR, password, "first start")
        return password

    def agent(self, secret: str) -> FleetHost:
        """Return the host whose agent's secret has this digest. Raises NotAuthenticatedError."""
        with self.database.transaction() as step:
            return store.get_host_of_token(step, secret).host

    def forget_verifier(self, name: str, who: str, why: str = "") -> None:
        """Forget a verifier that is gone for good, and end the alarm about it.

        Raises:
            NotFoundError: there is none of this name.
            StateError: it lives.
        """
        with self.database.exclusive("audit") as step:
            seen = {one: at for one, at, _ in alarmstore.workers(step)}.get(name)
            if seen is not None and step.now() - seen < alarmstore.DEAD_SECONDS:
                raise StateError(f"the verifier {name} lives", component=name)
            if not alarmstore.forget_worker(step, name):
                raise NotFoundError(f"there is no verifier {name!r}", component=name)
            audit.append(step, who, "verifier-forget", name, why)

    def start(self) -> None:
        """Begin to ask hosts."""
        self._asking = True
        self.scheduler.start()

    def close(self) -> None:
        """Finish what runs, give back what is leased, close the store."""
        if self._asking:
            self.scheduler.stop()
        self.intake.close()
        self.notifier.close()
        self.database.close()


def connect(address: str) -> HostClient:
    """Return a client for ``host``, ``host:port`` or ``[v6]:port``. Raises ArgumentError."""
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = address.partition(":")
    if not host or (port and not (port.isascii() and port.isdigit() and len(port) <= len("65535"))):
        raise ArgumentError(f"{address!r} is not HOST:PORT", argument="address", component=address)
    return HostClient(host, int(port or HTTPS_PORT))
