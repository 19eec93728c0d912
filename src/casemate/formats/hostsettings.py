"""What a host is told before it starts for the first time, and how it reaches its network.

JSON: ``{"format": ..., "network": {...}, "passwordHash": "..."}``; both parts may be lacking. The
network stays in the host's state by itself, as ``{"address", "gateway", "hostName"}``.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, field
from typing import Final

from casemate.errors import ArgumentError, FormatError

SIZE_LIMIT: Final = 16 << 10
"""Bytes, its signature included: a settings file has 4 KiB with it."""
HOST_NAME: Final = "casemate"
"""Of a host that nobody named."""

_FORMAT: Final = "casemate-first-1"
_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL}){{0,8}}", re.ASCII)
_NAME_LIMIT: Final = 64
"""Characters: what Linux and a certificate's common name take."""
_HASH: Final = re.compile(
    r"\$argon2id\$v=19\$m=([1-9]\d{0,6}),t=([1-9]\d{0,2}),p=([1-9]\d?)"
    r"\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{43,86}",
    re.ASCII,
)
_MEMORY: Final = range(19 << 10, (256 << 10) + 1)
"""KiB: from what is hard to guess (RFC 9106, OWASP) to what a login may take of the host."""
_PASSES: Final = range(2, 17)
_LONGEST_PREFIX: Final = 30
"""Bits of a network that has room for a host and its gateway."""


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """A host's name and address; without an address it asks DHCP for one."""

    host_name: str = HOST_NAME
    address: ipaddress.IPv4Interface | None = None
    gateway: ipaddress.IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class FirstSettings:
    """What the first start uses; an empty hash: the host makes root's password."""

    network: HostNetwork = HostNetwork()
    password_hash: str = field(default="", repr=False)


def host_network(host_name: str, address: str, netmask: str, gateway: str) -> HostNetwork:
    """Return a network from the words that a person or a file gives.

    Args:
        host_name: empty for the usual one.
        address: IPv4, empty for DHCP; then there is neither netmask nor gateway.
        netmask: as four numbers.
        gateway: in the same network, or empty.

    Raises:
        ArgumentError: a word cannot be used (``argument`` says which).
    """
    name = host_name or HOST_NAME
    if len(name) > _NAME_LIMIT or not _HOST_NAME.fullmatch(name):
        raise ArgumentError("that is no host name", argument="hostname")
    if not address:
        if netmask or gateway:
            raise ArgumentError("an address is missing", argument="ip")
        return HostNetwork(name)
    own = _own(address, netmask)
    return HostNetwork(name, own, _gateway(own, gateway) if gateway else None)


def check_hash(text: str) -> str:
    """Return the hash of a password as it is. Raises ArgumentError unless the host takes it."""
    match = _HASH.fullmatch(text)
    if match is None or int(match[1]) not in _MEMORY or int(match[2]) not in _PASSES:
        raise ArgumentError(
            "a password's hash is argon2id, version 19, of 19 to 256 MiB and 2 to 16 passes",
            argument="rootpw",
        )
    return text


def write_first(settings: FirstSettings) -> bytes:
    """Return the JSON text, with its line end."""
    facts: dict[str, object] = {"format": _FORMAT, "network": _facts(settings.network)}
    if settings.password_hash:
        facts["passwordHash"] = settings.password_hash
    return json.dumps(facts, sort_keys=True).encode() + b"\n"


def parse_first(data: bytes) -> FirstSettings:
    """Return the settings of the first start. Raises FormatError (``settings``)."""
    facts = _object(data)
    hashed = facts.pop("passwordHash", "")
    if facts.keys() != {"format", "network"} or facts["format"] != _FORMAT:
        raise _bad("they have other fields than they should")
    try:
        return FirstSettings(_network(facts["network"]), check_hash(str(hashed)) if hashed else "")
    except ArgumentError as error:
        raise _bad(error.reason) from error


def write_network(network: HostNetwork) -> bytes:
    """Return the JSON text of a network, with its line end."""
    return json.dumps(_facts(network), sort_keys=True).encode() + b"\n"


def parse_network(data: bytes) -> HostNetwork:
    """Return a network. Raises FormatError (``settings``)."""
    try:
        return _network(_object(data))
    except ArgumentError as error:
        raise _bad(error.reason) from error


def _facts(network: HostNetwork) -> dict[str, str]:
    return {
        "hostName": network.host_name,
        "address": str(network.address or ""),
        "gateway": str(network.gateway or ""),
    }


def _network(value: object) -> HostNetwork:
    if not isinstance(value, dict) or value.keys() != {"hostName", "address", "gateway"}:
        raise _bad("the network has other fields than it should")
    name, whole, gateway = (str(value[key]) for key in ("hostName", "address", "gateway"))
    address, _, prefix = whole.partition("/")
    return host_network(name, address, prefix, gateway)


def _own(address: str, netmask: str) -> ipaddress.IPv4Interface:
    try:
        own = ipaddress.IPv4Interface((str(ipaddress.IPv4Address(address)), _prefix(netmask)))
    except ValueError as error:
        raise ArgumentError("address or netmask is none", argument="ip") from error
    network, ip = own.network, own.ip
    unusable = ip.is_multicast or ip.is_loopback or ip.is_unspecified or ip.is_reserved
    if unusable or ip in (network.network_address, network.broadcast_address):
        raise ArgumentError("no host can have this address", argument="ip")
    if network.prefixlen > _LONGEST_PREFIX:
        raise ArgumentError("this netmask leaves no room for a gateway", argument="netmask")
    return own


def _prefix(netmask: str) -> int:
    """Return the bits of a netmask, given as four numbers or as their count."""
    if re.fullmatch(r"\d{1,2}", netmask, re.ASCII):
        return int(netmask)
    bits = int(ipaddress.IPv4Address(netmask))
    inverse = bits ^ 0xFFFFFFFF
    if inverse & (inverse + 1):
        raise ValueError("the bits of a netmask are in one piece")
    return bits.bit_count()


def _gateway(own: ipaddress.IPv4Interface, text: str) -> ipaddress.IPv4Address:
    try:
        gateway = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise ArgumentError("that is no address", argument="gateway") from error
    ends = (own.network.network_address, own.network.broadcast_address, own.ip)
    if gateway not in own.network or gateway in ends:
        raise ArgumentError("the gateway is not in the host's network", argument="gateway")
    return gateway


def _object(data: bytes) -> dict[str, object]:
    if len(data) > SIZE_LIMIT:
        raise _bad(f"they have more than {SIZE_LIMIT} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _bad("they are not JSON") from error
    if not isinstance(value, dict):
        raise _bad("they are no object")
    return value


def _bad(reason: str) -> FormatError:
    return FormatError(
        f"the host's settings cannot be used: {reason}",
        code="settings",
        component="settings",
        remedy="Set network and password at the direct console.",
    )
