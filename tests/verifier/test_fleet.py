"""A fleet over real HTTPS on SQLite and PostgreSQL: no false alarm, all tampered hosts found."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.verifier.conftest import Engine
from tests.verifier.test_intake import Pusher

from casemate.policy.statemachine import HostRecord
from casemate.testing.minifleet import MiniFleet
from casemate.testing.smallhost import SmallImage
from casemate.verifier import alarmstore, audit, ledger, roundstore, store
from casemate.verifier.attempts import Answer
from casemate.verifier.database import Database, Postgres, open_database
from casemate.verifier.references import Anchors
from casemate.verifier.results import Finished
from casemate.verifier.schema import SCHEMA

HOSTS = int(os.environ.get("CASEMATE_FLEET", "12"))
TAMPERED = max(3, HOSTS // 10)
CADENCE = max(60.0, HOSTS / 20)
"""Seconds; a host that is not asked for three times as long expires, however busy the machine."""
Fleet = Callable[[int], MiniFleet]

ATTACKS = {
    "qemu.v00": SmallImage(contents={"qemu.v00": b"back door"}),
    "nic.v00": SmallImage(contents={"nic.v00": b"older driver"}, versions={"nic-driver": "1.0-1"}),
    "boot-option-changed": SmallImage(kernelopt="bootUUID=1 noSecurity=TRUE"),
}


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def restart(place: Path) -> None:
    tool = str(max(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")))
    words = (tool, "-D", str(place / "data"), "-l", str(place / "log"), "-m", "immediate")
    subprocess.run(
        ["runuser", "-u", "postgres", "--", *words, "-w", "restart"],
        check=True,
        timeout=100,
        cwd="/",
    )


def at_once(engine: Engine) -> None:
    """Have all hosts asked now."""
    with engine.database.transaction() as step:
        store.due_now(step)


def emptied(database: Database) -> None:
    """Forget what another test has left in the database that they share."""
    with database.transaction() as step:
        for table in ("host", "alarm", "reference"):
            step.run(f"DELETE FROM {table}")


def all_in(engine: Engine, *states: str) -> bool:
    return set(engine.states().values()) <= set(states)


def attack(engine: Engine, made: MiniFleet) -> None:
    """Tamper with some hosts; each must be found, with the right thing named, and no other."""
    victims = list(made.hosts)[:: max(1, HOSTS // TAMPERED)][:TAMPERED]
    planned = {name: list(ATTACKS)[n % len(ATTACKS)] for n, name in enumerate(victims)}
    for name, what in planned.items():
        made.hosts[name].reboot(ATTACKS[what])
    at_once(engine)
    wait_for(lambda: all(engine.host(name).state == "failed-latched" for name in planned))
    for name, what in planned.items():
        with engine.database.transaction() as step:
            rounds = roundstore.rounds_of(step, name)
            failed = next(one for one in rounds if one.outcome == "bad")
            found = roundstore.latest_round(step, name, failed.number)
        assert found is not None
        assert what.encode() in found.result
    good = {name: state for name, state in engine.states().items() if name not in planned}
    assert set(good.values()) == {"trusted"}
    with engine.database.transaction() as step:
        assert {alarm.host for alarm in alarmstore.alarms(step) if alarm.host} == set(planned)
        audit.check(step)


def test_one_verifier_on_sqlite_finds_the_tampered_hosts(engine: Engine, fleet: Fleet) -> None:
    engine.reference()
    made = fleet(HOSTS)
    engine.enrol(made, CADENCE)
    engine.worker("only")
    wait_for(lambda: all_in(engine, "trusted"))
    attack(engine, made)


@pytest.mark.host
def test_two_verifiers_on_postgresql_lose_nothing_when_one_is_killed(
    postgres: str, anchors: Anchors, fleet: Fleet
) -> None:
    database = open_database(postgres, SCHEMA)
    engine = Engine(database, anchors)
    try:
        emptied(database)
        engine.reference()
        made = fleet(HOSTS)
        engine.enrol(made, CADENCE)
        with database.transaction() as step:
            alarmstore.beat(step, "killed", 0.0)
        taken = store.lease_due(database, "killed", 4.0, limit=5)
        assert len(taken) == 5
        engine.worker("one")
        engine.worker("two")
        wait_for(lambda: all_in(engine, "trusted"))
        with database.transaction() as step:
            step.run("UPDATE worker SET seen=seen-60 WHERE name='killed'")
        wait_for(lambda: bool(_alarms(engine, "verifier-dead:killed")))
        attack(engine, made)
        with database.transaction() as step:
            by = step.all("SELECT count(*) FROM round")
        assert by[0][0] >= HOSTS
    finally:
        engine.close()


@pytest.mark.host
def test_words_that_postgresql_does_not_keep_cost_no_other_host_its_verdict(
    postgres: str, anchors: Anchors, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(postgres, SCHEMA)
    engine = Engine(database, anchors)
    try:
        emptied(database)
        engine.reference()
        hosts = [Pusher(engine, f"h{number}") for number in range(4)]
        lot = [one.arrival() for one in hosts]
        honest = ledger.told

        def told(record: HostRecord, outcome: Finished) -> str:
            return "NUL \0" if outcome.reply == lot[1].body else honest(record, outcome)

        monkeypatch.setattr(ledger, "told", told)
        answers = engine.rounds.take_in(lot)
        states = [one.state.value for one in answers if isinstance(one, Answer)]
        assert states == ["trusted", "error", "trusted", "trusted"]
        assert [one.rounds() for one in hosts] == [1] * 4
    finally:
        engine.close()


@pytest.mark.host
def test_postgresql_restarted_loses_nothing(postgres: str, anchors: Anchors, fleet: Fleet) -> None:
    database = open_database(postgres, SCHEMA)
    engine = Engine(database, anchors)
    assert isinstance(database, Postgres)
    try:
        emptied(database)
        engine.reference()
        engine.enrol(fleet(2), CADENCE)
        engine.worker("one")
        wait_for(lambda: all_in(engine, "trusted"))
        restart(Path(postgres.partition("host=")[2].partition("&")[0]))
        before = max(engine.host(name).last_good for name in engine.states())
        at_once(engine)
        wait_for(lambda: all(engine.host(name).last_good > before for name in engine.states()))
        assert all_in(engine, "trusted")
    finally:
        engine.close()


def _alarms(engine: Engine, code: str) -> list[str]:
    with engine.database.transaction() as step:
        return [alarm.code for alarm in alarmstore.alarms(step) if alarm.code == code]
