"""nftables: what may come in from an interface, as one table for each interface.

A table is replaced in one transaction: there is no moment in which an interface has no filter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from casemate.kernel.sys.nftables import (
    DROP,
    EQUAL,
    NETDEV,
    PROTOCOL,
    TRANSPORT_LAYER,
    UNEQUAL,
    Chain,
    Known,
    Nftables,
    Rule,
    among,
    bytes_over,
    compare,
    expression,
    load,
    mask,
    meta,
    packets_over,
    store,
    verdict,
)
from casemate.machine.networkplan import Filter, Routed

_INGRESS: Final = 0
_CHAIN: Final = "ingress"
_OWN: Final = "own"
# Offsets and lengths in a frame: destination, source, type; the tag's control information; the
# sender of an ARP packet and of an IPv4 packet without tags.
_DESTINATION: Final = (0, 6)
_FIRST_OCTET: Final = (0, 1)
_SOURCE: Final = (6, 6)
_TYPE: Final = (12, 2)
_TAG: Final = (14, 2)
_ARP_SENDER: Final = (28, 4)
_IPV4_SENDER: Final = (26, 4)
_IPV4_TARGET: Final = (30, 4)
_IPV4_HEADER: Final = (14, 1)
_SOURCE_PORT: Final = (0, 2)
_TARGET_PORT: Final = (2, 2)
_CUSTOMER_TAG: Final = b"\x81\x00"
_SERVICE_TAG: Final = b"\x88\xa8"
_ARP: Final = b"\x08\x06"
_IPV4: Final = b"\x08\x00"
_UDP: Final = b"\x11"
_PLAIN: Final = b"\x45"
_DHCP_SERVER: Final = b"\x00\x43"
_GROUP_BIT: Final = b"\x01"
_VLAN_BITS: Final = b"\x0f\xff"
_SWITCHES: Final = b"\x01\x80\xc2\x00\x00\x00"
_SWITCHES_BITS: Final = b"\xff\xff\xff\xff\xff\xf0"
NOWHERE: Final = tuple(
    map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"))
)
"""What no gateway passes on: loopback, links' own addresses (where clouds give a machine its
credentials), groups of receivers, and what was never given out."""
DHCP_RATE: Final = 5
DHCP_BURST: Final = 10
"""Questions a second that a card may ask for its address, and at once: so no card's questions
take the server's time from another's."""


class PacketFilters:
    """A connection to nftables; to be used in one thread."""

    def __init__(self) -> None:
        self._tables = Nftables(NETDEV)

    def close(self) -> None:
        """End the connection; the filters stay."""
        self._tables.close()

    def names(self) -> set[str]:
        """Return the interfaces that have a table."""
        return self._tables.tables()

    def put(self, wanted: Filter, indexes: dict[str, int]) -> None:
        """Replace the filter of an interface; ``indexes``: the numbers of those that it names.

        Raises:
            HostError: Linux refuses; the filter is then as it was.
        """
        rules = tuple(_rules(wanted, indexes))
        macs = tuple(dict.fromkeys(map(_octets, wanted.own)))
        known = (Known(_OWN, macs),) if macs else ()
        chain = Chain(_CHAIN, rules, _INGRESS, device=wanted.name, known=known)
        self._tables.put([(NETDEV, wanted.name, (chain,))], wanted.name)

    def drop(self, name: str) -> None:
        """Remove the filter of an interface, if it has one."""
        self._tables.put([(NETDEV, name, ())], name)


def _rules(wanted: Filter, indexes: dict[str, int]) -> Iterator[Rule]:
    """Yield the rules of a filter, in order; a frame that none drops comes in."""
    yield [load(*_TYPE), compare(EQUAL, _SERVICE_TAG), verdict(DROP)]
    if not wanted.tags:
        yield [load(*_TYPE), compare(EQUAL, _CUSTOMER_TAG), verdict(DROP)]
    else:
        differs = [compare(UNEQUAL, vlan.to_bytes(2, "big")) for vlan in wanted.tags]
        yield [
            *(load(*_TYPE), compare(EQUAL, _CUSTOMER_TAG)),
            *(load(*_TAG), mask(_VLAN_BITS)),
            *differs,
            verdict(DROP),
        ]
    if wanted.source:
        yield [load(*_SOURCE), compare(UNEQUAL, _octets(wanted.source)), verdict(DROP)]
    if wanted.guest:
        yield [
            *(load(*_DESTINATION), mask(_SWITCHES_BITS)),
            *(compare(EQUAL, _SWITCHES), verdict(DROP)),
        ]
    if wanted.routed is not None:
        yield from _routed(wanted.routed)
    if wanted.own:
        # For a cable, what strangers send to everybody; for an uplink, what our own cards sent.
        yield [
            *(load(*_FIRST_OCTET), mask(_GROUP_BIT), compare(UNEQUAL, b"\0")),
            *(load(*_SOURCE), among(_OWN, inverted=wanted.cable), verdict(DROP)),
        ]
    for limit in wanted.limits:
        yield [bytes_over(limit.rate, limit.burst), verdict(DROP)]
    # What our own cards sent was seen when they sent it.
    foreign = [load(*_SOURCE), among(_OWN, inverted=True)] if wanted.own else []
    for mirror in wanted.mirrors:
        yield [
            *foreign,
            *(load(*_FIRST_OCTET), mask(_GROUP_BIT), compare(EQUAL, b"\0")),
            *(load(*_DESTINATION), compare(UNEQUAL, _octets(mirror.mac))),
            store(struct.pack("=I", indexes[mirror.name])),
            expression("dup", sreg_dev=1),
        ]


def _routed(routed: Routed) -> Iterator[Rule]:
    """Yield what keeps a card from being the gateway, and from reaching it as somebody else."""
    gateway = _octets(routed.gateway_mac)
    ours = [load(*_DESTINATION), compare(EQUAL, gateway)]
    arp, ipv4 = ([load(*_TYPE), compare(EQUAL, kind)] for kind in (_ARP, _IPV4))
    yield [load(*_SOURCE), compare(EQUAL, gateway), verdict(DROP)]
    yield [
        *arp,
        *(load(*_ARP_SENDER), compare(EQUAL, IPv4Address(routed.gateway).packed)),
        verdict(DROP),
    ]
    udp = [meta(PROTOCOL), compare(EQUAL, _UDP)]
    port = compare(EQUAL, _DHCP_SERVER)
    yield [*ipv4, *udp, load(*_SOURCE_PORT, TRANSPORT_LAYER), port, verdict(DROP)]
    yield [
        *(*ipv4, *udp, load(*_TARGET_PORT, TRANSPORT_LAYER), port),
        *(packets_over(DHCP_RATE, DHCP_BURST), verdict(DROP)),
    ]
    if not routed.address:
        yield [*ours, verdict(DROP)]
        return
    yield [*ours, load(*_TYPE), compare(UNEQUAL, _ARP), compare(UNEQUAL, _IPV4), verdict(DROP)]
    sender = compare(UNEQUAL, IPv4Address(routed.address).packed)
    yield [*ours, *ipv4, load(*_IPV4_SENDER), sender, verdict(DROP)]
    yield [*ours, *ipv4, load(*_IPV4_HEADER), compare(UNEQUAL, _PLAIN), verdict(DROP)]
    for net in NOWHERE:
        yield [
            *(*ours, *ipv4, load(*_IPV4_TARGET), mask(net.netmask.packed)),
            *(compare(EQUAL, net.network_address.packed), verdict(DROP)),
        ]


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
