"""What is reserved where, what may still be reserved, and whether the tree is sound.

Figures and names are those of vSphere's ResourcePoolResourceUsage. What a pool holds of its
parent is the larger of its own reservation and of what is reserved inside it: an empty pool keeps
its reservation, and an expandable one borrows beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from casemate.sched.tree import MAX_AMOUNT, ROOT, UNLIMITED, Tree


class Account(NamedTuple):
    """A pool's figures.

    Attributes:
        reservation: its own reservation.
        used: reserved inside: VMs (with overhead) and the pools below.
        used_for_vms: the part of ``used`` that running VMs directly in it hold.
        unreserved: what can still be reserved in it, borrowing included.
        own_unreserved: the same without borrowing.
        max_usage: least limit of itself and its ancestors.
    """

    reservation: int
    used: int
    used_for_vms: int
    unreserved: int
    own_unreserved: int
    max_usage: int

    @property
    def claim(self) -> int:
        """What the pool holds of its parent."""
        return max(self.reservation, self.used)


class Colour(StrEnum):
    """State of a pool tree, in vSphere's words."""

    GREEN = "green"
    """Every reservation is covered."""
    YELLOW = "yellow"
    """Consistent, but the host no longer covers it: limits hold, reservations may not."""
    RED = "red"
    """A pool holds more than it may: it was changed past the manager."""


@dataclass(frozen=True, slots=True)
class Health:
    """The colour, and a sentence per pool that is not as it should be."""

    colour: Colour
    reasons: tuple[tuple[str, str], ...] = ()


def accounts(tree: Tree) -> dict[str, Account]:
    """Return the figures of every pool, the root included; O(pools + VMs)."""
    layout = tree.layout
    count = layout.pools
    for_vms = [0] * count
    used = [0] * count
    for vm in range(count, len(layout.ids)):
        for_vms[layout.parent[vm]] += layout.reservation[vm]
    for pool in reversed(range(count)):
        used[pool] += for_vms[pool]
        if pool:
            used[layout.parent[pool]] += max(layout.reservation[pool], used[pool])
    found: list[Account] = []
    for pool in range(count):
        above = found[layout.parent[pool]] if pool else None
        own = max(layout.reservation[pool] - used[pool], 0)
        free = own
        most = layout.limit[pool]
        if above is not None:
            most = min(most, above.max_usage)
            if layout.expandable[pool]:
                free += above.unreserved
            free = max(0, min(free, layout.limit[pool] - used[pool]))
        found.append(Account(layout.reservation[pool], used[pool], for_vms[pool], free, own, most))
    return dict(zip(layout.ids[:count], found, strict=True))


def health(tree: Tree) -> Health:
    """Return the state of a tree."""
    reasons = []
    colour = Colour.GREEN
    figures = accounts(tree)
    for pool in tree.pools.values():
        account = figures[pool.id]
        given = pool.allocation
        limit = MAX_AMOUNT if given.limit == UNLIMITED else given.limit
        if account.claim > limit:
            reasons.append((pool.id, f"It holds {account.claim}, above its limit of {limit}."))
        elif not given.expandable and account.used > given.reservation:
            reasons.append(
                (pool.id, f"{account.used} is reserved in it; it has {given.reservation}, fixed.")
            )
    for vm in tree.vms.values():
        given = vm.allocation
        if given.limit != UNLIMITED and given.reservation > given.limit:
            reasons.append(
                (vm.id, f"Its reservation {given.reservation} is above its limit {given.limit}.")
            )
    if reasons:
        colour = Colour.RED
    root = figures[ROOT]
    if root.used > tree.capacity:
        reasons.append((ROOT, f"{root.used} is reserved; the host has {tree.capacity}."))
        colour = Colour.RED if colour is Colour.RED else Colour.YELLOW
    return Health(colour, tuple(reasons))
