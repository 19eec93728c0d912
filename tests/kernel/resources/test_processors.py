"""One real processor, real guests that never rest: what each gets is what it is entitled to.

Shares are of what the guests got together: other processes of the machine take their part too.
CASEMATE_MEASURE_SECONDS makes the measurement longer.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.resources.lab import HALT, Lab

from casemate.calls.statistics import QueryLoad, QueryStats
from casemate.errors import AdmissionError, ArgumentError
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.pools import Settings
from casemate.machine.facts import Allocation, PoolFact

pytestmark = [pytest.mark.host, pytest.mark.guest, pytest.mark.alone]

SECONDS = float(os.environ.get("CASEMATE_MEASURE_SECONDS", "4"))
SETTLE = 2.5
POINTS = 3.0
TRIES = 3
"""What else the machine does may spoil one measurement; only what is wrong spoils all."""


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    if os.geteuid() != 0 or not Path("/usr/bin/qemu-system-x86_64").exists():
        pytest.skip("needs root and QEMU")
    made = Lab(tmp_path, max(os.sched_getaffinity(0)))
    yield made
    for name in made.cgroups.names():
        made.cgroups.remove(name)
    made.cgroups.close()


Prepare = Callable[[Lab], Coroutine[Any, Any, list[str]]]


def play(story: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(story, 110))


async def shares_of(lab: Lab, *names: str) -> None:
    for name in names:
        await lab.start(next(vm for vm, known in lab.names.items() if known == name))
    await asyncio.sleep(SETTLE)


def fair(got: dict[str, float], entitled: dict[str, float], *, of: float | None = None) -> bool:
    """Tell whether each got what it is entitled to."""
    whole = of or sum(got.values())
    told = {name: (round(100 * used / whole, 2), entitled[name]) for name, used in got.items()}
    sys.stdout.write(f"{sum(got.values()):.1f} % of the processor; got, entitled: {told}\n")
    return all(abs(share - due) <= POINTS for share, due in told.values())


def measured(lab: Lab, prepare: Prepare, expect: dict[str, float]) -> None:
    async def story() -> None:
        async with lab.up():
            await shares_of(lab, *await prepare(lab))
            for _ in range(TRIES):
                got = await lab.measure(SECONDS)
                entitled = lab.entitled()
                for name, due in expect.items():
                    assert abs(entitled[name] - due) <= 1.5, entitled
                if fair(got, entitled):
                    return
            raise AssertionError((got, entitled))

    play(story())


def test_shares_two_to_one(lab: Lab) -> None:
    async def prepare(lab: Lab) -> list[str]:
        await lab.add("high", sched_cpu_shares="high")
        await lab.add("normal")
        return ["high", "normal"]

    measured(lab, prepare, {"high": 66.7, "normal": 33.3})


def test_the_pie_paradox_of_crowded_pools(lab: Lab) -> None:
    async def prepare(lab: Lab) -> list[str]:
        inside = Settings(Allocation(expandable=True), Allocation(expandable=True))
        crowded = Settings(Allocation(0, -1, "high", 0, expandable=True), inside.memory)
        pools = {
            "a": lab.pools.create("ha-root-pool", "crowded", crowded),
            "b": lab.pools.create("ha-root-pool", "small", inside),
        }
        names = [*(f"a{n}" for n in range(6)), *(f"b{n}" for n in range(2))]
        for name in names:
            lab.pools.assign(await lab.add(name), pools[name[0]])
        return names

    measured(lab, prepare, {"a0": 11.11, "a5": 11.11, "b0": 16.67, "b1": 16.67})


def test_a_reservation_holds_under_contention(lab: Lab) -> None:
    async def prepare(lab: Lab) -> list[str]:
        await lab.add("reserved", sched_cpu_min="600")
        await lab.add("one", sched_cpu_shares="high")
        await lab.add("two")
        return ["reserved", "one", "two"]

    measured(lab, prepare, {"reserved": 60.0, "one": 26.7, "two": 13.3})


def test_a_limit_holds_and_an_idle_guest_lends_what_it_does_not_use(lab: Lab) -> None:
    async def story() -> None:
        async with lab.up():
            await lab.add("limited", sched_cpu_max="250")
            await lab.add("idle", HALT, sched_cpu_shares="high", sched_cpu_min="500")
            await shares_of(lab, "limited", "idle")
            await lab.statistics.sample()
            for tries_left in reversed(range(TRIES)):
                got = await lab.measure(SECONDS)
                await lab.statistics.sample()
                if fair({"limited": got["limited"]}, lab.entitled(), of=100.0):
                    break
                assert tries_left, got
            assert got["idle"] < POINTS
            assert lab.entitled()["limited"] == 25.0
            (vm,) = (vm for vm, name in lab.names.items() if name == "limited")
            assert lab.scheduler.load(vm).ready < 0.2, "time under the limit is not time ready"
            decisions = lab.scheduler.decisions.about(vm, 10)
            assert dict(decisions[-1].outcome)["quota_us"] == 25_000
            assert dict(decisions[-1].inputs)["limit"] == 250
            await check_statistics(lab, vm)

    play(story())


async def check_statistics(lab: Lab, vm: str) -> None:
    """What the sampler says of a VM at its limit of 250 MHz."""
    query = lab.statistics.handlers()[QueryStats]
    reply = await query(QueryStats("", vm), LOCAL_ROOT)
    values = {series.counter: series.values[-1] for series in reply.series}
    assert abs(values["cpu.usagemhz.average"] - 250) < 10 * POINTS
    assert values["cpu.maxlimited.summation"] > 500 * SECONDS
    assert values["cpu.readiness.average"] < 2000
    assert values["cpu.entitlement.latest"] == 250
    assert values["disk.read.average"] >= 0
    usage = lab.inventory.vm(vm).usage
    assert usage.cpu_entitlement_mhz == usage.cpu_static_mhz == 250
    assert usage.cpu_demand_mhz > 900, "it wants all it can get"
    root = next(fact for fact in lab.stream.facts() if isinstance(fact, PoolFact))
    assert abs(root.cpu_usage.usage - 250) < 10 * POINTS
    assert root.cpu_usage.reservation_used == 500
    host = await query(QueryStats("", "ha-host", ("cpu.usagemhz.average",)), LOCAL_ROOT)
    assert [series.counter for series in host.series] == ["cpu.usagemhz.average"]
    assert len(host.times) == len(host.series[0].values) >= 2
    load = await lab.statistics.handlers()[QueryLoad](QueryLoad(""), LOCAL_ROOT)
    assert {seen.vm: seen.quota_us for seen in load.vms}[vm] == 25_000


def test_what_the_host_cannot_reserve_does_not_start_and_says_the_numbers(lab: Lab) -> None:
    async def story() -> None:
        async with lab.up():
            first = await lab.add("first", sched_cpu_min="700")
            second = await lab.add("second", sched_cpu_min="400")
            wrong = await lab.add("wrong", sched_cpu_min="600", sched_cpu_max="500")
            await lab.start(first)
            with pytest.raises(AdmissionError) as refused:
                await lab.start(second)
            assert (refused.value.requested, refused.value.available) == (400, 300)
            assert refused.value.resource == "host-cpu"
            assert [state.vm for state in lab.cells.running()] == [first]
            with pytest.raises(ArgumentError):
                await lab.start(wrong)
            await lab.stop(first)
            await lab.start(second)

    play(story())
