"""DHCP messages for IPv4 (RFC 2131, RFC 2132), as a client sends and reads them."""

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
_MASK, _ROUTER, _HOST_NAME, _REQUESTED, _LEASE, _KIND, _SERVER, _WANTED = (
    1,
    3,
    12,
    50,
    51,
    53,
    54,
    55,
)
_PAD, _END = 0, 255


class Kind(IntEnum):
    """Message types that a client meets."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    ACK = 5
    NAK = 6


@dataclass(frozen=True, slots=True)
class Lease:
    """What a server gives: address with its network, gateway, the server, seconds it holds."""

    kind: Kind
    address: ipaddress.IPv4Interface
    gateway: ipaddress.IPv4Address | None
    server: ipaddress.IPv4Address
    seconds: int


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
    return fixed + options + _option(_WANTED, bytes([_MASK, _ROUTER, _LEASE])) + bytes([_END])


def parse_reply(data: bytes, transaction: int, hardware: bytes) -> Lease | None:
    """Read a server's answer; None where it is for somebody else, or refuses.

    Raises:
        FormatError: it is no DHCP message, or lacks what an address needs (``dhcp-malformed``).
    """
    reader = Reader(data, "DHCP message", code="dhcp-malformed")
    fields = _FIXED.unpack(reader.take(_FIXED.size))
    if fields[0] != 2 or fields[-1] != _COOKIE:  # noqa: PLR2004  (BOOTREPLY)
        raise reader.error("it is no reply")
    if fields[4] != transaction or fields[11][: len(hardware)] != hardware:
        return None
    options = _options(reader)
    try:
        kind = Kind(options[_KIND][0])
        if kind is Kind.NAK:
            return None
        mask = ipaddress.IPv4Address(options[_MASK])
        router = options.get(_ROUTER, b"")[:4]
        return Lease(
            kind,
            ipaddress.IPv4Interface(f"{ipaddress.IPv4Address(fields[8])}/{mask}"),
            ipaddress.IPv4Address(router) if router else None,
            ipaddress.IPv4Address(options[_SERVER]),
            int.from_bytes(options.get(_LEASE, b""), "big"),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise FormatError(
            f"DHCP message: an option is missing or cannot be: {error}", code="dhcp-malformed"
        ) from error


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
