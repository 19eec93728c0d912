"""Runs the programs that building an image needs: the only place of this room that does.

Every call gives an argument list (no shell), an environment of four variables, and a limit of
time; a program that is absent is answered with the Debian package that brings it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from casemate.errors import HostError

DEFAULT_TIMEOUT: Final = 300.0
"""Seconds; the slowest step, compressing the largest payload, takes a tenth of it."""

SEARCH_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
SHOWN_OUTPUT: Final = 800
"""Characters of a failed program's own words that go into our sentence."""

PACKAGES: Final[Mapping[str, str]] = {
    "mkfs.erofs": "erofs-utils",
    "gcc": "gcc",
    "strip": "binutils",
    "python3.11": "python3.11",
    "mformat": "mtools",
    "mcopy": "mtools",
    "syslinux": "syslinux",
    "fsck.erofs": "erofs-utils",
}
"""Program to the Debian package that brings it."""


def find(program: str) -> str:
    """Return the absolute path of a program.

    Raises:
        HostError: the program is not installed (``tool-missing``).
    """
    path = shutil.which(program, path=SEARCH_PATH)
    if path is None:
        package = PACKAGES.get(program, program)
        raise HostError(
            f"The program {program} is not installed.",
            code="tool-missing",
            component=program,
            remedy=f"Install the Debian package {package} (apt-get install {package}).",
        )
    return path


def run(
    program: str,
    *arguments: str | Path,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> bytes:
    """Run a program to its end and return what it wrote to standard output.

    Args:
        program: name, looked up in the system directories only.
        arguments: its arguments, passed as they are.
        cwd: directory to run in.
        environment: variables besides PATH, LC_ALL, TZ and HOME.
        timeout: seconds after which it is killed.

    Raises:
        HostError: absent (``tool-missing``), too slow (``tool-timeout``) or failed
            (``tool-failed``).
    """
    command: Sequence[str] = [find(program), *map(str, arguments)]
    variables = {"PATH": SEARCH_PATH, "LC_ALL": "C", "TZ": "UTC", "HOME": "/nonexistent"}
    try:
        result = subprocess.run(  # noqa: S603 - no shell, and the program is one of our own list
            command,
            cwd=cwd,
            env=variables | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HostError(
            f"{program} did not finish within {timeout:.0f} seconds.",
            code="tool-timeout",
            component=program,
            remedy="Look at the load of this machine and its disk, then try again.",
        ) from error
    if result.returncode != 0:
        words = (result.stderr or result.stdout).decode(errors="replace").strip()[-SHOWN_OUTPUT:]
        raise HostError(
            f"{program} failed with status {result.returncode}: {words}",
            code="tool-failed",
            component=program,
            remedy="Read what it said; a full disk or a missing package is the usual cause.",
        )
    return result.stdout
