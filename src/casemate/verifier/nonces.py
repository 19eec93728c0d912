"""Challenges: made for one host, good once, in time, by the clock of the store.

A nonce says by itself when it was made, for whom, and under which version of the rules: it carries
a MAC under a key that all verifiers of a store share, a new one every day. So asking costs the
store nothing. It is spent by the round that is written down with it: nonces of rounds are unique.

Credential challenges hold a secret, and stand in the store until they are answered.
"""

from __future__ import annotations

import hmac
import json
import secrets
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from casemate.errors import AppraisalError
from casemate.policy.enrolment import (
    CHALLENGE_LIFETIME,
    NONCE_LIFETIME,
    NONCE_SIZE,
    Issued,
    check_challenge,
    check_nonce_record,
)
from casemate.verifier.database import Database, Transaction

ACTIVATION = "activation"

FORGET = 600.0
"""Seconds after which a challenge is forgotten: long after the longest lifetime."""

_HEAD: Final = struct.Struct(">QII")  # microseconds, version of the rules, random
_MAC: Final = NONCE_SIZE - _HEAD.size
_DAY: Final = 86_400
_KEY: Final = "nonce-key-"


@dataclass(frozen=True, slots=True)
class Read:
    """A nonce that was made here and came back in time."""

    issued: datetime
    version: int


class Nonces:
    """Makes nonces and reads them; safe to use from several threads."""

    def __init__(self) -> None:
        self._keys: dict[int, bytes] = {}

    def issue(self, step: Transaction, host: str, version: int) -> bytes:
        """Return a fresh nonce for a host under a version of the rules."""
        return self.issue_at(step, host, version, step.now())

    def issue_at(self, step: Transaction, host: str, version: int, now: float) -> bytes:
        """Return a fresh nonce that counts from ``now``, in Unix seconds of the store's clock."""
        head = _HEAD.pack(int(now * 1e6), version, secrets.randbits(32))
        return head + _mac(self._key(step, int(now) // _DAY), head, host)

    def read(self, step: Transaction, nonce: bytes, host: str) -> Read:
        """Read a nonce that came back; whether it was spent is for ``check_unspent`` to say.

        Raises:
            AppraisalError: ``stale-nonce``, ``nonce-expired``.
        """
        if len(nonce) != NONCE_SIZE:
            raise _stale()
        micros, version, _ = _HEAD.unpack_from(nonce)
        now = step.now()
        day = micros // 1_000_000 // _DAY
        known = abs(int(now) // _DAY - day) <= 1
        key = self._find(step, day) if known else b""
        head = nonce[: _HEAD.size]
        if not key or not hmac.compare_digest(_mac(key, head, host), nonce[_HEAD.size :]):
            raise _stale()
        issued = _moment(micros / 1e6)
        check_nonce_record(Issued(host, nonce, issued, NONCE_LIFETIME), host, _moment(now))
        return Read(issued, int(version))

    def _key(self, step: Transaction, day: int) -> bytes:
        """Return the key of a day; whoever comes first makes it."""
        found = self._find(step, day)
        if found:
            return found
        fresh = secrets.token_bytes(32).hex()
        step.run("INSERT INTO value VALUES (?,?) ON CONFLICT DO NOTHING", _name(day), fresh)
        return self._find(step, day)

    def _find(self, step: Transaction, day: int) -> bytes:
        known = self._keys.get(day)
        if known is not None:
            return known
        row = step.one("SELECT value FROM value WHERE name=?", _name(day))
        if row is None:
            return b""
        self._keys = {other: key for other, key in self._keys.items() if abs(other - day) <= 1}
        self._keys[day] = bytes.fromhex(row[0])
        return self._keys[day]


def spent() -> AppraisalError:
    """Return what is said of a nonce with which a round was written down before."""
    return AppraisalError(
        "this evidence, or another with this nonce, was sent before",
        code="nonce-reused",
        remedy="Ask for fresh evidence with a new nonce.",
    )


def open_challenge(step: Transaction, host: str, secret: bytes, payload: str) -> None:
    """Keep the secret of a credential challenge, the one that counts for this host now."""
    step.run("DELETE FROM nonce WHERE host=? AND purpose=?", host, ACTIVATION)
    step.run(
        "INSERT INTO nonce VALUES (?,?,?,?,?,0,?)",
        secrets.token_bytes(NONCE_SIZE),
        host,
        ACTIVATION,
        step.now(),
        CHALLENGE_LIFETIME.total_seconds(),
        json.dumps([secret.hex(), payload]),
    )


def answer_challenge(database: Database, host: str, answer: bytes) -> str:
    """Check the answer to a challenge and return what was kept beside it.

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
    secret, payload = json.loads(found[2])
    lifetime = timedelta(seconds=found[1])
    issued = Issued(host, bytes.fromhex(secret), _moment(found[0]), lifetime, spent=not first)
    check_challenge(issued, host, answer, now)
    return str(payload)


def forget(step: Transaction) -> None:
    """Drop challenges that are long over, and keys of days that are."""
    now = step.now()
    step.run("DELETE FROM nonce WHERE issued<?", now - FORGET)
    oldest = int(now) // _DAY - 2
    step.run("DELETE FROM value WHERE name>=? AND name<?", _name(0), _name(oldest))


def _mac(key: bytes, head: bytes, host: str) -> bytes:
    return hmac.digest(key, head + host.encode(), "sha256")[:_MAC]


def _name(day: int) -> str:
    return f"{_KEY}{day:010}"


def _stale() -> AppraisalError:
    return AppraisalError(
        "the nonce is none of ours, or not this host's",
        code="stale-nonce",
        remedy="Ask for a nonce first.",
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
