"""Plans the wires of a host: its switches and the cards of running VMs give links and filters.

Every VLAN of a switch is a Linux bridge of its own, so that what is not in a VLAN is not wired to
it, and Linux needs neither VLAN filtering nor tags among VMs. A card's port knows the card's
address and learns no other; what may leave a card is filtered before the bridge sees it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from casemate.errors import ArgumentError
from casemate.machine.nat import Nat
from casemate.machine.networks import TRUNK, Networks, PortGroupFact, SwitchFact
from casemate.machine.shaping import Bucket, buckets

CARDS_LIMIT: Final = 10
_DIGITS: Final = 9
_TAP: Final = re.compile(r"t([0-9]{1,9})\.[0-9]")
_SENT: Final = 8
"""Place of the bytes sent in a line of /proc/net/dev; those received come first."""


@dataclass(frozen=True, slots=True)
class Card:
    """A network card of a running VM; ``number`` counts the VM's from 0."""

    vm: str
    number: int
    mac: str
    group: str
    connected: bool = True

    @property
    def tap(self) -> str:
        """The name of its interface on the host's side."""
        return tap_name(self.vm, self.number)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge; ``mtu`` in bytes."""

    name: str
    mtu: int


@dataclass(frozen=True, slots=True)
class VlanLink:
    """An interface that carries one VLAN of another one, whose frames have tags."""

    name: str
    parent: str
    vlan: int


@dataclass(frozen=True, slots=True)
class Port:
    """An interface in a bridge. ``flood``: it gets what is for unknown addresses.

    ``learning``: addresses that it sends from are found behind it; ``mac``: one that always is.
    """

    name: str
    bridge: str
    mtu: int
    up: bool
    mac: str = ""
    learning: bool = False
    flood: bool = False


@dataclass(frozen=True, slots=True)
class Mirror:
    """A port that sees what is for others; it gets what is for ``mac`` anyway."""

    name: str
    mac: str


@dataclass(frozen=True, slots=True)
class Routed:
    """What a card may send beside a gateway.

    Nothing in the gateway's name, no answers to DHCP and few questions; to the gateway itself
    only IPv4 from ``address``, the card's own, to where a gateway leads, and ARP. Without an
    address nothing at all.
    """

    gateway_mac: str
    gateway: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class Filter:
    """What may come in from an interface, and who else sees it.

    ``source``: the only address to send from; empty: any. ``tags``: VLANs that it may tag frames
    with. ``guest``: the frames by which switches talk among themselves are dropped. ``routed``:
    what holds beside a gateway. ``limits``: what is beyond them is dropped.
    """

    name: str
    source: str = ""
    tags: tuple[int, ...] = ()
    guest: bool = True
    mirrors: tuple[Mirror, ...] = ()
    routed: Routed | None = None
    limits: tuple[Bucket, ...] = ()


@dataclass(frozen=True, slots=True)
class Router:
    """How a switch leads outside: a cable from its bridge to an interface of the machine.

    ``inside`` is the bridge's end; the other one has the gateway's address and is named by
    ``outside``. ``cards``: (card's address, IPv4 address) of those that are served.
    """

    number: int
    bridge: str
    inside: str
    nat: Nat
    mtu: int
    cards: tuple[tuple[str, str], ...] = ()

    def outside(self, identifier: str) -> str:
        """Return the name of the machine's end; ``identifier`` is the home's, of 8 characters."""
        return f"{routers_of(identifier)}-{self.number}"

    @property
    def listener(self) -> str:
        """The name of the interface by which the DHCP server hears and answers."""
        return f"d{self.number}"

    @property
    def mac(self) -> str:
        """The gateway's address on the switch: local, and the same at every start."""
        return f"02:ca:5e:00:{self.number >> 8:02x}:{self.number & 0xFF:02x}"


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """All of a host's wires. ``uplinks`` are interfaces of the machine that are taken in."""

    bridges: tuple[Bridge, ...] = ()
    uplinks: tuple[str, ...] = ()
    vlans: tuple[VlanLink, ...] = ()
    ports: tuple[Port, ...] = ()
    filters: tuple[Filter, ...] = ()
    routers: tuple[Router, ...] = ()


def tap_name(vm: str, number: int) -> str:
    """Return the name of the interface of a VM's card. Raises ArgumentError."""
    if not (vm.isascii() and vm.isdigit() and len(vm) <= _DIGITS and 0 <= number < CARDS_LIMIT):
        raise ArgumentError(f"{vm[:40]!r} has no card {number}", argument="vm")
    return f"t{vm}.{number}"


def traffic_of(table: str) -> dict[str, tuple[int, int]]:
    """Return bytes that each VM's cards have received and sent, from the text of /proc/net/dev.

    What the host's end of a card has sent, the guest has received.
    """
    found: dict[str, tuple[int, int]] = {}
    for line in table.splitlines():
        name, colon, rest = line.partition(":")
        card, numbers = _TAP.fullmatch(name.strip()), rest.split()
        if card and colon and len(numbers) > _SENT and numbers[_SENT].isdecimal():
            before = found.get(card[1], (0, 0))
            found[card[1]] = (before[0] + int(numbers[_SENT]), before[1] + int(numbers[0]))
    return found


def needs_tags(networks: Networks) -> bool:
    """Tell whether Linux has to put VLAN tags on frames, or take them off."""
    return any(
        group.vlan and (group.vlan == TRUNK or networks.switch(group.switch).uplinks)
        for group in networks.groups
    )


def routers_of(identifier: str) -> str:
    """Return what the names of all that a home makes in the machine's network begin with."""
    return f"cm-{identifier}"


def served(networks: Networks, switch: SwitchFact, cards: Iterable[Card]) -> tuple[str, ...]:
    """Return the addresses of the cards that NAT of a switch serves: those outside of all VLANs."""
    return tuple(
        card.mac
        for card in cards
        if card.mac and networks.has(card.group)
        if (group := networks.group(card.group)).switch == switch.name and not group.vlan
    )


def plan_network(
    networks: Networks,
    cards: Iterable[Card],
    given: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> NetworkPlan:
    """Plan the wires; cards without an address or a port group are wired to nothing.

    ``given``: by switch, the IPv4 addresses of cards that its NAT serves.
    """
    wired = sorted(
        (card for card in cards if card.mac and networks.has(card.group)),
        key=lambda card: (int(card.vm), card.number),
    )
    bridges: list[Bridge] = []
    uplinks: list[str] = []
    vlans: list[VlanLink] = []
    members: list[_Member] = []
    routers: list[Router] = []
    for switch in networks.switches:
        used = _vlans(networks, switch)
        bridges += [Bridge(bridge_name(switch, vlan), switch.mtu) for vlan in used]
        tagged = tuple(vlan for vlan in used if vlan)
        router = _router(networks, switch, wired, given.get(switch.name, {}))
        if router is not None:
            routers.append(router)
            members += (_gateway(router, name) for name in (router.inside, router.listener))
        for uplink in switch.uplinks:
            uplinks.append(uplink)
            members.append(_uplink(switch, uplink, 0, tags=tagged))
            for vlan in tagged:
                link = VlanLink(f"up{switch.number}v{vlan}", uplink, vlan)
                vlans.append(link)
                members.append(_uplink(switch, link.name, vlan))
        for card in wired:
            group = networks.group(card.group)
            if group.switch == switch.name:
                for made, link_of in _card(networks, switch, group, card, tagged):
                    members.append(_beside(made, router))
                    vlans += [link_of] if link_of else []
    seeing = [member for member in members if member.promiscuous and member.port.up]
    return NetworkPlan(
        tuple(bridges),
        tuple(uplinks),
        tuple(vlans),
        tuple(member.port for member in members),
        tuple(_filter(member, seeing) for member in members),
        tuple(routers),
    )


def bridge_name(switch: SwitchFact, vlan: int) -> str:
    """Return the name of the bridge of one VLAN of a switch."""
    return f"vs{switch.number}v{vlan}"


@dataclass(frozen=True, slots=True)
class _Member:
    """A port, and what its filter follows from."""

    port: Port
    filter: Filter
    promiscuous: bool = False


def _vlans(networks: Networks, switch: SwitchFact) -> tuple[int, ...]:
    """Return the VLANs of a switch that have a bridge; 0 for what carries no tag."""
    groups = [group for group in networks.groups if group.switch == switch.name]
    found = {group.vlan for group in groups if group.vlan != TRUNK}
    if switch.uplinks or switch.nat or any(group.vlan == TRUNK for group in groups):
        found.add(0)
    return tuple(sorted(found))


def _router(
    networks: Networks, switch: SwitchFact, cards: list[Card], given: Mapping[str, str]
) -> Router | None:
    if switch.nat is None:
        return None
    pairs = tuple(
        (mac, given[mac]) for mac in dict.fromkeys(served(networks, switch, cards)) if mac in given
    )
    bridge, inside = bridge_name(switch, 0), f"r{switch.number}"
    return Router(switch.number, bridge, inside, switch.nat, switch.mtu, pairs)


def _gateway(router: Router, name: str) -> _Member:
    """Return the port of a router's cable, or of its DHCP server: both speak as the gateway."""
    mac = router.mac if name == router.inside else ""
    port = Port(name, router.bridge, router.mtu, up=True, mac=mac)
    return _Member(port, Filter(name, router.mac, guest=False))


def _beside(member: _Member, router: Router | None) -> _Member:
    """Return a card's port with what holds beside a gateway, where its bridge has one."""
    if router is None or member.port.bridge != router.bridge:
        return member
    address = dict(router.cards).get(member.port.mac, "")
    routed = Routed(router.mac, str(router.nat.gateway), address)
    return replace(member, filter=replace(member.filter, routed=routed))


def _uplink(switch: SwitchFact, name: str, vlan: int, tags: tuple[int, ...] = ()) -> _Member:
    bridge = bridge_name(switch, vlan)
    port = Port(name, bridge, switch.mtu, up=True, learning=True, flood=True)
    return _Member(port, Filter(name, tags=tags, guest=False))


def _card(
    networks: Networks,
    switch: SwitchFact,
    group: PortGroupFact,
    card: Card,
    tagged: tuple[int, ...],
) -> Iterator[tuple[_Member, VlanLink | None]]:
    """Yield the ports of a card: one, or one for each VLAN where its guest tags frames."""
    policy = networks.policy(group)
    source = "" if policy.forged_transmits else card.mac
    learning = policy.mac_changes and policy.forged_transmits and not policy.promiscuous
    trunk = group.vlan == TRUNK

    limits = buckets(networks.shaping(group))

    def member(name: str, vlan: int, tags: tuple[int, ...]) -> _Member:
        bridge = bridge_name(switch, vlan)
        port = Port(name, bridge, switch.mtu, card.connected, card.mac, learning)
        # A card's own interface sees all that its guest sends, tagged or not.
        own = limits if name == card.tap else ()
        return _Member(port, Filter(name, source, tags, limits=own), policy.promiscuous)

    yield member(card.tap, 0 if trunk else group.vlan, tagged if trunk else ()), None
    for vlan in tagged if trunk else ():
        link = VlanLink(f"k{int(card.vm):x}{card.number}{vlan:03x}", card.tap, vlan)
        yield member(link.name, vlan, ()), link


def _filter(member: _Member, seeing: list[_Member]) -> Filter:
    """Return a member's filter, with the ports of its bridge that see what it sends."""
    own = member.filter
    mirrors = tuple(
        Mirror(other.port.name, other.port.mac)
        for other in seeing
        if other.port.bridge == member.port.bridge and other is not member
    )
    return replace(own, mirrors=mirrors)
