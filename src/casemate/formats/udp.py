"""UDP datagrams in Ethernet frames over IPv4 (RFC 768, RFC 791), whole ones without options."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from casemate.formats.reader import Reader

_ETHERNET: Final = struct.Struct(">6s6sH")
_IPV4: Final = struct.Struct(">BBHHHBBH4s4s")
_UDP: Final = struct.Struct(">HHHH")
_TYPE: Final = 0x0800
_PLAIN: Final = 0x45
"""Version 4, a header of five words: no options."""
_PROTOCOL: Final = 17
_LIVES: Final = 64
_FRAGMENT: Final = 0x3FFF
"""Bits that say that a packet is one of several."""
LARGEST_DATAGRAM: Final = 1472
"""Bytes: what fits one frame of 1,500."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a datagram: the card's six octets, address and port."""

    hardware: bytes
    address: IPv4Address
    port: int


@dataclass(frozen=True, slots=True)
class Datagram:
    """A datagram with both its ends."""

    source: End
    target: End
    data: bytes


def parse_frame(frame: bytes) -> Datagram:
    """Read the datagram in a frame; sums are not looked at, since cards often add them later.

    Raises:
        FormatError: it is no whole datagram (``udp-malformed``).
    """
    reader = Reader(frame, "frame", code="udp-malformed")
    to, by, kind = _ETHERNET.unpack(reader.take(_ETHERNET.size))
    fields = _IPV4.unpack(reader.take(_IPV4.size))
    if (kind, fields[0], fields[6]) != (_TYPE, _PLAIN, _PROTOCOL) or fields[4] & _FRAGMENT:
        raise reader.error("it holds no whole datagram")
    from_port, to_port, length, _ = _UDP.unpack(reader.take(_UDP.size))
    if length < _UDP.size or length + _IPV4.size != fields[2]:
        raise reader.error("its lengths contradict each other")
    data = reader.take(length - _UDP.size)
    return Datagram(
        End(by, IPv4Address(fields[8]), from_port), End(to, IPv4Address(fields[9]), to_port), data
    )


def write_frame(datagram: Datagram) -> bytes:
    """Return the frame that carries a datagram of at most ``LARGEST_DATAGRAM`` bytes."""
    source, target = datagram.source, datagram.target
    length = _UDP.size + len(datagram.data)
    ends = source.address.packed + target.address.packed
    header = _IPV4.pack(
        *(_PLAIN, 0, _IPV4.size + length, 0, 0, _LIVES, _PROTOCOL, 0),
        *(source.address.packed, target.address.packed),
    )
    header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
    head = _UDP.pack(source.port, target.port, length, 0)
    pseudo = ends + struct.pack(">BBH", 0, _PROTOCOL, length)
    # A sum of zero stands for none, so that one is sent with all bits set.
    total = checksum(pseudo + head + datagram.data) or 0xFFFF
    head = head[:6] + total.to_bytes(2, "big")
    ethernet = _ETHERNET.pack(target.hardware, source.hardware, _TYPE)
    return ethernet + header + head + datagram.data


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
