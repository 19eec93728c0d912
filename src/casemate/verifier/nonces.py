"""Challenges: handed out to one host, spent once, in time, by the clock of the store."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from casemate.errors import AppraisalError, BusyError
from casemate.policy.enrolment import (
    CHALLENGE_LIFETIME,
    NONCE_LIFETIME,
    NONCE_SIZE,
    Issued,
    check_challenge,
    check_nonce_record,
)
from casemate.verifier.database import Database, Transaction

EVIDENCE = "evidence"
ACTIVATION = "activation"

OUTSTANDING = 16
"""Unspent nonces of one host: it needs one, or a few when answers get lost."""

FORGET = 600.0
"""Seconds after which a nonce is forgotten: long after the longest lifetime."""


def issue(step: Transaction, host: str) -> bytes:
    """Return a fresh nonce for a host. Raises BusyError where it holds too many."""
    now = step.now()
    nonce = secrets.token_bytes(NONCE_SIZE)
    issued = step.run(
        "INSERT INTO nonce SELECT ?,?,?,?,?,0,'' WHERE"
        " (SELECT count(*) FROM nonce WHERE host=? AND spent=0 AND issued>?)<?",
        nonce,
        host,
        EVIDENCE,
        now,
        NONCE_LIFETIME.total_seconds(),
        host,
        now - NONCE_LIFETIME.total_seconds(),
        OUTSTANDING,
    )
    if not issued:
        raise BusyError(
            f"{host} holds {OUTSTANDING} nonces that it has not used",
            code="too-many-nonces",
            component=host,
            remedy="Wait a minute.",
        )
    return nonce


@dataclass(frozen=True, slots=True)
class Taken:
    """A nonce that was brought back, and when; ``issued`` None: it is not known here."""

    issued: Issued | None
    host: str
    at: datetime

    def check(self) -> datetime:
        """Return when it was issued, once it is spent for good: after the commit.

        Raises:
            AppraisalError: ``stale-nonce``, ``nonce-reused``, ``nonce-expired``.
        """
        if self.issued is None:
            raise AppraisalError(
                "the nonce is none of ours, or long forgotten",
                code="stale-nonce",
                remedy="Ask for a nonce first.",
            )
        check_nonce_record(self.issued, self.host, self.at)
        return self.issued.issued


def take(step: Transaction, nonce: bytes, host: str) -> Taken:
    """Spend a nonce: of two that bring the same one only the first finds it unspent.

    It is spent whatever follows, so the transaction must be committed before ``Taken.check``.
    """
    now = _moment(step.now())
    found = step.one(
        "UPDATE nonce SET spent=1 WHERE value=? AND spent=0 AND host=? AND purpose=?"
        " RETURNING host, issued, lifetime",
        nonce,
        host,
        EVIDENCE,
    )
    first = found is not None
    if found is None:
        found = step.one(
            "SELECT host, issued, lifetime FROM nonce WHERE value=? AND purpose=?", nonce, EVIDENCE
        )
    if found is None:
        return Taken(None, host, now)
    lifetime = timedelta(seconds=found[2])
    issued = Issued(found[0], nonce, _moment(found[1]), lifetime, spent=not first)
    return Taken(issued, host, now)


def spend(database: Database, nonce: bytes, host: str) -> datetime:
    """Spend a nonce in a transaction of its own; returns and raises as ``Taken.check``."""
    with database.transaction() as step:
        taken = take(step, nonce, host)
    return taken.check()


def open_challenge(step: Transaction, host: str, secret: bytes, payload: str) -> None:
    """Keep the secret of a credential challenge, the one that counts for this host now."""
    step.run("DELETE FROM nonce WHERE host=? AND purpose=?", host, ACTIVATION)
    handle = secrets.token_bytes(NONCE_SIZE)
    _put(step, handle, host, ACTIVATION, CHALLENGE_LIFETIME, secret.hex() + payload)


def answer_challenge(database: Database, host: str, answer: bytes, size: int) -> str:
    """Check the answer to a challenge of ``size`` bytes and return what was kept beside it.

    Raises:
        AppraisalError: ``activation``, ``activation-spent``, ``activation-expired``.
    """
    with database.transaction() as step:
        first = step.run(
            "UPDATE nonce SET spent=1 WHERE host=? AND purpose=? AND spent=0", host, ACTIVATION
        )
        found = step.one(
            "SELECT issued, lifetime, payload FROM nonce WHERE host=? AND purpose=?",
            host,
            ACTIVATION,
        )
        now = _moment(step.now())
    if found is None:
        raise AppraisalError("no challenge was asked", code="activation", remedy="Begin again.")
    secret, payload = bytes.fromhex(found[2][: 2 * size]), found[2][2 * size :]
    issued = Issued(host, secret, _moment(found[0]), timedelta(seconds=found[1]), spent=not first)
    check_challenge(issued, host, answer, now)
    return str(payload)


def forget(step: Transaction) -> None:
    """Drop what is long expired."""
    step.run("DELETE FROM nonce WHERE issued<?", step.now() - FORGET)


def _put(
    step: Transaction, value: bytes, host: str, purpose: str, lifetime: timedelta, payload: str
) -> None:
    step.run(
        "INSERT INTO nonce VALUES (?,?,?,?,?,0,?)",
        value,
        host,
        purpose,
        step.now(),
        lifetime.total_seconds(),
        payload,
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
