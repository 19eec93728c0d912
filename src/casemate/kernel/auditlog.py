"""The host's audit log: a chain of entries in the store, of whose head others know as well.

Each entry is chained to the one before it: what was changed, or taken out in between, shows. That
the end was taken out shows by the head, which the kernel has in its memory as long as it lives,
and which a verifier remembers (``heads``). The store alone could not tell: who can write to it can
write a shorter log that is whole.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.errors import Finding
from casemate.policy.auditheads import MOST_ENTRIES, LogHead

_SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, user TEXT NOT NULL,
    action TEXT NOT NULL, object TEXT NOT NULL, why TEXT NOT NULL, outcome TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS audit_chain (number INTEGER PRIMARY KEY, digest BLOB NOT NULL);
"""

ROWS = 100_000
"""Entries that are kept: some 30 MiB, and 130 of the longest texts."""

SECONDS = 400 * 86400.0
"""How long an entry is kept: more than a year, for a yearly look."""

KEPT = 10_000
"""Entries that are kept however old they seem: a clock that was set wrong empties no log."""

PRUNED = 256
"""Entries between two looks for those that may go; a look takes out 16 times as many at most."""

LOOKED = 1000
"""Entries that a watch looks at each time but the first, the last ones: some 5 ms, and
under a second for the first look where 100,000 are kept."""

UNREAD = 12
"""Looks in a row that cannot read the store, a minute, after which that is told: a machine may
lack descriptors for a moment, and the head is known all the while."""

_ANCHOR: Final = "audit-anchor"
"""The value that holds number and digest of the last entry that was taken out."""
_KEY: Final = "audit-key"
"""The value that holds the key under which digests are shown to anybody who asks."""
_DIGEST: Final = hashlib.sha256().digest_size
_LACKING: Final = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL),
        *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM),
    }
)
"""What SQLite says when the machine lacks something, whatever the log is."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry of the audit log."""

    number: int
    time: float
    user: str
    action: str
    object: str
    why: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry's number and digest."""

    number: int
    digest: bytes


