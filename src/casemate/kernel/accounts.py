"""Accounts and sessions: argon2id hashes, lockout with back-off, idle time.

Session handles are 256 random bits; only their SHA-256 is kept, and compared by lookup of that
digest, so nothing secret is ever compared byte by byte.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from casemate.errors import LimitError, LoginError, NotAuthenticatedError
from casemate.kernel.store import Account, Store, StoredSession
from casemate.policy.privileges import Role, role_named

CONSOLE = "console"
"""Peer of a session that was opened in front of the host."""

IDLE_SECONDS = 1800.0
"""A session idle for longer is ended: ESXi's default of 30 minutes."""

SESSION_LIMIT = 500
"""Sessions at once: hostd of ESXi refuses more than some hundreds as well."""

SESSIONS_OF_ONE = 400
"""... of one account: scripts that never log out leave room for everybody else."""

FREE_FAILURES = 5
"""Wrong passwords in a row before the account locks (ESXi: Security.AccountLockFailures)."""

LOCK_SECONDS = 15.0
"""First lock; doubled with each further failure, up to ``LOCK_LIMIT``."""

LOCK_LIMIT = 900.0
"""Longest lock: ESXi's Security.AccountUnlockTime of 15 minutes."""

_DECOY = (
    "$argon2id$v=19$m=65536,t=3,p=4$/y+kUR/wyLGNW8teNafRXw$Z2hzy3"
    "+DF/7Y/TsNGacuHHbGC/I3g9TaBIHSwGc/xQk"
)
"""The hash of a random password that nobody kept: what unknown users are checked against."""

_DOUBLINGS = 16
"""Doublings of the lock: enough for every limit, and no number grows without end."""

_WRONG = "Cannot complete login due to an incorrect user name or password."


@dataclass(frozen=True, slots=True)
class Session:
    """Who is asking."""

    key: str
    user: str
    full_name: str
    role: Role
    login_time: float
    peer: str = ""


@dataclass(slots=True)
class Rules:
    """What the advanced options decide about accounts and sessions."""

    free_failures: int = FREE_FAILURES
    lock_limit: float = LOCK_LIMIT
    idle_seconds: float = IDLE_SECONDS


def _nobody(user: str, _peer: str) -> None:
    raise LoginError("nobody says who is let in", component=user)


@dataclass(slots=True)
class Hooks:
    """Who else has a say: which role, whether a login is admitted, who hears of sessions.

    ``ended`` hears whether the session was revoked: ended by somebody else than its user. While
    nobody says who is admitted, nobody is.
    """

    role_of: Callable[[Account], Role] = lambda account: role_named(account.role)
    admit: Callable[[str, str], None] = _nobody
    opened: Callable[[StoredSession], None] = lambda _session: None
    ended: Callable[[StoredSession, bool], None] = lambda _session, _revoked: None


LOCAL_ROOT = Session("local", "root", "Local administrator", role_named("Admin"), 0.0)
"""The caller on the calls socket whose peer credentials say root."""

PLATE = Session(CONSOLE, CONSOLE, "Direct console", role_named("ReadOnly"), 0.0, CONSOLE)
"""The direct console before somebody logs in: it shows who the host is."""


