"""What control groups are told makes the entitlement come true."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.sched.admission import PowerOff, PowerOn, Reconfigure
from casemate.sched.divvy import divide_cpu, divide_static
from casemate.sched.explain import Bound, explain
from casemate.sched.fill import fill
from casemate.sched.targets import (
    PERIOD_US,
    CpuTarget,
    WeightScale,
    changed,
    cpu_targets,
    end_scores,
    memory_targets,
)
from casemate.sched.tax import MemoryUse, divide_memory
from casemate.sched.tree import ROOT, UNLIMITED, Allocation, Pool, Tree, Vm
from casemate.sched.whatif import what_if


def classic() -> Tree:
    return Tree.of(
        6000,
        [],
        [
            Vm("1", ROOT, Allocation(0, shares=1000), 6000),
            Vm("2", ROOT, Allocation(2250, shares=1000), 6000),
            Vm("3", ROOT, Allocation(0, shares=2000), 6000),
        ],
    )


def targets(tree, demand, scale=WeightScale.V2, core=3000):
    return cpu_targets(divide_cpu(tree, demand), divide_static(tree), scale, core)


def weights(*args, **more):
    return {node: target.weight for node, target in targets(*args, **more).items()}


def test_weights_carry_the_reservation():
    got = weights(classic(), {"1": 500})
    assert got["3"] == 10_000
    assert got["2"] / got["3"] == pytest.approx(2250 / 3250, abs=1e-4)


def test_an_idle_vm_keeps_the_weight_it_will_have_when_it_wakes():
    got = weights(classic(), {"1": 0})
    assert got["1"] / got["3"] == pytest.approx(0.5, abs=1e-4)


@st.composite
def flat(draw):
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 400), st.sampled_from([500, 1000, 2000]), st.integers(1, 3000)
            ),
            min_size=1,
            max_size=6,
        )
    )
    vms = [
        Vm(f"v{n}", ROOT, Allocation(min(low, want), shares=shares), 3000)
        for n, (low, shares, want) in enumerate(rows)
    ]
    return Tree.of(3000, [], vms), {f"v{n}": want for n, (_, _, want) in enumerate(rows)}


@given(flat())
def test_a_work_conserving_scheduler_with_these_weights_gives_the_entitlement(case):
    """Model the kernel: capacity by weight among those that still want something."""
    tree, demand = case
    division = divide_cpu(tree, demand)
    got = weights(tree, demand, scale=WeightScale.V1)
    names = sorted(demand)
    served = fill(
        tree.capacity, [0] * len(names), [demand[n] for n in names], [got[n] for n in names]
    ).amounts
    for name, amount in zip(names, served, strict=True):
        assert abs(amount - division[name]) <= max(2, tree.capacity // 500)


@given(flat(), st.sampled_from(WeightScale))
def test_weights_stay_in_the_range_of_the_kernel(case, scale):
    tree, demand = case
    least, largest = scale.value
    assert all(least <= weight <= largest for weight in weights(tree, demand, scale=scale).values())


def test_quota_follows_the_limit_and_only_the_limit():
    vms = [
        Vm("half", ROOT, Allocation(0, 1500), 6000),
        Vm("free", ROOT, Allocation(0), 6000),
        Vm("loose", ROOT, Allocation(0, 6000), 6000),
        Vm("nothing", ROOT, Allocation(0, 0), 6000),
    ]
    tree = Tree.of(6000, [Pool("p", ROOT, Allocation(0, 3000))], vms)
    got = {node: target.quota_us for node, target in targets(tree, {}).items()}
    assert got == {
        "half": PERIOD_US // 2,
        "free": None,
        "loose": None,
        "nothing": 1000,
    }


def test_a_limited_pool_caps_its_vms_together():
    vms = [Vm(name, "p", Allocation(), 3000) for name in ("busy", "other", "idle")]
    tree = Tree.of(6000, [Pool("p", ROOT, Allocation(0, 3000))], vms)
    got = targets(tree, {"busy": 3000, "other": 3000, "idle": 0})
    assert got["busy"].quota_us == got["other"].quota_us == PERIOD_US // 2
    assert got["idle"].quota_us == PERIOD_US // 2, "it has its share at once when it wakes"
    alone = targets(tree, {"busy": 3000, "other": 0, "idle": 0})
    assert alone["busy"].quota_us is None, "the whole limit, which is its size"
    partly = targets(tree, {"busy": 2000, "other": 200, "idle": 0})
    assert partly["busy"].quota_us == 2800 * PERIOD_US // 3000


@st.composite
def nested(draw):
    pools = [
        Pool(f"p{n}", ROOT, Allocation(shares=draw(st.sampled_from([2000, 4000, 8000]))))
        for n in range(draw(st.integers(1, 3)))
    ]
    demand = {}
    vms = []
    for n in range(draw(st.integers(1, 8))):
        want = draw(st.integers(0, 3000))
        shares = draw(st.sampled_from([500, 1000, 2000]))
        place = draw(st.sampled_from([ROOT, *(p.id for p in pools)]))
        reserved = draw(st.integers(0, 300))
        vms.append(Vm(f"v{n}", place, Allocation(reserved, shares=shares), 3000))
        demand[f"v{n}"] = want
    return Tree.of(3000, pools, vms), demand


@given(nested())
def test_flat_weights_give_what_the_tree_entitles_to(case):
    tree, demand = case
    division = divide_cpu(tree, demand)
    got = weights(tree, demand, scale=WeightScale.V1)
    names = sorted(demand)
    served = fill(
        tree.capacity, [0] * len(names), [demand[n] for n in names], [got[n] for n in names]
    ).amounts
    for name, amount in zip(names, served, strict=True):
        assert abs(amount - division[name]) <= max(2, tree.capacity // 500)


def test_memory_bounds_protect_and_contain_but_never_reclaim():
    tree = Tree.of(
        1000,
        [Pool("p", ROOT, Allocation(0, 900, expandable=True))],
        [Vm("a", "p", Allocation(300), 800, 50), Vm("b", "p", Allocation(), 800, 50)],
    )
    division = divide_memory(tree, {"a": MemoryUse(100, 400), "b": MemoryUse(800, 800)})
    got = memory_targets(division)
    assert got["a"].minimum == 350
    assert got["a"].maximum == got["b"].maximum == 850
    assert got["p"].maximum == 900
    assert got["a"].low + got["b"].low == got["p"].low == 900
    assert all(t.minimum <= t.low for t in got.values())


def test_what_a_vm_is_entitled_to_does_not_count_where_one_must_end():
    tree = Tree.of(
        1000,
        [],
        [Vm("kept", ROOT, Allocation(600), 800, 50), Vm("idle", ROOT, Allocation(), 800, 50)],
    )
    use = {"kept": MemoryUse(700, 800), "idle": MemoryUse(10, 600)}
    division = divide_memory(tree, use)
    assert division["kept"] > division["idle"]
    scores = end_scores(division, 2000)
    assert scores["kept"] == 0
    assert scores["idle"] == (division["kept"] - division["idle"]) * 1000 // 2000
    held = {"kept": 850, "idle": 650}
    chosen = max(held, key=lambda vm: held[vm] + scores[vm] * 2000 // 1000)
    assert chosen == "idle"


def test_scores_are_such_as_linux_takes():
    tree = Tree.of(
        1000, [], [Vm("all", ROOT, Allocation(1000), 1000, 0), Vm("none", ROOT, Allocation(), 9, 0)]
    )
    division = divide_memory(tree, {})
    assert end_scores(division, 1)["none"] == 1000
    assert end_scores(division, 0) == {"all": 0, "none": 1000}
    assert end_scores(divide_memory(Tree.of(1000, [], []), {}), 1000) == {}


def test_only_what_changed_is_written():
    before = {"a": CpuTarget(1, None), "b": CpuTarget(2, None), "gone": CpuTarget(3, None)}
    after = {"a": CpuTarget(1, None), "b": CpuTarget(2, 5), "new": CpuTarget(9, None)}
    assert changed(before, after) == {"b": CpuTarget(2, 5), "new": CpuTarget(9, None)}


def bounds(division, node):
    return [step.bound for step in explain(division, node).steps]


def test_every_reason_for_an_amount_is_told():
    division = divide_cpu(classic(), {"1": 500})
    assert bounds(division, "1") == [Bound.DEMAND]
    assert bounds(division, "2") == [Bound.RESERVATION]
    assert bounds(division, "3") == [Bound.SHARES]
    limited = Tree.of(
        100, [], [Vm("a", ROOT, Allocation(0, 10), 50), Vm("b", ROOT, Allocation(), 20)]
    )
    assert bounds(divide_static(limited), "a") == [Bound.LIMIT]
    assert bounds(divide_static(limited), "b") == [Bound.SIZE]
    none = Tree.of(
        30, [], [Vm("a", ROOT, Allocation(shares=0), 50), Vm("b", ROOT, Allocation(), 20)]
    )
    assert bounds(divide_static(none), "a") == [Bound.NO_SHARES]
    lost = Tree.of(30, [], [Vm("a", ROOT, Allocation(50), 50), Vm("b", ROOT, Allocation(10), 20)])
    assert bounds(divide_static(lost), "a") == [Bound.LOST_CAPACITY]
    pair = Tree.of(400, [], [Vm(n, ROOT, Allocation(), 512) for n in "ab"])
    taxed = divide_memory(pair, {"a": MemoryUse(64, 512), "b": MemoryUse(300, 512)})
    assert bounds(taxed, "a") == [Bound.IDLE_TAX]


def test_an_explanation_leads_from_the_host_to_the_vm():
    pools = [
        Pool("high", ROOT, Allocation(shares=8000)),
        Pool("normal", ROOT, Allocation(shares=4000)),
    ]
    vms = [Vm(f"h{n}", "high", Allocation(), 9000) for n in range(6)]
    vms += [Vm(f"n{n}", "normal", Allocation(), 9000) for n in range(2)]
    told = explain(divide_static(Tree.of(9000, pools, vms)), "h0")
    assert [(step.pool, step.node) for step in told.steps] == [(ROOT, "high"), ("high", "h0")]
    assert told.amount == told.steps[-1].share.amount == 1000
    assert told.steps[0].budget == 9000
    assert told.steps[0].by_shares == 6000
    assert "h0 gets 1000 of the 6000 of high" in told.steps[-1].sentence()


@given(flat())
def test_the_explained_amount_is_the_amount(case):
    tree, demand = case
    division = divide_cpu(tree, demand)
    for vm in tree.vms:
        told = explain(division, vm)
        step = told.steps[-1]
        assert told.amount == division[vm]
        if step.bound is Bound.SHARES:
            over, under = step.share.level
            assert abs(told.amount - Fraction(step.share.weight * over, under)) <= 1


def test_what_if_shows_who_gains_and_loses_without_changing_anything():
    tree = classic()
    demand = {"1": 500}
    outcome = what_if(
        tree,
        [Reconfigure("2", Allocation(1000, shares=1000)), PowerOff("1")],
        "cpu",
        lambda changed_tree: divide_cpu(changed_tree, demand),
    )
    assert outcome.refusal is None
    assert outcome.moved == {"1": (500, 0), "2": (2250, 2000), "3": (3250, 4000)}
    assert tree.vms["2"].allocation.reservation == 2250


def test_what_if_stops_at_the_first_refusal_and_tells_the_numbers():
    steps = [
        PowerOn(Vm("4", ROOT, Allocation(3000), 3000)),
        PowerOn(Vm("5", ROOT, Allocation(3000), 3000)),
        PowerOff("1"),
    ]
    outcome = what_if(classic(), steps, "cpu", divide_static)
    assert outcome.admitted == tuple(steps[:1])
    assert outcome.refusal is not None
    assert "3000" in outcome.refusal.reason
    assert "750" in outcome.refusal.reason
    assert outcome.state.colour == "green"


def test_unlimited_is_not_a_number():
    assert divide_static(Tree.of(5, [], [Vm("a", ROOT, Allocation(0, UNLIMITED), 9)]))["a"] == 5
