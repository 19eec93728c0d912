"""Accounts, sessions and the lock against guessing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from casemate.errors import LimitError, LoginError, NotAuthenticatedError
from casemate.kernel import accounts as module
from casemate.kernel.accounts import (
    FREE_FAILURES,
    IDLE_SECONDS,
    LOCK_SECONDS,
    SESSION_LIMIT,
    SESSIONS_OF_ONE,
    Accounts,
    generate_password,
)
from casemate.kernel.store import Store


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "casemate.db")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(store: Store, clock: Clock) -> Accounts:
    made = Accounts(store, clock)
    made.hooks.admit = lambda _user, _peer: None
    made.set_password("root", "Administrator", "right", "Admin")
    return made


def test_nobody_is_let_in_while_nobody_says_who_may(
    accounts: Accounts, store: Store, clock: Clock
) -> None:
    with pytest.raises(LoginError):
        Accounts(store, clock).login("root", "right", "192.0.2.1")
    assert accounts.login("root", "right", "192.0.2.1")


def test_a_good_password_opens_a_session_and_logout_ends_it(accounts: Accounts) -> None:
    handle, session = accounts.login("root", "right", "192.0.2.1")
    assert accounts.session(handle) == session
    accounts.logout(handle)
    with pytest.raises(NotAuthenticatedError):
        accounts.session(handle)


def test_scripts_that_never_log_out_leave_room_for_others(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SESSIONS_OF_ONE < SESSION_LIMIT
    monkeypatch.setattr(module, "SESSIONS_OF_ONE", 4)
    monkeypatch.setattr(module, "SESSION_LIMIT", 6)
    for user in ("other", "third"):
        accounts.set_password(user, user, "right", "Admin")
    handles = [accounts.another("root", "192.0.2.1")[0] for _ in range(4)]
    with pytest.raises(LimitError, match="4 of them of root") as raised:
        accounts.login("root", "right", "192.0.2.1")
    assert raised.value.code == "too-many-sessions"
    assert accounts.login("other", "right", "192.0.2.1")[1].user == "other"
    accounts.logout(handles[0])
    accounts.another("root", "192.0.2.1")
    accounts.another("other", "192.0.2.1")
    with pytest.raises(LimitError):
        accounts.another("third", "192.0.2.1")


@pytest.mark.parametrize(("user", "password"), [("root", "wrong"), ("nobody", "right"), ("", "")])
def test_unknown_user_and_wrong_password_are_told_in_the_same_words(
    accounts: Accounts, user: str, password: str
) -> None:
    with pytest.raises(LoginError, match="incorrect user name or password"):
        accounts.login(user, password, "")


def test_guessing_locks_the_account_even_for_the_right_password_then_opens_again(
    accounts: Accounts, clock: Clock
) -> None:
    for _ in range(FREE_FAILURES):
        with pytest.raises(LoginError):
            accounts.login("root", "guess", "")
    with pytest.raises(LoginError):
        accounts.login("root", "right", "")
    clock.now += LOCK_SECONDS + 1
    accounts.login("root", "right", "")


def test_a_login_begun_before_the_password_changed_does_not_succeed_after(
    accounts: Accounts,
) -> None:
    verified = accounts.verify(accounts.hash_of("root"), "right")
    assert verified
    accounts.change_password("root", "other")
    with pytest.raises(LoginError):
        accounts.conclude("root", "", verified)


def test_an_idle_session_ends_and_a_used_one_does_not(accounts: Accounts, clock: Clock) -> None:
    idle, _ = accounts.login("root", "right", "")
    used, _ = accounts.login("root", "right", "")
    for _ in range(3):
        clock.now += IDLE_SECONDS * 0.6
        accounts.session(used)
    with pytest.raises(NotAuthenticatedError):
        accounts.session(idle)


def test_sessions_outlive_the_kernel_but_no_handle_is_on_disk(
    accounts: Accounts, store: Store, clock: Clock, tmp_path: Path
) -> None:
    handle, session = accounts.login("root", "right", "")
    assert Accounts(store, clock).session(handle) == session
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert handle.encode() not in content
        assert b"right" not in content


def test_the_public_key_of_a_session_opens_nothing(accounts: Accounts) -> None:
    _, session = accounts.login("root", "right", "")
    with pytest.raises(NotAuthenticatedError):
        accounts.session(session.key)


def test_an_unknown_user_costs_the_same_work_as_a_known_one(accounts: Accounts) -> None:
    assert not PasswordHasher().check_needs_rehash(accounts.hash_of("nobody"))


def test_first_passwords_differ() -> None:
    assert len({generate_password() for _ in range(100)}) == 100
