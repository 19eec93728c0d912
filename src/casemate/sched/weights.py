"""What siblings weigh against each other: shares, or scalable shares.

With plain shares a pool weighs the same however many VMs run in it, so a VM in a crowded pool gets
less than its level suggests. With scalable shares (vSphere 7) a pool weighs the shares of the VMs
that run in it, times its level relative to the lowest among its sibling pools.
"""

from __future__ import annotations

from fractions import Fraction
from math import lcm

from casemate.sched.tree import Layout, Tree


def sibling_weights(tree: Tree) -> list[int]:
    """Return a weight per node; only the ratio between siblings means anything."""
    layout = tree.layout
    scaled = _scaled_pools(tree)
    if not any(scaled):
        return layout.shares
    exact: list[Fraction] = [Fraction(share) for share in layout.shares]
    for pool in reversed(range(layout.pools)):
        if not scaled[pool]:
            continue
        for child, lowest in _pools_with_lowest(layout, pool):
            inside = sum((exact[node] for node in layout.children[child]), Fraction(0))
            exact[child] = inside * Fraction(layout.shares[child], lowest)
    weights = [0] * len(exact)
    for group in layout.children:
        scale = lcm(*(exact[node].denominator for node in group))
        for node in group:
            weights[node] = int(exact[node] * scale)
    return weights


def _scaled_pools(tree: Tree) -> list[bool]:
    """Tell for each pool whether the shares of the pools in it are scaled."""
    layout = tree.layout
    scaled: list[bool] = []
    for pool in range(layout.pools):
        own = tree.allocation(layout.ids[pool]).scale_descendants
        scaled.append(own or (pool > 0 and scaled[layout.parent[pool]]))
    return scaled


def _pools_with_lowest(layout: Layout, pool: int) -> list[tuple[int, int]]:
    """Return the pools in a pool, each with the lowest positive shares among them."""
    inside = [child for child in layout.children[pool] if child < layout.pools]
    lowest = min((layout.shares[child] for child in inside if layout.shares[child]), default=1)
    return [(child, lowest) for child in inside]
