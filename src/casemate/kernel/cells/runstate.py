"""What is written down of a running cell, so that a restarted kernel finds it again.

A pid alone could be another process by then; the boot's id, the process's start time and its uid
together tell.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from casemate.errors import FormatError, HostError
from casemate.kernel.sys.spawn import open_process

_FILE: Final = "state.json"
# Bytes of the file, and the position of the start time in /proc/PID/stat after the name.
_LIMIT: Final = 65536
_START_TIME: Final = 19
_STATE: Final = 0


@dataclass(frozen=True, slots=True)
class RunState:
    """A started cell. ``start_time`` is in clock ticks since the boot named by ``boot_id``.

    ``directory`` is the VM's; ``serials`` are numbers of its serial ports and the files there that
    they write to (empty: none). ``run``: its guest runs; otherwise its disks are worked on.
    """

    vm: str
    pid: int
    start_time: int
    boot_id: str
    uid: int
    accelerator: str
    domain: str
    started: float
    directory: str = ""
    serials: tuple[tuple[int, str], ...] = ()
    run: bool = True


def boot_id() -> str:
    """Return the id of this boot of Linux."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[_STATE] in {"Z", "X"} else int(fields[_START_TIME])


def save(directory: Path, state: RunState) -> None:
    """Write the state, wholly or not at all.

    A crash of the kernel's process is what it must survive; one of the machine ends the cell too,
    so the disk is not waited for.
    """
    draft = directory / (_FILE + ".new")
    draft.write_text(json.dumps(asdict(state)))
    draft.replace(directory / _FILE)


def load(directory: Path) -> RunState | None:
    """Read the state back; None where the cell never came so far.

    Raises:
        FormatError: The file is not what ``save`` writes.
    """
    try:
        with (directory / _FILE).open("rb") as stream:
            data = json.loads(stream.read(_LIMIT))
        serials = tuple((int(number), str(name)) for number, name in data.pop("serials", ()))
        state = RunState(**data, serials=serials)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise FormatError(f"the state of cell {directory.name} is unreadable") from error
    if type(state.pid) is not int or state.pid <= 1 or type(state.uid) is not int:
        raise FormatError(f"the state of cell {directory.name} is senseless")
    return state


def reopen(state: RunState) -> int | None:
    """Return a pidfd of the cell if it still is the same process, else None."""
    if state.boot_id != boot_id():
        return None
    try:
        pidfd = open_process(state.pid)
    except HostError:
        return None
    owner = -1
    with contextlib.suppress(OSError):
        owner = Path(f"/proc/{state.pid}").stat().st_uid
    if start_time(state.pid) != state.start_time or not _runs_as(state, owner):
        os.close(pidfd)
        return None
    return pidfd


def _runs_as(state: RunState, owner: int) -> bool:
    """Tell whether the process is the cell's: a non-dumpable one is shown as root's."""
    if owner == state.uid:
        return True
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{state.pid}/status").read_text().splitlines():
            if line.startswith("Uid:"):
                return line.split()[1:] == [str(state.uid)] * 4
    return False
