"""What every ELF component must be like before it may be installed or loaded.

A rule is required (a component that breaks it is refused), advisory (a finding), or a report
(noted, since no distribution meets it yet). Components at level ``community`` meet the strictest
set. Object files, and files for another machine (firmware that QEMU hands to a guest), are never
executed by the host: no rule applies to them, and the report says so.

A refusal is lifted only by a ``Waiver``, a value that comes out of a signed policy; a waived rule
stays in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from casemate.errors import ArgumentError, Finding, VerificationError
from casemate.formats.elf import (
    EM_386,
    EM_486,
    EM_AARCH64,
    EM_ARM,
    EM_X86_64,
    ElfFacts,
    ElfKind,
)
from casemate.policy.levels import Level

LIBRARY_ROOTS: Final = ("/usr/lib", "/usr/lib64", "/usr/libexec", "/lib", "/lib64")
"""Directories of the visor root that a RUNPATH may name, with all below them."""

_EXECUTED_BY: Final = {
    EM_X86_64: frozenset({EM_X86_64, EM_386, EM_486}),
    EM_AARCH64: frozenset({EM_AARCH64, EM_ARM}),
}


class Weight(StrEnum):
    """What follows when a rule is broken."""

    REQUIRED = "required"
    ADVISORY = "advisory"
    REPORT = "report"


class Outcome(StrEnum):
    """How a component fared with one rule."""

    PASSED = "passed"
    FAILED = "failed"
    WAIVED = "waived"
    NOT_APPLICABLE = "not-applicable"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: ``broken`` returns why a component breaks it, or an empty string."""

    code: str
    title: str
    remedy: str
    weight: Callable[[ElfFacts, Level], Weight]
    broken: Callable[[ElfFacts, Level], str]


@dataclass(frozen=True, slots=True)
class Waiver:
    """A signed policy's permission that one file may break one rule, and why."""

    path: str
    rule: str
    reason: str

    def __post_init__(self) -> None:
        """Refuse waivers that could match by accident or stand without a reason.

        Raises:
            ArgumentError: unknown rule, no absolute path, or no reason.
        """
        if self.rule not in _CODES:
            raise ArgumentError(f"There is no hardening rule {self.rule!r}.", argument="rule")
        if not self.path.startswith("/"):
            raise ArgumentError("A waiver names one file by its absolute path.", argument="path")
        if not self.reason.strip():
            raise ArgumentError("A waiver states its reason.", argument="reason")


@dataclass(frozen=True, slots=True)
class Result:
    """One rule applied to one component; ``reason`` is empty when it passed."""

    rule: str
    weight: Weight
    outcome: Outcome
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All rules applied to one component."""

    path: str
    level: Level
    results: tuple[Result, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is not as it should be, waived or not; codes are ``hardening-RULE``."""
        return tuple(
            Finding(f"hardening-{r.rule}", self.path, r.reason, r.remedy)
            for r in self.results
            if r.outcome in {Outcome.FAILED, Outcome.WAIVED}
        )

    @property
    def refusals(self) -> tuple[Result, ...]:
        """The required rules that are broken and not waived."""
        return tuple(
            r for r in self.results if r.outcome is Outcome.FAILED and r.weight is Weight.REQUIRED
        )

    @property
    def accepted(self) -> bool:
        """Whether no required rule is broken without a waiver."""
        return not self.refusals


def check(
    facts: ElfFacts,
    path: str,
    level: Level,
    waivers: Iterable[Waiver] = (),
    *,
    host: int = EM_X86_64,
) -> Report:
    """Apply every rule to one component.

    Args:
        facts: the component.
        path: where it is installed, absolute.
        level: acceptance level of the VIB that brings it.
        waivers: the signed policy's waivers, of any file.
        host: ``e_machine`` of the host.
    """
    if not facts.is_loaded or facts.machine not in _EXECUTED_BY.get(host, {host}):
        skipped = (
            Result(rule.code, rule.weight(facts, level), Outcome.NOT_APPLICABLE) for rule in RULES
        )
        return Report(path, level, tuple(skipped))
    waived = {w.rule: w.reason for w in waivers if w.path == path}
    return Report(path, level, tuple(_apply(rule, facts, level, waived) for rule in RULES))


def enforce(
    facts: ElfFacts,
    path: str,
    level: Level,
    waivers: Iterable[Waiver] = (),
    *,
    host: int = EM_X86_64,
) -> Report:
    """Apply every rule, and refuse a component that breaks a required one.

    Raises:
        VerificationError: names file and rule; its code is ``hardening-RULE``.
    """
    report = check(facts, path, level, waivers, host=host)
    for first in report.refusals:
        others = len(report.refusals) - 1
        more = f" (and {others} more of the required rules)" if others else ""
        raise VerificationError(
            f"{path} breaks the hardening rule {first.rule!r}: {first.reason}{more}",
            code=f"hardening-{first.rule}",
            component=path,
            remedy=first.remedy,
        )
    return report


def _apply(rule: Rule, facts: ElfFacts, level: Level, waived: dict[str, str]) -> Result:
    weight = rule.weight(facts, level)
    reason = rule.broken(facts, level)
    if not reason:
        return _PASSED[rule.code, weight]
    if rule.code in waived:
        reason = f"{reason} Waived: {waived[rule.code]}"
        return Result(rule.code, weight, Outcome.WAIVED, reason, rule.remedy)
    return Result(rule.code, weight, Outcome.FAILED, reason, rule.remedy)


def _always(weight: Weight) -> Callable[[ElfFacts, Level], Weight]:
    return lambda _facts, _level: weight


def _when(broken: Callable[[ElfFacts], bool], reason: str) -> Callable[[ElfFacts, Level], str]:
    return lambda facts, _level: reason if broken(facts) else ""


