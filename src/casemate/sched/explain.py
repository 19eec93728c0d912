"""Why a VM got what it got: one step per pool on the way from the host down to it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from casemate.sched.divvy import Division, Share
from casemate.sched.tree import ROOT, UNLIMITED


class Bound(StrEnum):
    """What decided about an amount."""

    DEMAND = "demand"
    LIMIT = "limit"
    SIZE = "size"
    RESERVATION = "reservation"
    SHARES = "shares"
    IDLE_TAX = "idle-tax"
    NO_SHARES = "no-shares"
    LOST_CAPACITY = "lost-capacity"


_WHY = {
    Bound.DEMAND: "it gets all it could use",
    Bound.LIMIT: "it has reached its limit",
    Bound.SIZE: "it gets all it is configured for",
    Bound.RESERVATION: "its reservation gives it more than its shares would",
    Bound.SHARES: "siblings compete, and shares decide",
    Bound.IDLE_TAX: "siblings compete, and it pays the tax on idle memory",
    Bound.NO_SHARES: "it has no shares, so it is served last",
    Bound.LOST_CAPACITY: "not even all reservations can be met, so all shrink alike",
}


@dataclass(frozen=True, slots=True)
class Step:
    """How one pool's amount was shared, seen by one of its children; all in the tree's unit.

    Attributes:
        pool: the pool that shared.
        budget: what it had to share.
        siblings: how many children took part.
        node: the child on the way to the VM.
        share: the child's floor, ceiling, weight, amount, and the water level.
        weights: sum of the weights of all children.
        by_shares: what the child would get if nothing but shares counted.
        bound: what decided.
    """

    pool: str
    budget: int
    siblings: int
    node: str
    share: Share
    weights: int
    by_shares: int
    bound: Bound

    def sentence(self) -> str:
        """Return the step for people."""
        return (
            f"{self.node} gets {self.share.amount} of the {self.budget} of {self.pool}: "
            f"{_WHY[self.bound]} (shares {self.share.weight} of {self.weights} among "
            f"{self.siblings}: {self.by_shares}; at least {self.share.floor}, "
            f"at most {self.share.ceiling})."
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """A node's amount and the steps that led to it; the last step is its own."""

    node: str
    amount: int
    steps: tuple[Step, ...]


def explain(division: Division, node: str) -> Explanation:
    """Explain what a pool or VM got.

    Raises:
        NotFoundError: there is no such node in the divided tree.
    """
    path = division.tree.path(node)
    steps = tuple(_step(division, pool, child) for pool, child in pairwise(path))
    return Explanation(node, division[node], steps)


def _step(division: Division, pool: str, node: str) -> Step:
    layout = division.tree.layout
    group = layout.children[layout.numbers[pool]]
    share = division.share(node)
    weights = sum(division.weights[n] for n in group)
    budget = division[pool]
    by_shares = budget * share.weight // weights if weights else 0
    bound = _bound(division, node, share)
    return Step(pool, budget, len(group), node, share, weights, by_shares, bound)


def _bound(division: Division, node: str, share: Share) -> Bound:
    over, under = share.level
    if under and not over:
        return Bound.LOST_CAPACITY if share.amount < share.floor else Bound.RESERVATION
    if share.amount >= share.ceiling:
        return _ceiling(division, node, share)
    if not share.weight:
        return Bound.NO_SHARES
    by_level = share.weight * over // under if under else share.amount
    if share.amount == share.floor and by_level < share.floor:
        return Bound.RESERVATION
    return Bound.IDLE_TAX if share.amount < by_level else Bound.SHARES


def _ceiling(division: Division, node: str, share: Share) -> Bound:
    tree = division.tree
    allocation = tree.allocation(node)
    vm = tree.vms.get(node)
    extra = vm.overhead if vm is not None else 0
    if node != ROOT and allocation.limit != UNLIMITED and share.ceiling == allocation.limit + extra:
        return Bound.LIMIT
    if vm is not None and share.ceiling == vm.size + extra:
        return Bound.SIZE
    return Bound.DEMAND
