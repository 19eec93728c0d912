"""Control groups of cells, on cgroup v1 and v2 behind one interface.

Everything lies below one group of the home's own, ``casemate-<home id>``; nothing else in the
hierarchy is touched, but that v2 must hand its controllers down from the top.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from casemate.errors import HostError
from casemate.kernel.cells import diskweight
from casemate.kernel.sys.libc import from_os_error
from casemate.machine.cellplan import CgroupTargets

_PERIOD: Final = 100_000
# cpu.shares of v1 and cpu.weight of v2, with the kernel's own conversion between them.
_SHARES_RANGE: Final = (2, 262_144)
_WEIGHT_RANGE: Final = (1, 10_000)
_CONTROLLERS: Final = ("cpu", "memory", "pids")
# Seconds for killed processes to leave a group, and between looks.
_LEAVE_TIMEOUT: Final = 5.0
_PAUSE: Final = 0.005


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group has used: seconds of CPU, bytes of memory now, threads now."""

    cpu_seconds: float
    memory_bytes: int
    pids: int


class Cgroups(Protocol):
    """What both versions offer. ``name`` is the cell's: plain digits."""

    version: int

    @property
    def all_vms(self) -> Path:
        """Return the group that all others are in, where it tells of memory."""

    def create(self, name: str, targets: CgroupTargets) -> None:
        """Make the group with these limits."""

    def set_targets(self, name: str, targets: CgroupTargets) -> None:
        """Change the limits."""

    def set_memory(self, name: str, memory_bytes: int) -> None:
        """Change how much memory the group may have."""

    def set_disk_shares(self, name: str, shares: int) -> None:
        """Change the weight at the host's disks, where Linux has one."""

    def directories(self, name: str) -> tuple[Path, ...]:
        """Return the directories that make up the group."""

    def usage(self, name: str) -> Usage:
        """Read what the group has used."""

    def names(self) -> frozenset[str]:
        """Return the groups that exist."""

    def remove(self, name: str) -> None:
        """Kill what is in the group and remove it; nothing to do where it is gone."""

    def close(self) -> None:
        """Remove the home's own group where it is empty."""


def detect(home_id: str, mountinfo: Path = Path("/proc/self/mountinfo")) -> Cgroups:
    """Find out which version has the controllers for CPU, memory and pids.

    Raises:
        HostError: Neither has all of them.
    """
    unified: Path | None = None
    legacy: dict[str, Path] = {}
    for kind, place, options in _mounts(mountinfo):
        if kind == "cgroup2":
            unified = place
        elif kind == "cgroup":
            legacy |= dict.fromkeys(options, place)
    group = f"casemate-{home_id}"
    if unified is not None:
        offered = (unified / "cgroup.controllers").read_text().split()
        if set(_CONTROLLERS) <= set(offered):
            return CgroupsV2(unified, group, disks="io" in offered)
    wanted = (*_CONTROLLERS, "cpuacct")
    if all(name in legacy for name in wanted):
        roots = {name: legacy[name] / group for name in wanted}
        if "blkio" in legacy and os.access(legacy["blkio"], os.W_OK):
            roots["blkio"] = legacy["blkio"] / group
        return CgroupsV1(roots)
    raise HostError(
        "no control groups for CPU, memory and pids",
        code="cgroups",
        remedy="Mount cgroup2 on /sys/fs/cgroup (systemd does), with these controllers enabled.",
    )


def attach_self(directories: tuple[Path, ...]) -> None:
    """Move the calling process into a group; for a forked child."""
    for directory in directories:
        _write(directory / "cgroup.procs", "0")


class CgroupsV1:
    """One directory for each controller."""

    version = 1

    def __init__(self, roots: dict[str, Path]) -> None:
        self._roots = roots

    @property
    def all_vms(self) -> Path:
        """Return the group of all at the controller for memory."""
        return self._roots["memory"]

    def create(self, name: str, targets: CgroupTargets) -> None:
        """Make the group with these limits; on failure nothing of it stays."""
        try:
            for root in self._distinct():
                _mkdir(root)
                _mkdir(root / name)
            self.set_targets(name, targets)
        except BaseException:
            self.remove(name)
            raise

    def set_targets(self, name: str, targets: CgroupTargets) -> None:
        """Change the limits."""
        cpu, memory = self._roots["cpu"] / name, self._roots["memory"] / name
        _write(cpu / "cpu.shares", str(_clamp(targets.cpu_shares, _SHARES_RANGE)))
        _write(cpu / "cpu.cfs_period_us", str(_PERIOD))
        _write(cpu / "cpu.cfs_quota_us", str(targets.cpu_quota))
        _write(memory / "memory.limit_in_bytes", str(targets.memory_bytes))
        _write(self._roots["pids"] / name / "pids.max", str(targets.pids))
        self.set_disk_shares(name, targets.disk_shares)

    def set_memory(self, name: str, memory_bytes: int) -> None:
        """Change how much memory the group may have."""
        _write(self._roots["memory"] / name / "memory.limit_in_bytes", str(memory_bytes))

    def set_disk_shares(self, name: str, shares: int) -> None:
        """Change the weight at the host's disks, where Linux has one."""
        diskweight.write(self.directories(name), shares)

    def directories(self, name: str) -> tuple[Path, ...]:
        """Return one directory a controller (controllers mounted together share one)."""
        return tuple(root / name for root in self._distinct())

    def usage(self, name: str) -> Usage:
        """Read what the group has used."""
        return Usage(
            cpu_seconds=int(_read(self._roots["cpuacct"] / name / "cpuacct.usage")) / 1e9,
            memory_bytes=int(_read(self._roots["memory"] / name / "memory.usage_in_bytes")),
            pids=int(_read(self._roots["pids"] / name / "pids.current")),
        )

    def names(self) -> frozenset[str]:
        """Return the groups that exist in any controller."""
        return frozenset(name for root in self._distinct() for name in _children(root))

    def remove(self, name: str) -> None:
        """Kill what is in the group and remove it."""
        for directory in self.directories(name):
            _empty(directory)
        for directory in self.directories(name):
            _rmdir(directory)

    def close(self) -> None:
        """Remove the home's own group where it is empty."""
        for root in self._distinct():
            _rmdir_if_empty(root)

    def _distinct(self) -> tuple[Path, ...]:
        found: dict[tuple[int, int], Path] = {}
        for root in self._roots.values():
            place = root.parent.stat()
            found.setdefault((place.st_dev, place.st_ino), root)
        return tuple(found.values())


