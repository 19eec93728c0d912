"""The policy language: which PCRs and events must equal a reference, may vary, or do not count.

One statement a line; ``#`` begins a comment::

    policy "esx hosts" version 7
    banks sha256
    pcr 0,2-3 equal                        the value is the reference's
    pcr 1,7 per-host                       the value is the one approved for this host
    pcr 12 events                          the events are the reference's
    pcr 13 events except component "state.tgz"
    pcr 13 per-host component "imgdb.tgz"  these events are those approved for this host
    pcr 22 excluded
    require secure-boot                    also: drtm, runtime, hardening
    allow debug                            also: dma
    runtime exclude "/var/log/**"
    runtime violations reject              or: warn
    runtime kernel before-5.8              or: current
    overlap until 2026-12-01               the reference before counts as well until then

What is not mentioned is not appraised, and a policy that appraises nothing is refused. Source of
the split: reference values per platform, system and host, as measured hosts have them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from casemate.errors import ArgumentError, FormatError, LimitError
from casemate.formats.algorithms import ALGORITHMS
from casemate.formats.eventlog import PCR_COUNT
from casemate.formats.eventtypes import EVENT_NAMES
from casemate.policy.describe import Kind
from casemate.policy.paths import compile_paths

MAX_SIZE: Final = 1 << 20
"""Bytes of a policy; the digests of files are not in it."""
MAX_SELECTORS: Final = 256
"""Exceptions of one PCR."""
WEAK_BANKS: Final = frozenset({"sha1"})
_WORD: Final = re.compile(r'"([^"\x00-\x1f\x7f]*)"|([A-Za-z0-9_.,-]+)|(#.*)|(\S)')
_EVENT: Final = "event"
_KINDS: Final = frozenset(kind.value for kind in Kind) | {_EVENT}
_NAMES: Final = frozenset(EVENT_NAMES.values())


class Mode(StrEnum):
    """What is asked of a PCR."""

    EQUAL = "equal"
    EVENTS = "events"
    PER_HOST = "per-host"
    EXCLUDED = "excluded"


@dataclass(frozen=True, slots=True)
class Selector:
    """Events by kind and, unless empty, by name; kind ``event`` names an event type."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" if self.name else self.kind


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked of one PCR; selectors only where its mode is ``events``."""

    mode: Mode
    excluded: tuple[Selector, ...] = ()
    per_host: tuple[Selector, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy; ``rules`` maps PCR → rule, ``overlap`` is aware or None."""

    name: str
    version: int
    rules: Mapping[int, Rule]
    banks: tuple[str, ...] = ("sha256",)
    require: frozenset[str] = frozenset()
    allow: frozenset[str] = frozenset()
    runtime_excludes: tuple[str, ...] = ()
    reject_violations: bool = False
    old_kernel: bool = False
    overlap: datetime | None = None

    @property
    def id(self) -> str:
        """How results name the policy."""
        return f"{self.name} {self.version}"

    @property
    def needs_reference(self) -> bool:
        """Whether any rule compares with a reference."""
        return any(rule.mode in {Mode.EQUAL, Mode.EVENTS} for rule in self.rules.values())


@dataclass(slots=True)
class _Draft:
    name: str = ""
    version: int | None = None
    banks: tuple[str, ...] = ()
    modes: dict[int, Mode] = field(default_factory=dict)
    excluded: dict[int, list[Selector]] = field(default_factory=dict)
    per_host: dict[int, list[Selector]] = field(default_factory=dict)
    require: set[str] = field(default_factory=set)
    allow: set[str] = field(default_factory=set)
    excludes: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    overlap: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    quoted: bool


