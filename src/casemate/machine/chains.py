"""Which deltas of a VM's disks are needed, and how what is not needed goes away: pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove a delta that nothing leads to."""

    name: str


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge the delta ``name`` into ``into``, the disk below it, which then takes its place."""

    name: str
    into: str


def plan_consolidation(
    parents: Mapping[str, str], pinned: Collection[str], current: Collection[str]
) -> tuple[Drop | Merge, ...]:
    """Plan what makes the chains of a VM's disks as short as its snapshots allow.

    Args:
        parents: For every disk the one below it, or "" for the lowest.
        pinned: Disks that are the frozen state of a snapshot.
        current: Disks that the VM writes now.

    Returns:
        Steps in the order to take them. After all of them every disk is pinned, current, or has
        at least two above it; what pinned or current disks contain is unchanged.
    """
    below = dict(parents)
    wanted, writing = set(pinned), set(current)
    steps: list[Drop | Merge] = []
    while (leaf := _unwanted_leaf(below, wanted | writing)) is not None:
        steps.append(Drop(leaf))
        del below[leaf]
    while (pair := _mergeable(below, wanted, writing)) is not None:
        name, into = pair
        steps.append(Merge(name, into))
        del below[name]
        below = {disk: into if lower == name else lower for disk, lower in below.items()}
        for names in (wanted, writing):
            if name in names:
                names.remove(name)
                names.add(into)
    return tuple(steps)


def _unwanted_leaf(below: Mapping[str, str], needed: Collection[str]) -> str | None:
    """Return a delta that is not needed and has nothing above it; base disks are left alone."""
    carrying = set(below.values())
    for disk, lower in sorted(below.items()):
        if lower and disk not in needed and disk not in carrying:
            return disk
    return None


def _mergeable(
    below: Mapping[str, str], pinned: Collection[str], current: Collection[str]
) -> tuple[str, str] | None:
    """Return a delta and the disk below it that only this delta needs."""
    for disk, lower in sorted(below.items()):
        only = [name for name, its in below.items() if its == lower] == [disk]
        if lower and only and lower not in pinned and lower not in current:
            return disk, lower
    return None
