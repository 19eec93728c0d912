"""The console on a terminal: raw keys in, whole screens out, and nothing left of it at the end."""

from __future__ import annotations

import os
import select
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from casemate.console import model
from casemate.console.app import App
from casemate.console.client import GONE
from casemate.console.keys import Keys
from casemate.console.model import Console, Kind
from casemate.console.screen import Line, Style, draw
from casemate.errors import CasemateError

REFRESH_SECONDS = 5.0
"""Between two looks at the host's facts."""
ESCAPE_SECONDS = 0.15
"""After which an Escape stands for itself: 9600 baud bring a sequence in 6 ms."""
IDLE_SECONDS = 600.0
"""Without a key, after which whoever logged in is logged out (ESXi: DcuiTimeOut)."""

_CHUNK = 256
_COLOURS = {
    Style.PLAIN: b"\x1b[0m",
    Style.TITLE: b"\x1b[0;1;37;44m",
    Style.CHOSEN: b"\x1b[0;7m",
    Style.WARNING: b"\x1b[0;1;33m",
    Style.HINT: b"\x1b[0;30;47m",
}
_QUITS = frozenset({"\x03", "\x04"})


class Terminal:
    """A console on two descriptors. ``quits`` lets Ctrl-C and Ctrl-D leave it."""

    def __init__(self, app: App, source: int, target: int, *, quits: bool) -> None:
        self._app = app
        self._source = source
        self._target = target
        self._quits = quits
        self._keys = Keys()
        self._console = Console()
        self._shown: tuple[Line, ...] = ()

    def run(self) -> None:
        """Show the console until it is left.

        Raises:
            OSError: its terminal went away.
            HostError: the kernel did.
        """
        with _raw(self._source, self._target):
            try:
                self._loop()
            finally:
                self._app.log_out()

    def _loop(self) -> None:
        refreshed, pressed = -REFRESH_SECONDS, time.monotonic()
        while True:
            now = time.monotonic()
            if now - refreshed >= REFRESH_SECONDS:
                self._refresh()
                refreshed = now
            if self._console.user and now - pressed > IDLE_SECONDS:
                self._app.log_out()
                self._console = model.locked(self._console)
            self._show()
            wait = ESCAPE_SECONDS if self._keys.undecided else REFRESH_SECONDS
            ready, _, _ = select.select([self._source], [], [], wait)
            if not ready:
                self._press(self._keys.idle())
                continue
            data = os.read(self._source, _CHUNK)
            if not data or (self._quits and _QUITS & set(data.decode("latin-1"))):
                return
            pressed = time.monotonic()
            self._shown = ()  # whoever has just connected to the line sees nothing until then
            self._press(self._keys.feed(data))

    def _press(self, keys: Iterator[str]) -> None:
        for key in keys:
            self._console, action = model.press(self._console, key)
            if action is None:
                continue
            try:
                outcome = self._app.perform(action)
            except CasemateError as error:
                if error.code == GONE:  # what is answered later would be taken for another answer
                    raise
                if error.code == "not-authenticated":
                    self._console = model.locked(self._console)
                else:
                    self._console = model.refused(self._console, error.reason)
            else:
                self._console = model.done(self._console, action, outcome)
                if action.kind is Kind.PASSWORD:
                    self._console = model.locked(self._console)
                self._refresh()

    def _refresh(self) -> None:
        try:
            self._console = model.told(self._console, self._app.facts())
        except CasemateError as error:
            if error.code == GONE:
                raise
            facts = model.Facts(product="Casemate", warnings=(error.reason,))
            self._console = model.told(self._console, facts)

    def _show(self) -> None:
        try:
            columns, lines = os.get_terminal_size(self._target)
        except OSError:
            columns, lines = 0, 0
        shown = draw(self._console, columns or 80, lines or 24)
        if shown == self._shown:
            return
        self._shown = shown
        rows = [
            b"\x1b[%d;1H%b%b\x1b[K\x1b[0m"
            % (number, _COLOURS[line.style], line.text.encode("ascii"))
            for number, line in enumerate(shown, 1)
        ]
        _write(self._target, b"".join(rows))


@contextmanager
def _raw(source: int, target: int) -> Iterator[None]:
    """Keys one by one and unechoed, no cursor; everything is put back at the end."""
    before = termios.tcgetattr(source)
    tty.setraw(source)
    _write(target, b"\x1b[?25l\x1b[2J")
    try:
        yield
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)
        with suppress(OSError):
            _write(target, b"\x1b[0m\x1b[2J\x1b[H\x1b[?25h")


def _write(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