class CgroupsV2:
    """One directory for all controllers."""

    version = 2

    def __init__(self, mount: Path, group: str, *, disks: bool = False) -> None:
        self._controllers = (*_CONTROLLERS, "io") if disks else _CONTROLLERS
        self._mount = mount
        self._root = mount / group

    @property
    def all_vms(self) -> Path:
        """Return the group of all."""
        return self._root

    def create(self, name: str, targets: CgroupTargets) -> None:
        """Make the group with these limits; on failure nothing of it stays."""
        enable = " ".join(f"+{controller}" for controller in self._controllers)
        _write(self._mount / "cgroup.subtree_control", enable)
        _mkdir(self._root)
        _write(self._root / "cgroup.subtree_control", enable)
        try:
            _mkdir(self._root / name)
            self.set_targets(name, targets)
        except BaseException:
            self.remove(name)
            raise

    def set_targets(self, name: str, targets: CgroupTargets) -> None:
        """Change the limits."""
        group = self._root / name
        quota = "max" if targets.cpu_quota < 0 else str(targets.cpu_quota)
        _write(group / "cpu.weight", str(weight_of_shares(targets.cpu_shares)))
        _write(group / "cpu.max", f"{quota} {_PERIOD}")
        _write(group / "memory.max", str(targets.memory_bytes))
        _write(group / "pids.max", str(targets.pids))
        self.set_disk_shares(name, targets.disk_shares)

    def set_memory(self, name: str, memory_bytes: int) -> None:
        """Change how much memory the group may have."""
        _write(self._root / name / "memory.max", str(memory_bytes))

    def set_disk_shares(self, name: str, shares: int) -> None:
        """Change the weight at the host's disks, where Linux has one."""
        diskweight.write(self.directories(name), shares)

    def directories(self, name: str) -> tuple[Path, ...]:
        """Return the one directory."""
        return (self._root / name,)

    def usage(self, name: str) -> Usage:
        """Read what the group has used."""
        group = self._root / name
        statistics = dict(line.split() for line in _read(group / "cpu.stat").splitlines())
        return Usage(
            cpu_seconds=int(statistics["usage_usec"]) / 1e6,
            memory_bytes=int(_read(group / "memory.current")),
            pids=int(_read(group / "pids.current")),
        )

    def names(self) -> frozenset[str]:
        """Return the groups that exist."""
        return frozenset(_children(self._root))

    def remove(self, name: str) -> None:
        """Kill what is in the group and remove it."""
        with suppress(HostError):
            _write(self._root / name / "cgroup.kill", "1")
        _empty(self._root / name)
        _rmdir(self._root / name)

    def close(self) -> None:
        """Remove the home's own group where it is empty."""
        _rmdir_if_empty(self._root)


def weight_of_shares(shares: int) -> int:
    """Convert shares to a v2 weight as the kernel's documentation does: linear, ends to ends."""
    low, high = _SHARES_RANGE
    first, last = _WEIGHT_RANGE
    return first + (_clamp(shares, _SHARES_RANGE) - low) * (last - first) // (high - low)


def _clamp(value: int, bounds: tuple[int, int]) -> int:
    return max(bounds[0], min(value, bounds[1]))


def _mounts(mountinfo: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Yield type, place and super block options of each mount."""
    for line in mountinfo.read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        yield kind, Path(left.split(" ")[4]), options.split(",")


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        raise from_os_error(f"cannot write {value} to {path}", error, component="cgroup") from error


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise from_os_error(f"cannot read {path}", error, component="cgroup") from error


def _mkdir(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise from_os_error(f"cannot make {path}", error, component="cgroup") from error


def _children(root: Path) -> Iterator[str]:
    with suppress(FileNotFoundError):
        yield from (entry.name for entry in root.iterdir() if entry.is_dir())


def _empty(directory: Path) -> None:
    """Kill every process of a group until none is left.

    Raises:
        HostError: Some did not go in time.
    """
    deadline = time.monotonic() + _LEAVE_TIMEOUT
    while True:
        try:
            pids = (directory / "cgroup.procs").read_text().split()
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENODEV}:
                return
            raise from_os_error(f"cannot read {directory}", error, component="cgroup") from error
        if not pids:
            return
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if time.monotonic() > deadline:
            raise HostError(
                f"processes {', '.join(pids)} cannot be killed",
                code="cgroup-busy",
                component=str(directory),
                remedy="Look for stuck devices or file systems (processes in state D).",
            )
        time.sleep(_PAUSE)


def _rmdir(directory: Path) -> None:
    """Remove a group; a dead process may hold it for a moment longer."""
    deadline = time.monotonic() + _LEAVE_TIMEOUT
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise from_os_error(f"cannot remove {directory}", error) from error
            time.sleep(_PAUSE)
        else:
            return


def _rmdir_if_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()