_FORGED: Final = Head(0, b"")
"""Stands for an anchor that no prune has written; no entry is chained to it."""


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Do all of it or nothing."""
    database.execute("BEGIN")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


class AuditLog:
    """The log in an open store, which has a table of values."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database
        database.executescript(_SCHEMA)
        last = _last(database)
        # SQLite counts what it has given numbers to: who only deletes entries is found out.
        row = database.execute("SELECT seq FROM sqlite_sequence WHERE name='audit'").fetchone()
        self.head = Head(max(last.number, _number(row[0]) if row else 0), last.digest)
        self._next = self.head
        self._key = _unhex(_value(database, _KEY))
        if len(self._key) != _DIGEST:
            self._key = secrets.token_bytes(_DIGEST)
            _set_value(database, _KEY, self._key.hex())

    def append(
        self, time: float, user: str, action: str, thing: str, why: str, outcome: str
    ) -> None:
        """Append an entry, chained to the one that was written before, whatever the store says."""
        entry = AuditEntry(self.head.number + 1, time, user, action, thing, why, outcome)
        digest = _chained(self.head.digest, entry)
        row = (entry.number, time, user, action, thing, why, outcome)
        self._next = Head(entry.number, digest)  # a watch may see it before it is known to be there
        with transaction(self._db):
            self._db.execute("INSERT OR REPLACE INTO audit VALUES (?,?,?,?,?,?,?)", row)
            self._db.execute(
                "INSERT OR REPLACE INTO audit_chain VALUES (?,?)", (entry.number, digest)
            )
            if not entry.number % PRUNED:
                self._prune(entry.number, time)
        self.head = self._next

    def _prune(self, last: int, now: float) -> None:
        """Take out the oldest entries, too many or too old; the chain begins after them."""
        first = int(self._db.execute("SELECT min(number) FROM audit").fetchone()[0])
        young = self._db.execute(
            "SELECT number FROM audit WHERE time>=? ORDER BY number LIMIT 1", (now - SECONDS,)
        ).fetchone()
        old = min(int(young[0]) - 1 if young else last, last - KEPT)
        end = min(max(old, last - ROWS), first - 1 + 16 * PRUNED)
        if end < first:
            return
        digest = self._digest(end)
        if digest:
            _set_value(self._db, _ANCHOR, f"{end} {digest.hex()}")
        self._db.execute("DELETE FROM audit WHERE number<=?", (end,))
        self._db.execute("DELETE FROM audit_chain WHERE number<=?", (end,))

    def size(self) -> int:
        """Return the number of the last entry that is there."""
        row = self._db.execute("SELECT max(number) FROM audit").fetchone()
        return int(row[0] or 0)

    def entries(self, start: int, count: int) -> list[AuditEntry]:
        """Return entries from number ``start`` on."""
        rows = self._db.execute(
            "SELECT * FROM audit WHERE number>=? ORDER BY number LIMIT ?", (start, count)
        )
        return [AuditEntry(*row) for row in rows]

    def broken(self, start: int = 0, count: int = -1) -> int | None:
        """Return the number of the first entry that does not fit the chain; None: all do.

        ``start`` and ``count`` are as for ``entries``; without, all are looked at. Where they
        reach the end, that is looked at too.
        """
        broken, last = _walk(self._db, start, count)
        if broken is None and last.number >= _last(self._db).number:
            broken = _beyond(last, self.head)
        return broken

    def heads(self, number: int) -> tuple[LogHead, ...]:
        """Return the head, and the digest of an entry if it is there, for whoever remembers them.

        They are shown under a key: nobody can try out which entry it was.
        """
        shown = [self._shown(self.head.number, self.head.digest)]
        if 0 < number < self.head.number and (digest := self._digest(number)):
            shown.append(self._shown(number, digest))
        return tuple(shown)

    def watch(self, path: Path) -> Callable[[], tuple[Finding, ...]]:
        """Return what looks, from any thread, whether the log is as it was written.

        ``path`` is the file of the store. The first look is at all that is kept, since anything may
        have been done to it while no kernel ran, and what it finds stays true; later ones are at
        the end. A log that was made anew as a whole, only a verifier knows from the former one.
        """
        place = f"{path.absolute().as_uri()}?mode=ro"
        unread, walked = 0, False
        kept: int | None = None

        def look() -> tuple[Finding, ...]:
            nonlocal unread, walked, kept
            before = self.head
            try:
                with closing(sqlite3.connect(place, uri=True)) as db:
                    db.execute("BEGIN")
                    end = _last(db)
                    if not walked:
                        kept, walked = _walk(db, 0, -1)[0], True
                    broken, _ = _walk(db, max(0, end.number - LOOKED + 1), LOOKED)
            except Exception as error:  # noqa: BLE001  (whoever wrote there chose what it raises)
                if not _lacking(error, path):
                    return (_finding(before.number),)
                unread += 1
                return () if unread < UNREAD else (_unread(error),)
            unread, after = 0, self._next
            if broken is None and end.number <= before.number:
                broken = _beyond(end, before)
            elif broken is None and end.number >= after.number:
                broken = _beyond(end, after)
            broken = kept if broken is None else broken
            return () if broken is None else (_finding(broken),)

        return look

    def _shown(self, number: int, digest: bytes) -> LogHead:
        return LogHead(number, hmac.digest(self._key, digest, "sha256"))

    def _digest(self, number: int) -> bytes:
        row = self._db.execute(
            "SELECT digest FROM audit_chain WHERE number=?", (number,)
        ).fetchone()
        return _bytes(row[0]) if row else b""


