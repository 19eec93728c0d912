"""Samples of the past in bounded memory: an hour of 20 seconds, a day of five minutes.

A sample is one array of numbers, one a counter: 20 samples of 28 counters take 4 KB, a VM with a
whole day of history some 100 KB.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Collection, Mapping
from typing import Final

from casemate.errors import ArgumentError, NotFoundError
from casemate.machine.counters import (
    BY_PATH,
    COUNTERS,
    ROLLED,
    ROLLED_SECONDS,
    SAMPLE_SECONDS,
    SAMPLES,
    rolled_up,
)

_UNMEASURED: Final = -1
Sample = tuple[float, "array[int]"]


class Track:
    """The samples of one object."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        self.rolled: deque[Sample] = deque(maxlen=ROLLED)
        self._since: list[Sample] = []

    def add(self, now: float, values: Mapping[str, int]) -> None:
        """Add a sample; counters that are not in ``values`` were not measured."""
        row = array("q", (values.get(counter.path, _UNMEASURED) for counter in COUNTERS))
        period = now // ROLLED_SECONDS
        if self._since and self._since[-1][0] // ROLLED_SECONDS != period:
            self._roll_up()
        self.samples.append((now, row))
        self._since = [*self._since, (now, row)][-SAMPLES:]

    def _roll_up(self) -> None:
        columns = zip(*(row for _, row in self._since), strict=True)
        rolled = (
            rolled_up(counter.rollup, list(column))
            for counter, column in zip(COUNTERS, columns, strict=True)
        )
        end = (self._since[-1][0] // ROLLED_SECONDS + 1) * ROLLED_SECONDS
        self.rolled.append((end, array("q", rolled)))
        self._since = []


class History:
    """The tracks of the host and of VMs."""

    def __init__(self) -> None:
        self._tracks: dict[str, Track] = {}

    def add(self, entity: str, now: float, values: Mapping[str, int]) -> None:
        """Add a sample of an object."""
        self._tracks.setdefault(entity, Track()).add(now, values)

    def keep(self, entities: Collection[str]) -> None:
        """Forget all objects but these."""
        for gone in self._tracks.keys() - set(entities):
            del self._tracks[gone]

    def read(
        self, entity: str, counters: tuple[str, ...], interval: int, window: tuple[float, float]
    ) -> tuple[list[float], dict[str, list[int]]]:
        """Return times and values by counter, oldest first.

        Args:
            entity: The object; one without samples has none.
            counters: Names; none of them: all.
            interval: 20 or 300 seconds.
            window: Unix times, later than the first and up to the second; 0 for no bound.

        Raises:
            NotFoundError: There is no such counter.
            ArgumentError: There is no such interval.
        """
        if interval not in (SAMPLE_SECONDS, ROLLED_SECONDS):
            raise ArgumentError(f"no interval of {interval} seconds is kept", argument="intervalId")
        for name in counters:
            if name not in BY_PATH:
                raise NotFoundError(f"there is no counter {name[:60]!r}", component=name[:60])
        wanted = [BY_PATH[name] for name in counters] or list(COUNTERS)
        track = self._tracks.get(entity)
        rows = [] if track is None else (track.samples, track.rolled)[interval == ROLLED_SECONDS]
        start, end = window
        chosen = [(time, row) for time, row in rows if time > start and (not end or time <= end)]
        return [time for time, _ in chosen], {
            counter.path: [row[counter.key - 1] for _, row in chosen] for counter in wanted
        }
