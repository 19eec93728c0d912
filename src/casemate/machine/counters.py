"""The counters that are kept of VMs and of the host: vSphere's names, units and kinds.

``key`` is this host's own number for a counter; clients find it by name (group, name, roll-up).
Percentages are hundredths, as vSphere gives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SAMPLE_SECONDS: Final = 20
"""vSphere's real-time interval."""
SAMPLES: Final = 180
"""Real-time samples kept: an hour."""
ROLLED_SECONDS: Final = 300
"""The first historical interval of vSphere."""
ROLLED: Final = 288
"""Rolled-up samples kept: a day."""


class Rollup(StrEnum):
    """How several samples become one."""

    AVERAGE = "average"
    SUMMATION = "summation"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Counter:
    """One counter. ``of`` says what has it: ``vm``, ``host`` or ``both``."""

    key: int
    group: str
    name: str
    rollup: Rollup
    unit: str
    kind: str
    of: str
    label: str

    @property
    def path(self) -> str:
        """The name by which it is asked for: ``cpu.usage.average``."""
        return f"{self.group}.{self.name}.{self.rollup}"


_A, _S, _L = Rollup.AVERAGE, Rollup.SUMMATION, Rollup.LATEST
_ROWS: Final = (
    ("cpu", "usage", _A, "percent", "rate", "both", "CPU usage"),
    ("cpu", "usagemhz", _A, "megaHertz", "rate", "both", "CPU usage in MHz"),
    ("cpu", "demand", _A, "megaHertz", "absolute", "vm", "CPU it would use if it had all"),
    ("cpu", "entitlement", _L, "megaHertz", "absolute", "vm", "CPU it is entitled to"),
    ("cpu", "cpuentitlement", _L, "megaHertz", "absolute", "vm", "CPU in the worst case"),
    ("cpu", "ready", _S, "millisecond", "delta", "both", "time ready, without a processor"),
    ("cpu", "costop", _S, "millisecond", "delta", "vm", "time held for sibling vCPUs"),
    ("cpu", "maxlimited", _S, "millisecond", "delta", "vm", "time held by the limit"),
    ("cpu", "readiness", _A, "percent", "rate", "vm", "part of time ready"),
    ("mem", "usage", _A, "percent", "absolute", "both", "active or consumed memory"),
    ("mem", "active", _A, "kiloBytes", "absolute", "both", "memory in active use"),
    ("mem", "consumed", _A, "kiloBytes", "absolute", "both", "memory of the host held"),
    ("mem", "granted", _A, "kiloBytes", "absolute", "both", "memory of the guest backed"),
    ("mem", "entitlement", _A, "kiloBytes", "absolute", "vm", "memory it is entitled to"),
    ("mem", "overhead", _A, "kiloBytes", "absolute", "both", "memory beside the guest's"),
    ("mem", "vmmemctl", _A, "kiloBytes", "absolute", "both", "memory in the balloon"),
    ("mem", "vmmemctltarget", _A, "kiloBytes", "absolute", "vm", "target of the balloon"),
    ("mem", "state", _L, "number", "absolute", "host", "state of free memory, 0 is best"),
    ("mem", "lowfreethreshold", _A, "kiloBytes", "absolute", "host", "least free memory"),
    ("disk", "read", _A, "kiloBytesPerSecond", "rate", "vm", "read from virtual disks"),
    ("disk", "write", _A, "kiloBytesPerSecond", "rate", "vm", "written to virtual disks"),
    ("disk", "usage", _A, "kiloBytesPerSecond", "rate", "vm", "read and written"),
    ("disk", "numberRead", _S, "number", "delta", "vm", "read requests"),
    ("disk", "numberWrite", _S, "number", "delta", "vm", "write requests"),
    ("net", "received", _A, "kiloBytesPerSecond", "rate", "both", "received by network cards"),
    ("net", "transmitted", _A, "kiloBytesPerSecond", "rate", "both", "sent by network cards"),
    ("net", "usage", _A, "kiloBytesPerSecond", "rate", "both", "received and sent"),
    ("sys", "uptime", _L, "second", "absolute", "both", "time since power-on"),
)
COUNTERS: Final = tuple(Counter(number, *row) for number, row in enumerate(_ROWS, 1))
BY_PATH: Final = {counter.path: counter for counter in COUNTERS}


def rolled_up(rollup: Rollup, values: list[int]) -> int:
    """Make one value of several; those that were not measured (-1) do not count."""
    known = [value for value in values if value >= 0]
    if not known:
        return -1
    match rollup:
        case Rollup.AVERAGE:
            return round(sum(known) / len(known))
        case Rollup.SUMMATION:
            return sum(known)
        case Rollup.LATEST:
            return known[-1]
