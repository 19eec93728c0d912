"""Notices outlast the verifier that wrote them, and no alarm is raised twice."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.verifier.hooks import Hook, wait_for, waits

from casemate.verifier import alarmstore, audit, outbox
from casemate.verifier.alarms import WEBHOOK, Notifier
from casemate.verifier.database import Database, Postgres, open_database
from casemate.verifier.outbox import Notice
from casemate.verifier.schema import SCHEMA

NOTICE = Notice("h", "failed-latched", "qemu.v00: another digest", 1.0)

VERIFIER = """
import sys, threading
from casemate.verifier import alarmstore
from casemate.verifier.alarms import Notifier
from casemate.verifier.database import open_database
from casemate.verifier.outbox import Notice
from casemate.verifier.schema import SCHEMA

database = open_database(sys.argv[1], SCHEMA)
notifier = Notifier(database, sys.argv[2])
with database.transaction() as step:
    for host in ("h", "i"):
        alarmstore.raise_alarm(step, host, "silent", "no answer")
        notifier.tell(step, [Notice(host, "silent", "no answer", step.now())])
threading.Event().wait()
"""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.host)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "verifier.db")
        return
    where = request.getfixturevalue("postgres")
    yield where
    database = open_database(where, SCHEMA)
    with database.transaction() as step:
        step.run("DELETE FROM notice")
        step.run("DELETE FROM alarm")
    database.close()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    made = open_database(url, SCHEMA)
    yield made
    made.close()


def put(database: Database, *notices: Notice) -> None:
    with database.transaction() as step:
        outbox.put(step, [WEBHOOK], notices or [NOTICE])


def later(database: Database, seconds: float) -> None:
    with database.transaction() as step:
        step.run("UPDATE notice SET due=due-?, time=time-?", seconds, seconds)


def due(database: Database) -> outbox.Leased:
    leased = outbox.lease(database, WEBHOOK)
    assert leased is not None
    return leased


def test_a_verifier_killed_while_it_tells_is_followed_by_another(
    url: str, database: Database
) -> None:
    hook = Hook(0)
    try:
        with subprocess.Popen([sys.executable, "-c", VERIFIER, url, hook.url]) as first:
            try:
                wait_for(lambda: bool(hook.got))
            finally:
                first.kill()
        hook.released.set()
        assert waits(database) == 2
        later(database, outbox.LEASE_SECONDS + 1)
        second = Notifier(database, hook.url)
        wait_for(lambda: not waits(database))
        second.close()
    finally:
        hook.close()
    told = [json.loads(body) for body, _ in hook.got]
    assert len(told) == 3
    assert {one["host"] for one in told} == {"h", "i"}
    assert [one["id"] for one in told].count(told[0]["id"]) == 2


def test_a_notice_is_leased_once_and_comes_again_when_the_lease_has_run_out(
    url: str, database: Database
) -> None:
    other = open_database(url, SCHEMA)
    put(database)
    first = due(database)
    assert outbox.lease(other, WEBHOOK) is None
    later(database, outbox.LEASE_SECONDS + 1)
    again = due(other)
    assert (again.identifier, again.tries) == (first.identifier, 2)
    outbox.taken(other, again)
    assert waits(database) == 0
    other.close()


def test_a_notice_of_a_verdict_that_was_not_written_is_not_told(database: Database) -> None:
    class LostError(Exception):
        pass

    def judge() -> None:
        with database.transaction() as step:
            outbox.put(step, [WEBHOOK], [NOTICE])
            raise LostError

    with pytest.raises(LostError):
        judge()
    assert waits(database) == 0


def test_each_destination_takes_a_notice_by_itself_under_one_identifier(
    database: Database,
) -> None:
    with database.transaction() as step:
        outbox.put(step, ["syslog", WEBHOOK], [NOTICE])
    one, two = due(database), outbox.lease(database, "syslog")
    assert two is not None
    assert one.identifier == two.identifier
    outbox.taken(database, two)
    assert waits(database) == 1


def test_pauses_grow_up_to_ten_minutes(database: Database) -> None:
    put(database)
    pauses = []
    for _ in range(12):
        pauses.append(outbox.put_off(database, due(database)))
        assert outbox.lease(database, WEBHOOK) is None
        later(database, pauses[-1] + 1)
    assert pauses[:3] == [1.0, 2.0, 4.0]
    assert pauses[-2:] == [outbox.LONGEST_PAUSE] * 2


def test_too_many_and_too_old_notices_are_dropped_oldest_first_and_audited(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST", 20)
    with database.transaction() as step:
        now = step.now()
    put(database, *(Notice("h", f"code-{n}", "", now) for n in range(20)))
    assert outbox.drop_old(database) == 0
    put(database, Notice("h", "code-20", "", now))
    assert outbox.drop_old(database) == 3
    assert due(database).notice.code == "code-3"
    later(database, outbox.OLDEST + 60)
    assert outbox.drop_old(database) == 18
    with database.transaction() as step:
        dropped = [line for line in audit.entries(step) if line.action == "notices-dropped"]
    assert [line.why.split()[0] for line in dropped[:2]] == ["18", "3"]


def test_two_verifiers_that_judge_at_once_raise_one_alarm(url: str, database: Database) -> None:
    other = open_database(url, SCHEMA)
    new: list[bool] = []

    def second() -> None:
        with other.transaction() as step:
            new.append(alarmstore.raise_alarm(step, "h", "silent", "no answer"))

    thread = threading.Thread(target=second)
    with database.transaction() as step:
        assert alarmstore.raise_alarm(step, "h", "silent", "no answer")
        thread.start()
        if isinstance(database, Postgres):
            locks = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            wait_for(lambda: bool(new) or bool(step.all(locks)[0][0]))
    thread.join()
    other.close()
    assert new == [False]


def test_an_alarm_that_ended_is_raised_anew(database: Database) -> None:
    with database.transaction() as step:
        assert alarmstore.raise_alarm(step, "h", "silent", "no answer")
        assert alarmstore.clear_alarms(step, "h") == 1
        assert alarmstore.raise_alarm(step, "h", "silent", "no answer")
        assert alarmstore.raise_alarm(step, "h", "failed-latched", "qemu.v00")


def test_alarms_that_older_verifiers_raised_twice_become_one(url: str, database: Database) -> None:
    with database.transaction() as step:
        step.run("DROP INDEX alarm_once")
        step.many(
            "INSERT INTO alarm (time, host, code, sentence, cleared) VALUES (?,?,?,?,?)",
            [
                (1.0, "h", "silent", "ended", 2.0),
                (3.0, "h", "silent", "first", 0.0),
                (3.1, "h", "silent", "second", 0.0),
                (3.2, "h", "failed-latched", "another", 0.0),
                (3.3, "i", "silent", "another's", 0.0),
            ],
        )
    newer = open_database(url, SCHEMA)
    with newer.transaction() as step:
        left = alarmstore.alarms(step, standing=False)
        assert not alarmstore.raise_alarm(step, "h", "silent", "third")
    newer.close()
    assert [one.sentence for one in left] == ["another's", "another", "first", "ended"]
