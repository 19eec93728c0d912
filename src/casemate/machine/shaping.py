"""Traffic shaping: how much the guest behind a port may send, as ESXi's standard switches do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from casemate.errors import ArgumentError

DEFAULT_BANDWIDTH: Final = 102_400_000
DEFAULT_BURST: Final = 102_400 << 10
"""Bits a second, and bytes, that ESXi's clients offer."""
LEAST_BANDWIDTH: Final = 8_000
MOST_BANDWIDTH: Final = 100_000_000_000
"""Bits a second: a frame in some seconds; more than Linux counts exactly."""
MOST_BURST: Final = 1 << 31
_OCTET: Final = 8
_LARGEST_PACKET: Final = 1 << 17
"""Bytes that pass at once whatever the limits: Linux hands over packets of up to 64 KiB, twice."""
_PEAK_PART: Final = 50


@dataclass(frozen=True, slots=True)
class Shaping:
    """What a switch or a port group says. ``enabled`` None: as the switch says.

    ``average`` and ``peak`` in bits a second, ``burst`` in bytes.
    """

    enabled: bool | None = None
    average: int = DEFAULT_BANDWIDTH
    peak: int = DEFAULT_BANDWIDTH
    burst: int = DEFAULT_BURST


@dataclass(frozen=True, slots=True)
class Bucket:
    """So many bytes a second, and ``burst`` bytes at once beyond those of one second."""

    rate: int
    burst: int


NOT_SHAPED: Final = Shaping(enabled=False)
"""What a new switch says."""
INHERITED: Final = Shaping()
"""What a new port group says."""


def check_shaping(shaping: Shaping) -> None:
    """Raise ArgumentError unless the numbers are ones that can be."""
    for name, value in (("averageBandwidth", shaping.average), ("peakBandwidth", shaping.peak)):
        if not LEAST_BANDWIDTH <= value <= MOST_BANDWIDTH:
            raise ArgumentError(
                f"{value} bits a second are not {LEAST_BANDWIDTH} to {MOST_BANDWIDTH}",
                argument=f"policy.shapingPolicy.{name}",
            )
    if shaping.peak < shaping.average:
        raise ArgumentError(
            "the peak is below the average", argument="policy.shapingPolicy.peakBandwidth"
        )
    if not 0 < shaping.burst <= MOST_BURST:
        raise ArgumentError(
            f"a burst of {shaping.burst} bytes is not 1 to {MOST_BURST}",
            argument="policy.shapingPolicy.burstSize",
        )


def buckets(shaping: Shaping) -> tuple[Bucket, ...]:
    """Return the limits that hold together; none where nothing is shaped.

    What is sent in a second counts to its burst already: Linux's limits have room for a second's
    bytes, so a burst that is shorter than that is taken as that long.
    """
    if not shaping.enabled:
        return ()
    average, peak = shaping.average // _OCTET, shaping.peak // _OCTET
    found = [Bucket(average, max(shaping.burst - average, _LARGEST_PACKET))]
    if peak > average:
        found.append(Bucket(peak, max(peak // _PEAK_PART, _LARGEST_PACKET)))
    return tuple(found)
