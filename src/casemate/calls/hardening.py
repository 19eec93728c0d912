"""The audit of a host's memory hardening, and its security domains."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

from casemate.policy.hardening import Weight
from casemate.policy.hardeningreport import Area, EntropyRow, Outcome, Row, findings
from casemate.policy.privileges import READ


@dataclass(frozen=True, slots=True)
class HardeningReply:
    """The whole audit.

    ``violations`` are findings about running processes since the kernel started, as (code,
    component, reason, remedy); each has been measured into the TPM.
    """

    rows: tuple[Row, ...]
    entropy: tuple[EntropyRow, ...]
    score: int
    violations: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True, slots=True)
class DomainRow:
    """A security domain, its walls, and the processes in it as (name, pid)."""

    name: str
    enforcement: str
    about: str
    walls: tuple[str, ...]
    processes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class SecpolicyReply:
    """All security domains."""

    domains: tuple[DomainRow, ...]


@dataclass(frozen=True, slots=True)
class HardeningAudit:
    """Audit components, processes, entropy (by so many launches; 0 skips it) and the platform."""

    session: str
    launches: int
    reply: ClassVar = HardeningReply
    privilege: ClassVar[str] = "Global.Diagnostics"


@dataclass(frozen=True, slots=True)
class SecpolicyList:
    """List the security domains and the processes in them."""

    session: str
    reply: ClassVar = SecpolicyReply
    privilege: ClassVar[str] = READ
    audited: ClassVar[bool] = False


LAUNCHES: Final = 64
"""Launches of each program when nobody says how many: the estimate needs that many."""

_ONE: Final = {
    "components": "component",
    "processes": "process",
    "platform": "platform",
    "findings": "finding",
}


def is_bad(row: Row) -> bool:
    """Tell whether a row alone makes the audit fail."""
    bad = row.outcome in {Outcome.FAILED, Outcome.SKIPPED}
    return bad and row.weight is Weight.REQUIRED


def as_json(report: HardeningReply) -> dict[str, Any]:
    """Return the audit in the shape that scripts lean on."""
    components: dict[str, dict[str, Any]] = {}
    processes: dict[str, dict[str, Any]] = {}
    plain: list[dict[str, Any]] = []
    for row in report.rows:
        match row.area:
            case Area.COMPONENTS:
                _add(components, row, {"path": row.subject, "vib": row.group})
            case Area.PROCESSES:
                _add(processes, row, {"process": row.subject, "domain": row.group})
            case Area.PLATFORM:
                plain.append(
                    {"group": row.group, "rule": row.rule, "outcome": row.outcome.value} | _why(row)
                )
            case Area.ENTROPY:
                continue
    entropy: dict[str, dict[str, Any]] = {}
    for one in report.entropy:
        entropy.setdefault(one.process, {})[one.region] = {
            "bits": one.bits,
            "wanted": one.wanted,
            "launches": one.samples,
            "distinct": one.distinct,
        }
    fields = ("code", "component", "reason", "remedy")
    violations = [dict(zip(fields, found, strict=True)) for found in report.violations]
    return {
        "score": report.score,
        "components": list(components.values()),
        "processes": list(processes.values()),
        "entropy": entropy,
        "platform": plain,
        "findings": [*violations, *(asdict(found) for found in findings(report.rows))],
    }


def _add(things: dict[str, dict[str, Any]], row: Row, names: dict[str, Any]) -> None:
    thing = things.setdefault(row.subject, names | {"accepted": True, "rules": {}})
    thing["rules"][row.rule] = row.outcome.value
    thing["accepted"] = thing["accepted"] and not is_bad(row)


def _why(row: Row) -> dict[str, str]:
    return {"reason": row.reason, "remedy": row.remedy} if row.reason else {}


def as_lines(report: HardeningReply) -> tuple[str, ...]:
    """Return the audit as lines of JSON: the score, the entropy, then a line for every thing."""
    value = as_json(report)
    things = [{name: value[name]} for name in ("score", "entropy")]
    things += [{one: thing} for many, one in _ONE.items() for thing in value[many]]
    return tuple(json.dumps(thing, separators=(",", ":")) for thing in things)


REQUESTS: tuple[type, ...] = (HardeningAudit, SecpolicyList)
