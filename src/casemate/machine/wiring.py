"""Plans the wires of a host: its switches and the cards of running VMs give links and filters.

Every VLAN of a switch is a Linux bridge of its own, so that what is not in a VLAN is not wired to
it, and Linux needs neither VLAN filtering nor tags among VMs. A card's port knows the card's
address and learns no other; what may leave a card is filtered before the bridge sees it.

Where a switch has several uplinks, each of them has bridges of its own, with the cards that are
bound to it: what is not in a bridge cannot leave by it or come in by it. The bridges of a VLAN that
have cards are joined in pairs by cables. Cables and uplinks are isolated from each other, so that a
cable carries what cards send to cards, and nothing goes round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from types import MappingProxyType
from typing import Final

from casemate.machine.networkplan import (
    Bridge,
    Cable,
    Card,
    Filter,
    Mirror,
    NetworkPlan,
    Notice,
    Port,
    Routed,
    Router,
    VlanLink,
    served,
)
from casemate.machine.networks import TRUNK, Networks, PortGroupFact, SwitchFact
from casemate.machine.shaping import buckets
from casemate.machine.teaming import ALL_UP, LinkState, bound, port_number

_NOWHERE: Final = 9
"""Number of the bridges of cards that are bound to none of the uplinks, which are 0 to 7."""


def plan_network(
    networks: Networks,
    cards: Iterable[Card],
    given: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    state: LinkState = ALL_UP,
) -> NetworkPlan:
    """Plan the wires; cards without an address or a port group are wired to nothing.

    ``given``: by switch, the IPv4 addresses of cards that its NAT serves; ``state``: of uplinks.
    """
    wired = sorted(
        (card for card in cards if card.mac and networks.has(card.group)),
        key=lambda card: (int(card.vm), card.number),
    )
    parts = [
        _Part(networks, switch, wired, given.get(switch.name, {}), state)
        for switch in networks.switches
    ]
    members = [member for part in parts for member in part.members()]
    seeing = [member for member in members if member.promiscuous and member.port.up]
    return NetworkPlan(
        tuple(bridge for part in parts for bridge in part.bridges()),
        tuple(uplink for switch in networks.switches for uplink in switch.uplinks),
        tuple(vlan for part in parts for vlan in part.vlans),
        tuple(member.port for member in members),
        tuple(_filter(member, seeing) for member in members),
        tuple(part.router for part in parts if part.router is not None),
        tuple(cable for part in parts for cable in part.cables),
        tuple(notice for part in parts for notice in part.notices),
    )


def bridge_name(switch: SwitchFact, vlan: int, number: int = 0) -> str:
    """Return the name of the bridge of one VLAN of a switch; ``number`` is its uplink's."""
    return f"vs{switch.number}v{vlan}" + _suffix(number)


def _suffix(number: int) -> str:
    return f"u{number}" if number else ""


@dataclass(frozen=True, slots=True)
class _Member:
    """A port, and what its filter follows from.

    ``segment``: of a card, what is alike for all cards of its switch and VLAN; ``number``: of the
    uplink that it is bound to.
    """

    port: Port
    filter: Filter
    promiscuous: bool = False
    segment: str = ""
    vlan: int = 0
    number: int = 0


