"""Two databases behind one face: SQLite for a verifier by itself, PostgreSQL for many.

The SQL is written once, with ``?`` for parameters. What differs is here: how transactions begin,
what types are called, and whether rows that another verifier holds are skipped or waited for.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from casemate.errors import HostError

CONNECTIONS = 8
"""Connections of one verifier to PostgreSQL: its default is 100 for all clients."""

MOST_VALUES = 999
"""Parameters of one statement that every SQLite takes."""

BUSY_SECONDS = 30.0
"""How long to wait for another process that writes to the same SQLite file."""

ATTEMPTS = 5
"""Tries of a read after PostgreSQL went away; with ``PAUSE`` they outlast a restart."""

PAUSE = 0.5
"""Seconds between two tries, doubled each time."""

Row = tuple[Any, ...]
Columns = tuple[tuple[str, str], ...]
"""Names and types: TEXT, REAL, INTEGER or BLOB."""
T = TypeVar("T")


class Transaction(Protocol):
    """A running transaction."""

    def all(self, sql: str, *values: object) -> list[Row]:
        """Run a query and return its rows."""
        ...

    def one(self, sql: str, *values: object) -> Row | None:
        """Run a query and return its first row."""
        ...

    def run(self, sql: str, *values: object) -> int:
        """Run a statement and return how many rows it touched."""
        ...

    def many(self, sql: str, rows: Sequence[Row]) -> None:
        """Run a statement for each row."""
        ...

    def given(self, columns: Columns, rows: Sequence[Row], sql: str) -> list[Row]:
        """Run one statement over many rows, which it reads from ``given``; return its rows.

        ``columns`` are the names and types of the columns of ``given``.
        """
        ...

    def now(self) -> float:
        """Return the database's clock, Unix seconds."""
        ...


class Database(Protocol):
    """A place for transactions; ``skip_locked`` ends a query for rows to lease."""

    skip_locked: str

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin; commit at the end, roll back on any error."""
        ...

    def exclusive(self, name: str) -> AbstractContextManager[Transaction]:
        """Begin a transaction that no other of this name overlaps."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class SteadyClock:
    """Unix time that a step of the machine's clock does not move: read once, then counted on."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._offset = wall() - ticks()
        self._ticks = ticks

    def __call__(self) -> float:
        """Return Unix seconds."""
        return self._offset + self._ticks()


class _SqliteTransaction:
    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._clock = clock

    def all(self, sql: str, *values: object) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()

    def one(self, sql: str, *values: object) -> Row | None:
        row: Row | None = self._connection.execute(sql, values).fetchone()
        return row

    def run(self, sql: str, *values: object) -> int:
        return self._connection.execute(sql, values).rowcount

    def many(self, sql: str, rows: Sequence[Row]) -> None:
        self._connection.executemany(sql, rows)

    def given(self, columns: Columns, rows: Sequence[Row], sql: str) -> list[Row]:
        names = ", ".join(name for name, _ in columns)
        one = f"({', '.join('?' * len(columns))})"
        step = MOST_VALUES // len(columns)
        found: list[Row] = []
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            table = f"WITH given({names}) AS (VALUES {', '.join([one] * len(some))}) "
            values = [value for row in some for value in row]
            found += self._connection.execute(table + sql, values).fetchall()
        return found

    def now(self) -> float:
        return self._clock()


class Sqlite:
    """One file, write-ahead logged; one connection that threads take in turn."""

    skip_locked = ""

    def __init__(self, path: Path, schema: str, clock: Callable[[], float] | None = None) -> None:
        self._turn = threading.RLock()
        self._clock = clock or SteadyClock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(schema)
        except (OSError, sqlite3.Error) as error:
            raise HostError(
                f"the store {path} cannot be opened: {error}",
                component=str(path),
                remedy="Check the disk; the file may be restored from a backup.",
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Begin a transaction; the file is this process's until it ends."""
        with self._turn:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield _SqliteTransaction(self._connection, self._clock)
                self._connection.execute("COMMIT")
            except BaseException as error:
                # SQLite has rolled back by itself after some errors, and not after others.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise _unwritten(str(error)) from error
                raise

    def exclusive(self, name: str) -> AbstractContextManager[Transaction]:
        """Begin a transaction: here no two overlap anyway."""
        del name
        return self.transaction()

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._connection.close()


_ARRAYS = {
    "TEXT": "%b::text[]",
    "REAL": "%b::double precision[]",
    "INTEGER": "%b::bigint[]",
    "BLOB": "%b::bytea[]",
}
"""In binary: nothing is quoted, and bytes are not twice as long."""

_CLOCK = "SELECT extract(epoch FROM clock_timestamp())::double precision"


@cache
def _marked(sql: str) -> str:
    """Write the parameters as psycopg wants them."""
    return sql.replace("?", "%s")


