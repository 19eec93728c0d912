"""PerformanceManager's answers."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from casemate.calls.statistics import QueryStats
from casemate.vim25.values import MoRef

PERF = MoRef("PerformanceManager", "ha-perfmgr")
ENTITY = '<entity type="VirtualMachine">1</entity>'


def test_what_is_announced_can_be_asked_for(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        got = await host.root.call("QueryAvailablePerfMetric", PERF, ENTITY)
        keys = re.findall(r"<counterId>(\d+)<", got.text)
        assert keys
        inner = "".join(f"<counterId>{key}</counterId>" for key in keys)
        infos = await host.root.call("QueryPerfCounter", PERF, inner)
        assert infos.text.count("<returnval>") == len(keys)
        metrics = "".join(
            f"<metricId><counterId>{key}</counterId><instance></instance></metricId>"
            for key in keys
        )
        spec = f"<querySpec>{ENTITY}<maxSample>3</maxSample>{metrics}</querySpec>"
        found = await host.root.call("QueryPerf", PERF, spec)
        assert found.text.count("<sampleInfo>") == 3
        assert found.text.count('xsi:type="PerfMetricIntSeries"') == len(keys)
        csv = await host.root.call(
            "QueryPerf", PERF, spec.replace("</querySpec>", "<format>csv</format></querySpec>")
        )
        assert "<value>0,1,2</value>" in csv.text
        assert csv.text.count("<sampleInfoCSV>20,2023-") == 1

    play(story)


@pytest.mark.parametrize(
    "inner",
    [
        '<querySpec><entity type="VirtualMachine">99</entity></querySpec>',
        '<querySpec><entity type="Folder">ha-folder-vm</entity></querySpec>',
        f"<querySpec>{ENTITY}<intervalId>7</intervalId></querySpec>",
        f"<querySpec>{ENTITY}</querySpec>" * 1001,
    ],
    ids=["gone", "not measured", "no interval", "too many"],
)
def test_what_is_not_measured_is_refused(play: Callable[..., None], inner: str) -> None:
    async def story(host) -> None:
        reply = await host.root.call("QueryPerf", PERF, inner)
        assert reply.fault in {"InvalidArgument", "ManagedObjectNotFound"}
        assert not [one for one in host.kernel.asked if isinstance(one, QueryStats)]

    play(story)


def test_the_host_is_asked_for_together_with_its_machines(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        spec = "<querySpec>{}<maxSample>2</maxSample><format>normal</format></querySpec>"
        entity = '<entity type="HostSystem">ha-host</entity>'
        found = await host.root.call("QueryPerfComposite", PERF, spec.format(entity))
        assert found.text.count("<childEntity ") == 2
        assert found.text.count("<sampleInfo>") == 6
        one = await host.root.call("QueryPerfComposite", PERF, spec.format(ENTITY))
        assert "<childEntity" not in one.text
        assert one.text.count("<sampleInfo>") == 2

    play(story)
