"""What the boot tells the one who waits for it: one JSON object a line, on a pipe.

``{"stage": ..., ...}``: stage, component (with its row of the table), refused, ready.
A machine of its own shows the stages on its screen as well, in words.
Losing the reader is no reason to stop booting.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping

from casemate.errors import CasemateError

_WORDS = {
    "start": "\n   Casemate\n",
    "image": "   The machine starts again with the boot image of {bank}.",
    "image-failed": "   The boot image of {bank} does not start.",
    "load": "   Loading {bank}: every payload is verified and measured",
    "component": "     {file:<14}{vib} {version}",
    "state": "   State opened",
    "drivers": "   Drivers loaded",
    "network": "   Network: {address}",
    "agents": "   Starting the management agents",
}
"""What the screen shows of a stage; nothing of those that are not here."""


def in_words(stage: str, facts: Mapping[str, object]) -> str:
    """Return what the screen shows of a stage; empty where it shows nothing."""
    shown = {**facts, "address": facts.get("address") or "none"}
    return _WORDS[stage].format_map(shown).rstrip(" ") if stage in _WORDS else ""


def open_terminal(name: str) -> int:
    """Return a terminal of the machine to tell things on; -1 where there is none."""
    try:
        return os.open(f"/dev/{name}", os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return -1


class Progress:
    """Writes to the pipe ``descriptor``, in words to ``screen``; -1 for nobody listening."""

    def __init__(self, descriptor: int, screen: int = -1) -> None:
        self.descriptor = descriptor
        self._screen = screen

    def tell(self, stage: str, **more: object) -> None:
        """Tell one thing."""
        line = json.dumps({"stage": stage, "at": time.monotonic(), **more}) + "\n"
        _write(self.descriptor, line)
        if words := in_words(stage, more):
            _write(self._screen, words + "\n")

    def refuse(self, error: CasemateError) -> None:
        """Tell why the boot ends here."""
        self.tell(
            "refused",
            code=error.code,
            component=error.component,
            reason=error.reason,
            remedy=error.remedy,
        )


def _write(descriptor: int, text: str) -> None:
    if descriptor >= 0:
        with contextlib.suppress(OSError):
            os.write(descriptor, text.encode())