def _bind_now_weight(facts: ElfFacts, level: Level) -> Weight:
    """Programs bind at start; half of Debian's libraries leave it to the program."""
    strict = facts.is_executable or level is Level.COMMUNITY
    return Weight.REQUIRED if strict else Weight.ADVISORY


def _stack(facts: ElfFacts, _level: Level) -> str:
    if facts.exec_stack is None:
        return "It does not say that its stack is not executable (no PT_GNU_STACK)."
    return "It asks for an executable stack." if facts.exec_stack else ""


def _segments(facts: ElfFacts, _level: Level) -> str:
    if not facts.writable_executable:
        return ""
    where = ", ".join(f"{address:#x}" for address in facts.writable_executable)
    return f"Segments both writable and executable at {where}."


def _interpreter(facts: ElfFacts, _level: Level) -> str:
    path = facts.interpreter
    if path is None or _inside_roots(path):
        return ""
    return f"Its interpreter {path!r} is not in a library directory of the image."


def _rpath(facts: ElfFacts, _level: Level) -> str:
    return "" if facts.rpath is None else f"It has a DT_RPATH: {facts.rpath!r}."


def _runpath(facts: ElfFacts, level: Level) -> str:
    if facts.runpath is None:
        return ""
    if level is Level.COMMUNITY:
        return f"It has a RUNPATH, {facts.runpath!r}; community components have none."
    for directory in facts.runpath.split(":"):
        if not _inside_roots(directory):
            return f"Its RUNPATH names {directory!r}, not a library directory of the image."
    return ""


def _inside_roots(path: str) -> bool:
    """Tell whether a path lies in a library directory, without tricks ($ORIGIN, .., empty)."""
    parts = path.split("/")
    if "$" in path or not {"", ".", ".."}.isdisjoint(parts[1:]):
        return False
    return any(path == root or path.startswith(root + "/") for root in LIBRARY_ROOTS)


def _audit(facts: ElfFacts, _level: Level) -> str:
    if not facts.audit:
        return ""
    return f"It makes the loader pull in {', '.join(facts.audit)} besides its needed libraries."


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "pie",
        "Position-independent",
        "Compile with -fPIE and link with -pie.",
        _always(Weight.REQUIRED),
        _when(
            lambda f: f.kind is ElfKind.EXECUTABLE,
            "It is linked to a fixed address, so its code is at a predictable place.",
        ),
    ),
    Rule(
        "nx-stack",
        "Stack not executable",
        "Link with -z noexecstack; assembler files need a .note.GNU-stack section.",
        _always(Weight.REQUIRED),
        _stack,
    ),
    Rule(
        "no-wx",
        "No segment both writable and executable",
        "Link without -N and without scripts that merge code and data.",
        _always(Weight.REQUIRED),
        _segments,
    ),
    Rule(
        "relro",
        "Relocations read-only after start",
        "Link with -z relro.",
        _always(Weight.REQUIRED),
        _when(
            lambda f: not f.relro,
            "Its relocation tables stay writable (no PT_GNU_RELRO).",
        ),
    ),
    Rule(
        "bind-now",
        "Symbols bound at start",
        "Link with -z now.",
        _bind_now_weight,
        _when(
            lambda f: f.dynamic and not f.bind_now,
            "It binds symbols lazily, so its procedure linkage table stays writable.",
        ),
    ),
    Rule(
        "no-textrel",
        "No relocations in code",
        "Compile every object with -fPIC or -fPIE.",
        _always(Weight.REQUIRED),
        _when(lambda f: f.textrel, "Its code must be made writable to relocate it (DT_TEXTREL)."),
    ),
    Rule(
        "interpreter",
        "Interpreter from the image",
        "Link with the dynamic loader of the base system.",
        _always(Weight.REQUIRED),
        _interpreter,
    ),
    Rule(
        "no-rpath",
        "No DT_RPATH",
        "Link with --enable-new-dtags, or remove it with patchelf --remove-rpath.",
        _always(Weight.REQUIRED),
        _rpath,
    ),
    Rule(
        "runpath",
        "RUNPATH inside the image",
        f"Keep RUNPATH empty or inside {', '.join(LIBRARY_ROOTS)}.",
        _always(Weight.REQUIRED),
        _runpath,
    ),
    Rule(
        "no-audit",
        "No audit or filter libraries",
        "Link without --audit, --depaudit, --auxiliary and --filter.",
        _always(Weight.REQUIRED),
        _audit,
    ),
    Rule(
        "canary",
        "Stack protector",
        "Compile with -fstack-protector-strong.",
        _always(Weight.ADVISORY),
        _when(
            lambda f: f.dynamic and not f.canary,
            "It does not use the stack protector (small libraries may have nothing to protect).",
        ),
    ),
    Rule(
        "fortify",
        "Checked string and memory functions",
        "Compile with -O2 -D_FORTIFY_SOURCE=2.",
        _always(Weight.ADVISORY),
        _when(
            lambda f: f.dynamic and not f.fortified,
            "It imports no checked functions (it may call none that could be).",
        ),
    ),
    Rule(
        "cet",
        "Control-flow protection announced",
        "Compile with -fcf-protection=full on x86.",
        _always(Weight.REPORT),
        _when(
            lambda f: f.machine == EM_X86_64 and not (f.ibt and f.shstk),
            "It does not announce indirect branch tracking and shadow stack.",
        ),
    ),
)
"""The rules, in the order in which they are reported."""

_CODES: Final = frozenset(rule.code for rule in RULES)
_PASSED: Final = {
    (rule.code, weight): Result(rule.code, weight, Outcome.PASSED)
    for rule in RULES
    for weight in Weight
}
