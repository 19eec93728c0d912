"""Token buckets: how often a peer, and all peers together, may make the host work, or log."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from casemate.policy.quotas import peer_of_address

PEERS_KEPT = 1000
"""Peers remembered; the one that was seen longest ago is forgotten."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second, and so many at once."""

    rate: float
    burst: float


class Bucket:
    """A token bucket; the caller tells the time in seconds. A clock set back gives nothing."""

    __slots__ = ("_level", "_rate", "_stamp")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._level = rate.burst
        self._stamp = now

    def take(self, now: float) -> bool:
        """Take one token; False: there is none."""
        grown = self._level + max(0.0, now - self._stamp) * self._rate.rate
        self._level, self._stamp = min(self._rate.burst, grown), now
        if self._level < 1:
            return False
        self._level -= 1
        return True


class PerPeer:
    """A bucket for each peer. ``clock`` gives seconds that only grow."""

    def __init__(self, rate: Rate, clock: Callable[[], float], kept: int = PEERS_KEPT) -> None:
        self._rate = rate
        self._clock = clock
        self._kept = kept
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, address: str) -> bool:
        """Take one token of the peer with this address; False: it has none."""
        peer, now = peer_of_address(address), self._clock()
        bucket = self._buckets.get(peer)
        if bucket is None:
            bucket = self._buckets[peer] = Bucket(self._rate, now)
        self._buckets.move_to_end(peer)
        while len(self._buckets) > self._kept:
            self._buckets.popitem(last=False)
        return bucket.take(now)


class Sparing(logging.Filter):
    """Lets only so many lines into a log, which lies on a disk: strangers cause them too."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._bucket = Bucket(rate, clock())
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the line is written; the next one says how many were not."""
        if not self._bucket.take(self._clock()):
            self._left_out += 1
            return False
        if self._left_out:
            record.msg = f"{record.getMessage()} ({self._left_out} lines before were left out)"
            record.args = ()
            self._left_out = 0
        return True
