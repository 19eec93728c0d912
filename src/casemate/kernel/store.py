"""The host's store: one SQLite database, write-ahead logged, synchronised at every commit.

It holds what must survive a restart: accounts, sessions (by hash), registered VMs, the audit
log and a few named values. One connection, used from one thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from casemate.errors import HostError
from casemate.kernel.auditlog import AuditLog, transaction
from casemate.policy.rights import Permission

_SCHEMA = """
CREATE TABLE IF NOT EXISTS value (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS account (
    name TEXT PRIMARY KEY, full_name TEXT NOT NULL, hash TEXT NOT NULL, role TEXT NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0, locked_until REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS session (
    digest BLOB PRIMARY KEY, key TEXT NOT NULL UNIQUE, user TEXT NOT NULL, peer TEXT NOT NULL,
    login_time REAL NOT NULL, last_active REAL NOT NULL);
CREATE TABLE IF NOT EXISTS vm (
    id INTEGER PRIMARY KEY AUTOINCREMENT, vmx_path TEXT NOT NULL UNIQUE, pool TEXT NOT NULL,
    running INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS pool (
    id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER NOT NULL, name TEXT NOT NULL,
    settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS role (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    privileges TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS permission (
    kind TEXT NOT NULL, entity TEXT NOT NULL, principal TEXT NOT NULL, role INTEGER NOT NULL,
    propagate INTEGER NOT NULL, PRIMARY KEY (kind, entity, principal));
"""

_FIRST_ROLE = 10
"""Number of the first added role: ESXi's own begin there too; the built-in ones are negative."""


@dataclass(frozen=True, slots=True)
class Account:
    """A local account; ``hash`` is an argon2id string."""

    name: str
    full_name: str
    hash: str
    role: str
    failures: int
    locked_until: float


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as stored: the handle itself is never stored, only its SHA-256."""

    digest: bytes
    key: str
    user: str
    peer: str
    login_time: float
    last_active: float


@dataclass(frozen=True, slots=True)
class StoredVm:
    """A registered VM: its number, its .vmx as a datastore path, its pool."""

    number: int
    vmx_path: str
    pool: str
    running: bool


@dataclass(frozen=True, slots=True)
class StoredPool:
    """A resource pool: its number, its parent's (0: the root), its name, and settings as JSON."""

    number: int
    parent: int
    name: str
    settings: str


class Store:
    """The open database. Raises HostError when it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            self.audit = AuditLog(self._db)
        except (OSError, sqlite3.Error, ValueError, TypeError) as error:
            raise HostError(
                f"the store {path} cannot be opened: {error}",
                component=str(path),
                remedy="Check the disk; the file may be restored from a backup.",
            ) from error

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def value(self, name: str) -> str | None:
        """Return a named value."""
        row = self._db.execute("SELECT value FROM value WHERE name=?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_value(self, name: str, value: str) -> None:
        """Set a named value."""
        self._db.execute("INSERT OR REPLACE INTO value VALUES (?,?)", (name, value))

    def account(self, name: str) -> Account | None:
        """Return an account."""
        row = self._db.execute("SELECT * FROM account WHERE name=?", (name,)).fetchone()
        return None if row is None else Account(*row)

    def put_account(self, account: Account) -> None:
        """Add or replace an account."""
        self._db.execute(
            "INSERT OR REPLACE INTO account VALUES (?,?,?,?,?,?)",
            (
                account.name,
                account.full_name,
                account.hash,
                account.role,
                account.failures,
                account.locked_until,
            ),
        )

    def sessions(self) -> list[StoredSession]:
        """Return all sessions."""
        return [StoredSession(*row) for row in self._db.execute("SELECT * FROM session")]

    def put_session(self, session: StoredSession) -> None:
        """Add or replace a session."""
        self._db.execute(
            "INSERT OR REPLACE INTO session VALUES (?,?,?,?,?,?)",
            (
                session.digest,
                session.key,
                session.user,
                session.peer,
                session.login_time,
                session.last_active,
            ),
        )

    def drop_sessions(self, digests: Iterable[bytes]) -> None:
        """Forget sessions."""
        self._db.executemany("DELETE FROM session WHERE digest=?", [(d,) for d in digests])

    def vms(self) -> list[StoredVm]:
        """Return all registered VMs, in order of registration."""
        rows = self._db.execute("SELECT id, vmx_path, pool, running FROM vm ORDER BY id")
        return [StoredVm(n, path, pool, bool(running)) for n, path, pool, running in rows]

    def add_vm(self, vmx_path: str, pool: str) -> int:
        """Register a VM and return its number; numbers are never given twice."""
        cursor = self._db.execute("INSERT INTO vm (vmx_path, pool) VALUES (?,?)", (vmx_path, pool))
        return int(cursor.lastrowid or 0)

    def set_running(self, number: int, *, running: bool) -> None:
        """Remember whether the VM should be running."""
        self._db.execute("UPDATE vm SET running=? WHERE id=?", (int(running), number))

    def set_pool(self, number: int, pool: str) -> None:
        """Remember which pool a VM is in."""
        self._db.execute("UPDATE vm SET pool=? WHERE id=?", (pool, number))

    def pools(self) -> list[StoredPool]:
        """Return all resource pools but the root, in order of creation."""
        rows = self._db.execute("SELECT id, parent, name, settings FROM pool ORDER BY id")
        return [StoredPool(*row) for row in rows]

    def add_pool(self, parent: int, name: str, settings: str) -> int:
        """Add a pool and return its number; numbers are never given twice."""
        cursor = self._db.execute(
            "INSERT INTO pool (parent, name, settings) VALUES (?,?,?)", (parent, name, settings)
        )
        return int(cursor.lastrowid or 0)

    def put_pool(self, pool: StoredPool) -> None:
        """Change a pool."""
        self._db.execute(
            "UPDATE pool SET parent=?, name=?, settings=? WHERE id=?",
            (pool.parent, pool.name, pool.settings, pool.number),
        )

    def remove_pool(self, number: int) -> None:
        """Forget a pool."""
        self._db.execute("DELETE FROM pool WHERE id=?", (number,))

    def remove_vm(self, number: int) -> None:
        """Forget a VM and the permissions on it."""
        with transaction(self._db):
            self._db.execute("DELETE FROM vm WHERE id=?", (number,))
            self._db.execute(
                "DELETE FROM permission WHERE kind='VirtualMachine' AND entity=?", (str(number),)
            )

    def accounts(self) -> list[Account]:
        """Return all accounts."""
        return [Account(*row) for row in self._db.execute("SELECT * FROM account ORDER BY rowid")]

    def drop_account(self, name: str) -> None:
        """Forget an account and what it was given."""
        with transaction(self._db):
            self._db.execute("DELETE FROM account WHERE name=?", (name,))
            self._db.execute("DELETE FROM permission WHERE principal=?", (name,))

    def roles(self) -> list[tuple[int, str, tuple[str, ...]]]:
        """Return the added roles: number, name, privileges."""
        rows = self._db.execute("SELECT number, name, privileges FROM role ORDER BY number")
        return [(int(n), str(name), tuple(str(p).split())) for n, name, p in rows]

    def add_role(self, name: str, privileges: Iterable[str]) -> int:
        """Add a role and return its number; numbers are never given twice."""
        with transaction(self._db):
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name='role'").fetchone()
            number = max(int(row[0]) + 1 if row else 0, _FIRST_ROLE)
            self._db.execute(
                "INSERT INTO role VALUES (?,?,?)", (number, name, " ".join(sorted(privileges)))
            )
        return number

    def put_role(self, number: int, name: str, privileges: Iterable[str]) -> None:
        """Change a role."""
        self._db.execute(
            "UPDATE role SET name=?, privileges=? WHERE number=?",
            (name, " ".join(sorted(privileges)), number),
        )

    def drop_role(self, number: int) -> None:
        """Forget a role and the permissions through it."""
        with transaction(self._db):
            self._db.execute("DELETE FROM role WHERE number=?", (number,))
            self._db.execute("DELETE FROM permission WHERE role=?", (number,))

    def permissions(self) -> list[Permission]:
        """Return all permissions."""
        rows = self._db.execute("SELECT kind, entity, principal, role, propagate FROM permission")
        return [
            Permission((kind, entity), principal, int(role), bool(propagate))
            for kind, entity, principal, role, propagate in rows
        ]

    def put_permission(self, one: Permission) -> None:
        """Add or replace a permission."""
        self._db.execute(
            "INSERT OR REPLACE INTO permission VALUES (?,?,?,?,?)",
            (*one.entity, one.principal, one.role, int(one.propagate)),
        )

    def drop_permission(self, entity: tuple[str, str], principal: str) -> None:
        """Forget a permission."""
        self._db.execute(
            "DELETE FROM permission WHERE kind=? AND entity=? AND principal=?",
            (*entity, principal),
        )
