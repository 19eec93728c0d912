"""The machine's network: the first wired interface, with its own address or one from DHCP.

Renewing is left out on purpose: the address is asked for again at every boot, and servers give
the same one to the same hardware address.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from casemate.errors import CasemateError
from casemate.formats.dhcp import (
    CLIENT_PORT,
    MAX_MESSAGE,
    SERVER_PORT,
    Kind,
    Lease,
    parse_reply,
    write_request,
)
from casemate.formats.hostsettings import HostNetwork
from casemate.kernel.sys.libc import from_os_error
from casemate.kernel.sys.network import bring_up, set_address, set_default_route

DHCP_SECONDS = 15.0
"""Until a server must have answered; after that the host goes on without an address."""
RETRY_SECONDS = 1.0
_ETHERNET = "1"


def configure(
    network: HostNetwork, classes: Path = Path("/sys/class/net")
) -> tuple[str, tuple[str, ...]]:
    """Bring the network up; return the address, empty where there is none, and name servers.

    Raises HostError.
    """
    bring_up("lo")
    for name in interfaces(classes):
        bring_up(name)
        if network.address is not None:
            set_address(name, network.address)
            if network.gateway is not None:
                set_default_route(network.gateway)
            return str(network.address.ip), ()
        hardware = bytes.fromhex((classes / name / "address").read_text().strip().replace(":", ""))
        lease = ask(name, hardware, network.host_name, time.monotonic() + DHCP_SECONDS)
        if lease is not None:
            set_address(name, lease.address)
            if lease.gateway is not None:
                set_default_route(lease.gateway)
            return str(lease.address.ip), tuple(map(str, lease.name_servers))
    return "", ()


def interfaces(classes: Path) -> tuple[str, ...]:
    """Return the names of Ethernet interfaces that are hardware, in order."""
    return tuple(
        place.name
        for place in sorted(classes.iterdir())
        if (place / "device").exists() and (place / "type").read_text().strip() == _ETHERNET
    )


def ask(name: str, hardware: bytes, host_name: str, deadline: float) -> Lease | None:
    """Ask for an address on one interface until ``deadline`` (monotonic). Raises HostError."""
    transaction = int.from_bytes(os.urandom(4), "big")
    offer: Lease | None = None
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            channel.bind(("", CLIENT_PORT))
            while time.monotonic() < deadline:
                request = write_request(transaction, hardware, host_name, offer)
                channel.sendto(request, ("255.255.255.255", SERVER_PORT))
                lease = _answer(channel, transaction, hardware)
                if lease is not None and lease.kind is Kind.ACK:
                    return lease
                offer = lease if lease is not None else offer
    except OSError as error:
        raise from_os_error(f"no address can be asked for on {name}", error) from error
    return None


def _answer(channel: socket.socket, transaction: int, hardware: bytes) -> Lease | None:
    """Return the next answer that is for us; None when none came in time."""
    until = time.monotonic() + RETRY_SECONDS
    while (left := until - time.monotonic()) > 0:
        channel.settimeout(left)
        try:
            data = channel.recv(MAX_MESSAGE)
        except TimeoutError:
            return None
        try:
            lease = parse_reply(data, transaction, hardware)
        except CasemateError:
            continue  # anybody on the network may send anything
        if lease is not None:
            return lease
    return None
