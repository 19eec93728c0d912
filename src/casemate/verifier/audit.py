"""Who did what: an append-only log in which every line covers all lines before it.

The digest of a line is SHA-256 over the digest before it and the line as JSON. So nobody can take
a line out or change one without changing the last digest, which ``last`` gives to keep elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable

from casemate.errors import DigestError
from casemate.machine.fleet import AuditEntry
from casemate.verifier.database import Database, Transaction

START = "0" * 64
"""The digest before the first line."""

LOT = 1000
"""Lines that are read at once: a log that only grows is never whole in memory."""

LOOK = 20_000
"""Lines that one look checks: some 0.2 s, in which others' transactions have their turn."""

PASS_SECONDS = 60.0
"""How long a line that was checked is not checked again by looks."""


def _digest(before: str, number: int, when: float, words: tuple[str, str, str, str]) -> str:
    line = json.dumps([before, number, round(when, 3), *words], separators=(",", ":"))
    return hashlib.sha256(line.encode()).hexdigest()


def last(step: Transaction) -> tuple[int, str]:
    """Return number and digest of the last line."""
    row = step.one("SELECT number, digest FROM audit ORDER BY number DESC LIMIT 1")
    return (int(row[0]), str(row[1])) if row else (0, START)


def append(step: Transaction, who: str, action: str, thing: str, why: str = "") -> None:
    """Append a line; the caller's transaction must be exclusive (``record`` is)."""
    number, before = last(step)
    now = round(step.now(), 3)
    digest = _digest(before, number + 1, now, (who, action, thing, why))
    row = (number + 1, now, who, action, thing, why, digest)
    step.run("INSERT INTO audit VALUES (?,?,?,?,?,?,?)", *row)


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


def check(step: Transaction) -> int:
    """Recompute the whole chain and return how many lines it has.

    Raises:
        DigestError: ``audit-chain``: a line was changed, taken out or put in.
    """
    number, before = 0, START
    while True:
        found, before = _checked(step, number, before)
        if found == number:
            return number
        number = found


def _checked(step: Transaction, number: int, before: str) -> tuple[int, str]:
    """Check up to ``LOT`` lines after ``number``; return number and digest of the last one."""
    # Before the first line there is none, whatever its number.
    after = number or -(1 << 62)
    for row in step.all("SELECT * FROM audit WHERE number>? ORDER BY number LIMIT ?", after, LOT):
        entry = AuditEntry(*row)
        number += 1
        words = (entry.who, entry.action, entry.thing, entry.why)
        if entry.number != number or entry.digest != _digest(before, number, entry.time, words):
            raise _changed(number)
        before = entry.digest
    return number, before


def _changed(number: int) -> DigestError:
    return DigestError(
        f"the audit log was changed at line {number}",
        code="audit-chain",
        component="audit log",
        remedy="Compare with a backup; whoever can write to the database could do this.",
    )


class Checker:
    """Checks the chain piece by piece: a look does bounded work, however long the log is.

    It goes on where the last look ended, and from the beginning again once a whole pass is older
    than ``PASS_SECONDS``. Used from many threads; each piece is a transaction of its own.
    """

    def __init__(self, database: Database, ticks: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._ticks = ticks
        self._turn = threading.Lock()
        self._begin()

    def look(self) -> int:
        """Check up to ``LOOK`` lines more; return how many were checked since the pass began.

        Raises:
            DigestError: ``audit-chain``: a line was changed, taken out or put in. The next look
                begins at the beginning.
        """
        with self._turn:
            if self._ended and self._ticks() - self._began > PASS_SECONDS:
                self._begin()
            try:
                self._go_on()
            except BaseException:
                self._begin()
                raise
            return self._number

    def _begin(self) -> None:
        self._number, self._before = 0, START
        self._began, self._ended = self._ticks(), False

    def _go_on(self) -> None:
        with self._database.transaction() as step:
            row = step.one("SELECT digest FROM audit WHERE number=?", self._number)
        if self._number and (row is None or str(row[0]) != self._before):
            raise _changed(self._number)
        for _ in range(LOOK // LOT):
            with self._database.transaction() as step:
                found, self._before = _checked(step, self._number, self._before)
            if found == self._number:
                self._ended = True
                return
            self._number = found
