"""Who did what: an append-only log in which every line covers all lines before it.

The digest of a line is SHA-256 over the digest before it and the line as JSON. So nobody can take
a line out or change one without changing the last digest, which ``head`` gives to keep elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from casemate.errors import DigestError
from casemate.machine.fleet import AuditEntry
from casemate.verifier.database import Database, Transaction

START = "0" * 64
"""The digest before the first line."""


def _digest(before: str, number: int, time: float, words: tuple[str, str, str, str]) -> str:
    line = json.dumps([before, number, round(time, 3), *words], separators=(",", ":"))
    return hashlib.sha256(line.encode()).hexdigest()


def append(step: Transaction, who: str, action: str, thing: str, why: str = "") -> None:
    """Append a line; the caller's transaction must be exclusive (``record`` is)."""
    last = step.one("SELECT number, digest FROM audit ORDER BY number DESC LIMIT 1")
    number, before = (int(last[0]) + 1, str(last[1])) if last else (1, START)
    now = round(step.now(), 3)
    digest = _digest(before, number, now, (who, action, thing, why))
    step.run(
        "INSERT INTO audit VALUES (?,?,?,?,?,?,?)", number, now, who, action, thing, why, digest
    )


def record(database: Database, who: str, action: str, thing: str, why: str = "") -> None:
    """Append a line in a transaction of its own."""
    with database.exclusive("audit") as step:
        append(step, who, action, thing, why)


def entries(step: Transaction, limit: int = 200) -> list[AuditEntry]:
    """Return the last lines, newest first."""
    return [
        AuditEntry(*row)
        for row in step.all("SELECT * FROM audit ORDER BY number DESC LIMIT ?", limit)
    ]


def head(step: Transaction) -> str:
    """Return the digest of the last line."""
    row = step.one("SELECT digest FROM audit ORDER BY number DESC LIMIT 1")
    return str(row[0]) if row else START


def _all(step: Transaction) -> Iterator[AuditEntry]:
    """Yield all lines, some at a time: a log that only grows is never whole in memory."""
    last = -(1 << 62)
    while rows := step.all("SELECT * FROM audit WHERE number>? ORDER BY number LIMIT 1000", last):
        for row in rows:
            entry = AuditEntry(*row)
            last = entry.number
            yield entry


def check(step: Transaction) -> int:
    """Recompute the whole chain and return how many lines it has.

    Raises:
        DigestError: ``audit-chain``: a line was changed, taken out or put in.
    """
    before, count = START, 0
    for entry in _all(step):
        count += 1
        words = (entry.who, entry.action, entry.thing, entry.why)
        if entry.number != count or entry.digest != _digest(before, count, entry.time, words):
            raise DigestError(
                f"the audit log was changed at line {count}",
                code="audit-chain",
                component="audit log",
                remedy="Compare with a backup; whoever can write to the database could do this.",
            )
        before = entry.digest
    return count
