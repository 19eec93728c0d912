"""The processes of this pid namespace, as /proc shows them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.policy.processaudit import ProcessTexts

NAMESPACES: Final = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
_CHUNK: Final = 1 << 16
_KERNEL_THREAD: Final = 0x00200000
"""PF_KTHREAD: a thread of Linux itself. No program can give itself this flag."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its parent and its real user, and when it began (clock ticks since boot)."""

    pid: int
    parent: int
    uid: int
    began: int


def processes(proc: Path = Path("/proc")) -> Iterator[Process]:
    """Yield every process that is there and has not ended."""
    for name in os.listdir(proc):  # noqa: PTH208 (numbers, several thousand times an hour)
        if name.isdigit():
            found = process(int(name), proc)
            if found is not None:
                yield found


def newest(proc: Path = Path("/proc")) -> str:
    """Return the number that was given to a process or thread last, here or further inside.

    While it stays the same, none was started (proc(5), loadavg): a look at all processes can wait.
    """
    return (proc / "loadavg").read_text().rpartition(" ")[2].strip()


def process(pid: int, proc: Path = Path("/proc")) -> Process | None:
    """Return one process; None when it is gone, has ended, or is a thread of Linux itself.

    Those are seen where the host has the machine to itself; they run no program.
    """
    try:
        fields = _read(proc, pid, "stat").rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X") or int(fields[6]) & _KERNEL_THREAD:
            return None
        uid = _uid(proc, pid)
    except OSError:
        return None
    return Process(pid, int(fields[1]), uid, int(fields[19]))


def age(one: Process) -> float:
    """Return for how many seconds a process has been there."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - one.began / os.sysconf("SC_CLK_TCK")


def read_texts(pid: int, proc: Path = Path("/proc")) -> ProcessTexts | None:
    """Return what the audit looks at; None when the process is gone or has no memory.

    Raises:
        HostError: this process may not look into the other.
    """
    try:
        maps = _read(proc, pid, "maps").decode("utf-8", "replace")
        if not maps:
            return None
        return ProcessTexts(
            pid,
            maps,
            _read(proc, pid, "status").decode("utf-8", "replace"),
            _read(proc, pid, "personality").decode("ascii", "replace"),
            _read(proc, pid, "limits").decode("ascii", "replace"),
            _read(proc, pid, "auxv"),
            namespaces(pid, proc),
        )
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError as error:
        raise HostError(
            f"process {pid} cannot be audited: {error.strerror}",
            code="audit-refused",
            component=str(pid),
            remedy="Audit as root.",
        ) from error


def namespaces(pid: int | str, proc: Path = Path("/proc")) -> dict[str, str]:
    """Return kind → identity of the namespaces of a process. Raises OSError."""
    return {kind: os.readlink(f"{proc}/{pid}/ns/{kind}") for kind in NAMESPACES}  # noqa: PTH115 (magic links)


def _uid(proc: Path, pid: int) -> int:
    for line in _read(proc, pid, "status").splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def _read(proc: Path, pid: int, name: str) -> bytes:
    descriptor = os.open(f"{proc}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, _CHUNK):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)
