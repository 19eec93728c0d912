"""Traffic shaping: numbers that can be, and the limits that follow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError
from casemate.machine.networkplan import Card
from casemate.machine.networks import FIRST, TRUNK, PortGroupFact
from casemate.machine.shaping import (
    LEAST_BANDWIDTH,
    MOST_BANDWIDTH,
    MOST_BURST,
    NOT_SHAPED,
    Bucket,
    Shaping,
    buckets,
    check_shaping,
)
from casemate.machine.wiring import plan_network

BANDWIDTHS = st.integers(LEAST_BANDWIDTH, MOST_BANDWIDTH)
ON = Shaping(True, 8_000_000, 80_000_000, 5_000_000)


@given(BANDWIDTHS, BANDWIDTHS, st.integers(1, MOST_BURST))
def test_a_second_and_a_burst_are_no_more_than_was_said_or_the_least_that_can_be(one, two, burst):
    shaping = Shaping(True, min(one, two), max(one, two), burst)
    check_shaping(shaping)
    average, *peak = buckets(shaping)
    assert average.rate == shaping.average // 8
    assert average.rate + average.burst == max(burst, average.rate + (1 << 17))
    assert [bucket.rate for bucket in peak] == [shaping.peak // 8] * (
        shaping.peak // 8 > average.rate
    )
    # Linux counts in nanoseconds, in 64 bits, and keeps a burst in 32.
    for bucket in (average, *peak):
        assert (bucket.rate + bucket.burst) * 10**9 < 1 << 64
        assert bucket.burst < 1 << 32


@pytest.mark.parametrize(
    "change",
    [
        {"average": 0},
        {"average": LEAST_BANDWIDTH - 1},
        {"peak": MOST_BANDWIDTH + 1},
        {"peak": 7_999_999},
        {"burst": 0},
        {"burst": MOST_BURST + 1},
    ],
)
def test_numbers_that_cannot_be_are_refused(change):
    with pytest.raises(ArgumentError):
        check_shaping(replace(ON, **change))


def test_a_port_group_says_for_itself_or_as_its_switch():
    switch = replace(FIRST.switches[0], shaping=ON)
    groups = (
        *FIRST.groups,
        PortGroupFact("free", switch.name, shaping=NOT_SHAPED),
        PortGroupFact("trunk", switch.name, TRUNK),
        PortGroupFact("ten", switch.name, 10),
    )
    networks = replace(FIRST, switches=(switch,), groups=groups)
    cards = [
        Card(str(number), 0, f"00:50:56:00:00:0{number}", group.name)
        for number, group in enumerate(groups)
    ]
    plan = plan_network(networks, cards)
    limits = {one.name: one.limits for one in plan.filters}
    wanted = (Bucket(1_000_000, 4_000_000), Bucket(10_000_000, 200_000))
    assert limits["t0.0"] == limits["t2.0"] == limits["t3.0"] == wanted
    assert limits["t1.0"] == ()
    assert {limits[name] for name in limits if not name.startswith("t")} == {()}
