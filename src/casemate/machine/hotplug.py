"""What a running VM takes of a change of its hardware; everything else waits until it is off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from casemate.machine.diskmodes import forgets
from casemate.machine.facts import DiskSpec, DriveSpec, VmConfig

HOT_CPUS: Final = 16
"""vCPUs up to which more can be added to a running VM."""
CORES: Final = "cpuid.coresPerSocket"
"""VMware's vmx entry that says how many vCPUs make a socket."""
_DIGITS: Final = 5
CPU_HOT_ADD: Final = "vcpu.hotadd"
MEMORY_HOT_ADD: Final = "mem.hotadd"
"""VMware's vmx entries that allow more vCPUs and memory while the VM runs."""
HOT_MEMORY_MIB: Final = 64 << 10
"""MiB that can be added to a running VM."""
MODULES: Final = 16
"""... in so many pieces: the board's sockets."""
STEP_MIB: Final = 128
"""MiB of a piece: Linux on x86-64 takes memory in blocks of this size."""
_LEAST_MIB: Final = 256
ADDED: Final = "casemate.memoryModules"
"""vmx entry: the MiB of each module that came to the VM since it was started, with + between."""


Held = DiskSpec | DriveSpec
"""A disc in its drive, or the drive without one."""


@dataclass(frozen=True, slots=True)
class HotChange:
    """vCPUs, MiB and disks that come, disks that go, and what CD drives hold before and after."""

    cpus: int = 0
    memory_mib: int = 0
    added: tuple[DiskSpec, ...] = ()
    removed: tuple[DiskSpec, ...] = ()
    swapped: tuple[tuple[Held, Held], ...] = ()


def takes_cpus(config: VmConfig) -> bool:
    """Tell whether vCPUs can be added while the VM runs, if it was started so."""
    return _allowed(config, CPU_HOT_ADD)


def takes_memory(config: VmConfig) -> bool:
    """Tell whether memory can be added while the VM runs, if it was started so.

    A guest with very little does not boot beside empty sockets for memory.
    """
    return _allowed(config, MEMORY_HOT_ADD) and config.memory_mib >= _LEAST_MIB


def _allowed(config: VmConfig, entry: str) -> bool:
    return any(name.lower() == entry and value.lower() == "true" for name, value in config.extra)


def memory_id(number: int) -> str:
    """Return QEMU's name of the memory in a module."""
    return f"memory-{number}"


def module_id(number: int) -> str:
    """Return QEMU's name of a module of memory."""
    return f"module-{number}"


def modules_of(config: VmConfig) -> tuple[int, ...]:
    """Return the MiB of the modules of memory that came while the VM ran.

    Senseless entries count as none: the memory is then all there from the start.
    """
    value = next((value for name, value in config.extra if name.lower() == ADDED.lower()), "")
    words = value.split("+")
    if not all(word.isascii() and word.isdecimal() and len(word) < _DIGITS + 3 for word in words):
        return ()
    sizes = tuple(int(word) for word in words)
    sensible = len(sizes) <= MODULES and all(size and not size % STEP_MIB for size in sizes)
    return sizes if sensible and sum(sizes) < config.memory_mib else ()


def with_modules(config: VmConfig, sizes: tuple[int, ...]) -> VmConfig:
    """Return the configuration that says this of its modules of memory."""
    others = tuple(entry for entry in config.extra if entry[0].lower() != ADDED.lower())
    said = ((ADDED, "+".join(str(size) for size in sizes)),) if sizes else ()
    return replace(config, extra=(*others, *said))


def cores_per_socket(config: VmConfig) -> int:
    """Return how many vCPUs make a socket; a number that does not divide them counts as 1."""
    wanted = next((v for name, v in config.extra if name.lower() == CORES.lower()), "1")
    cores = int(wanted) if wanted.isascii() and wanted.isdecimal() and len(wanted) < _DIGITS else 1
    return cores if cores > 0 and config.cpus % cores == 0 else 1


def most_cpus(config: VmConfig) -> int:
    """Return how many vCPUs the VM may get until it is powered off.

    Single ones come only to sockets of one core.
    """
    if not takes_cpus(config) or cores_per_socket(config) > 1:
        return config.cpus
    return max(config.cpus, HOT_CPUS)


def hot_change(before: VmConfig, after: VmConfig) -> HotChange | None:
    """Return what has to be done to a running VM; None: it takes only some of it, or nothing.

    Disks come to and go from SCSI controllers that have a disk already: what the VM was started
    with.
    """
    regrouped = cores_per_socket(before) != cores_per_socket(after)
    if regrouped or _rest(before, after) != _rest(after, after):
        return None
    cpus = after.cpus - before.cpus
    if cpus < 0 or (cpus and after.cpus > most_cpus(before)):
        return None
    memory = after.memory_mib - before.memory_mib
    if memory < 0 or memory % STEP_MIB or (memory and not takes_memory(before)):
        return None
    old, new = _by_slot(before), _by_slot(after)
    swapped: list[tuple[Held, Held]] = []
    for slot in sorted(old.keys() & new.keys()):
        was, now = old[slot], new[slot]
        if _same(was, now):
            continue
        if not (_is_cd(was) and _is_cd(now)):
            return None
        swapped.append((was, now))
    controllers = {disk.controller for disk in before.disks}
    added = tuple(new[slot] for slot in sorted(new.keys() - old.keys()))
    removed = tuple(old[slot] for slot in sorted(old.keys() - new.keys()))
    comes = tuple(one for one in added if isinstance(one, DiskSpec))
    goes = tuple(one for one in removed if isinstance(one, DiskSpec))
    for disk in (*added, *removed):
        hot = isinstance(disk, DiskSpec) and not _is_cd(disk) and not forgets(disk)
        hot = hot and disk.controller.startswith("scsi")
        if not hot or disk.controller not in controllers:
            return None
    return HotChange(cpus, memory, comes, goes, tuple(swapped))


def _by_slot(config: VmConfig) -> dict[tuple[str, int], Held]:
    return {(one.controller, one.unit): one for one in config.slots}


def _is_cd(one: Held) -> bool:
    return isinstance(one, DriveSpec) or one.kind == "cdrom"


def _same(one: Held, other: Held) -> bool:
    if isinstance(one, DriveSpec) or isinstance(other, DriveSpec):
        return one == other
    return _shape(one) == _shape(other)


def _shape(disk: DiskSpec) -> DiskSpec:
    """Return what a running guest sees of a disk and that does not change under it."""
    return replace(disk, capacity=0, iops=-1, bps=-1)


def _rest(config: VmConfig, base: VmConfig) -> VmConfig:
    """Return the hardware that a running guest sees and that does not change under it."""
    nics = tuple(replace(nic, network="", connected=True) for nic in config.nics)
    return replace(
        config,
        name="",
        annotation="",
        cpus=0,
        memory_mib=0,
        disks=(),
        drives=(),
        nics=nics,
        cpu_allocation=base.cpu_allocation,
        memory_allocation=base.memory_allocation,
        extra=(),
    )
