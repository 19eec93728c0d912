"""Virtual switches and port groups: what they are, what may be changed, what follows from it.

A port group is a kind of port of one switch: its VLAN (0: none; 1 to 4094: the guests' frames are
in that VLAN and carry no tag; 4095: the guest tags them itself) and its security policy. A switch
without an uplink connects the VMs of this host with each other and, unless it has NAT (``nat``),
with nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from casemate.errors import (
    AbsentError,
    ArgumentError,
    ExistsError,
    InUseError,
    NotSupportedError,
)
from casemate.machine.nat import Nat, check_nat, overlapping
from casemate.machine.shaping import INHERITED, NOT_SHAPED, Shaping, check_shaping
from casemate.machine.teaming import AS_ABOVE, Team, Teaming, check_teaming, in_force

SWITCH_NAME_LIMIT: Final = 31
GROUP_NAME_LIMIT: Final = 80
"""Characters of names, as vSphere limits them."""
LEAST_MTU: Final = 1280
MOST_MTU: Final = 9000
LEAST_PORTS: Final = 8
MOST_PORTS: Final = 4088
PORTS: Final = 128
"""Ports of a switch that nobody said a number for: ESXi's."""
TRUNK: Final = 4095
"""The VLAN of a port group whose guests tag their frames themselves."""
SWITCHES_LIMIT: Final = 127
GROUPS_LIMIT: Final = 512
"""Switches and port groups of a host: below ESXi's limits, and few enough to plan at once."""
UPLINKS_LIMIT: Final = 8
"""Of a switch: below ESXi's 32, and as many as two digits of an interface's name tell apart."""
CABLES_LIMIT: Final = 1000
"""Of all teams: each costs Linux some 80 KiB, and 4 ms in which no other VM is wired."""
DEFAULT_SWITCH: Final = "vSwitch0"
DEFAULT_GROUP: Final = "VM Network"


@dataclass(frozen=True, slots=True)
class SecurityPolicy:
    """What a port lets its guest do.

    ``promiscuous``: receive the frames of others on its VLAN. ``mac_changes``: receive what is
    for an address that it gave itself. ``forged_transmits``: send from any address.
    """

    promiscuous: bool = False
    mac_changes: bool = False
    forged_transmits: bool = False


@dataclass(frozen=True, slots=True)
class PolicyOverride:
    """What a port group says of the policy; None: as its switch says."""

    promiscuous: bool | None = None
    mac_changes: bool | None = None
    forged_transmits: bool | None = None


REJECT: Final = SecurityPolicy()
"""Let a guest do none of it: what a new switch says."""
INHERIT: Final = PolicyOverride()
"""As the switch says: what a new port group says."""


@dataclass(frozen=True, slots=True)
class SwitchFact:
    """A virtual switch; ``number`` is its own for as long as it exists. ``mtu`` in bytes."""

    name: str
    number: int
    ports: int = PORTS
    mtu: int = 1500
    uplinks: tuple[str, ...] = ()
    security: SecurityPolicy = REJECT
    nat: Nat | None = None
    shaping: Shaping = NOT_SHAPED
    teaming: Teaming = AS_ABOVE

    @property
    def key(self) -> str:
        """The name."""
        return self.name


@dataclass(frozen=True, slots=True)
class PortGroupFact:
    """A port group of a switch."""

    name: str
    switch: str
    vlan: int = 0
    security: PolicyOverride = INHERIT
    shaping: Shaping = INHERITED
    teaming: Teaming = AS_ABOVE

    @property
    def key(self) -> str:
        """The name: unique on a host, whatever the switch."""
        return self.name


@dataclass(frozen=True, slots=True)
class AddressFact:
    """An IPv4 address of the machine itself; ``gateway`` is the default route's, or empty."""

    interface: str
    address: str
    prefix: int
    mac: str = ""
    mtu: int = 1500
    gateway: str = ""

    @property
    def key(self) -> str:
        """Interface and address."""
        return f"{self.interface}:{self.address}"

    @property
    def netmask(self) -> str:
        """The mask in four octets."""
        mask = (1 << 32) - (1 << (32 - self.prefix))
        return ".".join(str(octet) for octet in mask.to_bytes(4, "big"))