class _Part:
    """The wires of one switch.

    ``found``: by VLAN and number of a bridge, the addresses of its cards; ``numbers``: of the
    bridges of each VLAN; ``joined``: of those with cards, where several are.
    """

    def __init__(
        self,
        networks: Networks,
        switch: SwitchFact,
        wired: list[Card],
        given: Mapping[str, str],
        state: LinkState,
    ) -> None:
        self._networks, self._switch, self._state = networks, switch, state
        self.router = _router(networks, switch, wired, given)
        self.vlans: list[VlanLink] = []
        self.cables: list[Cable] = []
        self.notices: list[Notice] = []
        self._used = _vlans(networks, switch)
        self._tagged = tuple(vlan for vlan in self._used if vlan)
        own = [card for card in wired if networks.group(card.group).switch == switch.name]
        self._macs = tuple(card.mac for card in own)
        self._cards = [made for card in own for made in self._card(card)]
        self._found: dict[int, dict[int, list[str]]] = {vlan: {} for vlan in self._used}
        for made in self._cards:
            self._found[made.vlan].setdefault(made.number, []).append(made.port.mac)
        self._numbers = {vlan: self._bridged(vlan) for vlan in self._used}
        self._joined = {vlan: self._several(vlan) for vlan in self._used}

    def bridges(self) -> Iterator[Bridge]:
        """Yield the bridges."""
        for vlan in self._used:
            for number in self._numbers[vlan]:
                yield Bridge(bridge_name(self._switch, vlan, number), self._switch.mtu)

    def members(self) -> Iterator[_Member]:
        """Yield all ports, cables last: they are open when what they lead to is isolated."""
        router = self.router
        if router is not None:
            yield from (_gateway(router, name) for name in (router.inside, router.listener))
        for number, uplink in enumerate(self._switch.uplinks):
            yield from self._uplink(number, uplink)
        yield from (_beside(made, router) for made in self._cards)
        for vlan in self._used:
            for pair in combinations(self._joined[vlan], 2):
                yield from self._cable(vlan, pair)

    def _bridged(self, vlan: int) -> tuple[int, ...]:
        found = {0, *self._found[vlan]}
        if not vlan:
            # Uplinks wait in a bridge, whether a card is bound to them or not.
            found |= set(range(len(self._switch.uplinks)))
        return tuple(sorted(found))

    def _several(self, vlan: int) -> tuple[int, ...]:
        found = self._found[vlan]
        return tuple(sorted(found)) if len(found) > 1 else ()

    def _link(self, vlan: int, number: int) -> str:
        """Return the name of an uplink, or of one VLAN of it."""
        if not vlan:
            return self._switch.uplinks[number]
        return f"up{self._switch.number}v{vlan}{_suffix(number)}"

    def _uplink(self, number: int, uplink: str) -> Iterator[_Member]:
        """Yield the ports of an uplink: one for each VLAN that has a bridge for it."""
        own = self._macs if any(self._joined.values()) else ()
        tags = tuple(vlan for vlan in self._tagged if number in self._numbers[vlan])
        for vlan in (0, *tags):
            name = self._link(vlan, number)
            if vlan:
                self.vlans.append(VlanLink(name, uplink, vlan))
            port = Port(
                name,
                bridge_name(self._switch, vlan, number),
                self._switch.mtu,
                up=True,
                learning=True,
                flood=True,
                isolated=number in self._joined[vlan],
            )
            made = Filter(name, tags=() if vlan else tags, guest=False, own=own)
            yield _Member(port, made)

    def _card(self, card: Card) -> Iterator[_Member]:
        """Yield the ports of a card: one, or one for each VLAN where its guest tags frames."""
        group = self._networks.group(card.group)
        number = self._number(card, group)
        yield self._port(card, group, number, card.tap, 0 if group.vlan == TRUNK else group.vlan)
        for vlan in self._tagged if group.vlan == TRUNK else ():
            link = VlanLink(f"k{int(card.vm):x}{card.number}{vlan:03x}", card.tap, vlan)
            self.vlans.append(link)
            yield self._port(card, group, number, link.name, vlan)

    def _number(self, card: Card, group: PortGroupFact) -> int:
        """Return the number of the uplink that a card is bound to."""
        uplinks = self._switch.uplinks
        if not uplinks:
            return 0
        team = self._networks.team(group)
        uplink = bound(team, port_number(card.vm, card.number), card.mac, self._state)
        return uplinks.index(uplink) if uplink else _NOWHERE

    def _port(self, card: Card, group: PortGroupFact, number: int, name: str, vlan: int) -> _Member:
        policy = self._networks.policy(group)
        source = "" if policy.forged_transmits else card.mac
        learning = policy.mac_changes and policy.forged_transmits and not policy.promiscuous
        own = name == card.tap
        made = Filter(
            name,
            source,
            self._tagged if own and group.vlan == TRUNK else (),
            # A card's own interface sees all that its guest sends, tagged or not.
            limits=buckets(self._networks.shaping(group)) if own else (),
        )
        switch = self._switch
        told = len(switch.uplinks) > 1 and card.connected and self._works(number)
        if told and self._networks.team(group).notify:
            self.notices.append(Notice(card.mac, self._link(vlan, number)))
        bridge = bridge_name(switch, vlan, number)
        port = Port(name, bridge, switch.mtu, card.connected, card.mac, learning)
        return _Member(port, made, policy.promiscuous, bridge_name(switch, vlan), vlan, number)

    def _cable(self, vlan: int, pair: tuple[int, int]) -> Iterator[_Member]:
        """Yield the ends of a cable between two bridges.

        Where both have an uplink that works, what strangers behind a card send to everybody comes
        by that: it would come twice otherwise.
        """
        switch = self._switch
        ends = ((pair[0], pair[1]), (pair[1], pair[0]))
        names = [f"p{switch.number}v{vlan}u{here}{there}" for here, there in ends]
        self.cables.append(Cable(*names))
        checked = all(map(self._works, pair))
        for name, (here, there) in zip(names, ends, strict=True):
            beyond = tuple(self._found[vlan][there])
            port = Port(
                name,
                bridge_name(switch, vlan, here),
                switch.mtu,
                up=True,
                isolated=True,
                beyond=beyond,
            )
            own = beyond if checked else ()
            yield _Member(port, Filter(name, guest=False, own=own, cable=True))

    def _works(self, number: int) -> bool:
        uplinks = self._switch.uplinks
        return number < len(uplinks) and uplinks[number] not in self._state.down


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


def _filter(member: _Member, seeing: list[_Member]) -> Filter:
    """Return a member's filter, with the ports that see what it sends.

    They are those of its bridge, and all of a card's VLAN; what comes by a cable was seen before.
    """
    own = member.filter
    if own.cable:
        return own
    mirrors = tuple(
        Mirror(other.port.name, other.port.mac)
        for other in seeing
        if other is not member
        if other.port.bridge == member.port.bridge
        or (member.segment and other.segment == member.segment)
    )
    return replace(own, mirrors=mirrors)
