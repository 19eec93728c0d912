"""Divide a resource among the VMs of a pool tree: reservations, limits, shares and demand.

Bottom-up, every node gets a floor (what it may insist on) and a ceiling (what it could use).
Top-down, what a pool got is shared among its children by ``fill``. Decisions where the public
sources leave room:

- CPU that a reservation does not use is lent: its floor is the smaller of reservation and demand.
- Where floors exceed what there is (capacity was lost), all floors of the level shrink alike.
- A pool that is not expandable insists on its own reservation only, whatever is inside.
- CPU claimants without shares are served last.
- CPU that nobody demands is not handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from casemate.errors import ArgumentError, NotFoundError
from casemate.sched.fill import ENOUGH, Filled, fill
from casemate.sched.tree import ROOT, Layout, Tree
from casemate.sched.weights import sibling_weights

ShareOut = Callable[[int, list[int], list[int], list[int], Sequence[int]], Filled]
"""Shares a budget among siblings: budget, floors, ceilings, weights, and their node numbers."""


class Share(NamedTuple):
    """What one node got, and between which bounds; all in the tree's unit.

    ``level`` is the water level among the node's siblings as numerator and denominator: units per
    weight (denominator 0: there was enough for all of them).
    """

    floor: int
    ceiling: int
    weight: int
    amount: int
    level: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Division:
    """The result: an amount for every pool and VM of a tree, and how it came about.

    The lists are in the order of ``tree.layout``; ``levels`` has one entry per pool, the water
    level among its children.
    """

    tree: Tree
    floors: list[int]
    ceilings: list[int]
    weights: list[int]
    amounts: list[int]
    levels: list[tuple[int, int]]

    def __getitem__(self, node: str) -> int:
        """Return what a pool or VM got."""
        return self.amounts[number_of(self.tree.layout, node)]

    def share(self, node: str) -> Share:
        """Return what a pool or VM got, with its bounds, weight and level."""
        layout = self.tree.layout
        at = number_of(layout, node)
        level = self.levels[layout.parent[at]] if node != ROOT else ENOUGH
        return Share(self.floors[at], self.ceilings[at], self.weights[at], self.amounts[at], level)

    def vms(self) -> dict[str, int]:
        """Return the amounts of the VMs by id."""
        layout = self.tree.layout
        return dict(zip(layout.ids[layout.pools :], self.amounts[layout.pools :], strict=True))


def divide_cpu(tree: Tree, demand: Mapping[str, int]) -> Division:
    """Divide CPU time by demand.

    A VM that is missing in ``demand`` could use all it may; figures of VMs that are not in the
    tree (any more) do not matter.

    Raises:
        ArgumentError: a negative demand.
    """
    layout = tree.layout
    ceilings = most_useful(layout)
    for vm, wanted in demand.items():
        at = layout.numbers.get(vm)
        if wanted < 0:
            raise ArgumentError("Demand cannot be negative.", argument="demand", component=vm)
        if at is not None:
            ceilings[at] = min(ceilings[at], wanted)

    def share_out(
        budget: int, floors: list[int], most: list[int], weights: list[int], _: Sequence[int]
    ) -> Filled:
        return fill(budget, floors, most, weights)

    return divide(tree, layout.reservation, ceilings, sibling_weights(tree), share_out)


def divide_static(tree: Tree) -> Division:
    """Divide by reservation, limit and shares alone: every VM takes all it may (worst case)."""
    return divide_cpu(tree, {})


def divide(
    tree: Tree,
    claims: Sequence[int],
    ceilings: list[int],
    weights: list[int],
    share_out: ShareOut,
) -> Division:
    """Divide the capacity of a tree.

    Args:
        tree: the tree.
        claims: what each node insists on by itself, in the order of the layout.
        ceilings: what each VM could use; filled in for the pools.
        weights: what each node weighs among its siblings.
        share_out: how one budget is shared among siblings.
    """
    layout = tree.layout
    floors = aggregate(layout, claims, ceilings)
    amounts = [0] * len(layout.ids)
    amounts[0] = ceilings[0]
    levels = []
    for pool, group in enumerate(layout.children):
        shared = share_out(
            amounts[pool],
            [floors[n] for n in group],
            [ceilings[n] for n in group],
            [weights[n] for n in group],
            group,
        )
        levels.append(shared.level)
        for node, amount in zip(group, shared.amounts, strict=True):
            amounts[node] = amount
    return Division(tree, floors, ceilings, weights, amounts, levels)


def most_useful(layout: Layout) -> list[int]:
    """Return what each VM could use at most: its size or its limit; 0 for pools."""
    return [min(size, limit) for size, limit in zip(layout.size, layout.limit, strict=True)]


def aggregate(layout: Layout, claims: Sequence[int], ceilings: list[int]) -> list[int]:
    """Return the floors of all nodes, and fill in the ceilings of the pools, from below.

    A pool's ceiling is what its children could use, up to its limit. Its floor is its claim as far
    as it could be used; an expandable pool insists on the floors of its children as well.
    """
    floors = [min(claim, most) for claim, most in zip(claims, ceilings, strict=True)]
    for pool in reversed(range(layout.pools)):
        group = layout.children[pool]
        ceiling = min(layout.limit[pool], sum([ceilings[n] for n in group]))
        ceilings[pool] = ceiling
        floor = claims[pool]
        if layout.expandable[pool]:
            floor = max(floor, sum([floors[n] for n in group]))
        floors[pool] = min(floor, ceiling)
    return floors


def number_of(layout: Layout, node: str) -> int:
    """Return a node's number in the layout.

    Raises:
        NotFoundError: there is no such pool or powered-on VM.
    """
    at = layout.numbers.get(node)
    if at is None:
        raise NotFoundError(f"There is no pool or VM {node!r} in the tree.", component=node)
    return at
