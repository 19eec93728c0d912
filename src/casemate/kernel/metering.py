"""What each VM uses and wants, measured at its control group.

CPU use is the group's, so that QEMU's own threads count. What a VM would like to use beyond that
shows in its threads: time spent waiting for a processor (``/proc/PID/task/TID/schedstat``). Linux
counts time under a limit as waiting too, so *ready* is waiting less throttled time, while *demand*
keeps both: a VM held at its limit still wants more. As in ESXi a thread's wait counts towards
demand as far as it runs when it can: ``run + wait * run / (run + sleep)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.errors import CasemateError
from casemate.kernel.cells.cgroups import Cgroups

NANO: Final = 1_000_000_000
_MICRO: Final = 1000
_SATURATED: Final = 0.9
"""Part of the configured vCPUs from which a demand counts as all of them: measured over a second,
a guest that never rests comes out a little below."""
_QUIET_SECONDS: Final = 0.05
"""Two looks closer together than this measure noise."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the cell was first seen: nanoseconds, and bytes of memory now.

    Memory is what only the VM's end or its balloon gives back; cached parts of its disks, which the
    host drops when it needs to, do not count.
    """

    cpu: int
    ready: int
    throttled: int
    memory: int


@dataclass(frozen=True, slots=True)
class Load:
    """Rates over the last interval, in processors (1.0: one whole processor)."""

    used: float
    demand: float
    ready: float


IDLE: Final = Load(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Metered:
    """A VM's totals at a moment (monotonic seconds), and its load of the interval before.

    The load is None at the first look.
    """

    time: float
    totals: Counters
    load: Load | None


@dataclass(slots=True)
class _Seen:
    time: float
    cpu: int
    throttled: int
    threads: dict[int, tuple[int, int]]
    ready: int = 0


class Meter:
    """Reads the groups of running VMs; remembers one look per VM."""

    def __init__(self, cgroups: Cgroups, proc: Path = Path("/proc")) -> None:
        self._cgroups = cgroups
        self._proc = proc
        self._seen: dict[str, _Seen] = {}

    def read(self, vms: Mapping[str, int], ticks: Callable[[], float]) -> dict[str, Metered]:
        """Look at all running VMs.

        Args:
            vms: vCPUs of each running VM.
            ticks: gives monotonic seconds; where the host is starved, a look takes long, and what
                counts is when each group was read.

        Returns:
            What was found; VMs whose group has just gone are missing.
        """
        for gone in self._seen.keys() - vms.keys():
            del self._seen[gone]
        found = {}
        for vm, vcpus in vms.items():
            with suppress(OSError, CasemateError, ValueError, KeyError, IndexError):
                found[vm] = self._look(vm, vcpus, ticks)
        return found

    def _look(self, vm: str, vcpus: int, ticks: Callable[[], float]) -> Metered:
        directories = self._cgroups.directories(vm)
        usage, now = self._cgroups.usage(vm), ticks()
        memory = _held(directories)
        cpu = round(usage.cpu_seconds * NANO)
        throttled = _throttled(directories)
        threads = self._threads(directories)
        before = self._seen.get(vm)
        after = _Seen(now, cpu, throttled, threads)
        load = None
        if before is not None:
            after.ready = before.ready
            seconds = now - before.time
            if seconds < _QUIET_SECONDS:
                totals = Counters(before.cpu, before.ready, before.throttled, memory)
                return Metered(before.time, totals, None)
            load, ready = _load(before, after, vcpus, seconds)
            after.ready += ready
        self._seen[vm] = after
        return Metered(now, Counters(cpu, after.ready, throttled, memory), load)

    def _threads(self, directories: Iterable[Path]) -> dict[int, tuple[int, int]]:
        """Return run and wait time of every thread of the group's processes, by thread."""
        found = {}
        for pid in _processes(directories):
            with suppress(OSError):
                for task in (self._proc / pid / "task").iterdir():
                    with suppress(OSError):
                        run, wait, _ = (task / "schedstat").read_text().split()
                        found[int(task.name)] = int(run), int(wait)
        return found


def _load(before: _Seen, after: _Seen, vcpus: int, seconds: float) -> tuple[Load, int]:
    """Return the load between two looks, and how many nanoseconds the VM was ready."""
    whole = seconds * NANO
    # Each thread that would run waits out the time its processor is held back.
    held = max(0, after.throttled - before.throttled) / max(1, vcpus)
    wanted = ready = 0.0
    for thread, (run, wait) in after.threads.items():
        run0, wait0 = before.threads.get(thread, (0, 0))
        ran, waiting = max(0, run - run0), max(0, wait - wait0)
        asleep = max(0.0, whole - ran - waiting)
        ready += max(0.0, waiting - held)
        wanted += ran + (waiting * ran / (ran + asleep) if ran else 0.0)
    used = max(0, after.cpu - before.cpu) / whole
    demand = max(used, wanted / whole)
    if demand >= _SATURATED * vcpus:
        demand = max(demand, float(vcpus))
    return Load(used, demand, ready / whole), int(ready)


def _processes(directories: Iterable[Path]) -> list[str]:
    for directory in directories:
        place = directory / "cgroup.procs"
        if place.exists():
            return place.read_text().split()
    return []


def _held(directories: Iterable[Path]) -> int:
    """Return the bytes of memory that processes of the group hold."""
    for directory in directories:
        place = directory / "memory.stat"
        if place.exists():
            values = dict(line.split() for line in place.read_text().splitlines())
            return int(values.get("rss") or values["anon"]) + int(values.get("shmem", 0))
    return 0


def _throttled(directories: Iterable[Path]) -> int:
    """Return for how many nanoseconds a CPU limit has held the group back."""
    for directory in directories:
        place = directory / "cpu.stat"
        if place.exists():
            values = dict(line.split() for line in place.read_text().splitlines())
            if "throttled_time" in values:
                return int(values["throttled_time"])
            return int(values.get("throttled_usec", 0)) * _MICRO
    return 0
