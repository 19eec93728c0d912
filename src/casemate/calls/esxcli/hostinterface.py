"""esxcli network ip interface: the host's own addresses, in ESXi's columns."""

from __future__ import annotations

import argparse
import ipaddress

from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.hardware import facts_of
from casemate.calls.esxcli.tree import Group, Run, command, namespace
from casemate.errors import NotSupportedError
from casemate.machine.networks import AddressFact

_ADDRESS_COLUMNS = (
    *("Name", "IPv4 Address", "IPv4 Netmask", "IPv4 Broadcast", "Address Type", "Gateway"),
    "DHCP DNS",
)
_CHANGES = (
    ("add", "Add an interface of the host itself (refused)."),
    ("remove", "Remove an interface of the host itself (refused)."),
    ("set", "Change an interface of the host itself (refused)."),
)
_STACK = "defaultTcpipStack"


def register(top: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace below ``network``."""
    interface = namespace(namespace(top, "ip", "IP"), "interface", "interfaces of the host itself")
    listed = command(interface, "list", "List the host's own interfaces.", _interfaces)
    listed.add_argument("-N", "--netstack")
    for name, words in _CHANGES:
        change = command(interface, name, words, _refuse_interface)
        change.add_argument("-i", "--interface-name")
        change.add_argument("-p", "--portgroup-name")
        change.add_argument("-m", "--mtu", type=int)
        change.add_argument("-e", "--enabled", type=truth)
    ipv4 = namespace(interface, "ipv4", "IPv4")
    shown = command(
        ipv4,
        "get",
        "Show the IPv4 addresses of the host itself.",
        _addresses,
        table=("IPv4Interface", _ADDRESS_COLUMNS),
    )
    shown.add_argument("-i", "--interface-name")


def truth(text: str) -> bool:
    """Return what a word of the command line means. Raises ArgumentTypeError."""
    known = dict.fromkeys(("true", "t", "1", "yes"), True)
    known |= dict.fromkeys(("false", "f", "0", "no"), False)
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return known[text.lower()]


def _addresses(options: argparse.Namespace) -> Run:
    found = yield from facts_of(AddressFact)
    wanted = options.interface_name
    shown = [one for one in found if wanted in (None, one.interface)]
    rows = [_address_row(address) for address in shown]
    return Answer(rows, kind="table", structure="IPv4Interface", columns=_ADDRESS_COLUMNS)


def _address_row(address: AddressFact) -> Row:
    network = ipaddress.IPv4Interface(f"{address.address}/{address.prefix}").network
    return {
        "Name": address.interface,
        "IPv4 Address": address.address,
        "IPv4 Netmask": address.netmask,
        "IPv4 Broadcast": str(network.broadcast_address),
        # Who gave the address is known to the machine underneath alone.
        "Address Type": "",
        "Gateway": address.gateway or "0.0.0.0",  # noqa: S104 (as ESXi says that there is none)
        "DHCP DNS": False,
    }


def _interfaces(options: argparse.Namespace) -> Run:
    """List the interfaces of the machine that have addresses: they are in no port group."""
    found = yield from facts_of(AddressFact)
    known = {address.interface: address for address in found}
    stack = options.netstack in (None, _STACK)
    names = sorted(known) if stack else []
    rows = [_interface_row(known[name]) for name in names]
    return Answer(rows, headers=names, structure="NetworkInterface")


def _interface_row(address: AddressFact) -> Row:
    return {
        "Name": address.interface,
        "MAC Address": address.mac,
        "Enabled": True,
        "Portset": "",
        "Portgroup": "",
        "Netstack Instance": _STACK,
        "VDS Name": "N/A",
        "VDS UUID": "N/A",
        "VDS Port": "N/A",
        "VDS Connection": -1,
        "Opaque Network ID": "N/A",
        "Opaque Network Type": "N/A",
        "External ID": "N/A",
        "MTU": address.mtu,
    }


def _refuse_interface(_options: argparse.Namespace) -> Run:
    yield from facts_of(AddressFact)
    raise NotSupportedError(
        "The host's own address is on an interface of the machine, not on a VMkernel adapter in a "
        "port group.",
        code="vmkernel-adapter",
        component="network",
        remedy="Show it: esxcli network ip interface list. Change it where the machine has it.",
    )
