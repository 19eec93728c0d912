"""What a machine's first program says when it cannot go on: always a named reason, never a trace.

When the first process of a machine ends, Linux panics. So whatever goes wrong in it, also what
nobody foresaw, becomes an error of our family with the place where it happened.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from casemate.errors import BootError, CasemateError

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


def say(error: CasemateError, console: Path | None = None) -> None:
    """Show a refusal. A console that is gone is no reason to fail.

    Args:
        error: the refusal.
        console: where; standard error, which is the console at first, unless given.
    """
    words = (
        f"\nThe boot was refused ({error.code}).\n"
        f"{error.component}: {error.reason}\n{error.remedy}\n"
    )
    try:
        if console is None:
            sys.stderr.write(words)
            sys.stderr.flush()
        else:
            with console.open("w", encoding="utf-8") as stream:
                stream.write(words)
    except (OSError, ValueError, AttributeError):
        return
