"""How scarce memory is: the sliding minimum of free memory, its states, and VM overhead."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import Final

GIB: Final = 1 << 30
MIB: Final = 1 << 20

_SLICES: Final = ((4 * GIB, 6), (8 * GIB, 4), (16 * GIB, 2))
"""Sizes of the first slices of host memory, and the percent of each to keep free; then 1%."""
_REST: Final = 1


class MemoryState(IntEnum):
    """States of host memory, best first; the numbers are those of vSphere's ``mem.state``.

    ``HIGH`` asks for nothing. ``CLEAR`` stops handing out more. ``SOFT`` balloons. ``HARD``
    balloons at once to the full entitlement, and ``LOW`` also blocks VMs above theirs: Linux has
    no swap of a guest's memory unless the host was given one.
    """

    HIGH = 0
    CLEAR = 1
    SOFT = 2
    HARD = 3
    LOW = 4


_ENTERED_BELOW: Final = {
    MemoryState.CLEAR: 100,
    MemoryState.SOFT: 64,
    MemoryState.HARD: 32,
    MemoryState.LOW: 16,
}
"""Percent of the minimum below which a state is entered (ESXi 4.1 and later; clear since 6.0)."""
_MARGIN: Final = 8
"""Points above that at which a state is left again: half of the smallest distance of two states."""


@dataclass(frozen=True, slots=True)
class OverheadModel:
    """Memory a VM needs beside its guest: ``base + per_cpu * vCPUs + per_mib * MiB``, in MiB."""

    base: Fraction
    per_cpu: Fraction
    per_mib: Fraction

    def estimate(self, vcpus: int, mib: int) -> Fraction:
        """Return the overhead in MiB."""
        return self.base + self.per_cpu * vcpus + self.per_mib * mib

    def reserve(self, vcpus: int, mib: int) -> int:
        """Return the overhead to reserve, in whole bytes."""
        return -int(-self.estimate(vcpus, mib) * MIB // 1)


VSPHERE: Final = OverheadModel(Fraction("14.19"), Fraction("4.027"), Fraction("0.00743"))
"""Fit to the sample table of vSphere 5 to 7, within 0.46 MiB."""
QEMU_KVM: Final = OverheadModel(Fraction(31), VSPHERE.per_cpu, VSPHERE.per_mib)
"""QEMU 7.2 with KVM: the base was measured, the slopes are taken over from vSphere's table."""
QEMU_TCG: Final = OverheadModel(Fraction(104), VSPHERE.per_cpu, VSPHERE.per_mib)
"""QEMU 7.2 with TCG and its default code cache: the largest base measured after a Linux boot."""


def minimum_free(total: int) -> int:
    """Return how many bytes a host of so many bytes keeps free (6, 4, 2, then 1 percent)."""
    keep = 0
    left = total
    for size, percent in _SLICES:
        part = min(left, size)
        keep += part * percent
        left -= part
    return (keep + left * _REST) // 100


def threshold(minimum: int, state: MemoryState) -> int:
    """Return the free bytes below which a state is entered; the best state has none."""
    percent = _ENTERED_BELOW.get(state)
    return 0 if percent is None else minimum * percent // 100


def next_state(now: MemoryState, free: int, minimum: int) -> MemoryState:
    """Return the state for so much free memory.

    Worse states are entered at once; a state is left for a better one only when its threshold is
    clearly exceeded, so that it does not flap.
    """
    share = free * 100
    found = MemoryState.HIGH
    for state, percent in _ENTERED_BELOW.items():
        margin = _MARGIN if state <= now else 0
        if share < minimum * (percent + margin):
            found = state
    return found


def swap_size(configured: int, reservation: int) -> int:
    """Return how large a VM's swap file would be: what is not reserved could be swapped."""
    return max(0, configured - reservation)
