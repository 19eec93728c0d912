"""From one program of the boot to the next: little enough to be imported by each of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from casemate.kernel.boot.settings import ENVIRONMENT, PYTHON, Settings

INIT = (PYTHON, "-I", "-B", "-m", "casemate.kernel.start")


def become(program: Sequence[str], settings: Settings) -> NoReturn:
    """Run the next program in this process; it inherits pipe and socket."""
    for descriptor in (settings.progress, settings.listener):
        if descriptor >= 0:
            os.set_inheritable(descriptor, True)
    os.execve(PYTHON, [*program, settings.dump()], ENVIRONMENT)  # noqa: S606 (no shell is the point)