class _Line:
    """The words of one line, taken from the left."""

    def __init__(self, number: int, words: list[_Token]) -> None:
        self.number = number
        self._words = words
        self._next = 0

    @property
    def left(self) -> bool:
        return self._next < len(self._words)

    def error(self, reason: str, remedy: str, code: str = "policy-syntax") -> FormatError:
        return FormatError(
            f"policy, line {self.number}: {reason}",
            code=code,
            component=f"line {self.number}",
            remedy=remedy,
        )

    def word(self, *allowed: str) -> str:
        """Take the next word, one of ``allowed`` where they are given."""
        token = self._words[self._next] if self.left else _Token("", quoted=False)
        if token.quoted or not token.text or (allowed and token.text not in allowed):
            found = f"{token.text[:64]!r}" if token.text or token.quoted else "the end of the line"
            wanted = ", ".join(allowed) or "a word"
            raise self.error(f"{found} stands where {wanted} belongs", f"Write {wanted}.")
        self._next += 1
        return token.text

    def peek(self, text: str) -> bool:
        """Take the next word if it is this one."""
        if self.left and self._words[self._next] == _Token(text, quoted=False):
            self._next += 1
            return True
        return False

    def string(self) -> str:
        token = self._words[self._next] if self.left else _Token("", quoted=False)
        if not token.quoted or not token.text:
            raise self.error("a name in quotes is missing", 'Write the name as "name".')
        self._next += 1
        return token.text

    def quoted_next(self) -> bool:
        return self.left and self._words[self._next].quoted

    def end(self) -> None:
        if self.left:
            text = self._words[self._next].text
            raise self.error(f"{text[:64]!r} follows the end of the statement", "Remove it.")


def parse_policy(data: bytes) -> Policy:
    """Read a policy without its signature.

    Raises:
        FormatError: ``policy-syntax``, ``policy-duplicate``, ``policy-empty``, ``policy-weak``,
            ``policy-pattern``, ``policy-too-wide``; the sentence names the line.
        LimitError: larger than any policy.
    """
    if len(data) > MAX_SIZE:
        raise LimitError(f"a policy of {len(data)} bytes, at most {MAX_SIZE} are allowed")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("policy: it is not UTF-8", code="policy-syntax") from error
    draft = _Draft()
    for number, line in enumerate(text.split("\n"), 1):
        words = _words(number, line)
        if words.left:
            statement = words.word(*_STATEMENTS)
            _STATEMENTS[statement](words, draft)
            words.end()
    return _finish(draft)


def _words(number: int, line: str) -> _Line:
    tokens: list[_Token] = []
    for match in _WORD.finditer(line):
        quoted, plain, comment, other = match.groups()
        if comment is not None:
            break
        if other is not None and other != "\r":
            raise _Line(number, []).error(
                f"the character {other!r} means nothing here", 'Put names into "quotes".'
            )
        if quoted is not None:
            tokens.append(_Token(quoted, quoted=True))
        elif plain is not None:
            tokens.append(_Token(plain, quoted=False))
    return _Line(number, tokens)


