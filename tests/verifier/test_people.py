"""Passwords: guesses are counted however they come, and cost what two at a time cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from casemate.errors import ArgumentError, BusyError, LoginError, NotAuthenticatedError
from casemate.verifier import people
from casemate.verifier.database import Database, open_database
from casemate.verifier.people import FREE_FAILURES, People, Role
from casemate.verifier.schema import SCHEMA

PASSWORD = "a password of anna"


class Slow:
    """A hasher during whose work something else happens."""

    time_cost, memory_cost, parallelism = 1, 8, 1

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] = lambda: None
        self.looked: list[str] = []

    def hash(self, password: str) -> str:
        return f"hash of {password}"

    def verify(self, hashed: str, password: str) -> bool:
        self.looked.append(hashed)
        self.meanwhile()
        if hashed != self.hash(password):
            raise VerifyMismatchError
        return True


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = open_database(str(tmp_path / "verifier.db"), SCHEMA)
    yield made
    made.close()


def made(database: Database, hasher: Slow) -> People:
    found = People(database, cast("PasswordHasher", hasher))
    found.put("anna", Role.VIEWER, PASSWORD, "test")
    return found


def test_guesses_that_come_at_once_are_as_many_as_one_by_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "WAITING", 100)
    monkeypatch.setattr(people, "OF_ONE", 100)
    monkeypatch.setattr(people, "HASHING", 100)
    hasher = Slow()
    known = made(database, hasher)
    left = list(range(20))

    def guess() -> None:
        if left:
            with pytest.raises(LoginError):
                known.login("anna", f"guess {left.pop()}")

    hasher.meanwhile = guess
    guess()
    assert not left
    assert hasher.looked.count(hasher.hash(PASSWORD)) == FREE_FAILURES


def test_more_log_ins_than_can_be_looked_at_are_told_to_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "WAITING", 1)
    hasher = Slow()
    known = made(database, hasher)

    def another() -> None:
        hasher.meanwhile = lambda: None
        with pytest.raises(BusyError):
            known.login("anna", PASSWORD)

    hasher.meanwhile = another
    assert known.check(known.login("anna", PASSWORD)).name == "anna"
    assert known.check(known.login("anna", PASSWORD)).name == "anna"


def test_one_address_takes_not_all_places(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "HASHING", 100)
    hasher = Slow()
    known = made(database, hasher)
    # Of IPv6 a whole /64 is one asker.
    addresses = [f"2001:db8::{number:x}" for number in range(3)]

    def meanwhile() -> None:
        if len(hasher.looked) < people.OF_ONE:
            with pytest.raises(LoginError):
                known.login("nobody", "guess", addresses[len(hasher.looked)])
        else:
            hasher.meanwhile = lambda: None
            with pytest.raises(BusyError):
                known.login("nobody", "guess", addresses[-1])
            assert known.check(known.login("anna", PASSWORD, "192.0.2.1")).name == "anna"

    hasher.meanwhile = meanwhile
    with pytest.raises(LoginError):
        known.login("nobody", "guess", addresses[0])
    assert len(hasher.looked) == people.OF_ONE + 1


def test_who_does_not_exist_costs_a_hash_that_is_made_once_a_process(database: Database) -> None:
    first, second = (People(database, PasswordHasher(1, 8, 1)) for _ in range(2))
    assert first._decoy is second._decoy
    assert PasswordHasher(2, 8, 1).check_needs_rehash(first._decoy)  # it costs what others cost
    assert not PasswordHasher(1, 8, 1).check_needs_rehash(first._decoy)
    with pytest.raises(LoginError):
        first.login("nobody", PASSWORD)


def test_a_good_password_ends_the_count(database: Database) -> None:
    known = made(database, Slow())
    for _ in range(3):
        for _ in range(FREE_FAILURES - 1):
            with pytest.raises(LoginError):
                known.login("anna", "wrong")
        known.login("anna", PASSWORD)


NEW = "another good password"


def test_guessing_an_old_password_counts_as_guessing_at_the_login(database: Database) -> None:
    hasher = Slow()
    known = made(database, hasher)
    session = known.login("anna", PASSWORD)
    for _ in range(FREE_FAILURES + 2):
        with pytest.raises(LoginError):
            known.change_password("anna", "guess", NEW)
    hasher.looked.clear()
    for attempt in (
        lambda: known.change_password("anna", PASSWORD, NEW),
        lambda: known.login("anna", PASSWORD),
    ):
        with pytest.raises(LoginError):
            attempt()
    assert hasher.hash(PASSWORD) not in hasher.looked
    assert known.check(session).name == "anna"  # who guesses ends nobody's session


def test_new_password_is_long_enough_and_another(database: Database) -> None:
    hasher = Slow()
    known = made(database, hasher)
    for wrong in ("short", PASSWORD):
        with pytest.raises(ArgumentError):
            known.change_password("anna", PASSWORD, wrong)
    assert hasher.looked == []
    known.login("anna", PASSWORD)


def test_who_comes_by_single_sign_on_or_is_nobody_has_no_password_to_change(
    database: Database,
) -> None:
    known = People(database, PasswordHasher(1, 8, 1))
    known.admit("olga@example.org", Role.OPERATOR)
    for name in ("olga@example.org", "nobody"):
        for old in ("", "guess"):
            with pytest.raises(LoginError):
                known.change_password(name, old, NEW)


def test_password_that_was_changed_while_it_was_looked_at_opens_and_changes_nothing(
    database: Database,
) -> None:
    hasher = Slow()
    known = made(database, hasher)

    def administrator() -> None:
        hasher.meanwhile = lambda: None
        known.set_password("anna", "what an administrator says", "test")

    for attempt in (
        lambda: known.login("anna", PASSWORD),
        lambda: known.change_password("anna", PASSWORD, NEW),
    ):
        known.set_password("anna", PASSWORD, "test")
        hasher.meanwhile = administrator
        with pytest.raises(LoginError):
            attempt()
        hasher.meanwhile = lambda: None
        known.login("anna", "what an administrator says")


def test_changed_password_ends_every_session_of_the_old_one(database: Database) -> None:
    known = made(database, Slow())
    sessions = [known.login("anna", PASSWORD) for _ in range(2)]
    known.change_password("anna", PASSWORD, NEW)
    for one in sessions:
        with pytest.raises(NotAuthenticatedError):
            known.check(one)
    known.login("anna", NEW)
