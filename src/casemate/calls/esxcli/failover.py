"""esxcli network vswitch standard ... policy failover, in ESXi's fields and words."""

from __future__ import annotations

import argparse

from casemate.calls import networks as c
from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.hostinterface import truth
from casemate.calls.esxcli.networkfacts import present
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.calls.messages import Empty
from casemate.errors import NotSupportedError
from casemate.machine.teaming import (
    AS_ABOVE,
    BY_ADDRESS,
    BY_IP,
    BY_ORDER,
    BY_PORT,
    Team,
    Teaming,
    changed,
    in_force,
)

WHY = "esxcli"
_GIVEN = {"portid": BY_PORT, "mac": BY_ADDRESS, "explicit": BY_ORDER, "iphash": BY_IP}
_SHOWN = {BY_PORT: "srcport", BY_ADDRESS: "srcmac", BY_ORDER: "explicit"}


def register(policy: Group[argparse.ArgumentParser], *, group: bool) -> None:
    """Add the namespace below ``policy``, of port groups or of switches."""
    failover = namespace(policy, "failover", "failover of uplinks")
    words = ("-p", "--portgroup-name") if group else ("-v", "--vswitch-name")
    shown = command(failover, "get", "Show the policy.", _get_group if group else _get_switch)
    shown.add_argument(*words, required=True)
    change = command(failover, "set", "Change the policy.", _set_group if group else _set_switch)
    change.add_argument(*words, required=True)
    change.add_argument("-a", "--active-uplinks", type=_names, metavar="NIC,NIC")
    change.add_argument("-s", "--standby-uplinks", type=_names, metavar="NIC,NIC")
    change.add_argument("-l", "--load-balancing", choices=sorted(_GIVEN))
    change.add_argument("-f", "--failure-detection", choices=("link", "beacon"))
    change.add_argument("-b", "--failback", type=truth)
    change.add_argument("-n", "--notify-switches", type=truth)
    if group:
        change.add_argument("-u", "--use-vswitch", action="store_true")


def _names(words: str) -> tuple[str, ...]:
    return tuple(filter(None, words.split(",")))


def _row(team: Team) -> Row:
    return {
        "Load Balancing": _SHOWN[team.balancing],
        "Network Failure Detection": "link",
        "Notify Switches": team.notify,
        "Failback": team.failback,
        "Active Adapters": team.active,
        "Standby Adapters": team.standby,
        "Unused Adapters": team.unused,
    }


def _get_switch(options: argparse.Namespace) -> Run:
    switch = (yield from present()).networks.switch(options.vswitch_name)
    team = in_force(switch.teaming, AS_ABOVE, switch.uplinks)
    return Answer([_row(team)], structure="SwitchFailoverPolicy")


def _get_group(options: argparse.Namespace) -> Run:
    networks = (yield from present()).networks
    group = networks.group(options.portgroup_name)
    own = group.teaming
    row: Row = {
        **_row(networks.team(group)),
        "Override Vswitch Load Balancing": own.balancing is not None,
        "Override Vswitch Network Failure Detection": False,
        "Override Vswitch Notify Switches": own.notify is not None,
        "Override Vswitch Failback": own.failback is not None,
        "Override Vswitch Uplinks": own.orders,
    }
    return Answer([row], structure="PortGroupFailoverPolicy")


def _asked(options: argparse.Namespace) -> Teaming:
    """Return what is asked for; None: it stays. Raises NotSupportedError."""
    if options.failure_detection == "beacon":
        raise NotSupportedError(
            "An uplink fails when its link is down: there is no beacon probing.",
            code="no-beacon",
            component="network",
            remedy="Use -f link.",
        )
    return Teaming(
        None if options.load_balancing is None else _GIVEN[options.load_balancing],
        options.notify_switches,
        options.failback,
        options.active_uplinks,
        options.standby_uplinks,
    )


def _set_switch(options: argparse.Namespace) -> Run:
    switch = (yield from present()).networks.switch(options.vswitch_name)
    teaming = changed(switch.teaming, _asked(options), switch.uplinks)
    yield from ask(c.UpdateSwitch("", switch.name, why=WHY, teaming=teaming), Empty)
    return Answer([])


def _set_group(options: argparse.Namespace) -> Run:
    networks = (yield from present()).networks
    group = networks.group(options.portgroup_name)
    switch = networks.switch(group.switch)
    own = AS_ABOVE if options.use_vswitch else group.teaming
    teaming = changed(own, _asked(options), switch.uplinks, switch.teaming)
    yield from ask(c.UpdatePortGroup("", group.name, why=WHY, teaming=teaming), Empty)
    return Answer([])
