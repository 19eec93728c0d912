"""esxcli network vswitch standard nat: what ESXi has not, a switch that leads outside by NAT."""

from __future__ import annotations

import argparse

from casemate.calls import networks as c
from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.hostinterface import truth
from casemate.calls.esxcli.networkfacts import present
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.calls.messages import Empty

WHY = "esxcli"


def register(standard: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace below ``network vswitch standard``."""
    nat = namespace(standard, "nat", "NAT through the machine")
    shown = command(nat, "get", "Show how a switch leads outside.", _get)
    shown.add_argument("-v", "--vswitch-name", required=True)
    change = command(nat, "set", "Lead a switch outside through the machine, or not.", _set)
    change.add_argument("-v", "--vswitch-name", required=True)
    change.add_argument("-e", "--enabled", type=truth, required=True)
    change.add_argument("-n", "--network", default="", metavar="CIDR")
    change.add_argument("-a", "--allow-machine", type=truth)
    change.add_argument("-d", "--dns", type=_addresses, metavar="ADDRESS,...")


def _addresses(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _get(options: argparse.Namespace) -> Run:
    nat = (yield from present()).networks.switch(options.vswitch_name).nat
    row: Row = {
        "Enabled": nat is not None,
        "Network": nat.network if nat else "",
        "Gateway": str(nat.gateway) if nat else "",
        "Allow Machine": nat is not None and nat.reach_host,
        "DNS": nat.name_servers if nat else (),
    }
    return Answer([row], structure="SwitchNAT")


def _set(options: argparse.Namespace) -> Run:
    request = c.SetNat(
        "",
        options.vswitch_name,
        options.enabled,
        options.network,
        options.allow_machine,
        options.dns,
        WHY,
    )
    yield from ask(request, Empty)
    return Answer([])
