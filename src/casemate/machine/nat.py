"""A switch without an uplink may lead outside through the machine itself: by NAT, if told so.

Its guests have a private network of their own and one address each, which the host gives to the
card's own address (DHCP); what they send outside leaves the machine under the machine's address.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from casemate.errors import ArgumentError, LimitError

LARGEST: Final = 16
SMALLEST: Final = 28
"""Prefix lengths of networks: 65,534 addresses, of which 253 are given out at most; or 13."""
ADDRESSES: Final = 253
"""Guests of one switch that have an address at the same time."""
NAME_SERVERS: Final = 3
"""Those that a guest's resolver asks."""
PRIVATE: Final = tuple(
    map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
)
_OWN: Final = PRIVATE[0]
_PREFIX: Final = 24
_TRIES: Final = 1 << 16
_FIRST_GUEST: Final = 2


@dataclass(frozen=True, slots=True)
class Nat:
    """The private network of a switch, as ``10.1.2.0/24``; its first address is the gateway's.

    ``reach_host``: guests may reach the machine's own addresses (never its loopback).
    ``name_servers``: those that guests are told; empty: those that the machine itself asks.
    """

    network: str
    reach_host: bool = False
    name_servers: tuple[str, ...] = ()

    @property
    def net(self) -> IPv4Network:
        """The network."""
        return IPv4Network(self.network)

    @property
    def gateway(self) -> IPv4Address:
        """The gateway's address."""
        return self.net[1]


def check_nat(nat: Nat) -> None:
    """Raise ArgumentError unless the network and the name servers are ones that can be."""
    net = _network(nat.network)
    if not any(net.subnet_of(private) for private in PRIVATE):
        raise ArgumentError(f"{nat.network} is no private network", argument="network")
    if not LARGEST <= net.prefixlen <= SMALLEST:
        raise ArgumentError(
            f"a network has a prefix of {LARGEST} to {SMALLEST} bits", argument="network"
        )
    if len(nat.name_servers) > NAME_SERVERS:
        raise ArgumentError(f"at most {NAME_SERVERS} name servers", argument="name_servers")
    for server in nat.name_servers:
        if not reachable_server(server):
            raise ArgumentError(
                f"{server[:40]!r} is no IPv4 address that guests can reach", argument="name_servers"
            )


def reachable_server(text: str) -> bool:
    """Tell whether this is an IPv4 address, and not of a kind that is not passed on."""
    try:
        address = IPv4Address(text)
    except ValueError:
        return False
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )


def name_servers_in(text: str) -> tuple[str, ...]:
    """Return the name servers of a resolv.conf that guests can reach."""
    lines = (line.split() for line in text.splitlines())
    named = (words[1] for words in lines if len(words) > 1 and words[0] == "nameserver")
    return tuple(filter(reachable_server, named))[:NAME_SERVERS]


def choose_network(seed: str, taken: Iterable[str]) -> str:
    """Return a network for a switch: the same for the same seed, unless it is taken.

    Args:
        seed: names home and switch, so that two homes of a machine rarely meet.
        taken: networks that the machine, or other switches, use.

    Raises:
        LimitError: all are taken.
    """
    used = [_network(one) for one in taken]
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:2], "big")
    for step in range(_TRIES):
        number = (start + step) % _TRIES
        net = IPv4Network((int(_OWN.network_address) + (number << 8), _PREFIX))
        if not any(net.overlaps(other) for other in used):
            return str(net)
    raise LimitError("every private network of this machine is taken")


def overlapping(network: str, taken: Iterable[str]) -> str:
    """Return the first of ``taken`` that shares an address with ``network``; or nothing."""
    net = _network(network)
    return next((one for one in taken if net.overlaps(_network(one))), "")


def give_addresses(
    nat: Nat, before: Mapping[str, str], cards: Iterable[str]
) -> tuple[tuple[str, str], ...]:
    """Return (card's address, IPv4 address) of all cards that have or had one.

    A card keeps its address for as long as there are others to give. Cards that are not there any
    more stand first, the longest away before the others; they lose theirs first. Where more cards
    are there than addresses, the last ones get none.

    Args:
        nat: of the switch.
        before: what was given until now, in the order of the last result.
        cards: the cards that are there.
    """
    usable = _usable(nat)
    kept = {mac: address for mac, address in before.items() if IPv4Address(address) in usable}
    present = list(dict.fromkeys(cards))
    away = [mac for mac in kept if mac not in set(present)]
    free = [str(one) for one in usable if str(one) not in set(kept.values())]
    free.reverse()
    for mac in present:
        if mac not in kept:
            if not free and away:
                free.append(kept.pop(away.pop(0)))
            if free:
                kept[mac] = free.pop()
    return tuple((mac, kept[mac]) for mac in (*away, *present) if mac in kept)


def _usable(nat: Nat) -> list[IPv4Address]:
    net = nat.net
    count = min(net.num_addresses - 1 - _FIRST_GUEST, ADDRESSES)
    return [net[_FIRST_GUEST + number] for number in range(count)]


def _network(text: str) -> IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ArgumentError(f"{text[:40]!r} is no IPv4 network", argument="network") from error
