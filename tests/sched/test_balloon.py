"""Balloons: guests give way, and none is ever squeezed to death."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from casemate.sched.balloon import (
    DEAD_BAND,
    GUEST_FLOOR,
    MAX_PERCENT,
    Balloon,
    least_size,
    plan_balloons,
)
from casemate.sched.memory import MIB, MemoryState

SIZES = st.integers(64 * MIB, 4096 * MIB)


def balloon(size=512, actual=512, target=None, available=None, still=0.0, *, driver=True):
    wanted = actual if target is None else target
    free = None if available is None else available * MIB
    return Balloon(size * MIB, actual * MIB, wanted * MIB, free, still, driver)


@st.composite
def balloons(draw):
    size = draw(SIZES)
    return Balloon(
        size,
        draw(st.integers(size // 3, size)),
        draw(st.integers(size // 3, size)),
        draw(st.none() | st.integers(0, size)),
        draw(st.sampled_from([0.0, 5.0, 60.0])),
        draw(st.booleans()),
    )


@given(
    st.dictionaries(st.sampled_from("abcdef"), balloons()),
    st.sampled_from(MemoryState),
    st.integers(-(1 << 33), 1 << 33),
    st.data(),
)
def test_no_plan_squeezes_a_guest_below_its_floor(held, state, missing, data):
    entitled = {vm: data.draw(st.integers(0, b.size)) for vm, b in held.items()}
    plan = plan_balloons(held, entitled, state, missing)
    for vm, target in plan.targets.items():
        now = held[vm]
        assert target <= now.size
        assert vm not in plan.unresponsive
        if target < now.actual:
            assert target >= least_size(now) or target >= now.target
            assert target >= now.size * (100 - MAX_PERCENT) // 100 or target >= now.target
    if state in {MemoryState.HIGH, MemoryState.CLEAR}:
        assert all(
            target >= min(held[vm].target, held[vm].actual) for vm, target in plan.targets.items()
        )
    assert bool(plan.blocked) <= (state is MemoryState.LOW)


def test_idle_gives_way_in_proportion_to_its_excess_and_no_more_than_missing():
    held = {"idle": balloon(), "busy": balloon(), "small": balloon()}
    entitled = {"idle": 212 * MIB, "busy": 512 * MIB, "small": 412 * MIB}
    plan = plan_balloons(held, entitled, MemoryState.SOFT, 200 * MIB)
    assert plan.targets == {"idle": (512 - 150) * MIB, "small": (512 - 50) * MIB}


def test_when_memory_is_hard_everything_above_entitlement_is_taken():
    plan = plan_balloons({"a": balloon()}, {"a": 300 * MIB}, MemoryState.HARD, 1)
    assert plan.targets == {"a": 300 * MIB}


def test_a_busy_guest_below_its_entitlement_gets_memory_from_an_idle_one():
    held = {"idle": balloon(actual=512), "busy": balloon(actual=300)}
    entitled = {"idle": 312 * MIB, "busy": 500 * MIB}
    plan = plan_balloons(held, entitled, MemoryState.SOFT, 0)
    assert plan.targets == {"idle": 312 * MIB, "busy": 500 * MIB}


def test_two_thirds_of_a_guest_is_the_most_that_is_taken():
    plan = plan_balloons({"a": balloon(1000, 1000)}, {"a": 0}, MemoryState.LOW, 1 << 40)
    assert plan.targets == {"a": 350 * MIB}
    assert plan.blocked == ("a",)


def test_at_the_lowest_state_who_has_nothing_to_give_and_takes_no_more_is_not_held_back():
    held = {"busy": balloon(available=60), "idle": balloon(available=400)}
    entitled = {"busy": 400 * MIB, "idle": 100 * MIB}

    def blocked(*still: str) -> tuple[str, ...]:
        return plan_balloons(held, entitled, MemoryState.LOW, 1 << 40, set(still)).blocked

    assert blocked("busy", "idle") == ("idle",)
    assert blocked("idle") == ("busy", "idle")


def test_a_guest_keeps_its_floor_of_available_memory():
    plan = plan_balloons({"a": balloon(available=100)}, {"a": 0}, MemoryState.HARD, 1 << 40)
    assert plan.targets == {"a": 512 * MIB - (100 * MIB - GUEST_FLOOR)}
    full = plan_balloons({"a": balloon(available=10)}, {"a": 0}, MemoryState.HARD, 1 << 40)
    assert full.targets == {}


def test_a_stalled_balloon_is_set_back_to_where_it_stands():
    stuck = balloon(actual=273, target=128, still=10.0)
    plan = plan_balloons({"a": stuck}, {"a": 273 * MIB}, MemoryState.SOFT, 100 * MIB)
    assert plan.targets == {"a": 273 * MIB}


def test_a_guest_without_a_driver_is_reported_and_left_alone():
    deaf = balloon(actual=512, target=256, still=10.0, driver=False)
    plan = plan_balloons({"a": deaf}, {"a": 128 * MIB}, MemoryState.HARD, 1 << 40)
    assert plan.unresponsive == ("a",)
    assert plan.targets == {}


def test_spare_memory_goes_back_to_squeezed_guests():
    held = {"a": balloon(actual=312), "b": balloon(actual=412), "c": balloon()}
    plan = plan_balloons(held, {}, MemoryState.HIGH, -150 * MIB)
    assert plan.targets == {"a": 412 * MIB, "b": 462 * MIB}
    assert plan_balloons(held, {}, MemoryState.CLEAR, -150 * MIB).targets == {}


def test_small_differences_are_not_worth_a_command():
    held = {"a": balloon()}
    entitled = {"a": 512 * MIB - DEAD_BAND + 1}
    assert plan_balloons(held, entitled, MemoryState.HARD, 1).targets == {}
