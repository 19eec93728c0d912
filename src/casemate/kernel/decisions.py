"""The latest decisions about who gets what, each with the numbers it followed from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from casemate.calls.pools import DecisionEntry

KEPT: Final = 4096
"""Decisions remembered: an hour of a host with some VMs, in about 2 MB."""


class Decisions:
    """A ring of decisions. ``clock`` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ring: deque[DecisionEntry] = deque(maxlen=KEPT)

    def add(self, vm: str, what: str, inputs: dict[str, int], outcome: dict[str, int]) -> None:
        """Remember one."""
        now = round(self._clock(), 3)
        self._ring.append(
            DecisionEntry(now, vm, what, tuple(inputs.items()), tuple(outcome.items()))
        )

    def about(self, vm: str, count: int) -> tuple[DecisionEntry, ...]:
        """Return the latest about a VM, newest last."""
        found = [entry for entry in self._ring if entry.vm == vm]
        return tuple(found[-count:])
