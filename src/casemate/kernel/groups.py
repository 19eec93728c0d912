"""Carries targets out: writes to control groups what changed, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from casemate.errors import CasemateError
from casemate.kernel.cells.cgroups import Cgroups
from casemate.kernel.sys.libc import from_os_error
from casemate.kernel.sys.process import end_for_memory
from casemate.sched.targets import PERIOD_US, CpuTarget, MemoryTarget, WeightScale

_HOST_PART: Final = 20
"""All VMs together weigh so many times one busy task of the host on each processor: neither
starves the other."""
_DEFAULT: Final = {1: 1024, 2: 100}
_DEAD_BAND: Final = 50
"""A weight is written again when it differs by a fiftieth: measured demand is never quite still."""
_SCORE_BAND: Final = 5
"""Thousandths of the host's memory by which a score must differ to be written again."""


class Groups:
    """The groups of all cells, with what was written to them last."""

    def __init__(self, cgroups: Cgroups, threads: int) -> None:
        self._cgroups = cgroups
        self._threads = max(1, threads)
        self.scale = WeightScale.V1 if cgroups.version == 1 else WeightScale.V2
        self._cpu: dict[str, CpuTarget] = {}
        self._memory: dict[str, MemoryTarget] = {}
        self._ends: dict[str, int] = {}

    def forget(self, running: Mapping[str, object]) -> None:
        """Forget the VMs that do not run any more."""
        for known in (self._cpu, self._memory, self._ends):
            for gone in known.keys() - running.keys():
                del known[gone]

    def set_cpu(self, vm: str, target: CpuTarget) -> bool:
        """Set weight and quota where they differ from before; True when something was written.

        Raises:
            HostError: The group has gone, or takes no such value.
        """
        before = self._cpu.get(vm)
        if before is None:
            self._weigh_all(vm)
        elif before.quota_us == target.quota_us and (
            abs(before.weight - target.weight) * _DEAD_BAND <= before.weight
        ):
            return False
        place = self._directory(vm, "cpu.stat")
        if before is None or before.weight != target.weight:
            _write(place / ("cpu.shares" if self._v1 else "cpu.weight"), str(target.weight))
        if before is None or before.quota_us != target.quota_us:
            if self._v1:
                quota = -1 if target.quota_us is None else target.quota_us
                _write(place / "cpu.cfs_quota_us", str(quota))
            else:
                word = "max" if target.quota_us is None else str(target.quota_us)
                _write(place / "cpu.max", f"{word} {PERIOD_US}")
        self._cpu[vm] = target
        return True

    def set_memory(self, targets: Mapping[str, MemoryTarget]) -> list[str]:
        """Protect VMs' memory and return those whose bounds changed.

        cgroup v1 has no such protection: there the balloon alone keeps reservations. The limit
        stays at the size of the VM and what QEMU needs: it is a net, never a way to reclaim.

        Raises:
            HostError: A group has gone, or takes no such value.
        """
        if self._v1:
            return []
        changed = [vm for vm, target in targets.items() if self._memory.get(vm) != target]
        if changed:
            root = self._directory(changed[0], "memory.low").parent
            _write(root / "memory.min", str(sum(t.minimum for t in targets.values())))
            _write(root / "memory.low", str(sum(t.low for t in targets.values())))
        for vm in changed:
            place = self._directory(vm, "memory.low")
            _write(place / "memory.min", str(targets[vm].minimum))
            _write(place / "memory.low", str(targets[vm].low))
            self._memory[vm] = targets[vm]
        return changed

    def order_ends(self, scores: Mapping[str, int]) -> None:
        """Have Linux end VMs in this order where memory is out (``targets.end_scores``)."""
        for vm, score in scores.items():
            before = self._ends.get(vm)
            if before is not None and abs(score - before) < _SCORE_BAND:
                continue
            with suppress(CasemateError, OSError):  # it may end meanwhile
                place = self._directory(vm, "cgroup.procs")
                for pid in (place / "cgroup.procs").read_text().split():
                    end_for_memory(score, pid)
                self._ends[vm] = score

    def target(self, vm: str) -> CpuTarget | None:
        """Return what a VM's group was told last."""
        return self._cpu.get(vm)

    @property
    def _v1(self) -> bool:
        return self._cgroups.version == 1

    def _directory(self, vm: str, holding: str) -> Path:
        for directory in self._cgroups.directories(vm):
            if (directory / holding).exists():
                return directory
        raise CasemateError(f"the control group of VM {vm} is gone", code="cgroup", component=vm)

    def _weigh_all(self, vm: str) -> None:
        """Give the group of all VMs its weight beside the processes of the host."""
        root = self._directory(vm, "cpu.stat").parent
        weight = _DEFAULT[self._cgroups.version] * _HOST_PART * self._threads
        name = "cpu.shares" if self._v1 else "cpu.weight"
        _write(root / name, str(min(weight, self.scale.value[1])))


def _write(path: Path, value: str) -> None:
    """Write at once, so that the kernel's refusal is seen."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(handle, value.encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise from_os_error(f"cannot write {value} to {path}", error, component="cgroup") from error