def _walk(database: sqlite3.Connection, start: int, count: int) -> tuple[int | None, Head]:
    """Return the first entry that does not fit the chain, if any, and the last one that does."""
    before = database.execute(
        "SELECT number, digest FROM audit_chain WHERE number<? ORDER BY number DESC LIMIT 1",
        (start,),
    ).fetchone()
    anchor = Head(int(before[0]), _bytes(before[1])) if before else _anchor(database)
    if anchor == _FORGED:
        return 1, anchor
    last, known_begin = anchor or Head(0, b""), anchor is not None
    rows = database.execute(
        "SELECT audit_chain.digest, audit.* FROM audit_chain LEFT JOIN audit USING (number)"
        " WHERE audit_chain.number>=? ORDER BY audit_chain.number LIMIT ?",
        (start, count),
    )
    for digest, *row in rows:
        if row[0] is None or (known_begin and row[0] != last.number + 1):
            return last.number + 1, last
        entry = AuditEntry(*row)
        if _chained(last.digest, entry) != digest:
            return entry.number, last
        last, known_begin = Head(entry.number, digest), True
    # Readers are shown entries that nobody has chained, too.
    after = "SELECT min(number) FROM audit_chain WHERE number>?"
    (following,) = database.execute(after, (last.number,)).fetchone()
    (odd,) = database.execute(
        "SELECT min(audit.number) FROM audit LEFT JOIN audit_chain USING (number)"
        " WHERE audit.number BETWEEN ? AND ? AND digest IS NULL",
        (start, following or MOST_ENTRIES),
    ).fetchone()
    return odd, last


def _last(database: sqlite3.Connection) -> Head:
    """Return the head as the store has it."""
    row = database.execute(
        "SELECT number, digest FROM audit_chain WHERE number<? ORDER BY number DESC LIMIT 1",
        (MOST_ENTRIES,),
    ).fetchone()
    return Head(int(row[0]), _bytes(row[1])) if row else _anchor(database) or Head(0, b"")


def _beyond(found: Head, head: Head) -> int | None:
    """Return which entry at the end is not what it was; None: the end is as it should be."""
    if found.number != head.number:
        return min(found.number, head.number) + 1
    return None if found.digest == head.digest else found.number


def _anchor(database: sqlite3.Connection) -> Head | None:
    """Return the entry before the first that is kept, if some were taken out."""
    text = _value(database, _ANCHOR)
    if not text:
        return None
    number, _, digest = text.partition(" ")
    plain = number.isascii() and number.isdecimal() and len(number) < len(str(MOST_ENTRIES))
    anchor = Head(_number(int(number)) if plain else 0, _unhex(digest))
    return anchor if anchor.number and len(anchor.digest) == _DIGEST else _FORGED


def _bytes(value: object) -> bytes:
    """Return a digest; empty where somebody has written something else in its place."""
    return value if isinstance(value, bytes) else b""


def _unhex(text: str) -> bytes:
    """Return the bytes; none where it is no hex."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _number(value: object) -> int:
    """Return an entry's number; 0 where it is none."""
    return value if isinstance(value, int) and 0 < value < MOST_ENTRIES else 0


def _lacking(error: Exception, path: Path) -> bool:
    """Tell whether the machine lacked something to read with, and not the store what was read."""
    if isinstance(error, OSError | MemoryError):
        return True
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _LACKING and path.exists()


def _value(database: sqlite3.Connection, name: str) -> str:
    row = database.execute("SELECT value FROM value WHERE name=?", (name,)).fetchone()
    return str(row[0]) if row else ""


def _set_value(database: sqlite3.Connection, name: str, value: str) -> None:
    database.execute("INSERT OR REPLACE INTO value VALUES (?,?)", (name, value))


def _chained(before: bytes, entry: AuditEntry) -> bytes:
    """Return SHA-256 over the digest before and the entry as JSON."""
    row = [entry.number, entry.time, entry.user, entry.action]
    row += [entry.object, entry.why, entry.outcome]
    return hashlib.sha256(before + json.dumps(row, default=repr).encode()).digest()


def _finding(number: int) -> Finding:
    return Finding(
        "audit-log",
        "audit log",
        f"Entry {number} of the audit log is not what was written, or was taken out.",
        "Find out who wrote to the store, and what else he wrote there; then set the host's state"
        " up anew: as long as the entry is kept, every start finds it again.",
    )


def _unread(error: Exception) -> Finding:
    return Finding(
        "audit-log-unread",
        "audit log",
        f"The audit log could not be read for a minute: {error}",
        "Find out what the host lacks: descriptors, memory, or a disk that can be read.",
    )
