"""Who may do what: local users with roles, argon2id, lockout, sessions by a random handle."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from enum import StrEnum
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from casemate.errors import (
    ArgumentError,
    BusyError,
    LoginError,
    NotAuthenticatedError,
    PermissionDeniedError,
    StateError,
)
from casemate.machine.fleet import Person
from casemate.policy.quotas import peer_of_address
from casemate.verifier import audit
from casemate.verifier.database import Database, Transaction

IDLE_SECONDS = 1800.0
"""A session idle for longer is ended."""

LONGEST_SECONDS = 12 * 3600.0
"""No session is longer than a working day: roles are looked up when it begins."""

FREE_FAILURES, LOCK_SECONDS, LOCK_LIMIT = 5, 15.0, 900.0
"""Wrong passwords in a row before a lock; the first lock, doubled each time; the longest."""

HASHING, WAITING, OF_ONE = 2, 16, 2
"""Passwords looked at side by side, 64 MiB each, those in turn, and of those one peer's.

Anybody may send one: nobody alone takes all places.
"""

SHORTEST = 12
"""Characters of a password."""

_NAME = re.compile(r"[a-z][a-z0-9._@-]{0,63}", re.ASCII)
_WRONG = "User name or password are wrong."


class Role(StrEnum):
    """Roles, each with all that the one before may do."""

    VIEWER = "viewer"
    RELYING_PARTY = "relying-party"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"


_RANK = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True)
class Who:
    """A person who is logged in; ``csrf`` stands in the forms of this session."""

    name: str
    role: Role
    csrf: str

    def may(self, role: Role | str) -> bool:
        """Tell whether this person has at least a role."""
        return _RANK[self.role] >= _RANK[Role(role)]

    def need(self, role: Role) -> None:
        """Check that this person has at least a role. Raises PermissionDeniedError."""
        if not self.may(role):
            raise PermissionDeniedError(
                f"{self.name} is {self.role.value}; this needs {role.value}",
                privilege=role.value,
                component=self.name,
            )


class People:
    """Checks passwords and keeps sessions."""

    def __init__(self, database: Database, hasher: PasswordHasher | None = None) -> None:
        self._database = database
        self._hasher = hasher or PasswordHasher()
        self._held: Counter[str] = Counter()
        self._turn = threading.Lock()
        self._hashing = threading.BoundedSemaphore(HASHING)
        hasher = self._hasher
        self._decoy = _decoy(hasher.time_cost, hasher.memory_cost, hasher.parallelism)

    def put(self, name: str, role: Role, password: str, who: str) -> None:
        """Add a person, or give another role and password.

        Raises:
            ArgumentError: the name, or the password, is none.
            StateError: ``last-administrator``.
        """
        if not _NAME.fullmatch(name):
            raise ArgumentError("a user name is like anna or anna@example.org", argument="name")
        person = Person(name, role.value, self._hashed(password), 0, 0.0)
        with self._database.exclusive("audit") as step:
            if role is not Role.ADMINISTRATOR:
                _keep_one(step, name)
            step.run("DELETE FROM person WHERE name=?", name)
            step.run("DELETE FROM session WHERE person=?", name)
            step.run("INSERT INTO person VALUES (?,?,?,?,?)", *astuple(person))
            audit.append(step, who, "put-user", name, role.value)

    def set_role(self, name: str, role: Role, who: str) -> None:
        """Give a person another role; their sessions end.

        Raises:
            ArgumentError: there is no such person.
            StateError: ``last-administrator``.
        """
        with self._database.exclusive("audit") as step:
            if role is not Role.ADMINISTRATOR:
                _keep_one(step, name)
            count = step.run("UPDATE person SET role=? WHERE name=?", role.value, name)
            _changed(step, name, count)
            audit.append(step, who, "set-role", name, role.value)

    def set_password(self, name: str, password: str, who: str) -> None:
        """Give a person another password; their sessions end. Raises ArgumentError."""
        hashed = self._hashed(password)
        with self._database.exclusive("audit") as step:
            count = step.run(
                "UPDATE person SET hash=?, failures=0, locked_until=0 WHERE name=?", hashed, name
            )
            _changed(step, name, count)
            audit.append(step, who, "set-password", name)

    def remove(self, name: str, who: str) -> None:
        """Remove a person and end their sessions.

        Raises:
            ArgumentError: there is no such person.
            StateError: ``last-administrator``.
        """
        with self._database.exclusive("audit") as step:
            _keep_one(step, name)
            _changed(step, name, step.run("DELETE FROM person WHERE name=?", name))
            audit.append(step, who, "remove-user", name)

    def all(self) -> list[Person]:
        """Return all people, by name."""
        with self._database.transaction() as step:
            return [Person(*row) for row in step.all("SELECT * FROM person ORDER BY name")]

    def login(self, name: str, password: str, peer: str = "") -> str:
        """Open a session and return its handle; ``peer`` is the address of who asks.

        Raises:
            LoginError: whatever was wrong.
            BusyError: too many try at once, from this address or from all.
        """
        hashed = self._proven(name, password, peer)
        with self._database.exclusive("audit") as step:
            _forgive(step, name, hashed)
            return _opened(step, name)

    def change_password(self, name: str, old: str, new: str, peer: str = "") -> None:
        """Give oneself another password; all one's sessions end.

        Raises:
            ArgumentError: the new password is too short, or the old one.
            LoginError, BusyError: as ``login``; a wrong old password counts as a wrong login.
        """
        _check_length(new)
        if new == old:
            raise ArgumentError("the new password is the old one", argument="new")
        hashed = self._proven(name, old, peer)
        with self._hashing:
            fresh = self._hasher.hash(new)
        with self._database.exclusive("audit") as step:
            _forgive(step, name, hashed)
            _changed(step, name, step.run("UPDATE person SET hash=? WHERE name=?", fresh, name))
            audit.append(step, name, "change-password", name)

    def _proven(self, name: str, password: str, peer: str) -> str:
        """Return the hash that a password fits. Raises LoginError, BusyError."""
        with self._place(peer_of_address(peer)):
            # Counted before the password is looked at: guesses at once are as many as one by one.
            hashed = self._counted(name)
            with self._hashing:
                good = self._verify(self._decoy if hashed is None else hashed, password)
        if hashed is None or not good:
            raise LoginError(_WRONG, component=name)
        return hashed

    @contextmanager
    def _place(self, asker: str) -> Iterator[None]:
        """Hold one of the places of those who log in. Raises BusyError."""
        with self._turn:
            if self._held[asker] >= OF_ONE or self._held.total() >= WAITING:
                raise BusyError("Too many log in at once.", code="too-many-logins")
            self._held[asker] += 1
        try:
            yield
        finally:
            with self._turn:
                self._held[asker] -= 1
                self._held += Counter()

    def admit(self, name: str, role: Role) -> str:
        """Open a session for somebody whom another has logged in, with the role of today.

        Such a person has no password; other sessions of theirs end where the role has changed.
        """
        with self._database.exclusive("audit") as step:
            known = _find(step, name)
            if known is None or known.role != role.value:
                step.run("DELETE FROM person WHERE name=?", name)
                step.run("DELETE FROM session WHERE person=?", name)
                person = Person(name, role.value, "", 0, 0.0)
                step.run("INSERT INTO person VALUES (?,?,?,?,?)", *astuple(person))
                audit.append(step, "single sign-on", "put-user", name, role.value)
            return _opened(step, name)

    def check(self, handle: str) -> Who:
        """Return who a session belongs to. Raises NotAuthenticatedError."""
        with self._database.transaction() as step:
            now = step.now()
            row = step.one(
                "SELECT person.name, role, csrf, used, started FROM session"
                " JOIN person ON person.name=session.person WHERE digest=?",
                _digest(handle),
            )
            if row is None or now - row[3] > IDLE_SECONDS or now - row[4] > LONGEST_SECONDS:
                raise NotAuthenticatedError("There is no such session.")
            if now - row[3] > 1:
                step.run("UPDATE session SET used=? WHERE digest=?", now, _digest(handle))
        return Who(row[0], Role(row[1]), row[2])

    def logout(self, handle: str) -> None:
        """End a session."""
        with self._database.transaction() as step:
            step.run("DELETE FROM session WHERE digest=?", _digest(handle))

    def _counted(self, name: str) -> str | None:
        """Count a failure until it is none, and return the hash; None: nobody, or locked."""
        with self._database.transaction() as step:
            now = step.now()
            row = step.one(
                "UPDATE person SET failures=failures+1 WHERE name=? AND locked_until<=?"
                " RETURNING failures, hash",
                name,
                now,
            )
            if row is None:
                return None
            over = int(row[0]) - FREE_FAILURES
            if over >= 0:
                until = now + min(LOCK_LIMIT, LOCK_SECONDS * 2.0 ** min(over, 10))
                step.run("UPDATE person SET locked_until=? WHERE name=?", until, name)
        return str(row[1])

    def _hashed(self, password: str) -> str:
        _check_length(password)
        return self._hasher.hash(password)

    def _verify(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerifyMismatchError, VerificationError, InvalidHashError):
            return False


@cache
def _decoy(passes: int, memory: int, lanes: int) -> str:
    """Return the hash of a password that nobody has: who does not exist takes as long to refuse."""
    return PasswordHasher(passes, memory, lanes).hash(secrets.token_urlsafe(16))


def _check_length(password: str) -> None:
    if len(password) < SHORTEST:
        raise ArgumentError(f"a password has at least {SHORTEST} characters", argument="password")


def _forgive(step: Transaction, name: str, hashed: str) -> None:
    """Forget failures after a right password. Raises LoginError: it was changed meanwhile."""
    if not step.run(
        "UPDATE person SET failures=0, locked_until=0 WHERE name=? AND hash=?", name, hashed
    ):
        raise LoginError(_WRONG, component=name)


def _keep_one(step: Transaction, name: str) -> None:
    """Refuse to go on where a person is the only administrator."""
    rows = step.all("SELECT name FROM person WHERE role=?", Role.ADMINISTRATOR.value)
    if [str(row[0]) for row in rows] == [name]:
        raise StateError(
            f"{name} is the only administrator",
            code="last-administrator",
            component=name,
            remedy="Make another administrator first.",
        )


def _changed(step: Transaction, name: str, count: int) -> None:
    """End the sessions of a person who was changed. Raises ArgumentError: there was none."""
    if not count:
        raise ArgumentError(f"there is no user {name}", argument="name", component=name)
    step.run("DELETE FROM session WHERE person=?", name)


def _opened(step: Transaction, name: str) -> str:
    handle, now = secrets.token_urlsafe(32), step.now()
    step.run("DELETE FROM session WHERE used<?", now - IDLE_SECONDS)
    step.run(
        "INSERT INTO session VALUES (?,?,?,?,?)",
        _digest(handle),
        name,
        secrets.token_urlsafe(24),
        now,
        now,
    )
    audit.append(step, name, "login", name)
    return handle


def _find(step: Transaction, name: str) -> Person | None:
    row = step.one("SELECT * FROM person WHERE name=?", name)
    return Person(*row) if row else None


def _digest(handle: str) -> str:
    return hashlib.sha256(handle.encode()).hexdigest()