def generate_password() -> str:
    """Return a first password: 20 letters and digits, 119 bits, easy to type."""
    alphabet = "".join(c for c in string.ascii_letters + string.digits if c not in "0O1lI")
    return "-".join("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(4))


def hash_password(password: str) -> str:
    """Return the hash that an account keeps of a password."""
    return PasswordHasher().hash(password)


class Accounts:
    """Checks passwords and keeps the sessions. ``clock`` gives Unix seconds."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self.rules = Rules()
        self.hooks = Hooks()
        self._hasher = PasswordHasher()
        self._sessions = {session.digest: session for session in store.sessions()}

    def set_password(self, user: str, full_name: str, password: str, role: str) -> None:
        """Create or replace an account."""
        self.set_hash(user, full_name, self._hasher.hash(password), role)

    def set_hash(self, user: str, full_name: str, hashed: str, role: str) -> None:
        """Create or replace an account whose password somebody else has hashed."""
        self._store.put_account(Account(user, full_name, hashed, role, failures=0, locked_until=0))

    def login(self, user: str, password: str, peer: str) -> tuple[str, Session]:
        """Check the password and open a session; returns (handle, session).

        Raises LoginError, with the same words whatever was wrong, and the same work done for
        an unknown user as for a known one.
        """
        return self.conclude(user, peer, self.verify(self.hash_of(user), password))

    def hash_of(self, user: str) -> str:
        """Return the hash to check a password against; for an unknown user, one that fits none."""
        account = self._store.account(user)
        return account.hash if account else _DECOY

    def locked_until(self, user: str) -> float | None:
        """Return until when an account is locked; None: there is no such account."""
        account = self._store.account(user)
        return None if account is None else account.locked_until

    def lock_after(self, failures: int, now: float) -> float:
        """Return until when so many failures in a row lock an account; 0: they do not."""
        over = min(failures - self.rules.free_failures, _DOUBLINGS)
        return now + min(self.rules.lock_limit, LOCK_SECONDS * 2.0**over) if over >= 0 else 0.0

    def verify(self, hashed: str, password: str) -> str:
        """Return the hash if the password fits it, else an empty string; safe in any thread.

        This is the costly part: tens of milliseconds.
        """
        try:
            self._hasher.verify(hashed, password)
        except (VerifyMismatchError, VerificationError, InvalidHashError):
            return ""
        return hashed

    def conclude(self, user: str, peer: str, verified: str) -> tuple[str, Session]:
        """Open a session after a good check, or note the failure. Raises as ``another``."""
        return self.another(self.check(user, verified).name, peer)

    def another(self, user: str, peer: str) -> tuple[str, Session]:
        """Open a session of somebody who has proved to be that user.

        Raises:
            LoginError: There is no such account any more.
            LimitError: There are too many sessions, of the account or in all.
        """
        now = self._clock()
        account = self._store.account(user)
        if account is None:
            raise LoginError(_WRONG, component=user)
        self.hooks.admit(user, peer)
        self._expire(now)
        own = sum(one.user == user for one in self._sessions.values())
        if own >= SESSIONS_OF_ONE or len(self._sessions) >= SESSION_LIMIT:
            raise LimitError(
                f"There are {len(self._sessions)} sessions already, {own} of them of {user}.",
                code="too-many-sessions",
                component=user,
                remedy="Log out where nobody works any more, or terminate idle sessions.",
            )
        handle = secrets.token_hex(32)
        session = StoredSession(
            _digest(handle), secrets.token_hex(16), user, peer, login_time=now, last_active=now
        )
        self._sessions[session.digest] = session
        self._store.put_session(session)
        self.hooks.opened(session)
        return handle, self._session(session, account)

    def check(self, user: str, verified: str) -> Account:
        """Return the account after a good check, or note the failure. Raises LoginError.

        ``verified`` is the hash that the password fitted (empty: none): it must still be the
        account's, or the password was changed while it was checked.
        """
        account, now = self._store.account(user), self._clock()
        locked = account is not None and account.locked_until > now
        if account is None or locked or not verified or account.hash != verified:
            if account is not None and not locked:
                self._note_failure(account, now)
            raise LoginError(_WRONG, component=user)
        if account.failures:
            account = replace(account, failures=0, locked_until=0.0)
            self._store.put_account(account)
        return account

    def change_password(self, user: str, password: str) -> None:
        """Give an account another password and end its sessions."""
        account = self._store.account(user)
        if account is not None:
            self._store.put_account(replace(account, hash=self.hash_new(password), failures=0))
            self.end([s for s in self.sessions() if s.user == user])

    def hash_new(self, password: str) -> str:
        """Return the hash of a new password."""
        return self._hasher.hash(password)

    def sessions(self) -> tuple[StoredSession, ...]:
        """Return all sessions."""
        return tuple(self._sessions.values())

    def end(self, sessions: Iterable[StoredSession], *, revoked: bool = True) -> None:
        """End sessions; ``revoked``: their user has not asked for it."""
        gone = [one for one in sessions if self._sessions.pop(one.digest, None) is not None]
        self._store.drop_sessions(one.digest for one in gone)
        for one in gone:
            self.hooks.ended(one, revoked)

    def session(self, handle: str) -> Session:
        """Return the session of a handle and note that it was used.

        Raises NotAuthenticatedError when there is none, or it was idle for too long.
        """
        now = self._clock()
        stored = self._sessions.get(_digest(handle))
        account = self._store.account(stored.user) if stored else None
        if stored is None or account is None or now - stored.last_active > self.rules.idle_seconds:
            raise NotAuthenticatedError("The session is not authenticated.")
        self._sessions[stored.digest] = replace(stored, last_active=now)
        return self._session(stored, account)

    def logout(self, handle: str) -> None:
        """End the session; an unknown handle is not an error."""
        found = self._sessions.get(_digest(handle))
        self.end([found] if found else [], revoked=False)

    def _note_failure(self, account: Account, now: float) -> None:
        failures = account.failures + 1
        until = self.lock_after(failures, now)
        self._store.put_account(replace(account, failures=failures, locked_until=until))

    def _expire(self, now: float) -> None:
        idle = self.rules.idle_seconds
        idled = [s for s in self.sessions() if now - s.last_active > idle]
        self.end(idled, revoked=False)

    def _session(self, stored: StoredSession, account: Account) -> Session:
        return Session(
            stored.key,
            stored.user,
            account.full_name,
            self.hooks.role_of(account),
            stored.login_time,
            stored.peer,
        )


def _digest(handle: str) -> bytes:
    return hashlib.sha256(handle.encode()).digest()
