"""Logins in turn: a flood of wrong passwords costs little and keeps nobody else waiting.

Checking a password takes a core for tens of milliseconds. Few are checked at once, only so many of
one peer wait, and none is checked that cannot succeed: while an account is locked, or (so that
nobody can tell the difference) a name that no account has.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from casemate.errors import LimitError, LoginError
from casemate.kernel.accounts import Accounts, Session
from casemate.kernel.background import background
from casemate.kernel.store import Account
from casemate.policy.quotas import peer_of_address

LOGINS_AT_ONCE = 2
"""Password checks at once: each takes a core for tens of milliseconds and 64 MiB."""

WAITING_OF_ONE = 8
"""Logins of one peer that wait at once: together they take under half a second."""

NAMES_KEPT = 1000
"""Unknown names remembered; the one that was tried longest ago is forgotten."""


@dataclass(slots=True)
class _Stranger:
    failures: int = 0
    locked_until: float = 0.0


class Logins:
    """Checks passwords for whoever asks. ``clock`` gives Unix seconds."""

    def __init__(self, accounts: Accounts, clock: Callable[[], float]) -> None:
        self._accounts = accounts
        self._clock = clock
        self._turn = asyncio.Semaphore(LOGINS_AT_ONCE)
        self._workers = background(LOGINS_AT_ONCE, "password")
        self._waiting: Counter[str] = Counter()
        self._strangers: OrderedDict[str, _Stranger] = OrderedDict()

    async def open(self, user: str, password: str, peer: str) -> tuple[str, Session]:
        """Open a session and return its handle and itself. Raises as ``prove`` and ``another``."""
        return self._accounts.another((await self.prove(user, password, peer)).name, peer)

    async def prove(self, user: str, password: str, peer: str) -> Account:
        """Return the account whose password this is.

        Raises:
            LoginError: The name or the password is wrong, or the account is locked.
            LimitError: Too many passwords of this peer wait.
        """
        if self._locked(user):
            # Says what it always says, without the work.
            return self._accounts.check(user, "")
        asker = peer_of_address(peer)
        if self._waiting[asker] >= WAITING_OF_ONE:
            raise LimitError(
                f"{WAITING_OF_ONE} logins of this client wait already.",
                code="too-many-logins",
                remedy="Wait for their answers, then try again.",
            )
        self._waiting[asker] += 1
        try:
            hashed = self._accounts.hash_of(user)
            async with self._turn:
                verified = ""
                if not self._locked(user):
                    verified = await asyncio.get_running_loop().run_in_executor(
                        self._workers, self._accounts.verify, hashed, password
                    )
            return self._accounts.check(user, verified)
        except LoginError:
            self._note(user)
            raise
        finally:
            self._waiting[asker] -= 1
            if not self._waiting[asker]:
                del self._waiting[asker]

    def _locked(self, user: str) -> bool:
        now = self._clock()
        until = self._accounts.locked_until(user)
        if until is None:
            stranger = self._strangers.get(user)
            return stranger is not None and stranger.locked_until > now
        return until > now

    def _note(self, user: str) -> None:
        """Count a failure of a name that no account has, as the account's own are counted."""
        if self._accounts.locked_until(user) is not None or self._locked(user):
            return
        stranger = self._strangers.setdefault(user, _Stranger())
        self._strangers.move_to_end(user)
        stranger.failures += 1
        stranger.locked_until = self._accounts.lock_after(stranger.failures, self._clock())
        while len(self._strangers) > NAMES_KEPT:
            self._strangers.popitem(last=False)
