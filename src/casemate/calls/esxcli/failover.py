"""esxcli network vswitch standard ... policy failover: what a switch of one uplink does."""

from __future__ import annotations

import argparse

from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.networkfacts import Present, present
from casemate.calls.esxcli.tree import Group, Run, command, namespace
from casemate.errors import NotSupportedError


def register(policy: Group[argparse.ArgumentParser], *, group: bool) -> None:
    """Add the namespace below ``policy``, of port groups or of switches."""
    failover = namespace(policy, "failover", "failover of uplinks")
    words = ("-p", "--portgroup-name") if group else ("-v", "--vswitch-name")
    shown = command(failover, "get", "Show the policy.", _get_group if group else _get_switch)
    shown.add_argument(*words, required=True)
    change = command(failover, "set", "Change the policy (refused).", _refuse)
    change.add_argument(*words, required=True)
    change.add_argument("-a", "--active-uplinks")
    change.add_argument("-s", "--standby-uplinks")
    change.add_argument("-l", "--load-balancing")
    change.add_argument("-f", "--failure-detection")
    change.add_argument("-b", "--failback")
    change.add_argument("-n", "--notify-switches")
    if group:
        change.add_argument("-u", "--use-vswitch", action="store_true")


def _row(now: Present, switch: str) -> Row:
    return {
        "Load Balancing": "srcport",
        "Network Failure Detection": "link",
        "Notify Switches": False,
        "Failback": True,
        "Active Adapters": now.networks.switch(switch).uplinks,
        "Standby Adapters": (),
        "Unused Adapters": (),
    }


def _get_switch(options: argparse.Namespace) -> Run:
    now = yield from present()
    return Answer([_row(now, options.vswitch_name)], structure="SwitchFailoverPolicy")


def _get_group(options: argparse.Namespace) -> Run:
    now = yield from present()
    group = now.networks.group(options.portgroup_name)
    row: Row = {
        **_row(now, group.switch),
        "Override Vswitch Load Balancing": False,
        "Override Vswitch Network Failure Detection": False,
        "Override Vswitch Notify Switches": False,
        "Override Vswitch Failback": False,
        "Override Vswitch Uplinks": False,
    }
    return Answer([row], structure="PortGroupFailoverPolicy")


def _refuse(_options: argparse.Namespace) -> Run:
    yield from present()
    raise NotSupportedError(
        "A virtual switch has one uplink here: there is no teaming.",
        code="no-teaming",
        component="network",
        remedy="Give the switch another uplink: esxcli network vswitch standard uplink.",
    )