@dataclass(frozen=True, slots=True)
class Networks:
    """All switches and port groups of a host; each change gives a new value."""

    switches: tuple[SwitchFact, ...] = ()
    groups: tuple[PortGroupFact, ...] = ()

    def switch(self, name: str) -> SwitchFact:
        """Return a switch. Raises AbsentError."""
        for switch in self.switches:
            if switch.name == name:
                return switch
        raise AbsentError(f"there is no virtual switch {name[:80]!r}", name=name[:80])

    def group(self, name: str) -> PortGroupFact:
        """Return a port group. Raises AbsentError."""
        for group in self.groups:
            if group.name == name:
                return group
        raise AbsentError(f"there is no port group {name[:80]!r}", name=name[:80])

    def has(self, group: str) -> bool:
        """Tell whether there is a port group of this name."""
        return any(known.name == group for known in self.groups)

    def policy(self, group: PortGroupFact) -> SecurityPolicy:
        """Return the policy in force in a port group."""
        whole, own = self.switch(group.switch).security, group.security
        return SecurityPolicy(
            whole.promiscuous if own.promiscuous is None else own.promiscuous,
            whole.mac_changes if own.mac_changes is None else own.mac_changes,
            whole.forged_transmits if own.forged_transmits is None else own.forged_transmits,
        )

    def shaping(self, group: PortGroupFact) -> Shaping:
        """Return the traffic shaping in force in a port group."""
        own = group.shaping
        return self.switch(group.switch).shaping if own.enabled is None else own

    def team(self, group: PortGroupFact) -> Team:
        """Return the teaming in force in a port group."""
        switch = self.switch(group.switch)
        return in_force(switch.teaming, group.teaming, switch.uplinks)

    def teams(self) -> frozenset[str]:
        """Return the uplinks of all switches that have more than one."""
        return frozenset(
            name for switch in self.switches if len(switch.uplinks) > 1 for name in switch.uplinks
        )

    def cables(self) -> int:
        """Return how many cables the teams' bridges can need, wherever cards are bound to."""
        return sum(map(self._cables, self.switches))

    def _cables(self, switch: SwitchFact) -> int:
        groups = [group for group in self.groups if group.switch == switch.name]
        plain = {group.vlan for group in groups if group.vlan != TRUNK} | {0}
        places: dict[int, set[str]] = {vlan: set() for vlan in plain}
        for group in groups if switch.uplinks else ():
            team = in_force(switch.teaming, group.teaming, switch.uplinks)
            for vlan in plain if group.vlan == TRUNK else {group.vlan}:
                places[vlan] |= {*team.active, *team.standby} or {""}
        return sum(len(found) * (len(found) - 1) // 2 for found in places.values())

    def with_nat(self) -> dict[str, Nat]:
        """Return the private networks of the switches that lead outside by NAT."""
        return {switch.name: switch.nat for switch in self.switches if switch.nat is not None}

    def without_nat(self) -> Networks:
        """Return the same switches, of which none leads outside by NAT."""
        return replace(self, switches=tuple(replace(one, nat=None) for one in self.switches))

    def with_switch(self, switch: SwitchFact, nics: Iterable[str]) -> Networks:
        """Add a switch; its number is chosen here. ``nics``: the host's that may be uplinks.

        Raises:
            ExistsError: There is one of this name.
            InUseError: An uplink belongs to another switch.
            ArgumentError: A value is out of range.
            NotSupportedError: Its teaming is by the hash of IP addresses.
        """
        if any(known.name == switch.name for known in self.switches):
            raise ExistsError(f"there is a virtual switch {switch.name!r}", name=switch.name)
        if len(self.switches) >= SWITCHES_LIMIT:
            raise ArgumentError(f"there are {SWITCHES_LIMIT} switches", argument="vswitchName")
        taken = {known.number for known in self.switches}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        switch = replace(switch, number=number)
        self._check_switch(switch, frozenset(nics))
        check_teaming(switch.teaming, switch.uplinks)
        return replace(self, switches=(*self.switches, switch))

    def changed_switch(self, switch: SwitchFact, nics: Iterable[str]) -> Networks:
        """Change a switch; its name and number stay.

        Raises:
            AbsentError: There is none of this name.
            InUseError: An uplink belongs to another switch.
            ArgumentError: A value is out of range.
            NotSupportedError: Its new teaming is by the hash of IP addresses, or takes too much.
        """
        before = self.switch(switch.name)
        switch = replace(switch, number=before.number)
        self._check_switch(switch, frozenset(nics) | set(before.uplinks))
        check_teaming(switch.teaming, switch.uplinks, before.teaming)
        after = tuple(switch if s.name == switch.name else s for s in self.switches)
        return self._checked(replace(self, switches=after))

    def without_switch(self, name: str, used: Iterable[str]) -> Networks:
        """Remove a switch and its port groups; ``used``: port groups that VMs are in.

        Raises:
            AbsentError: There is none of this name.
            InUseError: VMs are in its port groups.
        """
        self.switch(name)
        busy = sorted(g.name for g in self.groups if g.switch == name and g.name in set(used))
        if busy:
            raise InUseError(f"VMs use the port group {busy[0]!r} of {name!r}", name=busy[0])
        return Networks(
            tuple(s for s in self.switches if s.name != name),
            tuple(g for g in self.groups if g.switch != name),
        )

    def with_group(self, group: PortGroupFact) -> Networks:
        """Add a port group.

        Raises:
            ExistsError: There is one of this name.
            AbsentError: Its switch does not exist.
            ArgumentError: A value is out of range.
            NotSupportedError: Its teaming is by the hash of IP addresses, or takes too much.
        """
        if self.has(group.name):
            raise ExistsError(f"there is a port group {group.name!r}", name=group.name)
        if len(self.groups) >= GROUPS_LIMIT:
            raise ArgumentError(f"there are {GROUPS_LIMIT} port groups", argument="portgrp.name")
        self._check_group(group)
        check_teaming(group.teaming, self.switch(group.switch).uplinks)
        return self._checked(replace(self, groups=(*self.groups, group)))

    def changed_group(self, name: str, group: PortGroupFact, used: Iterable[str]) -> Networks:
        """Change a port group, perhaps its name; ``used``: port groups that VMs are in.

        Raises:
            AbsentError: There is none of this name, or its switch does not exist.
            ExistsError: The new name is taken.
            InUseError: A new name, while VMs know the old one.
            ArgumentError: A value is out of range.
            NotSupportedError: Its new teaming is by the hash of IP addresses, or takes too much.
        """
        before = self.group(name)
        if group.name != name and self.has(group.name):
            raise ExistsError(f"there is a port group {group.name!r}", name=group.name)
        if group.name != name and name in set(used):
            raise InUseError(f"VMs use the port group {name!r}", name=name)
        self._check_group(group)
        check_teaming(group.teaming, self.switch(group.switch).uplinks, before.teaming)
        after = tuple(group if g.name == name else g for g in self.groups)
        return self._checked(replace(self, groups=after))

    def without_group(self, name: str, used: Iterable[str]) -> Networks:
        """Remove a port group; ``used``: port groups that VMs are in.

        Raises:
            AbsentError: There is none of this name.
            InUseError: VMs are in it.
        """
        self.group(name)
        if name in set(used):
            raise InUseError(f"VMs use the port group {name!r}", name=name)
        return replace(self, groups=tuple(g for g in self.groups if g.name != name))

    def _checked(self, after: Networks) -> Networks:
        """Return what comes after a change, whose cables are not too many, or no more than now."""
        if CABLES_LIMIT < (cables := after.cables()) > self.cables():
            raise NotSupportedError(
                f"the teams of uplinks can need {cables} cables between their bridges, which is"
                f" more than {CABLES_LIMIT}: one for each VLAN and pair of uplinks that its cards"
                " may take",
                code="cables",
                component="network",
                remedy="Give the port groups fewer active and standby uplinks each.",
            )
        return after

    def _check_switch(self, switch: SwitchFact, nics: frozenset[str]) -> None:
        _check_name(switch.name, SWITCH_NAME_LIMIT, "vswitchName")
        if not LEAST_PORTS <= switch.ports <= MOST_PORTS:
            raise ArgumentError(
                f"{switch.ports} ports are not {LEAST_PORTS} to {MOST_PORTS}",
                argument="spec.numPorts",
            )
        if not LEAST_MTU <= switch.mtu <= MOST_MTU:
            raise ArgumentError(
                f"an MTU of {switch.mtu} bytes is not {LEAST_MTU} to {MOST_MTU}",
                argument="spec.mtu",
            )
        if len(switch.uplinks) > UPLINKS_LIMIT:
            raise ArgumentError(
                f"a virtual switch has at most {UPLINKS_LIMIT} uplinks",
                argument="spec.bridge.nicDevice",
            )
        if len(set(switch.uplinks)) < len(switch.uplinks):
            raise ArgumentError("an uplink is named twice", argument="spec.bridge.nicDevice")
        check_shaping(switch.shaping)
        if switch.nat is not None:
            self._check_nat(switch, switch.nat)
        for uplink in switch.uplinks:
            for other in self.switches:
                if other.number != switch.number and uplink in other.uplinks:
                    raise InUseError(f"{uplink} is an uplink of {other.name!r}", name=uplink)
            if uplink not in nics:
                raise ArgumentError(
                    f"{uplink[:40]!r} is no network card of this host that may be an uplink",
                    argument="spec.bridge.nicDevice",
                )

    def _check_nat(self, switch: SwitchFact, nat: Nat) -> None:
        check_nat(nat)
        if switch.uplinks:
            raise ArgumentError(
                f"{switch.name!r} leads outside by its uplink: NAT is for a switch without one",
                argument="network",
            )
        for other in self.switches:
            if other.nat is None or other.number == switch.number:
                continue
            if overlapping(nat.network, (other.nat.network,)):
                raise InUseError(
                    f"{nat.network} is a network of {other.name!r}", name=other.nat.network
                )

    def _check_group(self, group: PortGroupFact) -> None:
        _check_name(group.name, GROUP_NAME_LIMIT, "portgrp.name")
        self.switch(group.switch)
        check_shaping(group.shaping)
        if not 0 <= group.vlan <= TRUNK:
            raise ArgumentError(
                f"a VLAN is 0 to {TRUNK}, not {group.vlan}", argument="portgrp.vlanId"
            )


def _check_name(name: str, limit: int, argument: str) -> None:
    if not 0 < len(name) <= limit or not name.isprintable() or name != name.strip():
        raise ArgumentError(f"not 1 to {limit} printable characters", argument=argument)


FIRST: Final = Networks(
    (SwitchFact(DEFAULT_SWITCH, 0),), (PortGroupFact(DEFAULT_GROUP, DEFAULT_SWITCH),)
)
"""What a new host has, as ESXi does; without an uplink, until its operator gives it one."""
