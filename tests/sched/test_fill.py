"""Sharing one budget is exact: against fractions, and by the laws that fairness obeys."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from casemate.sched.fill import ENOUGH, NOTHING, fill, fill_taxed

SHARES = st.integers(1, 5000)


@st.composite
def claimants(draw, *, weights=SHARES, most=6, largest=10_000):
    count = draw(st.integers(1, most))
    floors = draw(st.lists(st.integers(0, largest), min_size=count, max_size=count))
    rooms = draw(st.lists(st.integers(0, largest), min_size=count, max_size=count))
    zeroed = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    floors = [0 if zero else floor for floor, zero in zip(floors, zeroed, strict=True)]
    ceilings = [floor + room for floor, room in zip(floors, rooms, strict=True)]
    return floors, ceilings, draw(st.lists(weights, min_size=count, max_size=count))


def curve(level, floor, knee, ceiling, weight, tax):
    value = level * weight
    if value > knee:
        value = knee + (value - knee) * Fraction(100 - tax, 100)
    return min(max(value, Fraction(floor)), Fraction(ceiling))


def exact(budget, floors, ceilings, weights, knees=None, tax=0):
    """Oracle: try every breakpoint as a fraction, then interpolate. O(n squared), no shortcuts."""
    knees = knees or ceilings
    rows = list(zip(floors, knees, ceilings, weights, strict=True))
    if sum(ceilings) <= budget:
        return [Fraction(c) for c in ceilings]
    low = sum(floors)
    if low >= budget:
        return [Fraction(f * budget, low) if low else Fraction(0) for f in floors]
    keep = Fraction(100 - tax, 100)
    levels = {Fraction(0)}
    for floor, knee, ceiling, weight in rows:
        levels.add(Fraction(knee, weight))
        for bound in (floor, ceiling):
            levels |= {Fraction(bound, weight), (knee + (bound - knee) / keep) / weight}
    ordered = sorted(level for level in levels if level >= 0)
    sums = [sum(curve(level, *row, tax) for row in rows) for level in ordered]
    after = next(n for n, total in enumerate(sums) if total >= budget)
    below, above = ordered[after - 1], ordered[after]
    part = (budget - sums[after - 1]) / (sums[after] - sums[after - 1])
    level = below + part * (above - below)
    return [curve(level, *row, tax) for row in rows]


@given(claimants(), st.integers(0, 60_000))
def test_amounts_are_the_exact_fractions_rounded_to_neighbours(case, budget):
    floors, ceilings, weights = case
    result = fill(budget, floors, ceilings, weights)
    oracle = exact(budget, floors, ceilings, weights)
    assert sum(result.amounts) == min(budget, sum(ceilings))
    assert all(abs(got - want) < 1 for got, want in zip(result.amounts, oracle, strict=True))


@given(claimants(), st.integers(0, 60_000), st.data())
def test_taxed_amounts_are_the_exact_fractions_rounded_to_neighbours(case, budget, data):
    floors, ceilings, weights = case
    knees = [data.draw(st.integers(0, ceiling + 10)) for ceiling in ceilings]
    tax = data.draw(st.sampled_from([0, 1, 50, 75, 99]))
    result = fill_taxed(budget, floors, knees, ceilings, weights, tax)
    oracle = exact(budget, floors, ceilings, weights, knees, tax)
    assert sum(result.amounts) == min(budget, sum(ceilings))
    assert all(abs(got - want) < 1 for got, want in zip(result.amounts, oracle, strict=True))


@given(claimants(weights=st.integers(1, (1 << 40)), largest=1 << 50), st.integers(0, 1 << 53))
def test_exactness_survives_bytes_and_large_shares(case, budget):
    floors, ceilings, weights = case
    result = fill(budget, floors, ceilings, weights)
    oracle = exact(budget, floors, ceilings, weights)
    assert all(abs(got - want) < 1 for got, want in zip(result.amounts, oracle, strict=True))


@given(claimants(weights=st.integers(0, 5)), st.integers(0, 60_000))
def test_nothing_is_lost_and_bounds_hold(case, budget):
    floors, ceilings, weights = case
    amounts = fill(budget, floors, ceilings, weights).amounts
    assert sum(amounts) == min(budget, sum(ceilings))
    assert all(amount <= ceiling for amount, ceiling in zip(amounts, ceilings, strict=True))
    if sum(floors) <= budget:
        assert all(amount >= floor for amount, floor in zip(amounts, floors, strict=True))


@given(claimants(), st.integers(0, 60_000))
def test_those_strictly_inside_get_the_same_per_share(case, budget):
    floors, ceilings, weights = case
    result = fill(budget, floors, ceilings, weights)
    over, under = result.level
    if result.level in {ENOUGH, NOTHING}:
        return
    for amount, floor, ceiling, weight in zip(
        result.amounts, floors, ceilings, weights, strict=True
    ):
        if floor < amount < ceiling:
            assert abs(Fraction(amount) - Fraction(over * weight, under)) < 1


@given(claimants(), st.integers(0, 60_000), st.integers(0, 1000))
def test_a_larger_budget_never_gives_anyone_less(case, budget, more):
    floors, ceilings, weights = case
    before = exact(budget, floors, ceilings, weights)
    after = exact(budget + more, floors, ceilings, weights)
    assert all(b <= a for b, a in zip(before, after, strict=True))
    rounded = fill(budget + more, floors, ceilings, weights).amounts
    assert all(a - b > -1 for b, a in zip(before, rounded, strict=True))


@given(claimants(), st.integers(0, 60_000), st.integers(2, 1000))
def test_the_unit_of_shares_does_not_matter(case, budget, factor):
    floors, ceilings, weights = case
    scaled = fill(budget, floors, ceilings, [weight * factor for weight in weights])
    assert scaled.amounts == fill(budget, floors, ceilings, weights).amounts


@given(claimants(), st.integers(0, 60_000), st.randoms(use_true_random=False))
def test_the_order_of_siblings_does_not_matter(case, budget, chance):
    floors, ceilings, weights = case
    order = list(range(len(weights)))
    chance.shuffle(order)
    shuffled = fill(
        budget,
        [floors[n] for n in order],
        [ceilings[n] for n in order],
        [weights[n] for n in order],
    )
    plain = fill(budget, floors, ceilings, weights)
    assert shuffled.level[0] * plain.level[1] == plain.level[0] * shuffled.level[1]
    for position, original in enumerate(order):
        assert abs(shuffled.amounts[position] - plain.amounts[original]) <= 1


@given(claimants(), st.integers(0, 60_000), st.integers(1, 5000))
def test_more_shares_never_mean_less(case, budget, more):
    floors, ceilings, weights = case
    raised = [weights[0] + more, *weights[1:]]
    before = exact(budget, floors, ceilings, weights)
    assert fill(budget, floors, ceilings, raised).amounts[0] > before[0] - 1


@given(claimants(), st.integers(0, 60_000), st.integers(0, 1000))
def test_a_claimant_that_wants_more_never_raises_a_sibling(case, budget, more):
    floors, ceilings, weights = case
    before = exact(budget, floors, ceilings, weights)
    after = fill(budget, floors, [ceilings[0] + more, *ceilings[1:]], weights).amounts
    assert all(a < b + 1 for b, a in zip(before[1:], after[1:], strict=True))


@given(claimants(), st.integers(0, 60_000))
def test_a_claimant_that_leaves_gives_everything_back(case, budget):
    floors, ceilings, weights = case
    gone = fill(budget, [0, *floors[1:]], [0, *ceilings[1:]], weights).amounts
    assert gone[0] == 0
    assert sum(gone) == min(budget, sum(ceilings[1:]))


@given(claimants(), st.integers(0, 60_000), st.data())
def test_a_higher_tax_never_gives_an_idle_claimant_more(case, budget, data):
    floors, ceilings, weights = case
    knees = [0, *ceilings[1:]]
    low, high = sorted(data.draw(st.tuples(st.integers(0, 99), st.integers(0, 99))))
    before = exact(budget, floors, ceilings, weights, knees, low)
    assert fill_taxed(budget, floors, knees, ceilings, weights, high).amounts[0] < before[0] + 1


@given(claimants(), st.integers(0, 60_000), st.data())
def test_without_tax_nothing_differs_from_plain_shares(case, budget, data):
    floors, ceilings, weights = case
    knees = [data.draw(st.integers(0, ceiling)) for ceiling in ceilings]
    assert fill_taxed(budget, floors, knees, ceilings, weights, 0) == fill(
        budget, floors, ceilings, weights
    )


def test_claimants_without_shares_are_served_last_and_alike():
    assert fill(100, [0, 0, 0], [60, 100, 100], [5, 0, 0]).amounts == [60, 20, 20]
    assert fill(100, [0, 10, 0], [200, 100, 100], [5, 0, 0]).amounts == [90, 10, 0]


def test_floors_beyond_the_budget_shrink_alike():
    assert fill(60, [30, 60, 30], [90, 90, 90], [1, 9, 1]).amounts == [15, 30, 15]


def test_ties_go_to_the_first():
    assert fill(10, [0, 0, 0], [9, 9, 9], [1, 1, 1]).amounts == [4, 3, 3]


def test_nobody_is_no_problem():
    assert fill(10, [], [], []).amounts == []
