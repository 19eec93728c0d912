"""What an installer shows: the same on the screen and on the serial line, 80 columns of ASCII."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import fill

from casemate.errors import CasemateError
from casemate.kernel.boot.lastword import CONSOLES
from casemate.kernel.boot.targets import Target

WIDTH = 76
BAR = 40
_CLEAR, _PLAIN, _BOLD = "\033[2J\033[H", "\033[0m", "\033[1m"
_TITLE, _RED = "\033[1;37;44m", "\033[1;31m"
_GIB = 1 << 30


class Screen:
    """All consoles at once; one that is gone is no reason to fail."""

    def __init__(self, consoles: Sequence[Path] = CONSOLES) -> None:
        self._consoles = consoles
        self._handles: list[int] = []
        self._shown = ""

    def open(self) -> None:
        """Open the consoles that there are."""
        for place in self._consoles:
            with suppress(OSError):
                self._handles.append(os.open(place, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC))

    def title(self, version: str) -> None:
        """Begin anew with the head line."""
        words = f"  Casemate {version}"
        self._write(
            f"{_PLAIN}{_CLEAR}\n{_TITLE}{words}{'Installation  ':>{WIDTH - len(words)}}{_PLAIN}\n\n"
        )

    def disks(self, known: Sequence[Target]) -> None:
        """Show what can be chosen."""
        lines = [f"  {_BOLD}{'':4}{'Disk':<12}{'Model':<32}{'Size':>12}{_PLAIN}"]
        for number, one in enumerate(known, 1):
            kind = "   removable" if one.removable else ""
            size = f"{one.size / _GIB:.1f} GiB"
            lines.append(f"  {number:>2}  {one.name:<12}{one.model[:31]:<32}{size:>12}{kind}")
        if not known:
            lines.append("  This machine has no disk with sectors of 512 bytes.")
        self._write("\n".join(lines) + "\n\n")

    def say(self, words: str) -> None:
        """Show a sentence, on a line of its own also where the answer was typed elsewhere."""
        self._write(f"\n{_folded(words)}\n\n")

    def warn(self, words: str) -> None:
        """Show a sentence that matters."""
        self._write(f"\n{_RED}{_folded(words)}{_PLAIN}\n\n")

    def progress(self, what: str, done: int, total: int) -> None:
        """Show a bar, in the place of the last one."""
        share = done / total if total else 1.0
        full = round(share * BAR)
        bar = f"  {what:<8}[{'#' * full}{'.' * (BAR - full)}] {share:>4.0%}"
        if bar != self._shown:
            self._shown = bar
            self._write(f"\r{bar}" + ("\n\n" if done == total else ""))

    def refused(self, error: CasemateError) -> None:
        """Show why nothing was installed."""
        self.warn(f"Not installed ({error.code}).")
        for words in (f"{error.component}: {error.reason}", error.remedy):
            self._write(f"{_folded(words)}\n\n")

    def _write(self, text: str) -> None:
        data = text.encode("ascii", "replace")
        for handle in self._handles:
            with suppress(OSError):
                os.write(handle, data)


def _folded(words: str) -> str:
    return fill(words, WIDTH + 2, initial_indent="  ", subsequent_indent="  ")
