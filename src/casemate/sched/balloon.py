"""How far each VM's balloon is inflated, without ever killing the guest inside.

Rules found by experiment with QEMU and Linux guests:

- never inflate beyond 65% of the configured size (Mem.CtlMaxPercent),
- leave the guest a floor of available memory: a guest driven below dies when it runs anything,
- a balloon that stops moving has met that floor: its target goes back to where it stands,
- a guest that never moves has no driver and is not asked again,
- the device must be created with deflate-on-oom.

Memory is only taken when the host's state asks for it, and only as much as is missing: from the
VMs that hold more than their entitlement, in proportion to the excess.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from casemate.sched.fill import fill
from casemate.sched.memory import MIB, MemoryState

MAX_PERCENT: Final = 65
"""Percent of the configured size that a balloon may take."""
GUEST_FLOOR: Final = 64 * MIB
"""Bytes of available memory that a guest keeps."""
STALLED_AFTER: Final = 10.0
"""Seconds without movement after which a balloon has stalled; a driver answers within 1 or 2."""
DEAD_BAND: Final = 4 * MIB
"""Bytes by which a new target must differ to be worth sending."""


@dataclass(frozen=True, slots=True)
class Balloon:
    """A VM's balloon as it stands; bytes of guest memory.

    Attributes:
        size: configured memory.
        actual: memory the guest has now.
        target: what was asked for last.
        available: what the guest says it could still use; None when it does not say.
        still_for: seconds since ``actual`` moved last while it differed from ``target``.
        driver: the guest has been seen to answer.
    """

    size: int
    actual: int
    target: int
    available: int | None
    still_for: float
    driver: bool

    @property
    def stalled(self) -> bool:
        """Whether it was asked to move, and does not."""
        return self.actual != self.target and self.still_for >= STALLED_AFTER


@dataclass(frozen=True, slots=True)
class BalloonPlan:
    """New targets (only those to send), VMs to hold back, and VMs without a usable balloon."""

    targets: dict[str, int]
    blocked: tuple[str, ...]
    unresponsive: tuple[str, ...]


def least_size(balloon: Balloon) -> int:
    """Return the size below which a VM's guest must not be squeezed."""
    least = balloon.size - balloon.size * MAX_PERCENT // 100
    if balloon.available is not None:
        least = max(least, balloon.actual - max(0, balloon.available - GUEST_FLOOR))
    return min(least, balloon.size)


def plan_balloons(
    balloons: Mapping[str, Balloon],
    entitled: Mapping[str, int],
    state: MemoryState,
    missing: int,
    still: AbstractSet[str] = frozenset(),
) -> BalloonPlan:
    """Decide on the balloons of all running VMs.

    At the lowest state those above their entitlement are held back, but who takes no more and has
    nothing to give: that would cost a busy guest its processor, and bring the host nothing.

    Args:
        balloons: as they stand, by VM.
        entitled: guest memory each VM is entitled to (without overhead); missing ones keep theirs.
        state: the host's memory state.
        missing: bytes to bring free memory back above the minimum. With ``HIGH`` it is negative:
            what may be given back.
        still: VMs that hold no more than before memory was that short.
    """
    unresponsive = tuple(sorted(vm for vm, b in balloons.items() if not b.driver and b.stalled))
    usable = {vm: b for vm, b in sorted(balloons.items()) if vm not in unresponsive}
    wanted: dict[str, int] = {}
    if state is MemoryState.HIGH:
        wanted = _give_back(usable, max(0, -missing))
    elif state >= MemoryState.SOFT:
        everything = state >= MemoryState.HARD
        wanted = _take(usable, entitled, missing, everything=everything)
    for vm, balloon in usable.items():
        if balloon.stalled and wanted.get(vm, balloon.target) < balloon.actual:
            wanted[vm] = balloon.actual
    targets = {
        vm: size
        for vm, size in wanted.items()
        if abs(size - balloons[vm].target) >= DEAD_BAND
        or (size != balloons[vm].target and size in {balloons[vm].size, balloons[vm].actual})
    }
    blocked: tuple[str, ...] = ()
    if state is MemoryState.LOW:
        blocked = tuple(
            sorted(
                vm
                for vm, b in balloons.items()
                if b.actual > entitled.get(vm, b.actual)
                and (vm not in still or b.actual - least_size(b) >= DEAD_BAND)
            )
        )
    return BalloonPlan(targets, blocked, unresponsive)


def _take(
    balloons: Mapping[str, Balloon],
    entitled: Mapping[str, int],
    missing: int,
    *,
    everything: bool,
) -> dict[str, int]:
    """Take what is missing from those above their entitlement, in proportion to the excess.

    Unless memory is so short that everything is taken, guests below their entitlement get some of
    it back at the same time: idle guests give way to busy ones.
    """
    names = [vm for vm, b in balloons.items() if entitled.get(vm, b.actual) < b.actual]
    excess = [balloons[vm].actual - entitled[vm] for vm in names]
    room = [
        min(over, max(0, balloons[vm].actual - least_size(balloons[vm])))
        for vm, over in zip(names, excess, strict=True)
    ]
    given = {} if everything else _restore(balloons, entitled, sum(room) - max(0, missing))
    budget = sum(room) if everything else max(0, missing) + sum(given.values())
    parts = fill(budget, [0] * len(room), room, excess).amounts
    wanted = {vm: balloons[vm].actual + more for vm, more in given.items()}
    taken = zip(names, parts, strict=True)
    return wanted | {vm: balloons[vm].actual - part for vm, part in taken if part}


def _restore(
    balloons: Mapping[str, Balloon], entitled: Mapping[str, int], spare: int
) -> dict[str, int]:
    """Return what squeezed guests get of what idle ones can give beyond what the host misses."""
    lacking = {
        vm: min(entitled[vm], b.size) - b.actual
        for vm, b in balloons.items()
        if vm in entitled and b.actual < min(entitled[vm], b.size)
    }
    amounts = list(lacking.values())
    parts = fill(max(0, spare), [0] * len(amounts), amounts, amounts).amounts
    return {vm: part for vm, part in zip(lacking, parts, strict=True) if part}


def _give_back(balloons: Mapping[str, Balloon], spare: int) -> dict[str, int]:
    """Give spare memory back to squeezed guests, in proportion to what they lack."""
    names = [vm for vm, b in balloons.items() if b.target < b.size]
    lacking = [balloons[vm].size - balloons[vm].target for vm in names]
    parts = fill(spare, [0] * len(lacking), lacking, lacking).amounts
    return {vm: balloons[vm].target + part for vm, part in zip(names, parts, strict=True) if part}
