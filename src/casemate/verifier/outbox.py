"""Notices that wait in the store for those who are to hear them.

A notice is written in the transaction that gave the reason for it, one row for each destination.
Any verifier that knows the destination leases the row, sends, and deletes it; the rows of one that
was killed come due again when the lease has run out. So a notice arrives at least once.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from casemate.verifier import audit
from casemate.verifier.database import Database, Transaction

LEASE_SECONDS = 60.0
"""How long a lease holds: longer than a call whose every step takes its whole time."""

FIRST_PAUSE = 1.0
"""Seconds between the first try and the second, doubled each time."""

LONGEST_PAUSE = 600.0
"""Seconds between two tries at most: one that was away for days hears soon that it is back."""

MOST = 10_000
"""Rows that may wait: ten fleets of a thousand hosts that fail at once; some 5 MB."""

OLDEST = 3 * 86_400.0
"""Seconds that a notice may wait: a weekend; the alarm itself stands in the store."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What happened to a host, or to a verifier (``host`` empty)."""

    host: str
    code: str
    sentence: str
    time: float


@dataclass(frozen=True, slots=True)
class Leased:
    """A notice to send now. ``identifier`` is the same whenever and wherever it is sent."""

    number: int
    identifier: str
    tries: int
    notice: Notice


def put(step: Transaction, destinations: Iterable[str], notices: Sequence[Notice]) -> None:
    """Write notices down for each destination, with the transaction or not at all."""
    named = [(secrets.token_hex(16), one) for one in notices]
    step.many(
        "INSERT INTO notice (identifier, destination, host, code, sentence, time, due, tries)"
        " VALUES (?,?,?,?,?,?,0,0)",
        [
            (name, destination, one.host, one.code, one.sentence, one.time)
            for destination in destinations
            for name, one in named
        ],
    )


def lease(database: Database, destination: str) -> Leased | None:
    """Lease the notice that is due longest and that no other verifier sends just now."""
    with database.transaction() as step:
        row = step.one(
            "SELECT number, identifier, tries, host, code, sentence, time FROM notice"  # noqa: S608 (own names)
            " WHERE destination=? AND due<=? ORDER BY due, number LIMIT 1" + database.skip_locked,
            destination,
            step.now(),
        )
        if row is None:
            return None
        number, identifier, tries, *what = row
        step.run(
            "UPDATE notice SET due=?, tries=tries+1 WHERE number=?",
            step.now() + LEASE_SECONDS,
            number,
        )
        return Leased(number, identifier, tries + 1, Notice(*what))


def taken(database: Database, leased: Leased) -> None:
    """Forget a notice that its destination took."""
    with database.transaction() as step:
        step.run("DELETE FROM notice WHERE number=?", leased.number)


def put_off(database: Database, leased: Leased) -> float:
    """Give a notice back that was not taken; returns the seconds until it is sent again."""
    pause: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(leased.tries - 1, 30))
    with database.transaction() as step:
        step.run("UPDATE notice SET due=? WHERE number=?", step.now() + pause, leased.number)
    return pause


def waiting(step: Transaction) -> int:
    """Return how many rows wait."""
    row = step.one("SELECT count(*) FROM notice")
    return int(row[0]) if row else 0


def drop_old(database: Database) -> int:
    """Drop what waits too long, and the oldest tenth where too many wait; returns how many.

    What was dropped stands in the audit log.
    """
    with database.transaction() as step:
        first = step.one("SELECT 1 FROM notice WHERE time<? LIMIT 1", step.now() - OLDEST)
        if first is None and waiting(step) <= MOST:
            return 0
    with database.exclusive("audit") as step:
        dropped = step.run("DELETE FROM notice WHERE time<?", step.now() - OLDEST)
        if waiting(step) > MOST:
            dropped += step.run(
                "DELETE FROM notice WHERE number<="
                "(SELECT number FROM notice ORDER BY number DESC LIMIT 1 OFFSET ?)",
                MOST - MOST // 10,
            )
        if dropped:
            words = f"{dropped} notices that webhook or syslog did not take in time"
            audit.append(step, "verifier", "notices-dropped", "", words)
        return dropped
