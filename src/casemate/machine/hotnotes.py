"""What came to a VM since it was started, as vmx entries: one that wakes up must have the same.

Memory counts by modules, devices by the port that each came to. A VM that starts afresh has all of
it from the start, so the entries mean something only beside a saved memory.
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
MODULES: Final = 16
"""Modules that can come: the board's sockets."""
STEP_MIB: Final = 128
"""MiB of a module: Linux on x86-64 takes memory in blocks of this size."""
PORTS: Final = 4
"""Devices that can come: the board's ports that are free when it starts."""
_SIZE: Final = re.compile(r"[0-9]{1,8}")
_DEVICE: Final = re.compile(r"ethernet[0-9]|scsi[0-3]")
_NAMES: Final = (MEMORY.lower(), DEVICES.lower())


@dataclass(frozen=True, slots=True)
class Added:
    """MiB of the modules of memory that came, and the devices."""

    memory: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()


def added(config: VmConfig) -> Added:
    """Return what came to a VM; entries that make no sense count as nothing."""
    entries = {name.lower(): value for name, value in config.extra}
    sizes = _words(entries.get(MEMORY.lower(), ""), _SIZE, MODULES)
    memory = tuple(int(size) for size in sizes)
    if sum(memory) >= config.memory_mib or any(not one or one % STEP_MIB for one in memory):
        memory = ()
    devices = _words(entries.get(DEVICES.lower(), "").lower(), _DEVICE, PORTS)
    return Added(memory, devices if len(set(devices)) == len(devices) else ())


def with_added(config: VmConfig, what: Added) -> VmConfig:
    """Return the configuration that says this."""
    others = tuple(entry for entry in config.extra if entry[0].lower() not in _NAMES)
    sizes = "+".join(str(size) for size in what.memory)
    said = ((MEMORY, sizes), (DEVICES, "+".join(what.devices)))
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


def _words(value: str, kind: re.Pattern[str], most: int) -> tuple[str, ...]:
    words = tuple(value.split("+"))
    good = len(words) <= most and all(kind.fullmatch(word) for word in words)
    return words if good else ()
