"""HTML from plain values.

Every value is data: escaped for HTML, and its control characters, bidirectional marks and other
invisibles replaced by visible escapes. No page has a script.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from casemate.formats.text import escape

STATE_KIND: Mapping[str, str] = {
    "trusted": "good",
    "failed": "bad",
    "failed-latched": "bad",
    "expired": "warn",
    "error": "warn",
    "unknown": "none",
    "pending": "none",
    "not-appraised": "none",
    "removed": "none",
}
"""How a state is coloured; a sign and the word stand beside the colour."""

SIGNS: Mapping[str, str] = {"good": "✓", "bad": "✕", "warn": "!", "none": "-"}

_TIERS = {"affirming": "good", "warning": "warn", "contraindicated": "bad", "none": "none"}
_TIER_WORDS = {
    "affirming": "as expected",
    "warning": "look at it",
    "contraindicated": "not as expected",
    "none": "not appraised",
}
_EVENTS = {"expected": "good", "information": "none", "not-appraised": "none"}
_PCRS = {
    "expected": "good",
    "explained": "bad",
    "unexplained": "bad",
    "log-incomplete": "warn",
    "not-appraised": "none",
}

STAGES: Sequence[tuple[str, str]] = (
    ("identity", "TPM"),
    ("firmware", "Firmware"),
    ("boot", "Boot loader"),
    ("drtm", "D-RTM launch"),
    ("kernel-and-options", "Kernel, options"),
    ("vibs", "VIBs"),
    ("runtime", "Run time"),
    ("hardening", "Hardening"),
)
"""The boot as a chain, in order."""

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def render(name: str, values: Mapping[str, Any]) -> str:
    """Render the page of a name."""
    return _environment().get_template(f"{name}.html").render(values)


FIRST_PIECE, PIECE = 2 << 10, 64 << 10
"""Characters of the first pieces of a page, which are to be seen soon, and of the later ones."""
SOON = 4


def stream(name: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Render the page of a name piece by piece."""
    waiting: list[str] = []
    size = sent = 0
    for text in _environment().get_template(f"{name}.html").generate(values):
        waiting.append(text)
        size += len(text)
        if size >= (FIRST_PIECE if sent < SOON else PIECE):
            yield "".join(waiting)
            waiting.clear()
            size, sent = 0, sent + 1
    yield "".join(waiting)


@cache
def asset(name: str) -> bytes:
    """Return a file that pages refer to. Raises FileNotFoundError."""
    if name != "style.css":
        raise FileNotFoundError(name)
    return files("casemate.ui.verifier").joinpath("assets", name).read_bytes()


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("casemate.ui.verifier"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "age": age,
        "time": time_text,
        "kind": lambda state: STATE_KIND.get(state, "none"),
        "tier": lambda label: _TIERS.get(label, "none"),
        "tier_words": lambda label: _TIER_WORDS.get(label, "not appraised"),
        "event_kind": lambda verdict: _EVENTS.get(verdict, "bad"),
        "pcr_kind": lambda status: _PCRS.get(status, "none"),
        "by_pcr": by_pcr,
    }
    made.globals |= {"signs": SIGNS, "stages": STAGES}
    return made


def _shown(value: object) -> object:
    if isinstance(value, str) and not isinstance(value, Markup):
        return escape(value)
    return "" if value is None else value


def age(seconds: float | None) -> str:
    """Return a duration in the largest fitting unit."""
    if seconds is None:
        return "never"
    size = max(0, int(seconds))
    for unit, letter in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if size >= unit:
            return f"{size // unit} {letter}"
    return f"{size} s"


def time_text(seconds: float | None) -> str:
    """Return a time in UTC, to the second."""
    if not seconds:
        return "never"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


WHOLE = 2000
"""Events of a log that is drawn whole; of larger ones each PCR is drawn in parts of ``PART``."""
PART = 500


def by_pcr(
    events: Sequence[Mapping[str, Any]],
    missing: Sequence[Mapping[str, Any]],
    chosen: int | None = None,
    start: int = 0,
) -> list[dict[str, Any]]:
    """Group events by PCR; each group says how many are not as expected.

    Of a large log only a part of each group is there, of the ``chosen`` PCR that from ``start`` on.
    """
    whole = len(events) + len(missing) <= WHOLE
    rows = sorted([*events, *missing], key=lambda row: row["pcr"])
    groups = []
    for pcr, members in groupby(rows, key=lambda row: row["pcr"]):
        found = list(members)
        bad = sum(_EVENTS.get(row["verdict"], "bad") == "bad" for row in found)
        size = max(1, len(found)) if whole else PART
        first = start // size * size if pcr == chosen and start < len(found) else 0
        shown = found[first : first + size]
        groups.append(
            {"pcr": pcr, "events": shown, "bad": bad, "count": len(found), "first": first,
             "size": size}
        )  # fmt: skip
    return groups
