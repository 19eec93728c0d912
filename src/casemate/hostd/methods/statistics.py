"""PerformanceManager: what the kernel has measured of VMs and of the host."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from casemate.calls.statistics import QueryStats, StatsReply
from casemate.hostd.objects.base import moment
from casemate.hostd.objects.counters import counter_info
from casemate.hostd.registry import Context, Served
from casemate.hostd.selection import objs, text
from casemate.hostd.wellknown import HOST
from casemate.machine.counters import (
    COUNTERS,
    KNOWN,
    ROLLED,
    ROLLED_SECONDS,
    SAMPLE_SECONDS,
    SAMPLES,
    Counter,
)
from casemate.vim25 import faults
from casemate.vim25.encode import format_time
from casemate.vim25.values import MoRef, Obj, Value

LEVELS = 4
"""Levels of vSphere's counters; all of this host's are of the first."""
QUERY_LIMIT = 1000
"""Specifications of one query: one for each VM of a large host."""

_BY_KEY = {counter.key: counter for counter in KNOWN}


def _entity(value: Value) -> MoRef:
    if not isinstance(value, MoRef):
        raise faults.invalid_argument("entity", "An object is needed.")
    return value


def _measured(ref: MoRef) -> bool:
    return ref == HOST or ref.type == "VirtualMachine"


def _of(ref: MoRef) -> Iterator[Counter]:
    kind = "host" if ref == HOST else "vm"
    return (counter for counter in COUNTERS if counter.of in {kind, "both"})


async def _summary(context: Context) -> Value:
    ref = _entity(context.arguments.get("entity"))
    context.reader.require(ref)
    return Obj(
        "PerfProviderSummary",
        entity=ref,
        currentSupported=_measured(ref),
        summarySupported=_measured(ref),
        refreshRate=SAMPLE_SECONDS if _measured(ref) else None,
    )


async def _available(context: Context) -> Value:
    ref = _entity(context.arguments.get("entity"))
    context.reader.require(ref)
    if not _measured(ref):
        return ()
    return tuple(Obj("PerfMetricId", counterId=one.key, instance="") for one in _of(ref))


async def _infos(context: Context) -> Value:
    wanted = context.arguments.get("counterId")
    keys = [k for k in wanted if isinstance(k, int)] if isinstance(wanted, tuple) else []
    unknown = [key for key in keys if key not in _BY_KEY]
    if unknown:
        raise faults.invalid_argument("counterId", f"There is no counter {unknown[0]}.")
    return tuple(counter_info(_BY_KEY[key]) for key in keys)


async def _by_level(context: Context) -> Value:
    level = context.arguments.get("level")
    if not isinstance(level, int) or not 1 <= level <= LEVELS:
        raise faults.invalid_argument("level", f"A level is 1 to {LEVELS}.")
    return tuple(map(counter_info, KNOWN))


def _stamp(value: Value) -> float:
    return value.timestamp() if isinstance(value, datetime) else 0.0


async def _query(context: Context) -> Value:
    specs = objs(context.arguments.get("querySpec"))
    if len(specs) > QUERY_LIMIT:
        raise faults.invalid_argument("querySpec", f"A query has {QUERY_LIMIT} specifications.")
    return tuple([await _one(context, spec) for spec in specs])


async def _one(context: Context, spec: Obj) -> Obj:
    ref = _entity(spec.get("entity"))
    context.reader.require(ref)
    context.reader.allow(ref, "System.Read")
    wanted = _wanted(ref, spec)
    asked = spec.get("intervalId")
    interval = asked if isinstance(asked, int) and asked else SAMPLE_SECONDS
    if interval not in {SAMPLE_SECONDS, ROLLED_SECONDS} or not _measured(ref):
        raise faults.invalid_argument("querySpec.intervalId", "There is no such interval.")
    most = spec.get("maxSample")
    limit = SAMPLES if interval == SAMPLE_SECONDS else ROLLED
    request = QueryStats(
        context.who.handle,
        ref.value,
        tuple(counter.path for counter in wanted),
        interval,
        _stamp(spec.get("startTime")),
        _stamp(spec.get("endTime")),
        min(most, limit) if isinstance(most, int) and most > 0 else limit,
    )
    reply = await context.link.ask(request, StatsReply) if wanted else None
    return _shown(ref, reply, text(spec.get("format")))


async def _composite(context: Context) -> Value:
    """Answer a query for the host with what its VMs have of the same counters, or for one VM."""
    spec = context.arguments.get("querySpec")
    if not isinstance(spec, Obj):
        raise faults.invalid_argument("querySpec", "A specification is needed.")
    whole = await _one(context, spec)
    machines: list[MoRef] = []
    if spec.get("entity") == HOST:
        every = (MoRef("VirtualMachine", key) for key in sorted(context.replica.world.vms))
        machines = [ref for ref in every if context.reader.may(ref, "System.Read")]
    found = [await _one(context, spec.replace(entity=ref)) for ref in machines[:QUERY_LIMIT]]
    return Obj("PerfCompositeMetric", entity=whole, childEntity=tuple(found))


def _wanted(ref: MoRef, spec: Obj) -> list[Counter]:
    """Return the counters asked for, each once; this host has no instances but the whole."""
    metrics = objs(spec.get("metricId"))
    if not metrics:
        return list(_of(ref))
    keys = {one.get("counterId") for one in metrics if text(one.get("instance")) in {"", "*"}}
    return [counter for counter in _of(ref) if counter.key in keys]


def _shown(ref: MoRef, reply: StatsReply | None, form: str) -> Obj:
    times = [(moment(at), reply.interval) for at in reply.times] if reply else []
    by_path = {series.counter: series.values for series in reply.series} if reply else {}
    found = [
        (Obj("PerfMetricId", counterId=counter.key, instance=""), by_path[counter.path])
        for counter in COUNTERS
        if counter.path in by_path
    ]
    if form == "csv":
        return Obj(
            "PerfEntityMetricCSV",
            entity=ref,
            sampleInfoCSV=",".join(f"{every},{format_time(at)}" for at, every in times),
            value=tuple(
                Obj("PerfMetricSeriesCSV", id=key, value=",".join(map(str, values)))
                for key, values in found
            ),
        )
    return Obj(
        "PerfEntityMetric",
        entity=ref,
        sampleInfo=tuple(
            Obj("PerfSampleInfo", timestamp=at, interval=every) for at, every in times
        ),
        value=tuple(
            Obj("PerfMetricIntSeries", id=key, value=tuple(values)) for key, values in found
        ),
    )


_PERF = "PerformanceManager"

STATISTICS_METHODS = (
    Served(_PERF, "QueryPerfProviderSummary", "System.View", _summary),
    Served(_PERF, "QueryAvailablePerfMetric", "System.View", _available),
    Served(_PERF, "QueryPerfCounter", "System.View", _infos),
    Served(_PERF, "QueryPerfCounterByLevel", "System.View", _by_level),
    Served(
        _PERF,
        "QueryPerf",
        "System.View",
        _query,
        (QueryStats,),
        rule="System.Read on each object",
    ),
    Served(
        _PERF,
        "QueryPerfComposite",
        "System.View",
        _composite,
        (QueryStats,),
        rule="System.Read on the object; of VMs those are shown that it is held on",
    ),
)