def _number(line: _Line, text: str, highest: int, what: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or int(text) > highest:
        raise line.error(f"{text[:32]!r} is no {what}", f"Write a number up to {highest}.")
    return int(text)


def _policy(line: _Line, draft: _Draft) -> None:
    if draft.version is not None:
        raise line.error("the policy is named twice", "Remove one.", "policy-duplicate")
    draft.name = line.string()
    line.word("version")
    draft.version = _number(line, line.word(), 999_999_999, "version")


def _banks(line: _Line, draft: _Draft) -> None:
    if draft.banks:
        raise line.error("the banks are named twice", "Remove one line.", "policy-duplicate")
    found: list[str] = []
    while line.left:
        bank = line.word(*ALGORITHMS)
        if bank in WEAK_BANKS:
            raise line.error(
                f"bank {bank} proves nothing any more", "Use sha256 or sha384.", "policy-weak"
            )
        found.append(bank)
    if not found or len(set(found)) != len(found):
        raise line.error("no bank, or one twice", "Write banks sha256.")
    draft.banks = tuple(found)


def _pcr(line: _Line, draft: _Draft) -> None:
    pcrs = _pcr_list(line, line.word())
    mode = Mode(line.word(*Mode))
    selectors: list[Selector] = []
    if mode is Mode.PER_HOST and line.left:
        selectors = _selectors(line)
        _add(line, draft.per_host, pcrs, selectors)
        return
    if mode is Mode.EVENTS and line.peek("except"):
        selectors = _selectors(line)
    for pcr in pcrs:
        if pcr in draft.modes:
            raise line.error(
                f"PCR {pcr} has a rule already",
                "Keep one rule for each PCR, and per-host lines beside it.",
                "policy-duplicate",
            )
        draft.modes[pcr] = mode
    _add(line, draft.excluded, pcrs, selectors)


def _add(
    line: _Line, table: dict[int, list[Selector]], pcrs: list[int], found: list[Selector]
) -> None:
    for pcr in pcrs:
        table.setdefault(pcr, []).extend(found)
        if len(table[pcr]) > MAX_SELECTORS:
            raise line.error("too many exceptions", "Exclude the PCR instead.", "policy-limit")


def _pcr_list(line: _Line, text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = _number(line, first, PCR_COUNT - 1, "PCR")
        high = _number(line, last, PCR_COUNT - 1, "PCR") if dash else low
        if high < low or set(found) & set(range(low, high + 1)):
            raise line.error(f"{text[:32]!r} is no list of PCRs", "Write 0,2-3.")
        found += range(low, high + 1)
    return found


def _selectors(line: _Line) -> list[Selector]:
    found: list[Selector] = []
    while True:
        kind = line.word(*sorted(_KINDS))
        name = ""
        if kind == _EVENT:
            name = line.word()
            if name not in _NAMES:
                raise line.error(f"{name[:64]!r} is no event type", "Write one such as EV_IPL.")
        elif line.quoted_next():
            name = line.string()
        found.append(Selector(kind, name))
        if not line.peek(","):
            return found


def _require(line: _Line, draft: _Draft) -> None:
    draft.require.add(line.word("secure-boot", "drtm", "runtime", "hardening"))


def _allow(line: _Line, draft: _Draft) -> None:
    draft.allow.add(line.word("debug", "dma"))


def _runtime(line: _Line, draft: _Draft) -> None:
    what = line.word("exclude", "violations", "kernel")
    if what == "exclude":
        pattern = line.string()
        try:
            compile_paths([pattern])
        except ArgumentError as error:
            raise line.error(error.reason, error.remedy, error.code) from error
        draft.excludes.append(pattern)
        return
    values = ("warn", "reject") if what == "violations" else ("current", "before-5.8")
    if what in draft.settings:
        raise line.error(f"runtime {what} is said twice", "Remove one line.", "policy-duplicate")
    draft.settings[what] = line.word(*values)


def _overlap(line: _Line, draft: _Draft) -> None:
    line.word("until")
    text = line.word()
    try:
        draft.overlap = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise line.error(f"{text[:32]!r} is no date", "Write a date such as 2026-12-01.") from None


_STATEMENTS: Final[Mapping[str, Callable[[_Line, _Draft], None]]] = {
    "policy": _policy,
    "banks": _banks,
    "pcr": _pcr,
    "require": _require,
    "allow": _allow,
    "runtime": _runtime,
    "overlap": _overlap,
}


def _finish(draft: _Draft) -> Policy:
    if draft.version is None:
        raise FormatError(
            "policy: it has no name and version",
            code="policy-syntax",
            remedy='Begin with a line such as: policy "hosts" version 1',
        )
    stray = sorted(pcr for pcr in draft.per_host if draft.modes.get(pcr) is not Mode.EVENTS)
    if stray:
        raise FormatError(
            f"policy: events of PCR {stray[0]} are per host, but its rule is not about events",
            code="policy-syntax",
            remedy=f"Add the line: pcr {stray[0]} events",
        )
    if all(mode is Mode.EXCLUDED for mode in draft.modes.values()):
        raise FormatError(
            "policy: it appraises no PCR at all, so every host would pass",
            code="policy-empty",
            remedy="Say for at least one PCR what it must be.",
        )
    rules = {
        pcr: Rule(mode, tuple(draft.excluded.get(pcr, ())), tuple(draft.per_host.get(pcr, ())))
        for pcr, mode in sorted(draft.modes.items())
    }
    return Policy(
        draft.name,
        draft.version,
        rules,
        draft.banks or ("sha256",),
        frozenset(draft.require),
        frozenset(draft.allow),
        tuple(draft.excludes),
        draft.settings.get("violations") == "reject",
        draft.settings.get("kernel") == "before-5.8",
        draft.overlap,
    )
