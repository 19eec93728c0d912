"""A question on the machine's consoles, screen and serial line, before there is a host to ask."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from casemate.errors import HostError
from casemate.kernel.boot.lastword import CONSOLES

LINE_LIMIT = 512
"""Bytes of an answer; a recovery key has 111 characters."""


def ask(question: str, consoles: Sequence[Path] = CONSOLES) -> str:
    """Return the first line that somebody types on any console; waits for it.

    Raises:
        HostError: there is no console to ask at, or the line is longer than any answer.
    """
    handles = []
    for place in consoles:
        with suppress(OSError):
            handles.append(os.open(place, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    try:
        for handle in handles:
            with suppress(OSError):
                os.write(handle, question.encode())
        return _line(handles)
    finally:
        for handle in handles:
            os.close(handle)


def _line(handles: list[int]) -> str:
    typed = dict.fromkeys(handles, b"")
    while typed:
        ready, _, _ = select.select(list(typed), [], [])
        for handle in ready:
            try:
                data = os.read(handle, LINE_LIMIT)
            except OSError:
                data = b""
            if not data:
                del typed[handle]
                continue
            typed[handle] += data
            line, end, _ = typed[handle].partition(b"\n")
            if end:
                return line.decode("utf-8", "replace").strip()
            if len(typed[handle]) > LINE_LIMIT:
                raise HostError("The answer is too long.", code="answer", component="console")
    raise HostError("There is no console to ask at.", code="no-console", component="console")
