"""What is in a VM's ports and came to it, as vmx entries: one that wakes up must have the same.

Memory counts by modules, devices by the port that each is in. A VM that starts afresh gets new
entries, so they mean something only while it runs or beside a saved memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from casemate.machine.facts import VmConfig

MEMORY: Final = "casemate.hotMemory"
"""The MiB of each module, with + between."""
DEVICES: Final = "casemate.hotDevices"
"""Each device, ``ethernet1`` or ``scsi2``, in the order of its port, with + between."""
KEPT: Final = "casemate.hotKept"
"""Each SCSI controller that no disk is on any more and that no port has, with + between."""
NUMBERS: Final = "casemate.hotCards"
"""The number that each network card has while the VM runs, with + between; else they count up."""
CARDS: Final = 10
"""Network cards of a VM."""
MODULES: Final = 16
"""Modules that can come: the board's sockets."""
STEP_MIB: Final = 128
"""MiB of a module: Linux on x86-64 takes memory in blocks of this size."""
PORTS: Final = 6
"""The board's ports, which devices can come to and be taken from while the VM runs."""
PORT_CARDS: Final = 2
"""Network cards that are in ports when the VM starts, the others are the board's own."""
FREE: Final = "free"
"""A port that a device was taken from, before others."""
_SIZE: Final = re.compile(r"[0-9]{1,8}")
_DEVICE: Final = re.compile(r"ethernet[0-9]|scsi[0-3]|free")
_BOARD: Final = re.compile(r"scsi[0-3]")
_NUMBER: Final = re.compile(r"[0-9]")
_CONTROLLERS: Final = 4
_NAMES: Final = (MEMORY.lower(), DEVICES.lower(), KEPT.lower(), NUMBERS.lower())


@dataclass(frozen=True, slots=True)
class Added:
    """MiB of the modules of memory that came, the devices, and what stays without a disk.

    ``kept`` are SCSI controllers of the board: it takes none and lets none go while the VM runs.
    ``cards`` are the numbers of the network cards, where one before others has gone.
    """

    memory: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    cards: tuple[int, ...] = ()

    @property
    def controllers(self) -> frozenset[str]:
        """The SCSI controllers that are there whether a disk is on them or not."""
        return frozenset(one for one in (*self.devices, *self.kept) if _BOARD.fullmatch(one))


def added(config: VmConfig) -> Added:
    """Return what is in a VM's ports and sockets; entries that make no sense count as nothing."""
    entries = {name.lower(): value for name, value in config.extra}
    sizes = _words(entries.get(MEMORY.lower(), ""), _SIZE, MODULES)
    memory = tuple(int(size) for size in sizes)
    if sum(memory) >= config.memory_mib or any(not one or one % STEP_MIB for one in memory):
        memory = ()
    devices = _words(entries.get(DEVICES.lower(), "").lower(), _DEVICE, PORTS)
    named = [one for one in devices if one != FREE]
    kept = _words(entries.get(KEPT.lower(), "").lower(), _BOARD, _CONTROLLERS)
    return Added(
        memory,
        devices if len(set(named)) == len(named) else (),
        kept if len(set(kept)) == len(kept) else (),
        _numbers(entries.get(NUMBERS.lower(), ""), len(config.nics)),
    )


def card_numbers(config: VmConfig) -> tuple[int, ...]:
    """Return the number that each network card of a VM has while it runs, and as it was started."""
    return added(config).cards or tuple(range(len(config.nics)))


def _numbers(value: str, count: int) -> tuple[int, ...]:
    """Return numbers of cards; nothing where they count up, or make no sense."""
    found = tuple(int(word) for word in _words(value, _NUMBER, CARDS))
    good = len(set(found)) == len(found) == count and found != tuple(range(count))
    return found if good else ()


def at_start(cards: int) -> Added:
    """Return what is in the ports of a VM that starts afresh with so many network cards."""
    return Added(devices=tuple(f"ethernet{number}" for number in range(min(cards, PORT_CARDS))))


def with_devices(what: Added, come: tuple[str, ...], gone: tuple[str, ...]) -> Added:
    """Return the note after devices came to the first free ports, and others went."""
    ports = [FREE if one in gone else one for one in what.devices]
    for one in come:
        if FREE in ports:
            ports[ports.index(FREE)] = one
        else:
            ports.append(one)
    while ports and ports[-1] == FREE:
        ports.pop()
    return replace(what, devices=tuple(ports))


def free_ports(what: Added) -> int:
    """Return how many devices can come."""
    return PORTS - sum(one != FREE for one in what.devices)


def with_added(config: VmConfig, what: Added) -> VmConfig:
    """Return the configuration that says this."""
    others = tuple(entry for entry in config.extra if entry[0].lower() not in _NAMES)
    sizes = _joined(what.memory)
    numbers = "" if what.cards == tuple(range(len(what.cards))) else _joined(what.cards)
    said = (
        (MEMORY, sizes),
        (DEVICES, "+".join(what.devices)),
        (KEPT, "+".join(what.kept)),
        (NUMBERS, numbers),
    )
    extra = (*others, *(entry for entry in said if entry[1]))
    return config if extra == config.extra else replace(config, extra=extra)


def port_of(device: str, what: Added) -> str:
    """Return QEMU's name of the port that a device came to; empty: it was there from the start."""
    return port_id(what.devices.index(device)) if device in what.devices else ""


def port_id(number: int) -> str:
    """Return QEMU's name of a port for what may come."""
    return f"hot{number}"


def memory_id(number: int) -> str:
    """Return QEMU's name of the memory in a module."""
    return f"memory-{number}"


def module_id(number: int) -> str:
    """Return QEMU's name of a module of memory."""
    return f"module-{number}"


def _joined(numbers: tuple[int, ...]) -> str:
    return "+".join(str(number) for number in numbers)


def _words(value: str, kind: re.Pattern[str], most: int) -> tuple[str, ...]:
    words = tuple(value.split("+"))
    good = len(words) <= most and all(kind.fullmatch(word) for word in words)
    return words if good else ()
