"""Floods of wrong passwords: little work, nobody else waits, and names stay unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from casemate.errors import LimitError, LoginError
from casemate.kernel.accounts import FREE_FAILURES, LOCK_SECONDS, Accounts
from casemate.kernel.logins import NAMES_KEPT, WAITING_OF_ONE, Logins
from casemate.kernel.store import Store

MANY = 10_000


class Counted(Accounts):
    """Accounts whose check costs nothing and is counted."""

    work = 0

    def verify(self, hashed: str, password: str) -> str:
        self.work += 1
        return hashed if password == "right" else ""


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Counted]:
    store = Store(tmp_path / "state.db")
    made = Counted(store, Clock())
    made.hooks.admit = lambda _user, _peer: None
    made._hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    for user in ("root", "honest"):
        made.set_password(user, user, "right", "Admin")
    yield made
    store.close()


async def failures(logins: Logins, user: str, count: int, peer: str = "192.0.2.1") -> None:
    for _ in range(count):
        with pytest.raises(LoginError):
            await logins.open(user, "wrong", peer)


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_ten_thousand_wrong_passwords_cost_five_checks(accounts: Counted, user: str) -> None:
    async def story() -> None:
        logins = Logins(accounts, Clock())
        await failures(logins, user, MANY)
        assert accounts.work == FREE_FAILURES
        _, session = await logins.open("honest", "right", "192.0.2.1")
        assert session.user == "honest"

    asyncio.run(story())


def test_known_and_unknown_names_lock_alike_and_open_again_alike(accounts: Counted) -> None:
    async def story() -> None:
        clock = Clock()
        work = {}
        accounts._clock = clock
        for user in ("root", "nobody"):
            logins, accounts.work = Logins(accounts, clock), 0
            for _ in range(6):
                await failures(logins, user, FREE_FAILURES + 3)
                clock.now += LOCK_SECONDS + 1
            work[user] = accounts.work
        assert work["root"] == work["nobody"]

    asyncio.run(story())


def test_a_flood_of_one_peer_holds_up_no_other(accounts: Counted) -> None:
    async def story() -> None:
        logins = Logins(accounts, Clock())
        flood = [
            asyncio.ensure_future(logins.open(f"name{number}", "wrong", "192.0.2.1"))
            for number in range(1000)
        ]
        await asyncio.sleep(0)
        _, session = await logins.open("honest", "right", "192.0.2.2")
        assert session.user == "honest"
        ended = await asyncio.gather(*flood, return_exceptions=True)
        assert sum(isinstance(one, LimitError) for one in ended) == 1000 - WAITING_OF_ONE
        assert accounts.work <= WAITING_OF_ONE + 1

    asyncio.run(story())


def test_a_flood_from_one_network_of_ipv6_holds_up_no_other(accounts: Counted) -> None:
    async def story() -> None:
        logins = Logins(accounts, Clock())
        flood = [
            asyncio.ensure_future(logins.open(f"n{number}", "wrong", f"2001:db8::{number:x}"))
            for number in range(200)
        ]
        await asyncio.sleep(0)
        _, session = await logins.open("honest", "right", "2001:db8:0:1::1")
        assert session.user == "honest"
        ended = await asyncio.gather(*flood, return_exceptions=True)
        assert sum(isinstance(one, LimitError) for one in ended) == 200 - WAITING_OF_ONE

    asyncio.run(story())


def test_names_are_forgotten_before_they_fill_the_memory(accounts: Counted) -> None:
    async def story() -> None:
        logins = Logins(accounts, Clock())
        for number in range(NAMES_KEPT + 50):
            await failures(logins, f"name{number}", 1)
        assert len(logins._strangers) == NAMES_KEPT

    asyncio.run(story())
