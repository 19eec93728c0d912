"""Requests about what is measured: samples of the past, and the load of the last second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one counter, one a sample; -1 where nothing was measured."""

    counter: str
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StatsReply:
    """Samples of one object: Unix times of their ends, oldest first, and a series a counter."""

    entity: str
    interval: int
    times: tuple[float, ...]
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class VmLoad:
    """A running VM over the last interval: MHz, bytes, and ready as 1/100 % of its vCPUs."""

    vm: str
    name: str
    pool: str
    vcpus: int
    cpu_mhz: int
    demand_mhz: int
    ready: int
    entitlement_mhz: int
    weight: int
    quota_us: int
    memory_size: int
    memory_held: int
    memory_active: int
    memory_entitlement: int
    balloon: int
    balloon_target: int
    balloon_driver: bool


@dataclass(frozen=True, slots=True)
class LoadReply:
    """The host and its VMs over the last interval; memory in bytes, ``state`` of memory 0 to 4."""

    time: float
    cpu_capacity_mhz: int
    cpu_mhz: int
    memory_size: int
    memory_free: int
    memory_minimum: int
    state: int
    vms: tuple[VmLoad, ...]


@dataclass(frozen=True, slots=True)
class QueryStats:
    """Samples of a VM or of the host (``ha-host``).

    ``counters`` names some of ``machine.counters`` (none: all). ``interval`` is 20 seconds (kept
    for an hour) or 300 (kept for a day). Times are Unix seconds, 0 for no bound; of what is left
    the newest ``limit`` samples are given (0: all).
    """

    session: str
    entity: str
    counters: tuple[str, ...] = ()
    interval: int = 20
    start: float = 0.0
    end: float = 0.0
    limit: int = 0
    reply: ClassVar = StatsReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class QueryLoad:
    """What host and VMs do now."""

    session: str
    reply: ClassVar = LoadReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


REQUESTS: tuple[type, ...] = (QueryLoad, QueryStats)
