"""Where a process that is started now finds its root: the visor root, or it with live VIBs joined.

Apart from ``layers``, which makes these roots, because init needs no more than their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

JOINED: Final = Path("/run/visor")
VISOR: Final = Path("/")


def joined_roots(place: Path = JOINED) -> tuple[int, ...]:
    """Return the numbers of the roots that live VIBs were joined to."""
    if not place.is_dir():
        return ()
    return tuple(
        int(one.name) for one in place.iterdir() if one.name.isdecimal() and one.is_mount()
    )


def newest_root(place: Path = JOINED) -> Path | None:
    """Return the visor root with the live VIBs in it; None where there are none."""
    numbers = joined_roots(place)
    return place / str(max(numbers)) if numbers else None


def visor_root() -> Path:
    """Return where a process that is started now finds its root."""
    return newest_root() or VISOR