class _PostgresTransaction:
    def __init__(self, cursor: Any, now: float) -> None:  # noqa: ANN401 (psycopg is optional)
        self._cursor = cursor
        self._now = now

    def all(self, sql: str, *values: object) -> list[Row]:
        self._cursor.execute(_marked(sql), values)
        return list(self._cursor.fetchall())

    def one(self, sql: str, *values: object) -> Row | None:
        self._cursor.execute(_marked(sql), values)
        row: Row | None = self._cursor.fetchone()
        return row

    def run(self, sql: str, *values: object) -> int:
        self._cursor.execute(_marked(sql), values)
        return int(self._cursor.rowcount)

    def many(self, sql: str, rows: Sequence[Row]) -> None:
        self._cursor.executemany(_marked(sql), rows)

    def given(self, columns: Columns, rows: Sequence[Row], sql: str) -> list[Row]:
        names = ", ".join(name for name, _ in columns)
        lists = ", ".join(_ARRAYS[kind] for _, kind in columns)
        if not rows:
            return []
        table = f"WITH given({names}) AS (SELECT * FROM unnest({lists})) "  # noqa: S608 (own names)
        self._cursor.execute(table + sql, [list(values) for values in zip(*rows, strict=True)])
        return list(self._cursor.fetchall())

    def now(self) -> float:
        return self._now

    def lock(self, name: str) -> None:
        """Wait until no other transaction of this name runs; what time it is then counts."""
        self.one("SELECT pg_advisory_xact_lock(hashtext(?))", name)
        row = self.one(_CLOCK)
        self._now = float(row[0]) if row else self._now


class Postgres:
    """PostgreSQL: any number of verifiers share it. Connections that broke are replaced."""

    skip_locked = " FOR UPDATE SKIP LOCKED"

    def __init__(self, url: str, schema: str) -> None:
        try:
            import psycopg  # noqa: PLC0415 (only verifiers with PostgreSQL need it)
        except ImportError as error:
            raise HostError(
                f"PostgreSQL cannot be spoken to: {error}",
                code="psycopg",
                component="psycopg",
                remedy="Install psycopg and the Debian package libpq5, or use SQLite.",
            ) from error
        self._driver = psycopg
        self._url = url
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._room = threading.BoundedSemaphore(CONNECTIONS)
        types = schema.replace(" BLOB", " BYTEA").replace(" REAL", " DOUBLE PRECISION")
        types = types.replace("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGSERIAL PRIMARY KEY")
        with self.exclusive("schema") as step:
            for statement in types.split(";"):
                if statement.strip():
                    step.run(statement)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Begin a transaction on a connection of its own."""
        with self._begun() as step:
            yield step

    @contextmanager
    def _begun(self) -> Iterator[_PostgresTransaction]:
        with self._room:
            connection, step = self._begin()
            try:
                yield step
                connection.execute("COMMIT")
            except self._driver.OperationalError as error:
                connection.close()
                raise _away(str(error)) from error
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            finally:
                if not connection.closed:
                    self._idle.put(connection)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[Transaction]:
        """Begin a transaction that no other of this name overlaps, on any verifier."""
        with self._begun() as step:
            step.lock(name)
            yield step

    def close(self) -> None:
        """Close all idle connections."""
        while not self._idle.empty():
            self._idle.get().close()

    def _begin(self) -> tuple[Any, _PostgresTransaction]:
        """Return a connection in a new transaction; those that died while idle are dropped."""
        while not self._idle.empty():
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                break
            try:
                return connection, _begun_on(connection)
            except self._driver.OperationalError:
                connection.close()
        pause = PAUSE
        for left in range(ATTEMPTS - 1, -1, -1):
            try:
                connection = self._driver.connect(self._url, autocommit=True, connect_timeout=5)
                return connection, _begun_on(connection)
            except self._driver.OperationalError as error:
                if not left:
                    raise _away(str(error)) from error
                time.sleep(pause)
                pause *= 2
        raise AssertionError


def _begun_on(connection: Any) -> _PostgresTransaction:  # noqa: ANN401 (psycopg is optional)
    """Begin, and ask what time it is, in one round trip: a transaction takes milliseconds."""
    cursor = connection.execute(f"BEGIN; {_CLOCK}")
    cursor.nextset()
    return _PostgresTransaction(cursor, float(cursor.fetchone()[0]))


def _unwritten(reason: str) -> HostError:
    return HostError(
        f"the store cannot be written: {reason}",
        code="database",
        component="SQLite",
        remedy="Make room on the disk; the verifier goes on by itself.",
    )


def _away(reason: str) -> HostError:
    return HostError(
        f"PostgreSQL does not answer: {reason.strip()}",
        code="database",
        component="PostgreSQL",
        remedy="Start PostgreSQL; the verifier goes on by itself.",
    )


def open_database(url: str, schema: str) -> Database:
    """Open ``postgresql://...``, or else the SQLite file of that path. Raises HostError."""
    if url.startswith(("postgresql://", "postgres://")):
        return Postgres(url, schema)
    return Sqlite(Path(url), schema)
