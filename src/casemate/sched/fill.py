"""One level of sharing, exactly: a budget among claimants with floor, ceiling and weight.

Every claimant gets ``clamp(level * weight, floor, ceiling)`` for the one water level at which the
sum is the budget: the separable quadratic knapsack. The sum is piecewise linear in the level, so
sorting its breakpoints and sweeping over them finds the level as an exact fraction, in
O(n log n). Whole units are then rounded by largest remainder; ties go to the earlier claimant.

With an idle tax the curve of a claimant has a knee: above what it actively uses, a unit costs
``1 / (1 - tax)`` times as much, so the claimant's curve goes on less steeply (Waldspurger, OSDI
2002: the adjusted price shares / (pages * (f + k (1 - f)))).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

PERCENT: Final = 100


class Filled(NamedTuple):
    """Amounts in the claimants' order, and the water level as numerator and denominator.

    ``level`` is units per share. A denominator of 0 means that there was enough for everyone, a
    level of 0 that not even the floors could be met.
    """

    amounts: list[int]
    level: tuple[int, int]


ENOUGH: Final = (1, 0)
NOTHING: Final = (0, 1)

_Event = tuple[int, int, int, int, int]
"""Sort key, numerator and denominator of a level, and how slope and constant change there."""


def fill(
    budget: int, floors: Sequence[int], ceilings: Sequence[int], weights: Sequence[int]
) -> Filled:
    """Share a budget; ``floors[i] <= ceilings[i]``, nothing negative.

    The amounts add up to ``min(budget, sum(ceilings))``. Floors that together exceed the budget
    are all scaled down alike. Claimants of weight 0 are served last, in equal parts.
    """
    if sum(ceilings) <= budget:
        return Filled(list(ceilings), ENOUGH)
    low = sum(floors)
    if low >= budget:
        return Filled(_scaled(budget, floors, low), NOTHING)
    if 0 in weights:
        last = _serve_weightless(budget, floors, ceilings, weights)
        if last is not None:
            return last
    shift = 2 * max(weights).bit_length()
    events = []
    slope = 0
    for floor, ceiling, weight in zip(floors, ceilings, weights, strict=True):
        if weight and floor < ceiling:
            if floor:
                events.append(((floor << shift) // weight, floor, weight, weight, -floor))
            else:
                slope += weight
            events.append(((ceiling << shift) // weight, ceiling, weight, -weight, ceiling))
    over, under = _level(budget, low, slope, events)
    curve = [over * weight for weight in weights]
    return Filled(_rounded(budget, floors, ceilings, curve, under), (over, under))


def fill_taxed(
    budget: int,
    floors: Sequence[int],
    knees: Sequence[int],
    ceilings: Sequence[int],
    weights: Sequence[int],
    tax: int,
) -> Filled:
    """Share a budget where units above a claimant's knee are taxed.

    Args:
        budget: units to share.
        floors: least amounts.
        knees: what each claimant actively uses.
        ceilings: largest amounts.
        weights: shares.
        tax: percent, 0 to 99: the part of idle units that may be taken at most.
    """
    low = sum(floors)
    if not tax or sum(ceilings) <= budget or low >= budget:
        return fill(budget, floors, ceilings, weights)
    if 0 in weights:
        last = _serve_weightless(budget, floors, ceilings, weights)
        if last is not None:
            return last
    keep = PERCENT - tax
    # A claimant above its knee behaves like one of weight w * keep / 100 that starts from
    # knee * tax / 100. Everything is scaled by 100 to stay with integers; a breakpoint is then
    # (inverse of the amount) / weight with the inverse below.
    shift = 2 * (max(weights) * keep).bit_length()
    events = []
    slope = 0
    for floor, knee, ceiling, weight in zip(floors, knees, ceilings, weights, strict=True):
        if not weight or floor >= ceiling:
            continue
        bend = floor if knee < floor else min(knee, ceiling)
        if floor < bend:
            steep = weight * PERCENT
            if floor:
                key = (floor << shift) // weight
                events.append((key, floor, weight, steep, -floor * PERCENT))
            else:
                slope += steep
            events.append(((bend << shift) // weight, bend, weight, -steep, bend * PERCENT))
        if bend < ceiling:
            gentle = weight * keep
            start = bend * PERCENT - knee * tax
            end = ceiling * PERCENT - knee * tax
            events.append(((start << shift) // gentle, start, gentle, gentle, -start))
            events.append(((end << shift) // gentle, end, gentle, -gentle, end))
    over, under = _level(budget * PERCENT, low * PERCENT, slope, events)
    # Below its knee a claimant is on the steep line, above it on the gentle one.
    curve = [
        weight * over * PERCENT
        if weight * over <= knee * under
        else weight * over * keep + knee * tax * under
        for knee, weight in zip(knees, weights, strict=True)
    ]
    return Filled(_rounded(budget, floors, ceilings, curve, under * PERCENT), (over, under))


def _level(budget: int, constant: int, slope: int, events: list[_Event]) -> tuple[int, int]:
    """Sweep over the breakpoints; ``constant + slope * level`` is the sum between two of them.

    The keys are levels scaled by ``2 ** shift`` and rounded down. Two different levels differ by
    at least the inverse square of the largest denominator, so their keys differ too: the order is
    exact.
    """
    events.sort()
    for _, numerator, denominator, more_slope, more_constant in events:
        if constant * denominator + slope * numerator >= budget * denominator:
            break
        slope += more_slope
        constant += more_constant
    return budget - constant, slope


def _rounded(
    budget: int, floors: Sequence[int], ceilings: Sequence[int], curve: list[int], unit: int
) -> list[int]:
    """Clamp ``curve[i] / unit`` and round to whole units that add up to the budget."""
    amounts = []
    fractions = []
    for index, value in enumerate(curve):
        amount, rest = divmod(value, unit)
        if amount < floors[index]:
            amount = floors[index]
        elif amount >= ceilings[index]:
            amount = ceilings[index]
        elif rest:
            fractions.append((-rest, index))
        amounts.append(amount)
    missing = budget - sum(amounts)
    if missing:
        fractions.sort()
        for _, index in fractions[:missing]:
            amounts[index] += 1
    return amounts


def _scaled(budget: int, floors: Sequence[int], total: int) -> list[int]:
    if not total:
        return [0] * len(floors)
    return _rounded(budget, [0] * len(floors), floors, [budget * f for f in floors], total)


def _serve_weightless(
    budget: int, floors: Sequence[int], ceilings: Sequence[int], weights: Sequence[int]
) -> Filled | None:
    """Share what the weighted claimants leave, or return None when they leave nothing."""
    amounts = [c if w else f for f, c, w in zip(floors, ceilings, weights, strict=True)]
    left = budget - sum(amounts)
    if left < 0:
        return None
    idle = [index for index, weight in enumerate(weights) if not weight]
    part = fill(
        left + sum(floors[i] for i in idle),
        [floors[i] for i in idle],
        [ceilings[i] for i in idle],
        [1] * len(idle),
    )
    for index, amount in zip(idle, part.amounts, strict=True):
        amounts[index] = amount
    return Filled(amounts, ENOUGH)
