"""DHCP messages for IPv4 (RFC 2131, RFC 2132), as clients and servers send and read them."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from casemate.errors import FormatError
from casemate.formats.reader import Reader

CLIENT_PORT: Final = 68
SERVER_PORT: Final = 67
MAX_MESSAGE: Final = 1500
"""Bytes: one Ethernet frame."""

_COOKIE: Final = bytes.fromhex("63825363")
_BROADCAST: Final = 0x8000
_FIXED: Final = struct.Struct(">BBBBIHH4s4s4s4s16s64x128x4s")
_MASK, _ROUTER, _NAMES, _HOST_NAME, _MTU = 1, 3, 6, 12, 26
_REQUESTED, _LEASE, _KIND, _SERVER, _WANTED, _RENEW, _REBIND = 50, 51, 53, 54, 55, 58, 59
_PAD, _END = 0, 255
_ASKS, _ANSWERS = 1, 2
_ETHERNET, _OCTETS = 1, 6
_ADDRESS: Final = 4
_LEAST: Final = 300
"""Bytes of an answer: older clients take no shorter ones."""
_NAMES_LIMIT: Final = 8
"""Name servers that are taken from one message."""


class Kind(IntEnum):
    """Message types."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


@dataclass(frozen=True, slots=True)
class Lease:
    """What a server gives: address with its network, gateway, the server, seconds it holds."""

    kind: Kind
    address: ipaddress.IPv4Interface
    gateway: ipaddress.IPv4Address | None
    server: ipaddress.IPv4Address
    seconds: int
    name_servers: tuple[ipaddress.IPv4Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks. ``present``: the address that it uses already, or 0.0.0.0.

    ``wanted``: the address that it asks for; ``server``: the one whose offer it takes.
    """

    kind: Kind
    transaction: int
    hardware: bytes
    broadcast: bool
    present: ipaddress.IPv4Address
    wanted: ipaddress.IPv4Address | None
    server: ipaddress.IPv4Address | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a server says beside an address; ``mtu`` in bytes.

    A client asks its server after ``renew`` seconds for more time, and anybody after ``rebind``.
    """

    seconds: int
    renew: int
    rebind: int
    name_servers: tuple[ipaddress.IPv4Address, ...]
    mtu: int


def write_request(
    transaction: int, hardware: bytes, host_name: str, offer: Lease | None = None
) -> bytes:
    """Return a DISCOVER, or the REQUEST of what was offered."""
    kind = Kind.DISCOVER if offer is None else Kind.REQUEST
    zero = bytes(4)
    fixed = _FIXED.pack(
        *(1, 1, 6, 0, transaction, 0, _BROADCAST, zero, zero, zero, zero, hardware, _COOKIE)
    )
    options = _option(_KIND, bytes([kind])) + _option(_HOST_NAME, host_name.encode()[:63])
    if offer is not None:
        options += _option(_REQUESTED, offer.address.ip.packed)
        options += _option(_SERVER, offer.server.packed)
    return (
        fixed + options + _option(_WANTED, bytes([_MASK, _ROUTER, _NAMES, _LEASE])) + bytes([_END])
    )


def parse_reply(data: bytes, transaction: int, hardware: bytes) -> Lease | None:
    """Read a server's answer; None where it is for somebody else, or refuses.

    Raises:
        FormatError: it is no DHCP message, or lacks what an address needs (``dhcp-malformed``).
    """
    reader = Reader(data, "DHCP message", code="dhcp-malformed")
    fields = _FIXED.unpack(reader.take(_FIXED.size))
    if fields[0] != _ANSWERS or fields[-1] != _COOKIE:
        raise reader.error("it is no reply")
    if fields[4] != transaction or fields[11][: len(hardware)] != hardware:
        return None
    options = _options(reader)
    try:
        kind = Kind(options[_KIND][0])
        if kind not in {Kind.OFFER, Kind.ACK}:
            return None
        mask = ipaddress.IPv4Address(options[_MASK])
        router = options.get(_ROUTER, b"")[:4]
        return Lease(
            kind,
            ipaddress.IPv4Interface(f"{ipaddress.IPv4Address(fields[8])}/{mask}"),
            ipaddress.IPv4Address(router) if router else None,
            ipaddress.IPv4Address(options[_SERVER]),
            int.from_bytes(options.get(_LEASE, b""), "big"),
            _addresses(options.get(_NAMES, b"")),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise FormatError(
            f"DHCP message: an option is missing or cannot be: {error}", code="dhcp-malformed"
        ) from error


def parse_request(data: bytes) -> Request:
    """Read what a client asks.

    Raises:
        FormatError: it is no question of an Ethernet card (``dhcp-malformed``).
    """
    reader = Reader(data, "DHCP message", code="dhcp-malformed")
    fields = _FIXED.unpack(reader.take(_FIXED.size))
    if fields[:3] != (_ASKS, _ETHERNET, _OCTETS) or fields[-1] != _COOKIE:
        raise reader.error("it is no question of an Ethernet card")
    options = _options(reader)
    try:
        return Request(
            Kind(int.from_bytes(options[_KIND], "big")),
            fields[4],
            fields[11][:_OCTETS],
            bool(fields[6] & _BROADCAST),
            ipaddress.IPv4Address(fields[7]),
            *(
                ipaddress.IPv4Address(options[code]) if code in options else None
                for code in (_REQUESTED, _SERVER)
            ),
        )
    except (KeyError, ValueError) as error:
        raise reader.error(f"an option is missing or cannot be: {error}") from error


def write_reply(request: Request, lease: Lease, terms: Terms) -> bytes:
    """Return a server's OFFER, ACK or NAK to a request, as ``lease.kind`` says."""
    given = lease.kind is not Kind.NAK and request.kind is not Kind.INFORM
    yours = lease.address.ip.packed if given else bytes(4)
    flags = _BROADCAST if request.broadcast or lease.kind is Kind.NAK else 0
    present = request.present.packed if lease.kind is Kind.ACK else bytes(4)
    fixed = _FIXED.pack(
        *(_ANSWERS, _ETHERNET, _OCTETS, 0, request.transaction, 0, flags, present, yours),
        *(bytes(4), bytes(4), request.hardware, _COOKIE),
    )
    options = _option(_KIND, bytes([lease.kind])) + _option(_SERVER, lease.server.packed)
    if given:
        for code, seconds in (
            (_LEASE, terms.seconds),
            (_RENEW, terms.renew),
            (_REBIND, terms.rebind),
        ):
            options += _option(code, seconds.to_bytes(4, "big"))
    if lease.kind is not Kind.NAK:
        options += _option(_MASK, lease.address.netmask.packed)
        if lease.gateway is not None:
            options += _option(_ROUTER, lease.gateway.packed)
        if terms.name_servers:
            options += _option(_NAMES, b"".join(one.packed for one in terms.name_servers))
        options += _option(_MTU, terms.mtu.to_bytes(2, "big"))
    return (fixed + options + bytes([_END])).ljust(_LEAST, b"\0")


def _addresses(value: bytes) -> tuple[ipaddress.IPv4Address, ...]:
    """Read a list of addresses. Raises ValueError."""
    return tuple(
        ipaddress.IPv4Address(value[start : start + _ADDRESS])
        for start in range(0, len(value), _ADDRESS)
    )[:_NAMES_LIMIT]


def _option(code: int, value: bytes) -> bytes:
    return bytes([code, len(value)]) + value


def _options(reader: Reader) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while reader.left:
        code = reader.u8()
        if code == _END:
            break
        if code != _PAD:
            found[code] = reader.take(reader.u8())
    return found
