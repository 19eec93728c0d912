"""The console as lines of text: pure, for any size of the screen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from textwrap import wrap
from typing import Final

from casemate.console.model import (
    END,
    LOGS,
    MENU,
    MODE_NAMES,
    MODES,
    QUESTIONS,
    Console,
    Page,
)

LEAST: Final = (40, 12)
"""Columns and lines; a smaller screen shows the beginning of what there is."""
_CONTROL: Final = re.compile(r"[^\x20-\x7e]")
"""A log's line, or a name, never acts on the terminal; the console's own font is ASCII."""

_TITLES: Final = {
    Page.LOGIN: "Authentication Required",
    Page.MENU: "System Customization",
    Page.NETWORK: "Configure Management Network",
    Page.ATTESTATION: "Attestation",
    Page.LOCKDOWN: "Lockdown Mode",
    Page.LOGS: "System Logs",
    Page.LOG: "Log",
    Page.PASSWORD: "Configure Password",
    Page.CONFIRM: "Confirm",
}
_HINTS: Final = {
    Page.PLATE: "<F2> Customize System/View Logs      <F12> Shut Down/Restart",
    Page.MENU: "<Up/Down> Select   <Enter> Open   <F12> Shut Down/Restart   <Esc> Back",
    Page.LOG: "<Up/Down/PageUp/PageDown> Scroll   <R> Read again   <Q> or <Esc> Back",
    Page.LOGIN: "<Tab> Next   <Enter> OK   <Esc> Cancel",
    Page.PASSWORD: "<Tab> Next   <Enter> OK   <Esc> Cancel",
    Page.NETWORK: "<Tab> Next   <Enter> OK   <Esc> Cancel",
    Page.ATTESTATION: "<Esc> Back",
}
_CHOOSE: Final = "<Up/Down> Select   <Enter> OK   <Esc> Cancel"


class Style(Enum):
    """How a line looks."""

    PLAIN = auto()
    TITLE = auto()
    CHOSEN = auto()
    WARNING = auto()
    HINT = auto()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen, without control characters."""

    text: str
    style: Style = Style.PLAIN


def draw(console: Console, columns: int, lines: int) -> tuple[Line, ...]:
    """Return the screen: exactly so many lines, none longer than the columns."""
    columns, lines = max(columns, LEAST[0]), max(lines, LEAST[1])
    body = [one for line in _body(console, lines - 4) for one in _folded(line, columns - 1)]
    message = [Line(console.message, Style.WARNING)] if console.message else []
    hint = _HINTS.get(console.page, _CHOOSE)
    if console.page is Page.CONFIRM and console.pending is not None:
        hint = "<F11> or <Y> Yes   <Esc> No"
    room = lines - 2 - len(message)
    shown = [
        *body[:room],
        *[Line("")] * (room - len(body)),
        *message,
        Line(""),
        Line(hint, Style.HINT),
    ]
    return tuple(_fitted(line, columns - 1) for line in shown)


def _fitted(line: Line, width: int) -> Line:
    text = _plain(line.text)[:width]
    return Line(text.ljust(width) if line.style is Style.HINT else text, line.style)


def _folded(line: Line, width: int) -> Iterator[Line]:
    """Yield a warning in as many lines as it needs; everything else is cut where it ends."""
    if line.style is not Style.WARNING or len(line.text) <= width:
        yield line
        return
    for text in wrap(
        _plain(line.text).strip(),
        width,
        initial_indent="   ",
        subsequent_indent="   ",
        break_on_hyphens=False,
    ):
        yield Line(text, line.style)


def _body(console: Console, room: int) -> Iterator[Line]:
    facts = console.facts
    if console.page is Page.PLATE:
        yield from _plate(console)
        return
    yield Line(f" {_TITLES[console.page]}", Style.TITLE)
    yield Line("")
    match console.page:
        case Page.LOGIN | Page.PASSWORD:
            yield from _form(console)
        case Page.MENU:
            yield from _rows((entry.title for entry in MENU), console.cursor)
        case Page.NETWORK:
            yield from _form(console)
            yield from _text(["", "Without an address the host asks DHCP for one.", ""])
            yield from _text([f"Now  {facts.api or '(no address)'}", *facts.network])
        case Page.ATTESTATION:
            yield from _text(facts.attestation)
        case Page.LOCKDOWN:
            yield from _rows((MODE_NAMES[mode] for mode in MODES), console.cursor)
        case Page.LOGS:
            yield from _rows(LOGS, console.cursor)
        case Page.LOG:
            yield from _window(console, room)
        case Page.CONFIRM:
            yield from _question(console)


def _form(console: Console) -> Iterator[Line]:
    for number, one in enumerate(console.inputs):
        text = "*" * len(one.text) if one.secret else one.text
        style = Style.CHOSEN if number == console.cursor else Style.PLAIN
        yield Line(f"   {one.label + ':':<20} [ {text:<24} ]", style)


def _window(console: Console, room: int) -> Iterator[Line]:
    start = max(min(console.cursor - room + 1, len(console.lines) - room), 0)
    for number, text in enumerate(console.lines[start : start + room], start):
        yield Line(text, Style.CHOSEN if number == console.cursor else Style.PLAIN)


def _question(console: Console) -> Iterator[Line]:
    if console.pending is None:
        yield from _rows((entry.title for entry in END), console.cursor)
    else:
        yield Line(f"   {QUESTIONS[console.pending.kind]}")


def _plate(console: Console) -> Iterator[Line]:
    facts = console.facts
    yield Line("")
    yield Line(f"   {facts.product}", Style.TITLE)
    yield Line("")
    if facts.name:
        yield Line(f"   {facts.name}")
    yield from _text(facts.hardware)
    yield Line("")
    yield Line("   To manage this host, go to:")
    yield Line(f"   {facts.api or '(no address)'}")
    yield from _text(facts.network)
    yield Line("")
    yield from _text(facts.attestation)
    if facts.warnings:
        yield Line("")
    yield from (Line(f"   {one}", Style.WARNING) for one in facts.warnings)


def _rows(titles: Iterable[str], cursor: int) -> Iterator[Line]:
    for number, title in enumerate(titles):
        style = Style.CHOSEN if number == cursor else Style.PLAIN
        yield Line(f" {'>' if number == cursor else ' '} {title}", style)


def _text(lines: Iterable[str]) -> Iterator[Line]:
    yield from (Line(f"   {line}") for line in lines)


def _plain(text: str) -> str:
    return _CONTROL.sub("?", text)
