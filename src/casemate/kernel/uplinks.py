"""What a network plug-in is given: an interface that can be an uplink, and the way to its peer.

The interface is a TAP in the network namespace of the home's switches, and the machine itself has
no part in it. The socket is the machine's, connected to the one peer that the operator named; the
plug-in cannot make another.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

from casemate.errors import ArgumentError, HostError
from casemate.kernel.sys.libc import from_os_error

NAME_LIMIT: Final = 15
"""Characters of the name of an interface (Linux, IFNAMSIZ)."""
RELEASE_SECONDS: Final = 5.0
"""Until the process of a former kernel has let go of the interface: it ends with that kernel."""
_PAUSE: Final = 0.1
_PEER: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9.]{7,15}):([0-9]{1,5})", re.ASCII)
_TAKEN: Final = re.compile(r"lo|(?:[a-z]|vs|up|probe)[0-9].*|cm-.*")
"""Names of bridges, cards and what else ``machine.networkplan`` names."""
_PORTS: Final = range(1, 1 << 16)


@contextmanager
def open_uplink(
    name: str, options: Mapping[str, str], tap: Callable[[str], int]
) -> Iterator[Mapping[str, int]]:
    """Make an interface and a connected socket, which stay where somebody else has them open.

    Args:
        name: Of the interface.
        options: ``peer``: address and port of the other side; ``local``: the port on this one,
            the same unless given.
        tap: Makes an interface and returns its descriptor.

    Raises:
        ArgumentError: An option is lacking or none.
        HostError: Linux refuses it.
    """
    if len(name) > NAME_LIMIT or _TAKEN.fullmatch(name):
        raise ArgumentError(
            f"{name} is no name for an interface: it has more than {NAME_LIMIT} characters, or is"
            " one that switches give",
            argument="name",
        )
    address, port = _peer(options.get("peer", ""), name)
    local = _port(options.get("local", str(port)), "local", name)
    with ExitStack() as stack:
        wire = socket.socket(
            socket.AF_INET6 if address.version == 6 else socket.AF_INET,  # noqa: PLR2004  (of IP)
            socket.SOCK_DGRAM,
        )
        stack.callback(wire.close)
        try:
            wire.bind(("", local))
            wire.connect((str(address), port))
            wire.setblocking(False)
        except OSError as error:
            raise from_os_error(
                f"{name} does not reach {address}", error, component=name
            ) from error
        frames = _open(tap, name)
        stack.callback(os.close, frames)
        yield {"frames": frames, "wire": wire.fileno()}


def _open(tap: Callable[[str], int], name: str) -> int:
    deadline = time.monotonic() + RELEASE_SECONDS
    while True:
        try:
            return tap(name)
        except HostError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)


def _peer(text: str, name: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    found = _PEER.fullmatch(text)
    try:
        address = ipaddress.ip_address(found[1].strip("[]") if found else "")
    except ValueError:
        raise _wrong("peer", name, "an address and a port, as 192.0.2.7:4789") from None
    return address, _port(found[2] if found else "", "peer", name)


def _port(text: str, argument: str, name: str) -> int:
    if not text.isdecimal() or int(text) not in _PORTS:
        raise _wrong(argument, name, "a port")
    return int(text)


def _wrong(argument: str, name: str, what: str) -> ArgumentError:
    return ArgumentError(
        f"The option {argument} of {name} must be {what}: esxcli system module parameters set"
        f" -m {name} -p 'peer=192.0.2.7:4789'.",
        argument=argument,
        component=name,
    )
