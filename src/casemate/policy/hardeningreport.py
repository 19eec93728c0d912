"""One report of a whole host's hardening: rows, entropy, and a score that skipping cannot raise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from casemate.errors import Finding
from casemate.policy import hardening
from casemate.policy.hardening import Report, Weight
from casemate.policy.processaudit import REMEDIES, ProcessReport


class Area(StrEnum):
    """The parts of the report. Each counts for a quarter of the score."""

    COMPONENTS = "components"
    PROCESSES = "processes"
    ENTROPY = "entropy"
    PLATFORM = "platform"


class Outcome(StrEnum):
    """How a rule fared. What was not looked at is skipped, and counts as failed."""

    PASSED = "passed"
    FAILED = "failed"
    WAIVED = "waived"
    SKIPPED = "skipped"
    NOT_APPLICABLE = "not-applicable"


@dataclass(frozen=True, slots=True)
class Row:
    """One rule over one thing; ``group`` is its VIB or its security domain."""

    area: Area
    subject: str
    group: str
    rule: str
    weight: Weight
    outcome: Outcome
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class EntropyRow:
    """The measured randomness of where a region of a program begins."""

    process: str
    region: str
    bits: int
    wanted: int
    samples: int
    distinct: int


WEIGHTS: Final = {Weight.REQUIRED: 4, Weight.ADVISORY: 1, Weight.REPORT: 0}
"""What a rule counts for in its area."""


def component_rows(report: Report, group: str) -> tuple[Row, ...]:
    """Return the rows of one ELF file."""
    return tuple(
        Row(
            Area.COMPONENTS,
            report.path,
            group,
            one.rule,
            one.weight,
            Outcome(one.outcome.value),
            one.reason,
            one.remedy,
        )
        for one in report.results
    )


def process_rows(report: ProcessReport) -> tuple[Row, ...]:
    """Return the rows of one process."""
    return tuple(
        Row(
            Area.PROCESSES,
            f"{report.name} ({report.pid})",
            report.domain,
            one.rule,
            Weight.REQUIRED,
            Outcome.PASSED if one.kept else Outcome.FAILED,
            one.reason,
            "" if one.kept else REMEDIES[one.rule],
        )
        for one in report.results
    )


def entropy_rows(measured: Iterable[EntropyRow]) -> tuple[Row, ...]:
    """Return the rows of measured entropy."""
    return tuple(
        Row(
            Area.ENTROPY,
            one.process,
            "",
            one.region,
            Weight.REQUIRED,
            Outcome.PASSED if one.bits >= one.wanted else Outcome.FAILED,
            ""
            if one.bits >= one.wanted
            else f"{one.bits} bits in {one.samples} launches, {one.wanted} are wanted.",
            "" if one.bits >= one.wanted else "Raise vm.mmap_rnd_bits; never start under setarch.",
        )
        for one in measured
    )


def violation_rows(seen: Iterable[Finding]) -> tuple[Row, ...]:
    """Return the rows of what running processes were caught at, though they may be gone."""
    return tuple(
        Row(
            *(Area.PROCESSES, one.component, "", one.code, Weight.REQUIRED, Outcome.FAILED),
            *(one.reason, one.remedy),
        )
        for one in seen
    )


def skipped(area: Area, reason: str, remedy: str) -> Row:
    """Return the row of an area that was not looked at."""
    return Row(area, "all", "", "all", Weight.REQUIRED, Outcome.SKIPPED, reason, remedy)


def score(rows: Iterable[Row]) -> int:
    """Return 0 to 100: the mean over all areas of what passed, by weight.

    An area without rows gives nothing, and a skipped or waived rule counts as failed, so looking
    at less never helps. Rules that do not apply to a thing are left out: what applies is decided
    by the rule. 100 is given for a host without any failure alone.
    """
    good: dict[Area, int] = {}
    whole: dict[Area, int] = {}
    for row in rows:
        if row.outcome is Outcome.NOT_APPLICABLE:
            continue
        weight = WEIGHTS[row.weight]
        whole[row.area] = whole.get(row.area, 0) + weight
        if row.outcome is Outcome.PASSED:
            good[row.area] = good.get(row.area, 0) + weight
    parts = [good.get(area, 0) / whole[area] if whole.get(area) else 0.0 for area in Area]
    return int(100 * sum(parts) / len(parts))


def findings(rows: Iterable[Row]) -> tuple[Finding, ...]:
    """Return everything that is not as it should be; codes are ``AREA-RULE``."""
    bad = {Outcome.FAILED, Outcome.SKIPPED, Outcome.WAIVED}
    return tuple(
        Finding(f"{_PREFIX[row.area]}-{row.rule}", row.subject, row.reason, row.remedy)
        for row in rows
        if row.outcome in bad and row.weight is not Weight.REPORT
    )


_PREFIX: Final[Mapping[Area, str]] = {
    Area.COMPONENTS: "hardening",
    Area.PROCESSES: "process",
    Area.ENTROPY: "entropy",
    Area.PLATFORM: "platform",
}
TITLES: Final = {rule.code: rule.title for rule in hardening.RULES}
"""What the rules about components are called."""
