"""Hosts that do not answer hold up no others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from tests.verifier.test_leases_nonces import new_host

from casemate.machine.fleet import FleetHost
from casemate.policy.statemachine import State
from casemate.verifier import scheduler, store
from casemate.verifier.alarms import Notifier
from casemate.verifier.database import Database, open_database
from casemate.verifier.ledger import Ledger
from casemate.verifier.results import Done
from casemate.verifier.rounds import Rounds
from casemate.verifier.schema import SCHEMA

SILENT = 12
WAIT = 60.0


class FakeRounds:
    """Hosts of which those that are silent answer nothing; once ``held`` they take their time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.held = False
        self.go_on = threading.Event()
        self.done: Counter[str] = Counter()
        self.seconds: set[float] = set()
        self.more = threading.Condition()

    def pull(self, host: FleetHost, seconds: float) -> Done:
        silent = host.name.startswith("silent")
        if silent and self.held:
            self.seconds.add(seconds)
            self.go_on.wait(WAIT)
        with self._database.transaction() as step:
            store.put_off(step, host.lease_owner, host.name, 0.0)
        with self.more:
            self.done[host.name] += 1
            self.more.notify_all()
        return Done(State.UNKNOWN, again=False, sentence="", silent=silent)

    def until(self, name: str, count: int) -> bool:
        with self.more:
            return self.more.wait_for(lambda: self.done[name] >= count, WAIT)


class Quiet:
    """A ledger on which nothing expires."""

    def expire(self) -> None:
        """Do nothing."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = open_database(str(tmp_path / "verifier.db"), SCHEMA)
    with made.transaction() as step:
        for name in (*(f"silent-{n}" for n in range(SILENT)), "honest"):
            store.add_host(step, new_host(name, step.now()))
    yield made
    made.close()


def test_while_hosts_give_no_answer_others_are_asked(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "THREADS", 2)
    monkeypatch.setattr(scheduler, "SILENT_THREADS", 1)
    rounds = FakeRounds(database)
    made = scheduler.Scheduler(
        database,
        cast("Rounds", rounds),
        cast("Ledger", Quiet()),
        Notifier(database, "", "", ""),
        "one",
    )
    made.start()
    try:
        for number in range(SILENT):
            assert rounds.until(f"silent-{number}", 1)
        rounds.held = True
        before = rounds.done["honest"]
        assert rounds.until("honest", before + 3)
    finally:
        rounds.go_on.set()
        made.stop()
    assert rounds.seconds <= {scheduler.SILENT_SECONDS}
