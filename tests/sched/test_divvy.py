"""Dividing a whole tree: laws that hold at every node, and a linear program as oracle."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from casemate.errors import ArgumentError, LimitError, NotFoundError
from casemate.sched.divvy import Division, divide_cpu, divide_static
from casemate.sched.tax import MemoryUse, divide_memory, guarantees
from casemate.sched.tree import MAX_DEPTH, ROOT, UNLIMITED, Allocation, Pool, Tree, Vm

AMOUNTS = st.integers(0, 2000)
LIMITS = st.just(UNLIMITED) | st.integers(0, 3000)


@st.composite
def allocations(draw, *, pool=False):
    shares = draw(
        st.sampled_from([0, 500, 1000, 2000, 4000])
        if not pool
        else st.sampled_from([2000, 4000, 8000])
    )
    return Allocation(
        draw(st.just(0) | AMOUNTS), draw(LIMITS), shares, pool and draw(st.booleans())
    )


@st.composite
def trees(draw):
    pools = []
    for number in range(draw(st.integers(0, 5))):
        parent = draw(st.sampled_from([ROOT, *(p.id for p in pools)]))
        pools.append(Pool(f"p{number}", parent, draw(allocations(pool=True))))
    places = st.sampled_from([ROOT, *(p.id for p in pools)])
    vms = [
        Vm(f"v{number}", draw(places), draw(allocations()), draw(AMOUNTS), draw(st.integers(0, 50)))
        for number in range(draw(st.integers(1, 8)))
    ]
    scale = draw(st.booleans())
    return Tree.of(draw(st.integers(0, 10_000)), pools, vms, scale_descendants=scale)


@st.composite
def trees_with_demand(draw):
    tree = draw(trees())
    return tree, {vm: draw(AMOUNTS) for vm in tree.vms if draw(st.booleans())}


def check_division(division: Division) -> None:
    layout = division.tree.layout
    assert division.amounts[0] == min(division.tree.capacity, division.ceilings[0])
    for pool, group in enumerate(layout.children):
        got = sum(division.amounts[n] for n in group)
        assert got == min(division.amounts[pool], sum(division.ceilings[n] for n in group))
        covered = sum(division.floors[n] for n in group) <= division.amounts[pool]
        for node in group:
            assert 0 <= division.floors[node] <= division.ceilings[node]
            assert division.amounts[node] <= division.ceilings[node] <= layout.limit[node]
            if covered:
                assert division.amounts[node] >= division.floors[node]


@given(trees_with_demand())
def test_every_pool_hands_out_all_it_has_within_bounds(case):
    tree, demand = case
    division = divide_cpu(tree, demand)
    check_division(division)
    for vm, wanted in demand.items():
        assert division[vm] <= wanted


@given(trees_with_demand(), st.integers(0, 99))
def test_memory_too_is_handed_out_within_bounds(case, tax):
    tree, active = case
    use = {vm: MemoryUse(part, part * 2) for vm, part in active.items()}
    check_division(divide_memory(tree, use, tax=tax))


@given(
    st.integers(0, 5000),
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 4000), AMOUNTS, AMOUNTS), min_size=1),
)
def test_a_pools_reservation_is_handed_down_whole(reservation, rows):
    vms = [
        Vm(f"v{n}", "p", Allocation(min(own, size), shares=shares), size)
        for n, (own, shares, size, _) in enumerate(rows)
    ]
    tree = Tree.of(1 << 30, [Pool("p", ROOT, Allocation(reservation, expandable=True))], vms)
    use = {f"v{n}": MemoryUse(active, active) for n, (_, _, _, active) in enumerate(rows)}
    counted = guarantees(tree, use)
    own = sum(vm.allocation.reservation for vm in vms)
    assert sum(counted.values()) == min(max(reservation, own), sum(vm.size for vm in vms))
    assert all(vm.allocation.reservation <= counted[vm.id] <= vm.size for vm in vms)


@given(trees(), st.randoms(use_true_random=False))
def test_the_order_of_creation_does_not_matter(tree, chance):
    pools, vms = list(tree.pools.values()), list(tree.vms.values())
    chance.shuffle(pools)
    chance.shuffle(vms)
    other = Tree.of(tree.capacity, pools, vms, scale_descendants=tree.scale_descendants)
    assert divide_static(other).vms() == divide_static(tree).vms()


@given(trees_with_demand())
def test_a_vm_that_demands_nothing_gets_nothing_and_frees_everything(case):
    tree, demand = case
    vm = next(iter(tree.vms))
    idle = divide_cpu(tree, {**demand, vm: 0})
    gone = divide_cpu(tree.without_vm(vm), demand)
    assert idle[vm] == 0
    if not tree.scale_descendants:
        assert {k: v for k, v in idle.vms().items() if k != vm} == gone.vms()


def linear_program(floors, ceilings, weights, budget):
    """Max-min of amount per share by linear programs alone.

    Each one maximises the least amount per share with ceilings left out; whoever would pass its
    ceiling is fixed there, and the rest try again.
    """
    count = len(weights)
    fixed: dict[int, float] = {}
    while len(fixed) < count:
        free = [n for n in range(count) if n not in fixed]
        at_least = np.zeros((len(free), count + 1))
        for row, n in enumerate(free):
            at_least[row, n] = -1
            at_least[row, -1] = weights[n]
        result = linprog(
            [0.0] * count + [-1.0],
            A_ub=np.vstack([at_least, [1.0] * count + [0.0]]),
            b_ub=[0.0] * len(free) + [budget],
            bounds=[(fixed.get(n, floors[n]), fixed.get(n)) for n in range(count)] + [(0, None)],
            method="highs",
        )
        assert result.status == 0, result.message
        level = result.x[-1]
        beyond = [n for n in free if level * weights[n] > ceilings[n] + 1e-6]
        if not beyond:
            break
        fixed |= {n: float(ceilings[n]) for n in beyond}
    return [fixed.get(n, max(floors[n], level * weights[n])) for n in range(count)]


@given(trees_with_demand())
def test_a_linear_program_finds_the_same_amounts(case):
    tree, demand = case
    division = divide_cpu(tree, demand)
    for pool, group in enumerate(tree.layout.children):
        floors, ceilings, weights, amounts = (
            [column[n] for n in group]
            for column in (
                division.floors,
                division.ceilings,
                division.weights,
                division.amounts,
            )
        )
        budget = division.amounts[pool]
        if all(weights) and sum(floors) < budget < sum(ceilings):
            expected = linear_program(floors, ceilings, weights, budget)
            assert amounts == pytest.approx(expected, abs=1.01)


def test_touched_reservations_stick_and_untouched_ones_are_lent():
    tree = Tree.of(
        1000, [], [Vm("a", ROOT, Allocation(800), 900), Vm("b", ROOT, Allocation(0), 900)]
    )
    touched = divide_memory(tree, {"a": MemoryUse(0, 900), "b": MemoryUse(900, 900)})
    untouched = divide_memory(tree, {"a": MemoryUse(0, 0), "b": MemoryUse(900, 900)})
    assert (touched["a"], touched["b"]) == (800, 200)
    assert untouched["b"] == 800
    assert untouched["a"] == 200


def test_a_vm_without_memory_shares_gets_its_minimum_even_if_memory_is_free():
    tree = Tree.of(1000, [], [Vm("a", ROOT, Allocation(100, shares=0), 400)])
    assert divide_memory(tree, {})["a"] == 100


def test_overhead_is_reserved_beside_the_guest():
    tree = Tree.of(
        100, [], [Vm("a", ROOT, Allocation(0), 400, 30), Vm("b", ROOT, Allocation(0), 400, 30)]
    )
    assert divide_memory(tree, {}).vms() == {"a": 50, "b": 50}
    assert divide_memory(tree.with_capacity(60), {}).vms() == {"a": 30, "b": 30}


def test_a_limit_of_a_pool_bounds_all_inside():
    tree = Tree.of(
        1000,
        [Pool("p", ROOT, Allocation(0, 100))],
        [Vm("a", "p", Allocation(), 900), Vm("b", ROOT, Allocation(), 900)],
    )
    division = divide_static(tree)
    assert (division["p"], division["a"], division["b"]) == (100, 100, 900)


def test_lost_capacity_shrinks_all_reservations_alike():
    vms = [Vm("a", ROOT, Allocation(600), 900), Vm("b", ROOT, Allocation(300), 900)]
    assert divide_static(Tree.of(300, [], vms)).vms() == {"a": 200, "b": 100}


def test_an_overfull_fixed_pool_is_clipped_so_others_keep_theirs():
    tree = Tree.of(
        100,
        [Pool("bad", ROOT, Allocation(20)), Pool("good", ROOT, Allocation(80))],
        [Vm("x", "bad", Allocation(90), 90), Vm("y", "good", Allocation(80), 80)],
    )
    assert divide_static(tree).vms() == {"x": 20, "y": 80}


def test_figures_of_vms_that_are_gone_do_not_matter():
    tree = Tree.of(100, [], [Vm("a", ROOT, Allocation(), 50)])
    assert divide_cpu(tree, {"gone": 7})["a"] == 50
    assert divide_memory(tree, {"gone": MemoryUse(1, 1)})["a"] == 50


@pytest.mark.parametrize("tax", [-1, 100])
def test_a_tax_of_everything_is_refused(tax):
    with pytest.raises(ArgumentError):
        divide_memory(Tree.of(10), {}, tax=tax)


def test_negative_figures_are_refused():
    tree = Tree.of(100, [], [Vm("a", ROOT, Allocation(), 50)])
    with pytest.raises(ArgumentError):
        divide_cpu(tree, {"a": -1})
    with pytest.raises(ArgumentError):
        divide_memory(tree, {"a": MemoryUse(-1, 0)})
    with pytest.raises(ArgumentError):
        Tree.of(-1)
    with pytest.raises(ArgumentError):
        Tree.of(10, [], [Vm("a", ROOT, Allocation(-5), 50)])


def test_pools_in_a_circle_or_too_deep_are_refused():
    circle = [Pool("a", "b", Allocation()), Pool("b", "a", Allocation())]
    with pytest.raises(LimitError):
        Tree.of(10, circle)
    chain = [Pool(f"p{n}", f"p{n - 1}" if n else ROOT, Allocation()) for n in range(MAX_DEPTH)]
    Tree.of(10, chain[:-1])
    with pytest.raises(LimitError):
        Tree.of(10, chain)
    with pytest.raises(LimitError):
        Tree.of(10, chain[::-1])


def test_unknown_parents_and_nodes_are_named():
    with pytest.raises(NotFoundError):
        Tree.of(10, [Pool("a", "nowhere", Allocation())])
    with pytest.raises(NotFoundError):
        Tree.of(10, [], [Vm("a", "nowhere", Allocation(), 1)])
    with pytest.raises(NotFoundError):
        divide_static(Tree.of(10))["nobody"]


def test_removing_a_pool_moves_what_is_in_it_to_its_parent():
    tree = Tree.of(
        10,
        [Pool("a", ROOT, Allocation()), Pool("b", "a", Allocation())],
        [Vm("v", "a", Allocation(), 1), Vm("w", "b", Allocation(), 1)],
    ).without_pool("a")
    assert tree.parent("v") == ROOT
    assert tree.path("w") == (ROOT, "b", "w")


def test_ten_thousand_vms_are_divided_in_a_fraction_of_a_second():
    """A generous bound for slow machines; the benchmark holds the real figure."""
    pools = [Pool(f"p{n}", f"p{(n - 1) // 10}" if n else ROOT, Allocation()) for n in range(1000)]
    vms = [
        Vm(f"v{n}", f"p{n % 1000}", Allocation(n % 7, shares=n % 5 + 1), 1000)
        for n in range(10_000)
    ]
    tree = Tree.of(3_000_000, pools, vms)
    started = time.process_time()
    division = divide_static(tree)
    assert time.process_time() - started < 1.0
    assert sum(division.vms().values()) == 3_000_000
