"""Performance counters and intervals as PerformanceManager shows them."""

from __future__ import annotations

from collections.abc import Mapping

from casemate.hostd.objects.base import Getters, Scope, element
from casemate.machine.counters import KNOWN, ROLLED, ROLLED_SECONDS, Counter
from casemate.vim25.values import Obj, Value

_GROUPS = {
    "cpu": "CPU",
    "mem": "Memory",
    "disk": "Disk",
    "virtualDisk": "Virtual disk",
    "datastore": "Datastore",
    "power": "Power",
    "rescpu": "Resource group CPU",
    "net": "Network",
    "sys": "System",
}
_UNITS = {
    "percent": "%",
    "megaHertz": "MHz",
    "millisecond": "ms",
    "kiloBytes": "KB",
    "kiloBytesPerSecond": "KBps",
    "number": "num",
    "second": "s",
    "watt": "W",
    "joule": "J",
}


def counter_info(counter: Counter) -> Obj:
    """Return PerfCounterInfo."""
    return Obj(
        "PerfCounterInfo",
        key=counter.key,
        nameInfo=element(counter.name, counter.label),
        groupInfo=element(counter.group, _GROUPS.get(counter.group, counter.group)),
        unitInfo=element(counter.unit, _UNITS.get(counter.unit, counter.unit)),
        rollupType=counter.rollup.value,
        statsType=counter.kind,
        level=1,
        perDeviceLevel=3,
    )


def _counters(_scope: Scope, _key: str) -> Value:
    return tuple(map(counter_info, KNOWN))


def _intervals(_scope: Scope, _key: str) -> Value:
    return (
        Obj(
            "PerfInterval",
            key=1,
            samplingPeriod=ROLLED_SECONDS,
            name="Past day",
            length=ROLLED_SECONDS * ROLLED,
            level=1,
            enabled=True,
        ),
    )


def _description(_scope: Scope, _key: str) -> Obj:
    rollups = sorted({counter.rollup.value for counter in KNOWN})
    kinds = sorted({counter.kind for counter in KNOWN})
    return Obj(
        "PerformanceDescription",
        counterType=tuple(element(one, one.capitalize()) for one in rollups),
        statsType=tuple(element(one, one.capitalize()) for one in kinds),
    )


COUNTER_GETTERS: Mapping[str, Getters] = {
    "PerformanceManager": {
        "description": _description,
        "historicalInterval": _intervals,
        "perfCounter": _counters,
    }
}
