"""The record of the running host, and how to end it without leaving anything.

``run/host.json`` names the host's first process by pid and start time, so that a number that
was given to another process in the meantime is never taken for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from casemate.errors import HostError
from casemate.kernel import routing
from casemate.kernel.cells.cgroups import detect
from casemate.kernel.cells.runstate import start_time
from casemate.kernel.files import write_file
from casemate.kernel.home import Home
from casemate.kernel.sys import spawn
from casemate.kernel.sys.locks import exclusive

KILL_SECONDS = 10.0
"""For a killed process to be gone; longer means it hangs in the machine's kernel."""


@dataclass(frozen=True, slots=True)
class Running:
    """The host's first process, and where the API listens."""

    pid: int
    start_time: int
    api: str
    port: int
    host_name: str
    bank: str


def changing(home: Home) -> AbstractContextManager[None]:
    """Hold the right to bring this home's host up or down. Raises BusyError."""
    return exclusive(home.path / "lock", "casemate up or down for this home")


def alone(place: Path) -> AbstractContextManager[None]:
    """Hold the lock of a machine that is kept in a directory. Raises BusyError, HostError."""
    return exclusive(
        place.with_name(f"{place.name}.lock"),
        f"the machine {place.name}",
        remedy="Stop it where it runs (Ctrl-C), or give this one another --name.",
    )


def note(home: Home, pid: int, api: str, host_name: str, bank: str) -> None:
    """Write the record of a host that was launched."""
    port = int(api.rpartition(":")[2].partition("/")[0])
    running = Running(pid, start_time(pid) or 0, api, port, host_name, bank)
    write_file(home.running, json.dumps(asdict(running), indent=1).encode())


def recorded(home: Home) -> Running | None:
    """Return the record, whether or not the host still runs."""
    try:
        return Running(**json.loads(home.running.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def find(home: Home) -> Running | None:
    """Return the running host of this home, or None."""
    running = recorded(home)
    if running is None or start_time(running.pid) != running.start_time:
        return None
    return running


def outside(running: Running) -> dict[int, int]:
    """Return, by pid inside the host's pid namespace, the pid that this machine knows it by."""
    parents: dict[int, int] = {}
    inner: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, KeyError, IndexError):
            lines = (entry / "status").read_text().splitlines()
            values = {name: value.split() for name, _, value in (x.partition(":") for x in lines)}
            parents[int(entry.name)] = int(values["PPid"][0])
            inner[int(entry.name)] = int(values["NSpid"][1])
    return {inside: pid for pid, inside in inner.items() if running.pid in _ancestors(pid, parents)}


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found = {pid}
    while (pid := parents.get(pid, 0)) and pid not in found:
        found.add(pid)
    return found


def end(home: Home, seconds: float) -> bool:
    """End the host: in order within ``seconds``, else by force; then remove what is left.

    Returns whether a host was running. Raises HostError when it cannot be ended.
    """
    running = find(home)
    if running is not None:
        with contextlib.suppress(HostError):
            pidfd = spawn.open_process(running.pid)
            try:
                _end(pidfd, seconds)
            finally:
                os.close(pidfd)
        if find(home) is not None:
            raise HostError(
                "the host's first process does not end",
                code="does-not-end",
                component=str(running.pid),
                remedy="Look at what it waits for: /proc/PID/stack.",
            )
    clean(home)
    return running is not None


def clean(home: Home) -> None:
    """Remove what a host leaves behind when it is killed: cgroups, sockets, run-time state."""
    groups = detect(home.identifier)
    for name in groups.names():
        groups.remove(name)
    groups.close()
    if home.nat.exists():
        routing.remove(home.identifier)
        home.nat.unlink(missing_ok=True)
    for place in (home.cells, home.run / "tpm", home.boot_record, home.calls_socket.parent):
        shutil.rmtree(place, ignore_errors=True)
    (home.run / "visor").mkdir(parents=True, exist_ok=True)
    (home.run / "visor").rmdir()
    home.running.unlink(missing_ok=True)
    home.create()


def abort(pidfd: int) -> None:
    """Kill a host that did not come up, and wait until it is gone."""
    spawn.kill(pidfd)
    spawn.wait_gone(pidfd, KILL_SECONDS)


def _end(pidfd: int, seconds: float) -> None:
    if not spawn.kill(pidfd, signal.SIGTERM):
        return
    if not spawn.wait_gone(pidfd, seconds):
        spawn.kill(pidfd)
        spawn.wait_gone(pidfd, KILL_SECONDS)
