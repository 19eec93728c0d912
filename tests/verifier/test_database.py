"""The store after an error: whole, free, and said in our own words."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from casemate.errors import DigestError, HostError
from casemate.verifier import audit
from casemate.verifier.database import open_database
from casemate.verifier.schema import SCHEMA

LATE = """
PRAGMA foreign_keys=ON;
CREATE TABLE a (x INTEGER PRIMARY KEY);
CREATE TABLE b (y INTEGER REFERENCES a (x) DEFERRABLE INITIALLY DEFERRED);
"""


def test_a_commit_that_fails_leaves_no_transaction_behind(tmp_path: Path) -> None:
    database = open_database(str(tmp_path / "a.db"), LATE)
    with pytest.raises(sqlite3.IntegrityError), database.transaction() as step:
        step.run("INSERT INTO b VALUES (1)")
    with database.transaction() as step:
        step.run("INSERT INTO a VALUES (1)")
        assert step.all("SELECT y FROM b") == []
    database.close()


def test_a_full_disk_is_an_error_of_ours_and_the_store_goes_on(tmp_path: Path) -> None:
    schema = "PRAGMA max_page_count=20; CREATE TABLE a (x BLOB);"
    database = open_database(str(tmp_path / "a.db"), schema)
    with pytest.raises(HostError) as caught, database.transaction() as step:
        step.run("INSERT INTO a VALUES (?)", bytes(1 << 20))
    assert caught.value.code == "database"
    with database.transaction() as step:
        step.run("INSERT INTO a VALUES (?)", b"small")
    database.close()


def test_a_long_audit_log_is_checked_to_its_end_and_from_before_its_beginning(
    tmp_path: Path,
) -> None:
    database = open_database(str(tmp_path / "a.db"), SCHEMA)
    with database.exclusive("audit") as step:
        for number in range(2500):
            audit.append(step, "anna", "test", str(number))
        assert audit.check(step) == 2500
        step.run("INSERT INTO audit SELECT 0, time, who, action, thing, why, digest FROM audit"
                 " WHERE number=1")  # fmt: skip
        with pytest.raises(DigestError):
            audit.check(step)
        step.run("DELETE FROM audit WHERE number=0")
        step.run("UPDATE audit SET why='x' WHERE number=2400")
        with pytest.raises(DigestError):
            audit.check(step)
    database.close()


def test_a_look_checks_a_piece_of_the_audit_log_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "LOT", 10)
    monkeypatch.setattr(audit, "LOOK", 50)
    now = [0.0]
    database = open_database(str(tmp_path / "a.db"), SCHEMA)
    with database.exclusive("audit") as step:
        for number in range(120):
            audit.append(step, "anna", "test", str(number))
    checker = audit.Checker(database, lambda: now[0])
    assert [checker.look() for _ in range(4)] == [50, 100, 120, 120]
    audit.record(database, "anna", "test", "one more")
    assert checker.look() == 121
    with database.exclusive("audit") as step:
        step.run("UPDATE audit SET why='x' WHERE number=7")
    assert checker.look() == 121
    now[0] += audit.PASS_SECONDS + 1
    with pytest.raises(DigestError, match="line 7"):
        checker.look()
    database.close()


def test_lines_that_are_taken_off_the_end_show_at_the_next_look(tmp_path: Path) -> None:
    database = open_database(str(tmp_path / "a.db"), SCHEMA)
    for number in range(3):
        audit.record(database, "anna", "test", str(number))
    checker = audit.Checker(database)
    assert checker.look() == 3
    with database.exclusive("audit") as step:
        step.run("DELETE FROM audit WHERE number=3")
    with pytest.raises(DigestError, match="line 3"):
        checker.look()
    database.close()
