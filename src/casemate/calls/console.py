"""Requests of the direct console: a login in front of the host, and the host's own ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.calls.messages import Empty, SessionReply


@dataclass(frozen=True, slots=True)
class ConsoleLogin:
    """Open a session in front of the host; refused to hostd, and in strict lockdown.

    In normal lockdown an administrator may still work there.
    """

    user: str
    password: str
    reply: ClassVar = SessionReply
    privilege: ClassVar[str] = "System.Anonymous"


@dataclass(frozen=True, slots=True)
class RestartAgents:
    """Restart hostd; sessions and virtual machines go on."""

    session: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Host.Config.Settings"


@dataclass(frozen=True, slots=True)
class EndHost:
    """Shut the machine down, or restart it; virtual machines first.

    Only where the host is the machine's own system.
    """

    session: str
    restart: bool
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Host.Config.Maintenance"


REQUESTS: tuple[type, ...] = (ConsoleLogin, EndHost, RestartAgents)
