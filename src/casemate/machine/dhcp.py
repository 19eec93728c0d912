"""Answers of a DHCP server that gives each card of a switch the one address that is the card's.

Nothing is kept of what guests say: an address belongs to a card because the host says so, and so
no guest can take the addresses of others, use them up, or be remembered without end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

from casemate.errors import FormatError
from casemate.formats.dhcp import (
    CLIENT_PORT,
    SERVER_PORT,
    Kind,
    Lease,
    Request,
    Terms,
    parse_request,
    write_reply,
)
from casemate.formats.udp import Datagram, End, parse_frame, write_frame

LEASE_SECONDS: Final = 3600
"""Until a guest must have asked again; the address stays its own meanwhile and after."""
_RENEW: Final = LEASE_SECONDS // 2
_REBIND: Final = _RENEW + 1
"""A guest that asks the gateway for more time gets no answer: nothing listens there. So it asks
everybody a second later."""
_EVERYBODY: Final = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class DhcpService:
    """What a server knows: its switch's network, and whose card has which address.

    ``hardware``: the gateway's card address, from which answers come. ``mtu`` in bytes.
    """

    network: str
    gateway: str
    hardware: str
    name_servers: tuple[str, ...]
    mtu: int
    cards: Mapping[str, str]

    def dump(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(
            {
                "network": self.network,
                "gateway": self.gateway,
                "hardware": self.hardware,
                "name_servers": self.name_servers,
                "mtu": self.mtu,
                "cards": dict(self.cards),
            }
        ).encode()


def load_service(data: bytes) -> DhcpService:
    """Read what ``dump`` returned. Raises FormatError."""
    try:
        value = json.loads(data)
        return DhcpService(**{**value, "name_servers": tuple(value["name_servers"])})
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"the DHCP service cannot be read: {error}") from error


def answer_frame(service: DhcpService, frame: bytes) -> bytes | None:
    """Return the frame that answers a frame; None where it is not to be answered.

    Raises:
        FormatError: it is no question to a DHCP server.
    """
    asked = parse_frame(frame)
    if (asked.source.port, asked.target.port) != (CLIENT_PORT, SERVER_PORT):
        return None
    request = parse_request(asked.data)
    if request.hardware != asked.source.hardware:
        return None
    lease = answer(service, request)
    if lease is None:
        return None
    names = tuple(map(IPv4Address, service.name_servers))
    terms = Terms(LEASE_SECONDS, _RENEW, _REBIND, names, service.mtu)
    source = End(_octets(service.hardware), IPv4Address(service.gateway), SERVER_PORT)
    target = End(request.hardware, _listens_at(request, lease), CLIENT_PORT)
    return write_frame(Datagram(source, target, write_reply(request, lease, terms)))


def answer(service: DhcpService, request: Request) -> Lease | None:
    """Return what a server says to a request; None where it says nothing."""
    given = service.cards.get(_text(request.hardware))
    if given is None:
        return None
    prefix = IPv4Network(service.network).prefixlen
    address = IPv4Interface(f"{given}/{prefix}")
    gateway = IPv4Address(service.gateway)

    def lease(kind: Kind) -> Lease:
        return Lease(kind, address, gateway, gateway, LEASE_SECONDS)

    if request.kind is Kind.DISCOVER:
        return lease(Kind.OFFER)
    if request.kind is Kind.INFORM:
        return lease(Kind.ACK)
    if request.kind is Kind.REQUEST and request.server in {None, gateway}:
        wanted = request.wanted or request.present
        return lease(Kind.ACK if wanted == address.ip else Kind.NAK)
    return None


def _listens_at(request: Request, lease: Lease) -> IPv4Address:
    """Return the address at which the client can be told."""
    if request.broadcast or lease.kind is Kind.NAK:
        return _EVERYBODY
    if int(request.present):
        return request.present
    return lease.address.ip


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _text(octets: bytes) -> str:
    return octets.hex(":")
