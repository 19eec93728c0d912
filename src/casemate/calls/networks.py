"""Requests about virtual switches and port groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.calls.messages import Empty
from casemate.machine.networks import INHERIT, PORTS, REJECT, PolicyOverride, SecurityPolicy
from casemate.machine.shaping import INHERITED, NOT_SHAPED, Shaping
from casemate.machine.teaming import AS_ABOVE, Teaming

_PRIVILEGE = "Host.Config.Network"


@dataclass(frozen=True, slots=True)
class AddSwitch:
    """Make a virtual switch; ``mtu`` in bytes, ``uplinks`` network cards of the host."""

    session: str
    name: str
    ports: int = PORTS
    mtu: int = 1500
    uplinks: tuple[str, ...] = ()
    security: SecurityPolicy = REJECT
    why: str = ""
    shaping: Shaping = NOT_SHAPED
    teaming: Teaming = AS_ABOVE
    reply: ClassVar = Empty
    privilege: ClassVar[str] = _PRIVILEGE


@dataclass(frozen=True, slots=True)
class UpdateSwitch:
    """Change a virtual switch; what is None stays."""

    session: str
    name: str
    ports: int | None = None
    mtu: int | None = None
    uplinks: tuple[str, ...] | None = None
    security: SecurityPolicy | None = None
    why: str = ""
    shaping: Shaping | None = None
    teaming: Teaming | None = None
    reply: ClassVar = Empty
    privilege: ClassVar[str] = _PRIVILEGE


@dataclass(frozen=True, slots=True)
class RemoveSwitch:
    """Remove a virtual switch and its port groups; refused while VMs are in them."""

    session: str
    name: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = _PRIVILEGE


@dataclass(frozen=True, slots=True)
class SetNat:
    """Have a switch without uplink lead outside through the machine, by NAT and DHCP, or not.

    ``network`` such as ``10.1.2.0/24``, empty: the present one, or one that is free;
    ``reach_host``: guests may reach the machine's own addresses; ``name_servers``: those that
    guests are told, empty: the machine's. What is None stays.
    """

    session: str
    switch: str
    on: bool
    network: str = ""
    reach_host: bool | None = None
    name_servers: tuple[str, ...] | None = None
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = _PRIVILEGE


@dataclass(frozen=True, slots=True)
class AddPortGroup:
    """Make a port group; ``vlan`` 0: none, 1 to 4094, 4095: guests tag frames themselves."""

    session: str
    name: str
    switch: str
    vlan: int = 0
    security: PolicyOverride = INHERIT
    why: str = ""
    shaping: Shaping = INHERITED
    teaming: Teaming = AS_ABOVE
    reply: ClassVar = Empty
    privilege: ClassVar[str] = _PRIVILEGE


@dataclass(frozen=True, slots=True)
class UpdatePortGroup:
    """Change the port group ``group``, at once for its VMs; what is None stays."""

    session: str
    group: str
    name: str | None = None
    switch: str | None = None
    vlan: int | None = None
    security: PolicyOverride | None = None
    why: str = ""
    shaping: Shaping | None = None
    teaming: Teaming | None = None
    reply: ClassVar = Empty
    privilege: ClassVar[str] = _PRIVILEGE


@dataclass(frozen=True, slots=True)
class RemovePortGroup:
    """Remove a port group; refused while VMs are in it."""

    session: str
    name: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = _PRIVILEGE


REQUESTS: tuple[type, ...] = (
    AddPortGroup,
    AddSwitch,
    RemovePortGroup,
    RemoveSwitch,
    SetNat,
    UpdatePortGroup,
    UpdateSwitch,
)
