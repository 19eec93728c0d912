"""Requests about the VMs that start and stop with the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.calls.messages import Empty
from casemate.machine.autostart import AutoStartDefaults, AutoStartEntry


@dataclass(frozen=True, slots=True)
class SetAutoStart:
    """Set which VMs start with the host; defaults None stay, as do VMs that are not named."""

    session: str
    defaults: AutoStartDefaults | None = None
    entries: tuple[AutoStartEntry, ...] = ()
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Host.Config.AutoStart"


@dataclass(frozen=True, slots=True)
class AutoStart:
    """Start the VMs that start with the host, in their order and with their delays."""

    session: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Host.Config.AutoStart"


@dataclass(frozen=True, slots=True)
class AutoStop:
    """Stop the VMs as they are stopped with the host, in the reverse order."""

    session: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Host.Config.AutoStart"


REQUESTS: tuple[type, ...] = (AutoStart, AutoStop, SetAutoStart)
