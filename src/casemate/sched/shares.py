"""Share levels and the numbers behind them (vSphere API, SharesLevel).

Shares are dimensionless: they only say how siblings relate to each other.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from casemate.errors import ArgumentError


class SharesLevel(StrEnum):
    """Levels of vSphere; with ``custom`` alone the stated number counts."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CUSTOM = "custom"


POOL_CPUS: Final = 4
"""A pool's level counts like that of a VM with so many vCPUs ..."""
POOL_MIB: Final = 16_384
"""... and so much memory."""
ROOT_SHARES: Final = 9000

_CPU: Final = {SharesLevel.LOW: 500, SharesLevel.NORMAL: 1000, SharesLevel.HIGH: 2000}
_MEMORY: Final = {SharesLevel.LOW: 5, SharesLevel.NORMAL: 10, SharesLevel.HIGH: 20}
_DISK: Final = {SharesLevel.LOW: 500, SharesLevel.NORMAL: 1000, SharesLevel.HIGH: 2000}


def cpu_shares(level: SharesLevel, custom: int, cpus: int = POOL_CPUS) -> int:
    """Return the CPU shares of a VM with so many vCPUs, by default of a pool."""
    return _resolved(_CPU, level, custom, cpus)


def memory_shares(level: SharesLevel, custom: int, mib: int = POOL_MIB) -> int:
    """Return the memory shares of a VM of so many MiB, by default of a pool."""
    return _resolved(_MEMORY, level, custom, mib)


def disk_shares(level: SharesLevel, custom: int) -> int:
    """Return the shares of one virtual disk."""
    return _resolved(_DISK, level, custom, 1)


def _resolved(table: dict[SharesLevel, int], level: SharesLevel, custom: int, factor: int) -> int:
    if level is not SharesLevel.CUSTOM:
        return table[level] * factor
    if custom < 0:
        raise ArgumentError("Shares cannot be negative.", argument="shares")
    return custom
