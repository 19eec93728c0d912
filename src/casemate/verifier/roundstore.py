"""The rounds of hosts that a verifier keeps: rows in, rows out, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from casemate.machine.fleet import Round
from casemate.verifier.database import Columns, Transaction
from casemate.verifier.packing import Packer, unpack

ROUNDS_WITH_EVIDENCE = 20
"""Rounds of a host whose evidence is kept whole, besides those where its state changed."""

ROUNDS_KEPT = 500
"""Rounds of a host that are kept at all; changes of state are kept for ever."""

SPENT_SECONDS = 600.0
"""For how long a round is kept in any case: ten times the life of its nonce."""

_ROUND = ", ".join(field.name for field in fields(Round))
_KEPT: Columns = (
    ("host", "TEXT"), ("time", "REAL"), ("outcome", "TEXT"), ("state", "TEXT"),
    ("reference", "TEXT"), ("policy", "INTEGER"), ("millis", "REAL"), ("nonce", "BLOB"),
    ("result", "BLOB"), ("evidence", "BLOB"),
)  # fmt: skip
_KEPT_NAMES = ", ".join(name for name, _ in _KEPT)


def add_rounds(step: Transaction, rounds: Sequence[Round], packer: Packer) -> set[bytes]:
    """Keep rounds, whose numbers are given here; returns the nonces that were not spent before."""
    rows = step.given(
        _KEPT,
        [
            (
                one.host, one.time, one.outcome, one.state, one.reference, one.policy, one.millis,
                one.nonce, packer.pack(one.result), packer.pack(one.evidence),
            )
            for one in rounds
        ],
        f"INSERT INTO round ({_KEPT_NAMES}) SELECT {_KEPT_NAMES} FROM given WHERE true"  # noqa: S608 (own names)
        " ON CONFLICT (nonce) DO NOTHING RETURNING nonce",
    )  # fmt: skip
    return {bytes(row[0]) for row in rows}


def spent_nonces(step: Transaction, wanted: Sequence[bytes]) -> set[bytes]:
    """Return the nonces with which a round was written down."""
    rows = step.given(
        (("nonce", "BLOB"),),
        [(one,) for one in wanted],
        "SELECT round.nonce FROM round JOIN given ON round.nonce=given.nonce",
    )
    return {bytes(row[0]) for row in rows}


def rounds_of(step: Transaction, host: str, limit: int = 50) -> list[Round]:
    """Return a host's last rounds, newest first, without their evidence."""
    names = _ROUND.replace(", evidence", "").replace(", result", "")
    rows = step.all(
        f"SELECT {names} FROM round WHERE host=? ORDER BY number DESC LIMIT ?",  # noqa: S608 (own names)
        host,
        limit,
    )
    return [_round((*row, b"", b"")) for row in rows]


def latest_round(step: Transaction, host: str, number: int | None = None) -> Round | None:
    """Return a round with its evidence: the last one, or that of a number."""
    sql = f"SELECT {_ROUND} FROM round WHERE host=?"  # noqa: S608 (own names)
    row = (
        step.one(sql + " ORDER BY number DESC LIMIT 1", host)
        if number is None
        else step.one(sql + " AND number=?", host, number)
    )
    return _round(row) if row else None


def last_evidence(step: Transaction, host: str) -> bytes:
    """Return what a host sent in its last round, empty where there is none."""
    last = latest_round(step, host)
    return last.evidence if last else b""


def last_evidence_size(step: Transaction, host: str) -> int:
    """Return how many bytes of the store a host's last evidence takes."""
    row = step.one(
        "SELECT length(evidence) FROM round WHERE host=? ORDER BY number DESC LIMIT 1", host
    )
    return int(row[0]) if row else 0


def _round(row: Sequence[object]) -> Round:
    number, host, time, outcome, state, reference, policy, millis, nonce, result, evidence = row
    return Round(
        int(str(number)),
        str(host),
        float(str(time)),
        str(outcome),
        str(state),
        str(reference),
        int(str(policy)),
        float(str(millis)),
        bytes(nonce) if isinstance(nonce, bytes | memoryview) else b"",
        _unpacked(result),
        _unpacked(evidence),
    )


def _unpacked(value: object) -> bytes:
    return unpack(bytes(value)) if isinstance(value, bytes | memoryview) else b""


def thin_out(step: Transaction, host: str) -> None:
    """Keep what is worth keeping: changes of state, the last rounds, evidence of the newest.

    No round goes while its nonce could come back.
    """
    beyond = "SELECT number FROM round WHERE host=? ORDER BY number DESC LIMIT 1 OFFSET ?"
    if (row := step.one(beyond, host, ROUNDS_WITH_EVIDENCE)) is not None:
        step.run(
            "UPDATE round SET result=?, evidence=?"
            " WHERE host=? AND number<=? AND outcome='good' AND length(evidence)>0",
            b"",
            b"",
            host,
            row[0],
        )
    if row is not None and (row := step.one(beyond, host, ROUNDS_KEPT)) is not None:
        step.run(
            "DELETE FROM round WHERE host=? AND number<=? AND outcome='good' AND time<?",
            host,
            row[0],
            step.now() - SPENT_SECONDS,
        )
