"""Which VMs start with the host, in which order, and how they are stopped with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from casemate.errors import ArgumentError

NO_ORDER: Final = -1
"""The order of a VM that starts after those that have one, and the delay that is the default."""
DELAY_LIMIT: Final = 86_400
"""Seconds: longer than a day is a mistake."""
ENTRIES: Final = 4096
START_ACTIONS: Final = ("none", "powerOn")
STOP_ACTIONS: Final = ("none", "systemDefault", "powerOff", "suspend", "guestShutdown")


@dataclass(frozen=True, slots=True)
class AutoStartDefaults:
    """What holds for VMs that say nothing else; delays in seconds. ``enabled``: it is done."""

    enabled: bool = False
    start_delay: int = 120
    stop_delay: int = 120
    wait_for_heartbeat: bool = False
    stop_action: str = "powerOff"


@dataclass(frozen=True, slots=True)
class AutoStartEntry:
    """One VM. ``start_delay`` is waited before the next one starts, -1: the default."""

    vm: str
    order: int = NO_ORDER
    start_delay: int = -1
    start_action: str = "none"
    wait_for_heartbeat: str = "systemDefault"
    stop_delay: int = -1
    stop_action: str = "systemDefault"


@dataclass(frozen=True, slots=True)
class AutoStartFact:
    """The whole setting."""

    defaults: AutoStartDefaults = AutoStartDefaults()
    entries: tuple[AutoStartEntry, ...] = ()

    @property
    def key(self) -> str:
        """The managed object id."""
        return "ha-autostart-mgr"


@dataclass(frozen=True, slots=True)
class Turn:
    """One VM's turn: what is done to it, and the seconds until the next one's."""

    vm: str
    action: str
    delay: int


def merged(fact: AutoStartFact, changed: tuple[AutoStartEntry, ...]) -> AutoStartFact:
    """Return the setting with some VMs' entries replaced; one that does nothing is dropped.

    Raises:
        ArgumentError: A value that means nothing.
    """
    entries = {entry.vm: entry for entry in fact.entries}
    for entry in changed:
        _check(entry)
        entries.pop(entry.vm, None)
        if entry.start_action != "none" or entry.stop_action not in {"none", "systemDefault"}:
            entries[entry.vm] = entry
    if len(entries) > ENTRIES:
        raise ArgumentError(f"more than {ENTRIES} VMs", argument="spec.powerInfo")
    return replace(fact, entries=tuple(sorted(entries.values(), key=_place)))


def check_defaults(defaults: AutoStartDefaults) -> None:
    """Raise ArgumentError for a value that means nothing."""
    delays = (defaults.start_delay, defaults.stop_delay)
    if not all(0 <= delay <= DELAY_LIMIT for delay in delays):
        raise ArgumentError(f"not 0 to {DELAY_LIMIT} seconds", argument="spec.defaults")
    if defaults.stop_action not in STOP_ACTIONS or defaults.stop_action == "systemDefault":
        raise ArgumentError("no such stop action", argument="spec.defaults.stopAction")


def starting(fact: AutoStartFact) -> tuple[Turn, ...]:
    """Return the VMs that start, first those with an order."""
    return tuple(
        Turn(entry.vm, entry.start_action, _delay(entry.start_delay, fact.defaults.start_delay))
        for entry in sorted(fact.entries, key=_place)
        if entry.start_action != "none"
    )


def stopping(fact: AutoStartFact) -> tuple[Turn, ...]:
    """Return the VMs that are stopped, in the reverse order."""
    turns = []
    for entry in sorted(fact.entries, key=_place, reverse=True):
        default = entry.stop_action == "systemDefault"
        action = fact.defaults.stop_action if default else entry.stop_action
        if action != "none":
            turns.append(Turn(entry.vm, action, _delay(entry.stop_delay, fact.defaults.stop_delay)))
    return tuple(turns)


def _delay(own: int, default: int) -> int:
    return default if own < 0 else own


def _place(entry: AutoStartEntry) -> tuple[bool, int]:
    return (entry.order < 0, entry.order)


def _check(entry: AutoStartEntry) -> None:
    for name, delay in (("startDelay", entry.start_delay), ("stopDelay", entry.stop_delay)):
        if not -1 <= delay <= DELAY_LIMIT:
            raise ArgumentError(
                f"{delay} is not -1 to {DELAY_LIMIT} seconds", argument=f"spec.powerInfo.{name}"
            )
    if entry.start_action not in START_ACTIONS:
        raise ArgumentError("no such start action", argument="spec.powerInfo.startAction")
    if entry.stop_action not in STOP_ACTIONS:
        raise ArgumentError("no such stop action", argument="spec.powerInfo.stopAction")
    if entry.wait_for_heartbeat not in {"yes", "no", "systemDefault"}:
        raise ArgumentError("yes, no or systemDefault", argument="spec.powerInfo.waitForHeartbeat")
    if not NO_ORDER <= entry.order <= ENTRIES:
        raise ArgumentError("no such place", argument="spec.powerInfo.startOrder")
