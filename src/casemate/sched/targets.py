"""From entitlements to the numbers that control groups are given.

Control groups have no CPU reservation, so weights carry it. A weight is what a node would be
entitled to if it woke up now, not what it uses: the sibling's level times its shares, within its
reservation and limit. Nodes that are satisfied leave the rest to the others in proportion, nodes
that wake up get their part at once, and the outcome is the entitlement without waiting for the
next period.

Only VMs have control groups: a pool is part of the computation, not of the hierarchy.

Memory bounds protect (``minimum``, ``low``) and contain (``maximum``); they never reclaim. Without
swap a limit below what a guest holds kills it, so ``maximum`` is size plus overhead, and memory is
taken back by the balloon alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from casemate.sched.divvy import Division
from casemate.sched.tree import MAX_AMOUNT

PERIOD_US: Final = 100_000
"""Period of CPU bandwidth control; the kernel's own default."""
MIN_QUOTA_US: Final = 1000
"""Least quota the kernel accepts."""
_THOUSAND: Final = 1000


class WeightScale(Enum):
    """Ranges of CPU weights: least and largest value."""

    V1 = (2, 262_144)
    V2 = (1, 10_000)


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """Weight among its siblings, and microseconds per ``PERIOD_US`` (None: unlimited)."""

    weight: int
    quota_us: int | None


@dataclass(frozen=True, slots=True)
class MemoryTarget:
    """Bytes: never taken (``minimum``), taken last (``low``), never exceeded (None: unlimited)."""

    minimum: int
    low: int
    maximum: int | None


def cpu_targets(
    division: Division, static: Division, scale: WeightScale, core_mhz: int
) -> dict[str, CpuTarget]:
    """Return the CPU targets of all VMs, whose groups are siblings of each other.

    The tree is in the numbers: where the weights of those that still want something are their
    amounts, and all others weigh at least theirs, a work-conserving scheduler ends up with the
    division, however deep the tree is.

    Args:
        division: entitlements by demand, in MHz.
        static: entitlements of the same tree without demand: what decides where there is enough
            for everyone now.
        scale: range of the weights.
        core_mhz: speed of one core; a quota of a full period is one core.
    """
    layout = division.tree.layout
    least, largest = scale.value
    vms = range(layout.pools, len(layout.ids))
    wishes = [_wish(division, static, layout.parent[vm], vm) for vm in vms]
    top = max(wishes, default=0)
    spare = _spare(division)
    targets = {}
    for vm, wish in zip(vms, wishes, strict=True):
        scaled = (2 * largest * wish + top) // (2 * top) if top else largest
        most = min(layout.limit[vm], layout.size[vm])
        room = spare[layout.parent[vm]]
        if room is not None:
            most = min(most, max(division.amounts[vm] + room, wish))
        quota = None
        if most < layout.size[vm]:
            quota = max(MIN_QUOTA_US, most * PERIOD_US // max(1, core_mhz))
        targets[layout.ids[vm]] = CpuTarget(max(least, scaled), quota)
    return targets


def memory_targets(division: Division) -> dict[str, MemoryTarget]:
    """Return the memory targets of all pools and VMs but the root (division in bytes)."""
    layout = division.tree.layout
    targets = {}
    for node in range(1, len(layout.ids)):
        pool = node < layout.pools
        most = layout.limit[node] if pool else layout.size[node]
        targets[layout.ids[node]] = MemoryTarget(
            minimum=min(division.floors[node], division.amounts[node]),
            low=division.amounts[node],
            maximum=None if most >= MAX_AMOUNT else most,
        )
    return targets


def end_scores(division: Division, total: int) -> dict[str, int]:
    """Return by VM what is added to its score where Linux must end a process for its memory.

    The score is what it holds, in thousandths of the host's memory (proc(5), oom_score_adj). With
    this added VMs end in the order of what they hold beyond their entitlements: a reservation is
    not what costs a VM its life. None is spared more than the host's other processes are.

    Args:
        division: of memory, in bytes.
        total: bytes of the host's memory.
    """
    layout = division.tree.layout
    vms = range(layout.pools, len(layout.ids))
    most = max((division.amounts[vm] for vm in vms), default=0)
    return {
        layout.ids[vm]: min(_THOUSAND, _THOUSAND * (most - division.amounts[vm]) // max(1, total))
        for vm in vms
    }


Target = TypeVar("Target", CpuTarget, MemoryTarget)


def changed(before: Mapping[str, Target], after: Mapping[str, Target]) -> dict[str, Target]:
    """Return the targets that must be written: those that are new or other than before."""
    return {node: target for node, target in after.items() if before.get(node) != target}


def _wish(division: Division, static: Division, pool: int, node: int) -> int:
    """Return what a node would be entitled to if it wanted all it may, now."""
    layout = division.tree.layout
    amount = division.amounts[node]
    for level in (division.levels[pool], static.levels[pool]):
        over, under = level
        if under and not over:
            return amount
        if under:
            wish = division.weights[node] * over // under
            return max(amount, min(max(wish, layout.reservation[node]), layout.limit[node]))
    return max(amount, static.ceilings[node], layout.reservation[node])


def _spare(division: Division) -> list[int | None]:
    """Return per pool what its limit and those above leave unused; None where nothing limits."""
    layout = division.tree.layout
    spare: list[int | None] = [None]
    for pool in range(1, layout.pools):
        room = spare[layout.parent[pool]]
        if layout.limit[pool] < MAX_AMOUNT:
            own = layout.limit[pool] - division.amounts[pool]
            room = own if room is None else min(room, own)
        spare.append(room)
    return spare
