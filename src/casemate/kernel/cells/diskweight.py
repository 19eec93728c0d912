"""The weight that a cell has at the host's disks, where this Linux weighs them at all.

Control groups offer it by BFQ (``io.bfq.weight``, ``blkio.bfq.weight``) and, in version 2, by
io.cost (``io.weight``); each counts only at disks that its scheduler or model is switched on for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from casemate.kernel.sys.libc import from_os_error

_NORMAL: Final = 1000
"""Shares of one disk that has normal ones; both kinds of weight are 100 by default."""
_DEFAULT: Final = 100
_MOST: Final = {"io.bfq.weight": 1000, "blkio.bfq.weight": 1000, "io.weight": 10_000}
BFQ: Final = "BFQ"
COST: Final = "io.cost"


def weight_of(shares: int, most: int) -> int:
    """Return the weight that stands for so many shares of a VM's disks together."""
    return max(1, min(most, shares * _DEFAULT // _NORMAL))


def write(directories: Iterable[Path], shares: int) -> None:
    """Give a control group its weight; nothing to do where there is none to give.

    Raises:
        HostError: Linux refuses it.
    """
    for directory in directories:
        for name, most in _MOST.items():
            place = directory / name
            if not place.exists():
                continue
            try:
                place.write_text(str(weight_of(shares, most)))
            except OSError as error:
                raise from_os_error(f"cannot write to {place}", error, component=name) from error


def weigher(
    directories: Iterable[Path], files: Path, devices: Path = Path("/sys/dev/block")
) -> str:
    """Return what weighs the disk that ``files`` lie on among control groups; empty: nothing.

    Args:
        directories: Of the cell's control group.
        files: A directory on the disk.
        devices: Linux's directory of block devices by number.
    """
    with contextlib.suppress(OSError):
        number = files.stat().st_dev
        name = f"{os.major(number)}:{os.minor(number)}"
        disk = (devices / name).resolve(strict=True)
        if (disk / "partition").exists():
            disk = disk.parent
            name = (disk / "dev").read_text().strip()
        scheduler = (disk / "queue/scheduler").read_text()
        for directory in directories:
            weighed = any((directory / f"{kind}.bfq.weight").exists() for kind in ("io", "blkio"))
            if weighed and "[bfq]" in scheduler:
                return BFQ
            if (directory / "io.weight").exists() and _costs(directory, name):
                return COST
    return ""


def _costs(directory: Path, device: str) -> bool:
    """Tell whether io.cost is switched on for a device, which the topmost group says."""
    told = (directory.parent.parent / "io.cost.qos").read_text().splitlines()
    return any(line.split()[:1] == [device] and "enable=1" in line.split() for line in told)
