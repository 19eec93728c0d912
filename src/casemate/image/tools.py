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

STOP_SECONDS: Final = 5.0
"""How long a program in the background may take to end when asked to."""

SEARCH_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
SHOWN_OUTPUT: Final = 800
"""Characters of a failed program's own words that go into our sentence."""

PACKAGES: Final[Mapping[str, str]] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "swtpm": "swtpm",
    "swtpm_setup": "swtpm-tools",
    "mkfs.erofs": "erofs-utils",
    "fsck.erofs": "erofs-utils",
    "gcc": "gcc",
    "strip": "binutils",
    "python3.11": "python3.11",
    "mformat": "mtools",
    "mcopy": "mtools",
    "mmd": "mtools",
    "syslinux": "syslinux",
    "mke2fs": "e2fsprogs",
    "xorriso": "xorriso",
    "zstd": "zstd",
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


class Background:
    """A program that runs beside us, until it ends or is told to."""

    def __init__(self, program: str, *arguments: str | Path, log: Path) -> None:
        """Start it; what it writes goes into ``log``.

        Raises:
            HostError: the program is not installed (``tool-missing``).
        """
        self.program = program
        variables = {"PATH": SEARCH_PATH, "LC_ALL": "C", "TZ": "UTC", "HOME": "/nonexistent"}
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - as in ``run``
                [find(program), *map(str, arguments)],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def ended(self) -> int | None:
        """Return its exit status, None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; return whether it came in time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """End it, by force where it does not listen."""
        self._process.terminate()
        if not self.wait(STOP_SECONDS):
            self._process.kill()
            self._process.wait()
