"""Carries the frames of a switch to one peer, for the kernel of a Casemate host.

Source: RFC 7348, "Virtual eXtensible Local Area Network (VXLAN)".
"""

from __future__ import annotations

import struct

HEADER = struct.Struct(">B3xI")
HAS_VNI = 0x08
LARGEST_VNI = (1 << 24) - 1


class Tunnel:
    """One network of the peer's: ``vni`` in the module's options.

    Raises:
        ValueError: There is no such number.
    """

    def __init__(self, options: dict[str, str]) -> None:
        vni = int(options.get("vni", "1"))
        if not 0 <= vni <= LARGEST_VNI:
            raise ValueError(f"vni has 24 bits, {vni} has more")
        self._header = HEADER.pack(HAS_VNI, vni << 8)

    def pack(self, frame: bytes) -> bytes:
        """Return the datagram that carries a frame."""
        return self._header + frame

    def unpack(self, datagram: bytes) -> bytes:
        """Return the frame in a datagram; nothing from another network."""
        return datagram[len(self._header) :] if datagram.startswith(self._header) else b""
