"""Admission: what is reserved is there, and refusals say how much is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import AdmissionError, ArgumentError, CasemateError, LimitError, NotFoundError
from casemate.sched.admission import (
    FAULTS,
    CreatePool,
    Move,
    PowerOff,
    PowerOn,
    Reconfigure,
    RemovePool,
    Resize,
    admit,
    apply,
    check_vcpus,
)
from casemate.sched.ledger import Colour, accounts, health
from casemate.sched.tree import ROOT, UNLIMITED, Allocation, Pool, Tree, Vm

POOLS = ("p0", "p1", "p2", "p3")
VMS = tuple(f"v{n}" for n in range(6))
SMALL = st.integers(0, 30)


@st.composite
def allocations(draw):
    limit = draw(st.just(UNLIMITED) | SMALL)
    return Allocation(draw(SMALL), limit, 1000, draw(st.booleans()))


places = st.sampled_from((ROOT, *POOLS))
vms = st.builds(Vm, st.sampled_from(VMS), places, allocations(), st.just(100), st.integers(0, 3))
pools = st.builds(Pool, st.sampled_from(POOLS), places, allocations())
nodes = st.sampled_from(POOLS + VMS)
changes = st.one_of(
    st.builds(PowerOn, vms),
    st.builds(PowerOff, st.sampled_from(VMS)),
    st.builds(CreatePool, pools),
    st.builds(RemovePool, st.sampled_from(POOLS)),
    st.builds(Reconfigure, nodes, allocations()),
    st.builds(Move, nodes, places),
)


@given(st.lists(changes, max_size=25), st.integers(20, 100))
def test_admitted_changes_keep_the_tree_green_and_refused_ones_would_not(steps, capacity):
    tree = Tree.of(capacity)
    for step in steps:
        try:
            forced = apply(tree, step)
        except (CasemateError, KeyError):
            forced = None
        before = dict(tree.pools), dict(tree.vms)
        refusal = None
        try:
            tree = admit(tree, step, "memory")
        except AdmissionError as error:
            refusal = error
        except (ArgumentError, LimitError, NotFoundError):
            continue
        if refusal is not None:
            assert (dict(tree.pools), dict(tree.vms)) == before
            assert refusal.requested > refusal.available >= 0
            assert refusal.resource in FAULTS
            assert forced is not None
            assert health(forced).colour is not Colour.GREEN
        assert health(tree).colour is Colour.GREEN, step


@given(st.lists(changes, max_size=15), vms)
def test_power_off_undoes_power_on(steps, vm):
    tree = Tree.of(60)
    for step in steps:
        try:
            tree = admit(tree, step, "cpu")
        except CasemateError:
            continue
    if vm.id in tree.vms or (vm.pool != ROOT and vm.pool not in tree.pools):
        return
    try:
        after = admit(tree, PowerOn(vm), "cpu")
    except CasemateError:
        return
    assert accounts(admit(after, PowerOff(vm.id), "cpu")) == accounts(tree)


@given(st.lists(changes, max_size=15))
def test_the_accounting_identities_hold(steps):
    tree = Tree.of(60)
    for step in steps:
        try:
            tree = admit(tree, step, "cpu")
        except CasemateError:
            continue
    figures = accounts(tree)
    root = figures[ROOT]
    assert root.used + root.unreserved == tree.capacity
    for pool in tree.pools.values():
        account = figures[pool.id]
        if pool.allocation.limit != UNLIMITED:
            assert account.used + account.unreserved <= max(account.used, pool.allocation.limit)
        elif not pool.allocation.expandable:
            assert account.reservation == account.used + account.unreserved
        elif account.used <= account.reservation:
            above = figures[pool.parent].unreserved
            assert account.reservation + above == account.used + account.unreserved


@given(st.lists(changes, max_size=15), st.sampled_from(POOLS), st.integers(1, 60))
def test_what_is_said_to_be_free_is_free_to_the_last_unit(steps, pool, more):
    tree = Tree.of(60)
    for step in steps:
        try:
            tree = admit(tree, step, "cpu")
        except CasemateError:
            continue
    if pool not in tree.pools:
        return
    free = accounts(tree)[pool].unreserved
    admit(tree, PowerOn(Vm("new", pool, Allocation(free), 1000)), "cpu")
    with pytest.raises(AdmissionError) as caught:
        admit(tree, PowerOn(Vm("new", pool, Allocation(free + more), 1000)), "cpu")
    assert (caught.value.requested, caught.value.available) == (free + more, free)


def test_a_fixed_pool_without_reservation_starts_nothing_that_needs_overhead():
    tree = Tree.of(100, [Pool("p", ROOT, Allocation(0))])
    admit(tree, PowerOn(Vm("v", "p", Allocation(0), 10)), "memory")
    with pytest.raises(AdmissionError) as caught:
        admit(tree, PowerOn(Vm("v", "p", Allocation(0), 10, overhead=1)), "memory")
    assert (caught.value.resource, caught.value.requested, caught.value.available) == (
        "memory",
        1,
        0,
    )
    assert "'p'" in caught.value.reason


def test_the_host_itself_is_named_when_it_is_what_is_full():
    tree = Tree.of(10, [Pool("p", ROOT, Allocation(0, expandable=True))])
    with pytest.raises(AdmissionError) as caught:
        admit(tree, PowerOn(Vm("v", "p", Allocation(11), 20)), "cpu")
    assert FAULTS[caught.value.resource] == "InsufficientHostCpuCapacityFault"


def yellow() -> Tree:
    pools = [Pool("a", ROOT, Allocation(60)), Pool("b", ROOT, Allocation(40, expandable=True))]
    running = [Vm("x", "a", Allocation(30), 50), Vm("y", "b", Allocation(30), 50)]
    return admit(Tree.of(100, pools, running), Resize(70), "cpu")


def test_lost_capacity_turns_the_tree_yellow():
    state = health(yellow())
    assert state.colour is Colour.YELLOW
    assert state.reasons[0][0] == ROOT


def test_in_yellow_pools_may_change_as_long_as_the_tree_is_consistent():
    bigger = admit(yellow(), Reconfigure("a", Allocation(90)), "cpu")
    assert bigger.pools["a"].allocation.reservation == 90
    with pytest.raises(AdmissionError):
        admit(yellow(), Reconfigure("a", Allocation(20)), "cpu")


def test_in_yellow_vms_are_bounded_by_the_real_host():
    admit(yellow(), PowerOn(Vm("z", "a", Allocation(10), 50)), "cpu")
    with pytest.raises(AdmissionError) as caught:
        admit(yellow(), PowerOn(Vm("z", "a", Allocation(11), 50)), "cpu")
    assert (caught.value.resource, caught.value.available) == ("host-cpu", 10)


@pytest.mark.parametrize(
    ("pool", "vm"),
    [
        (Allocation(10), Allocation(20)),
        (Allocation(30, 20), Allocation(5)),
        (Allocation(10, 20, expandable=True), Allocation(25)),
        (Allocation(30), Allocation(20, 10)),
    ],
)
def test_a_tree_changed_past_the_manager_is_red(pool, vm):
    tree = Tree.of(100, [Pool("p", ROOT, pool)], [Vm("v", "p", vm, 50)])
    state = health(tree)
    assert state.colour is Colour.RED
    assert state.reasons
    assert health(tree.with_capacity(1)).colour is Colour.RED


@pytest.mark.parametrize(
    "change",
    [
        PowerOn(Vm("v", ROOT, Allocation(), 1)),
        PowerOn(Vm("new", ROOT, Allocation(5, 4), 10)),
        PowerOn(Vm("new", ROOT, Allocation(5), 4)),
        CreatePool(Pool("p", ROOT, Allocation())),
        Reconfigure("v", Allocation(99)),
        Reconfigure(ROOT, Allocation()),
        RemovePool(ROOT),
        Move("p", "q"),
        Move("p", "p"),
    ],
)
def test_contradictions_are_arguments_not_capacity(change):
    pools = [Pool("p", ROOT, Allocation()), Pool("q", "p", Allocation())]
    tree = Tree.of(1000, pools, [Vm("v", ROOT, Allocation(), 50)])
    with pytest.raises(ArgumentError):
        admit(tree, change, "cpu")


@pytest.mark.parametrize(
    "change",
    [
        PowerOff("w"),
        RemovePool("w"),
        Reconfigure("w", Allocation()),
        Move("w", ROOT),
        Move("v", "w"),
    ],
)
def test_what_is_not_there_is_not_found(change):
    with pytest.raises(NotFoundError):
        admit(Tree.of(10, [], [Vm("v", ROOT, Allocation(), 50)]), change, "cpu")


def test_a_pool_moves_with_all_that_is_in_it():
    tree = Tree.of(
        100,
        [
            Pool("from", ROOT, Allocation(20)),
            Pool("to", ROOT, Allocation(15)),
            Pool("p", "from", Allocation(5, expandable=True)),
            Pool("inner", "p", Allocation(8)),
        ],
        [Vm("v", "inner", Allocation(8), 50), Vm("w", "p", Allocation(4), 50)],
    )
    moved = admit(tree, Move("p", "to"), "cpu")
    assert moved.path("v") == (ROOT, "to", "p", "inner", "v")
    assert accounts(moved)["from"].used == 0
    with pytest.raises(AdmissionError) as caught:
        admit(admit(tree, Reconfigure("to", Allocation(11)), "cpu"), Move("p", "to"), "cpu")
    assert (caught.value.requested, caught.value.available) == (12, 11)


def test_no_vcpu_is_promised_more_than_a_core():
    check_vcpus(Vm("v", ROOT, Allocation(6000), 12_000), 2, 3000)
    with pytest.raises(AdmissionError) as caught:
        check_vcpus(Vm("v", ROOT, Allocation(6001), 12_000), 2, 3000)
    assert (caught.value.resource, caught.value.requested) == ("per-cpu", 3001)


def test_a_pool_cannot_be_pulled_from_under_what_runs_in_it():
    pool = Pool("p", ROOT, Allocation(5, 50, expandable=True))
    tree = Tree.of(100, [pool], [Vm("v", "p", Allocation(10), 50)])
    for fits in (Allocation(10), Allocation(5, 10, expandable=True), Allocation(10, 10)):
        admit(tree, Reconfigure("p", fits), "cpu")
    for too_small in (Allocation(9), Allocation(5, 9, expandable=True)):
        with pytest.raises(AdmissionError) as caught:
            admit(tree, Reconfigure("p", too_small), "cpu")
        assert (caught.value.requested, caught.value.available) == (10, 9)
