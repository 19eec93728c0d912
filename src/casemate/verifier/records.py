"""Small values as JSON text, as they stand in the store."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from casemate.calls.messages import IdentityReply
from casemate.policy.auditheads import LogHead
from casemate.policy.hostpolicy import HostValues
from casemate.policy.quotes import Clock
from casemate.policy.statemachine import HostRecord, State
from casemate.policy.tpmidentity import Claim


def moment(seconds: float) -> datetime:
    """Return an aware time."""
    return datetime.fromtimestamp(seconds, UTC)


def write_record(record: HostRecord) -> str:
    """Write the state of a host."""
    return json.dumps(
        {
            "state": record.state.value,
            "since": record.since.timestamp(),
            "barrier": record.barrier.timestamp(),
            "policy": record.policy,
            "validUntil": record.valid_until.timestamp() if record.valid_until else None,
            "retries": record.retries,
            "codes": sorted(record.codes),
        }
    )


def read_record(text: str) -> HostRecord:
    """Read the state of a host."""
    value = json.loads(text)
    until = value["validUntil"]
    return HostRecord(
        State(value["state"]),
        moment(value["since"]),
        moment(value["barrier"]),
        value["policy"],
        None if until is None else moment(until),
        value["retries"],
        frozenset(value["codes"]),
    )


def claim_of(reply: IdentityReply) -> Claim:
    """Return what a host says about its TPM."""
    return Claim(reply.ek_certificate, reply.ek_public, reply.ak_public)


def write_claim(claim: Claim) -> str:
    """Write a proven claim."""
    return json.dumps({name: value.hex() for name, value in asdict(claim).items()})


def read_claim(text: str) -> Claim:
    """Read a claim that was proven."""
    value = json.loads(text)
    return Claim(**{name: bytes.fromhex(part) for name, part in value.items()})


def write_counters(clock: Clock | None, head: LogHead | None) -> str:
    """Write what only grows: the TPM's counters, and the head of the host's audit log."""
    if clock is None:
        return ""
    log = {"audit": [head.number, head.digest.hex()]} if head else {}
    return json.dumps({**asdict(clock), **log})


def read_clock(text: str) -> Clock | None:
    """Read the TPM's counters."""
    if not text:
        return None
    value = json.loads(text)
    value.pop("audit", None)
    return Clock(**value)


def read_head(text: str) -> LogHead | None:
    """Read the head of the host's audit log."""
    log = json.loads(text).get("audit") if text else None
    return LogHead(int(log[0]), bytes.fromhex(log[1])) if log else None


def values_to(values: HostValues) -> dict[str, Any]:
    """Return a host's own values as JSON."""
    return {
        "pcrs": {
            bank: {str(pcr): value.hex() for pcr, value in pcrs.items()}
            for bank, pcrs in values.pcrs.items()
        },
        "events": [
            [pcr, selector, [[one.hex() for one in banks] for banks in digests]]
            for (pcr, selector), digests in values.events.items()
        ],
    }


def values_from(value: dict[str, Any]) -> HostValues:
    """Return a host's own values from JSON that ``values_to`` wrote."""
    return HostValues(
        {
            bank: {int(pcr): bytes.fromhex(one) for pcr, one in pcrs.items()}
            for bank, pcrs in value["pcrs"].items()
        },
        {
            (int(pcr), str(selector)): tuple(
                tuple(bytes.fromhex(one) for one in banks) for banks in digests
            )
            for pcr, selector, digests in value["events"]
        },
    )
