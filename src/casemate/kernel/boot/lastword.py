"""What a machine's first program says when it cannot go on: always a named reason, never a trace.

When the first process of a machine ends, Linux panics. So whatever goes wrong in it, also what
nobody foresaw, becomes an error of our family with the place where it happened.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import fill

from casemate.errors import BootError, CasemateError
from casemate.machine.processplan import TERMINALS

CONSOLES = tuple(Path("/dev", name) for name in TERMINALS)
"""Screen and serial line: whoever sits at one of them must see it."""
COLUMNS = 79
INDENT = "   "
TEXT_LIMIT = 300
"""Characters of an unforeseen error's own words that are shown."""


def named(error: BaseException, program: str) -> CasemateError:
    """Return the error itself where it is one of ours, else one that names it and its place."""
    if isinstance(error, CasemateError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].name}, line {frames[-1].lineno}" if frames else "an unknown place"
    words = " ".join(str(error).split())[:TEXT_LIMIT]
    return BootError(
        f"the {program} failed in a way that was not foreseen: {type(error).__name__} in {place}."
        f" {words}".rstrip(),
        code="unforeseen",
        component=program,
        remedy="Boot the other bank or install the image again, and report this text.",
    )


def say(error: CasemateError, consoles: Sequence[Path] = ()) -> None:
    """Show a refusal. A console that is gone is no reason to fail.

    Args:
        error: the refusal.
        consoles: where; standard error where there are none.
    """
    shown = False
    for console in consoles:
        with suppress(OSError), console.open("w", encoding="utf-8") as stream:
            stream.write(words_of(error))
            shown = True
    if not shown:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(words_of(error))
            sys.stderr.flush()


def words_of(error: CasemateError) -> str:
    """Return a refusal as a screen shows it."""
    told = (f"{error.component}: {error.reason}" if error.component else error.reason, error.remedy)
    paragraphs = (folded(text) for text in told if text)
    return f"\n\n   The boot was refused ({error.code}).\n\n" + "\n\n".join(paragraphs) + "\n\n"


def folded(text: str) -> str:
    """Return a paragraph in lines that fit a screen; a key's name is never cut at its hyphens."""
    return fill(
        text,
        COLUMNS,
        initial_indent=INDENT,
        subsequent_indent=INDENT,
        break_on_hyphens=False,
    )
