"""The wires of a host as a plan: what there is to be, by Linux's kinds. ``wiring`` makes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from casemate.errors import ArgumentError
from casemate.machine.nat import Nat
from casemate.machine.networks import TRUNK, Networks, SwitchFact
from casemate.machine.shaping import Bucket

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
class Cable:
    """A cable between two bridges: its ends."""

    one: str
    other: str


@dataclass(frozen=True, slots=True)
class Port:
    """An interface in a bridge. ``flood``: it gets what is for unknown addresses.

    ``learning``: addresses that it sends from are found behind it; ``mac``: one that always is;
    ``beyond``: more of them, at the end of a cable. ``isolated``: nothing passes between it and
    others that are.
    """

    name: str
    bridge: str
    mtu: int
    up: bool
    mac: str = ""
    learning: bool = False
    flood: bool = False
    isolated: bool = False
    beyond: tuple[str, ...] = ()


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

    ``own``: addresses of cards of a team. What they send to everybody does not come back by an
    uplink; what others send to everybody does not come by a ``cable``, but by an uplink.
    """

    name: str
    source: str = ""
    tags: tuple[int, ...] = ()
    guest: bool = True
    mirrors: tuple[Mirror, ...] = ()
    routed: Routed | None = None
    limits: tuple[Bucket, ...] = ()
    own: tuple[str, ...] = ()
    cable: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """A card's address and the uplink, or one VLAN of it, by which switches find it."""

    mac: str
    by: str


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
    """All of a host's wires. ``uplinks`` are interfaces of the machine that are taken in.

    ``notices``: what the physical switches of teams are told when it changes.
    """

    bridges: tuple[Bridge, ...] = ()
    uplinks: tuple[str, ...] = ()
    vlans: tuple[VlanLink, ...] = ()
    ports: tuple[Port, ...] = ()
    filters: tuple[Filter, ...] = ()
    routers: tuple[Router, ...] = ()
    cables: tuple[Cable, ...] = ()
    notices: tuple[Notice, ...] = ()


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
