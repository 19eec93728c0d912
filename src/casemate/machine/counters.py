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
    """One counter. ``of`` says what has it: ``vm``, ``host``, ``both`` or ``none``."""

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
_NOT_KEPT: Final = (
    ("cpu", "summation", "millisecond", "delta", "idle used wait system swapwait run overlap"),
    ("cpu", "average", "percent", "rate", "latency utilization coreUtilization"),
    ("mem", "average", "kiloBytes", "absolute", "swapped swaptarget swapin swapout swapused"),
    ("mem", "average", "kiloBytes", "absolute", "shared sharedcommon zero heap unreserved"),
    ("mem", "average", "kiloBytes", "absolute", "compressed decompressed llSwapUsed sysUsage"),
    ("mem", "average", "kiloBytesPerSecond", "rate", "swapinRate swapoutRate"),
    ("mem", "average", "percent", "absolute", "latency reservedCapacityPct"),
    ("disk", "latest", "millisecond", "absolute", "maxTotalLatency"),
    ("disk", "average", "millisecond", "absolute", "totalLatency deviceLatency kernelLatency"),
    ("disk", "average", "millisecond", "absolute", "totalReadLatency totalWriteLatency"),
    ("disk", "average", "number", "rate", "numberReadAveraged numberWriteAveraged"),
    ("virtualDisk", "average", "kiloBytesPerSecond", "rate", "read write"),
    ("virtualDisk", "average", "number", "rate", "numberReadAveraged numberWriteAveraged"),
    ("virtualDisk", "average", "millisecond", "absolute", "totalReadLatency totalWriteLatency"),
    ("datastore", "average", "kiloBytesPerSecond", "rate", "read write"),
    ("datastore", "average", "number", "rate", "numberReadAveraged numberWriteAveraged"),
    ("datastore", "average", "millisecond", "absolute", "totalReadLatency totalWriteLatency"),
    ("datastore", "latest", "millisecond", "absolute", "maxTotalLatency"),
    ("net", "average", "kiloBytesPerSecond", "rate", "bytesRx bytesTx"),
    ("net", "summation", "number", "delta", "packetsRx packetsTx droppedRx droppedTx errorsRx"),
    ("net", "summation", "number", "delta", "errorsTx multicastRx multicastTx broadcastRx"),
    ("net", "summation", "number", "delta", "broadcastTx unknownProtos"),
    ("sys", "summation", "number", "delta", "heartbeat"),
    ("sys", "latest", "second", "absolute", "osUptime"),
    ("power", "average", "watt", "rate", "power powerCap"),
    ("power", "summation", "joule", "delta", "energy"),
    ("rescpu", "latest", "percent", "absolute", "actav1 actav5 actav15 runav1 runav5 runav15"),
)
"""vSphere's counters that nothing here has: clients look up names, then ask what there is."""

COUNTERS: Final = tuple(Counter(number, *row) for number, row in enumerate(_ROWS, 1))
KNOWN: Final = (
    *COUNTERS,
    *(
        Counter(number, group, name, Rollup(rollup), unit, kind, "none", f"{name}, not kept here")
        for number, (group, rollup, unit, kind, name) in enumerate(
            ((*row[:4], name) for row in _NOT_KEPT for name in row[4].split()), len(_ROWS) + 1
        )
    ),
)
"""Every counter that has a number: those that are kept, and those that nothing has."""
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
