"""Divide memory: reservations that stick once touched, and a tax on idle pages.

Memory differs from CPU in three ways. What a VM touched under its reservation is never taken
back. A pool's own reservation is handed down to its VMs in two passes (vSphere 6.7): first by
demand up to the fair share, then the rest by shares up to the configured size. And a page that is
not used costs its owner more than one that is, so that idle VMs give way to busy ones first
(Waldspurger, "Memory Resource Management in VMware ESX Server", OSDI 2002, section 5.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from casemate.errors import ArgumentError
from casemate.sched.divvy import Division, aggregate, divide, most_useful
from casemate.sched.fill import PERCENT, Filled, fill, fill_taxed
from casemate.sched.tree import Tree
from casemate.sched.weights import sibling_weights

IDLE_TAX: Final = 75
"""Percent of idle memory that may be taken at most (the default of ESXi's Mem.IdleTax)."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What a VM does with its memory: its working set, and how much it ever touched."""

    active: int
    touched: int


def adjusted_price(shares: int, pages: int, active: Fraction, tax: int) -> Fraction:
    """Return shares per page, idle pages counting ``1 / (1 - tax)`` times.

    Memory is taken from the VM with the lowest price. ``active`` is the fraction of pages in use.
    """
    idle_cost = Fraction(PERCENT, PERCENT - tax)
    return Fraction(shares) / (pages * (active + idle_cost * (1 - active)))


def divide_memory(tree: Tree, use: Mapping[str, MemoryUse], *, tax: int = IDLE_TAX) -> Division:
    """Divide memory among all VMs, up to their configured sizes.

    A VM that is missing in ``use`` counts as fully active; figures of VMs that are not in the tree
    do not matter. A VM without shares gets its reservation and nothing else, even if memory is
    free.

    Raises:
        ArgumentError: a tax outside 0 to 99 percent, or negative use.
    """
    if not 0 <= tax < PERCENT:
        raise ArgumentError(f"An idle tax of {tax}% cannot be.", argument="Mem.IdleTax")
    layout = tree.layout
    weights = sibling_weights(tree)
    ceilings = most_useful(layout)
    for at in range(layout.pools, len(ceilings)):
        if not weights[at]:
            ceilings[at] = min(ceilings[at], layout.reservation[at])
    active, touched = _measured(tree, use, ceilings)
    guaranteed = _hand_down(tree, ceilings, active, weights)
    claims = [min(g, t) for g, t in zip(guaranteed, touched, strict=True)]
    for pool in reversed(range(layout.pools)):
        claims[pool] = sum([claims[n] for n in layout.children[pool]])

    def share_out(
        budget: int, floors: list[int], most: list[int], shares: list[int], group: Sequence[int]
    ) -> Filled:
        return fill_taxed(budget, floors, [active[n] for n in group], most, shares, tax)

    return divide(tree, claims, ceilings, weights, share_out)


def guarantees(tree: Tree, use: Mapping[str, MemoryUse]) -> dict[str, int]:
    """Return what each VM may count on: its reservation, or its part of its pools' if larger."""
    layout = tree.layout
    ceilings = most_useful(layout)
    active, _ = _measured(tree, use, ceilings)
    handed = _hand_down(tree, ceilings, active, sibling_weights(tree))
    return dict(zip(layout.ids[layout.pools :], handed[layout.pools :], strict=True))


def _measured(
    tree: Tree, use: Mapping[str, MemoryUse], ceilings: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return what each node actively uses, summed up for pools, and what each VM touched."""
    layout = tree.layout
    active = list(ceilings)
    touched = list(ceilings)
    for vm, used in use.items():
        at = layout.numbers.get(vm)
        if used.active < 0 or used.touched < 0:
            raise ArgumentError("Memory use cannot be negative.", argument="use", component=vm)
        if at is not None:
            overhead = tree.vms[vm].overhead
            active[at] = min(ceilings[at], used.active + overhead)
            touched[at] = min(ceilings[at], max(used.active, used.touched) + overhead)
    for pool in reversed(range(layout.pools)):
        active[pool] = sum([active[n] for n in layout.children[pool]])
    return active, touched


def _hand_down(tree: Tree, ceilings: list[int], demand: list[int], weights: list[int]) -> list[int]:
    """Return the guarantees of all nodes; the host's own capacity guarantees nothing."""
    layout = tree.layout
    bounds = list(ceilings)
    handed = aggregate(layout, layout.reservation, bounds)
    for pool, group in enumerate(layout.children):
        floors = [handed[n] for n in group]
        if pool == 0 or not group or handed[pool] == sum(floors):
            continue
        parts = _two_passes(
            handed[pool],
            floors,
            [demand[n] for n in group],
            [bounds[n] for n in group],
            [weights[n] for n in group],
        )
        for node, part in zip(group, parts, strict=True):
            handed[node] = part
    return handed


def _two_passes(
    reservation: int,
    floors: list[int],
    demand: list[int],
    ceilings: list[int],
    weights: list[int],
) -> list[int]:
    total = sum(weights)
    fair = [reservation * weight // total if total else 0 for weight in weights]
    capped = [
        min(max(floor, min(wanted, part)), ceiling)
        for floor, wanted, part, ceiling in zip(floors, demand, fair, ceilings, strict=True)
    ]
    first = fill(reservation, floors, capped, weights).amounts
    room = [ceiling - got for ceiling, got in zip(ceilings, first, strict=True)]
    rest = fill(reservation - sum(first), [0] * len(room), room, weights).amounts
    return [got + more for got, more in zip(first, rest, strict=True)]
