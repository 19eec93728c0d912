"""What an agent in a guest is told and answers: QEMU's guest agent protocol, one JSON a line.

Everything that comes from there was written by a guest. What is not exactly as expected is
refused, and what is kept is short and printable.

Source: QEMU's "Guest Agent Protocol Reference".
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from typing import Final

from casemate.errors import FormatError, LimitError
from casemate.machine.facts import GuestInterface

REPLY_LIMIT: Final = 1 << 16
"""Bytes of one reply: a guest with 64 interfaces needs a quarter of it."""
INTERFACES: Final = 64
"""Interfaces of a guest that are kept."""
ADDRESSES: Final = 16
"""... and addresses of each."""
RESET: Final = b"\xff"
"""Makes the agent forget half a request, and leads its answer to a ``sync``."""

_NAME_LIMIT: Final = 255
_MAC: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_LOOPBACK: Final = "lo"


def command(name: str, **arguments: object) -> bytes:
    """Return a request as it is sent."""
    told: dict[str, object] = {"execute": name}
    if arguments:
        told["arguments"] = arguments
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def sync(number: int) -> bytes:
    """Return the request that is answered with ``number``, after ``RESET``."""
    return RESET + command("guest-sync-delimited", id=number)


def value(line: bytes) -> object:
    """Return what a reply returns.

    Raises:
        FormatError: It is no reply, too long, or an error.
    """
    if len(line) > REPLY_LIMIT:
        raise LimitError(f"the agent answers with more than {REPLY_LIMIT} bytes")
    try:
        told = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError("the agent's answer is not JSON", code="guest-agent") from error
    if not isinstance(told, dict) or "return" not in told:
        raise FormatError("the agent refuses, or answers something else", code="guest-agent")
    return told["return"]


def host_name(returned: object) -> str:
    """Return the guest's name for itself. Raises FormatError."""
    name = returned.get("host-name") if isinstance(returned, dict) else None
    if not isinstance(name, str) or len(name) > _NAME_LIMIT or not name.isprintable():
        raise FormatError("the guest's name is not one", code="guest-agent")
    return name


def interfaces(returned: object) -> tuple[GuestInterface, ...]:
    """Return the guest's network interfaces but the loopback. Raises FormatError."""
    if not isinstance(returned, list):
        raise FormatError("the guest's interfaces are not a list", code="guest-agent")
    return tuple(_interfaces(returned[:INTERFACES]))


def _interfaces(told: list[object]) -> Iterator[GuestInterface]:
    for one in told:
        if not isinstance(one, dict) or one.get("name") == _LOOPBACK:
            continue
        mac = str(one.get("hardware-address", "")).lower()
        given = one.get("ip-addresses", [])
        addresses = tuple(_addresses(given[:ADDRESSES])) if isinstance(given, list) else ()
        if _MAC.fullmatch(mac):
            yield GuestInterface(mac, addresses)


def _addresses(told: list[object]) -> Iterator[str]:
    for one in told:
        text = one.get("ip-address") if isinstance(one, dict) else None
        prefix = one.get("prefix") if isinstance(one, dict) else None
        if not isinstance(text, str) or type(prefix) is not int:
            continue
        try:
            found = ipaddress.ip_interface(f"{text.partition('%')[0]}/{prefix}")
        except ValueError:
            continue
        yield str(found)
