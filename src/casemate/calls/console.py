"""Requests of the direct console: a login in front of the host, its network, and its own ends."""

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


@dataclass(frozen=True, slots=True)
class NetworkReply:
    """The host's name and address as they are kept; all but the name are empty for DHCP."""

    host_name: str
    address: str
    netmask: str
    gateway: str


@dataclass(frozen=True, slots=True)
class ReadNetwork:
    """Tell how the host reaches its network, as it is kept for its next start."""

    session: str
    reply: ClassVar = NetworkReply
    privilege: ClassVar[str] = "Host.Config.Network"


@dataclass(frozen=True, slots=True)
class SetNetwork:
    """Keep name and address for the host's next start; without an address it asks DHCP.

    Only where the host is the machine's own system.
    """

    session: str
    host_name: str
    address: str
    netmask: str
    gateway: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Host.Config.Network"


REQUESTS: tuple[type, ...] = (ConsoleLogin, EndHost, ReadNetwork, RestartAgents, SetNetwork)
