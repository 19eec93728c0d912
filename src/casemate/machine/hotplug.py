"""What a running VM takes of a change of its hardware; everything else waits until it is off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from casemate.machine.diskmodes import forgets
from casemate.machine.facts import DiskSpec, DriveSpec, VmConfig
from casemate.machine.hotnotes import (
    CARDS,
    STEP_MIB,
    Added,
    card_numbers,
    free_ports,
    with_added,
    with_devices,
)
from casemate.machine.hotnotes import added as added_to
from casemate.machine.peripherals import shown_to_guest

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
_LEAST_MIB: Final = 256


Held = DiskSpec | DriveSpec
"""A disc in its drive, or the drive without one."""


@dataclass(frozen=True, slots=True)
class HotChange:
    """vCPUs, MiB and disks that come, disks that go, and what CD drives hold before and after.

    ``cards`` are the numbers of network cards that come, ``controllers`` names of SCSI controllers,
    ``card_gone`` is the number of the one card that goes, ``unplugged`` names the one controller.
    """

    cpus: int = 0
    memory_mib: int = 0
    cards: tuple[int, ...] = ()
    controllers: tuple[str, ...] = ()
    added: tuple[DiskSpec, ...] = ()
    removed: tuple[DiskSpec, ...] = ()
    swapped: tuple[tuple[Held, Held], ...] = ()
    card_gone: int | None = None
    unplugged: tuple[str, ...] = ()


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


def hot_change(before: VmConfig, after: VmConfig, unplug: tuple[str, ...] = ()) -> HotChange | None:
    """Return what has to be done to a running VM; None: it takes only some of it, or nothing.

    Disks come to and go from SCSI controllers; those and network cards come while a port is free.
    A card goes if it is in a port, so does a controller that ``unplug`` names and that no disk is
    on; one of them at a time, and neither vCPUs nor memory come with that: what the guest
    may refuse is asked before what cannot be taken back.
    """
    regrouped = cores_per_socket(before) != cores_per_socket(after)
    started = any(
        _allowed(before, entry) != _allowed(after, entry) for entry in (CPU_HOT_ADD, MEMORY_HOT_ADD)
    )
    altered = regrouped or started or shown_to_guest(before) != shown_to_guest(after)
    known, cards = added_to(before), _cards_change(before, after)
    was, now = (_rest(replace(one, nics=()), after) for one in (before, after))
    if altered or was != now or cards is None:
        return None
    gone, come = cards
    cpus = after.cpus - before.cpus
    memory = after.memory_mib - before.memory_mib
    if cpus < 0 or (cpus and after.cpus > most_cpus(before)):
        return None
    if memory < 0 or memory % STEP_MIB or (memory and not takes_memory(before)):
        return None
    disks = _disks_change(before, after)
    asked = (gone is not None) + len(unplug)
    held = not set(unplug) <= set(known.devices) - _used(after)
    if disks is None or held or asked > 1 or (asked and (cpus or memory)):
        return None
    present = _used(before) | known.controllers
    controllers = tuple(sorted({disk.controller for disk in disks.added} - present))
    if len(come) + len(controllers) > free_ports(known):
        return None
    return replace(
        disks,
        cpus=cpus,
        memory_mib=memory,
        cards=come,
        controllers=controllers,
        card_gone=gone,
        unplugged=unplug,
    )


def _cards_change(before: VmConfig, after: VmConfig) -> tuple[int | None, tuple[int, ...]] | None:
    """Return the number of the card that goes, and those of cards that come; None: another change.

    Numbers are as ``hotnotes.card_numbers`` says: a card keeps its own when one before it goes.
    """
    numbers, devices = card_numbers(before), added_to(before).devices
    was, now = (
        [replace(nic, network="", connected=True) for nic in one.nics] for one in (before, after)
    )
    if now[: len(was)] == was:
        free = [number for number in range(CARDS) if number not in numbers]
        return None, tuple(free[: len(now) - len(was)])
    for at in reversed(range(len(was))):
        if was[:at] + was[at + 1 :] == now and f"ethernet{numbers[at]}" in devices:
            return numbers[at], ()
    return None


def settled(before: VmConfig, after: VmConfig) -> VmConfig:
    """Return a VM as it is once all but the coming and going of cards has been done."""
    wanted = {nic.mac: nic for nic in after.nics}
    nics = tuple(wanted.get(nic.mac, nic) for nic in before.nics)
    return with_added(replace(after, nics=nics), added_to(before))


def _used(config: VmConfig) -> set[str]:
    """Return the controllers that something is on."""
    return {one.controller for one in config.slots}


def _disks_change(before: VmConfig, after: VmConfig) -> HotChange | None:
    """Return what has to be done for disks and discs; None: it waits until the VM is off."""
    old, new = _by_slot(before), _by_slot(after)
    swapped: list[tuple[Held, Held]] = []
    for slot in sorted(old.keys() & new.keys()):
        was, now = old[slot], new[slot]
        if _same(was, now):
            continue
        if not (_is_cd(was) and _is_cd(now)):
            return None
        swapped.append((was, now))
    comes = tuple(new[slot] for slot in sorted(new.keys() - old.keys()))
    goes = tuple(old[slot] for slot in sorted(old.keys() - new.keys()))
    if not all(_is_hot(one) for one in (*comes, *goes)):
        return None
    return HotChange(
        added=tuple(one for one in comes if isinstance(one, DiskSpec)),
        removed=tuple(one for one in goes if isinstance(one, DiskSpec)),
        swapped=tuple(swapped),
    )


def _is_hot(one: Held) -> bool:
    """Tell whether a disk can come to a running VM, and go."""
    if isinstance(one, DriveSpec) or one.kind != "disk" or forgets(one):
        return False
    return one.controller.startswith("scsi")


def grown(before: VmConfig, after: VmConfig, change: HotChange) -> VmConfig:
    """Return the configuration after a change, with a note of what came and went."""
    known = added_to(before)
    memory = (change.memory_mib,) if change.memory_mib else ()
    come = (*change.controllers, *(f"ethernet{card}" for card in change.cards))
    gone = () if change.card_gone is None else (f"ethernet{change.card_gone}",)
    ports = with_devices(known, come, (*gone, *change.unplugged))
    board = {one for one in _used(before) if one.startswith("scsi")} | set(known.kept)
    kept = tuple(sorted(board - set(known.devices) - _used(after)))
    numbers = tuple(one for one in card_numbers(before) if one != change.card_gone)
    noted = Added((*known.memory, *memory), ports.devices, kept, (*numbers, *change.cards))
    return with_added(after, noted)


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
    return replace(disk, capacity=0, iops=-1, bps=-1, shares=0)


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
