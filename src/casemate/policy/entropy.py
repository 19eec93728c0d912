"""How random an address is, estimated from many launches of the same program.

An address has as many effective bits as bits that vary evenly over the launches; the span of what
was seen bounds it from above, and addresses that came twice bound it further (a birthday bound).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from casemate.errors import ArgumentError
from casemate.policy.hardeningreport import EntropyRow

LEAST_LAUNCHES: Final = 16
"""Fewer say nothing."""
WANTED: Final = {"exe": 28, "heap": 28, "mmap": 28, "loader": 28, "vdso": 28, "stack": 22}
"""Bits of each region on x86-64 Linux with its default of vm.mmap_rnd_bits."""
_SIGMAS: Final = 4.8
_WIDEST: Final = 0.45
_BITS: Final = 64


def effective_bits(samples: Sequence[int]) -> int:
    """Estimate the entropy of addresses, in bits.

    Args:
        samples: one address a launch, at least ``LEAST_LAUNCHES``.

    Raises:
        ArgumentError: too few samples.
    """
    if len(samples) < LEAST_LAUNCHES:
        raise ArgumentError(
            f"{len(samples)} launches are too few; {LEAST_LAUNCHES} at least", argument="launches"
        )
    low, high = min(samples), max(samples)
    if low == high:
        return 0
    shift = _alignment(samples, low)
    spanned = math.ceil(math.log2(((high - low) >> shift) + 1))
    # A fair bit stays within so many deviations of one half in any number of launches.
    width = min(_SIGMAS * 0.5 / math.sqrt(len(samples)), _WIDEST)
    balanced = sum(
        abs(sum(one >> bit & 1 for one in samples) / len(samples) - 0.5) <= width
        for bit in range(shift, _BITS)
    )
    return min(balanced, spanned, _birthday(samples))


def measure(process: str, launches: Sequence[Mapping[str, int]]) -> tuple[EntropyRow, ...]:
    """Return one row for each region that counts; a region that was not seen has no bits.

    Args:
        process: name for the rows.
        launches: region → address of every launch.
    """
    rows = []
    for region, wanted in WANTED.items():
        samples = [one[region] for one in launches if region in one]
        enough = len(samples) == len(launches) >= LEAST_LAUNCHES
        bits = effective_bits(samples) if enough else 0
        rows.append(EntropyRow(process, region, bits, wanted, len(samples), len(set(samples))))
    return tuple(rows)


def _alignment(samples: Sequence[int], low: int) -> int:
    together = 0
    for one in samples:
        together |= one - low
    return (together & -together).bit_length() - 1


def _birthday(samples: Sequence[int]) -> int:
    """Bits above which as many repetitions would be a wonder; one repetition proves nothing."""
    repeated = len(samples) - len(set(samples))
    if repeated <= 1:
        return _BITS
    return int(math.log2(len(samples) * (len(samples) - 1) / 2 / repeated)) + 2
