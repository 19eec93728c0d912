"""Balloons of running VMs, looked at and moved over QMP.

Nothing that comes back is trusted: a number that cannot be is treated as not told, and a VM that
does not answer is left out of this round.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from casemate.errors import CasemateError
from casemate.sched.balloon import Balloon

_STATS_SECONDS: Final = 5
"""Between two reports of the guest's driver."""
_AT_ONCE: Final = 32
"""VMs asked at once."""
_PLACE: Final = "/machine/peripheral-anon"
_TYPE: Final = "child<virtio-balloon-pci>"
_log = logging.getLogger(__name__)


class Control(Protocol):
    """What is needed of a VM's control connection."""

    async def execute(self, command: str, **arguments: object) -> object:
        """Run one command. Raises HostError."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A VM's balloon and what its guest says it actively uses (None: it does not say)."""

    balloon: Balloon
    active: int | None


@dataclass(slots=True)
class _Known:
    device: str
    actual: int
    target: int
    moved: float
    driver: bool = False


class Balloons:
    """The balloons of one host. ``control`` gives the connection to a running VM."""

    def __init__(self, control: Callable[[str], Awaitable[Control]]) -> None:
        self._control = control
        self._known: dict[str, _Known] = {}

    async def look(self, sizes: Mapping[str, int], now: float) -> dict[str, Guest]:
        """Look at the balloons of VMs of these sizes in bytes; ``now`` is monotonic seconds.

        VMs that have none, or do not answer, are missing.
        """
        for gone in self._known.keys() - sizes.keys():
            del self._known[gone]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(vm: str, size: int) -> tuple[str, Guest | None]:
            async with gate:
                try:
                    return vm, await self._look(vm, size, now)
                except CasemateError as error:
                    _log.info("the balloon of VM %s cannot be asked: %s", vm, error.reason)
                    return vm, None

        found = await asyncio.gather(*(one(vm, size) for vm, size in sizes.items()))
        return {vm: guest for vm, guest in found if guest is not None}

    async def set(self, vm: str, size: int, now: float) -> None:
        """Ask a guest to have so many bytes. Raises HostError."""
        await (await self._control(vm)).execute("balloon", value=size)
        known = self._known[vm]
        if known.target == known.actual or known.target != size:
            known.moved = now
        known.target = size

    async def _look(self, vm: str, size: int, now: float) -> Guest | None:
        control = await self._control(vm)
        known = self._known.get(vm)
        if known is None:
            device = _device(await control.execute("qom-list", path=_PLACE))
            if device is None:
                return None
            await control.execute(
                "qom-set",
                path=device,
                property="guest-stats-polling-interval",
                value=_STATS_SECONDS,
            )
            actual = await _actual(control, size)
            known = self._known[vm] = _Known(device, actual, actual, now)
        actual = await _actual(control, size)
        if actual != known.actual:
            known.actual, known.moved, known.driver = actual, now, True
        told = _Told.of(await control.execute("qom-get", path=known.device, property="guest-stats"))
        known.driver = known.driver or told.updated
        available = told.available if told.available is not None and told.updated else None
        balloon = Balloon(size, actual, known.target, available, now - known.moved, known.driver)
        active = None
        if available is not None and told.total is not None:
            # With deflate-on-oom the guest goes on to count what the balloon holds as its own.
            active = max(0, min(told.total, size) - available - (size - actual))
        return Guest(balloon, active)


@dataclass(frozen=True, slots=True)
class _Told:
    total: int | None
    available: int | None
    updated: bool

    @classmethod
    def of(cls, answer: object) -> _Told:
        """Read a report of the guest; all bits set is how QEMU says "unknown"."""
        if not isinstance(answer, dict) or not isinstance(stats := answer.get("stats"), dict):
            return cls(None, None, updated=False)
        total, available = (
            value if isinstance(value, int) and 0 <= value < 1 << 60 else None
            for value in (stats.get("stat-total-memory"), stats.get("stat-available-memory"))
        )
        updated = answer.get("last-update")
        return cls(total, available, updated=isinstance(updated, int) and updated > 0)


def _device(answer: object) -> str | None:
    """Find the balloon among a machine's devices."""
    for entry in answer if isinstance(answer, list) else ():
        if isinstance(entry, dict) and entry.get("type") == _TYPE:
            return f"{_PLACE}/{entry.get('name')}"
    return None


async def _actual(control: Control, size: int) -> int:
    answer = await control.execute("query-balloon")
    actual = answer.get("actual") if isinstance(answer, dict) else None
    return actual if isinstance(actual, int) and 0 < actual <= size else size
