"""``casemate network``: virtual switches, port groups, and who is connected."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.table import Table

from casemate.calls import messages as m
from casemate.calls import networks as c
from casemate.calls.esxcli.networkfacts import Present
from casemate.cli.calls import Calls
from casemate.cli.terminal import PlainConsole, styled
from casemate.kernel.home import find_home
from casemate.machine.networks import (
    PORTS,
    PolicyOverride,
    SecurityPolicy,
    SwitchFact,
)
from casemate.machine.teaming import (
    AS_ABOVE,
    BY_ADDRESS,
    BY_ORDER,
    BY_PORT,
    Teaming,
    changed,
    in_force,
)

WHY = "command line"
_WORDS = {True: "accept", False: "reject", None: "as the switch"}
_BALANCING = {"port": BY_PORT, "mac": BY_ADDRESS, "order": BY_ORDER}
_POLICIES = (
    ("promiscuous", "see the frames of others"),
    ("mac-changes", "receive for an address that the guest gave itself"),
    ("forged-transmits", "send from any address"),
)


def _present(options: argparse.Namespace) -> Present:
    with Calls(find_home(options.home).calls_socket) as calls:
        return Present.of(calls.ask(m.Snapshot(), m.SnapshotReply).facts)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    network = commands.add_parser("network", help="virtual switches and port groups")
    actions = network.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="switches, port groups, cards").set_defaults(func=_list)
    for name, words in (("add-switch", "make a virtual switch"), ("set-switch", "change one")):
        parser = actions.add_parser(name, help=words)
        parser.add_argument("switch")
        parser.add_argument("--ports", type=int, help=f"default: {PORTS}")
        parser.add_argument("--mtu", type=int, metavar="BYTES", help="default: 1500")
        parser.add_argument(
            "--uplink",
            action="append",
            metavar="NIC",
            help="network card of the host, once for each; '' for none",
        )
        _policies(parser, ("accept", "reject"))
        _teams(parser)
        parser.set_defaults(func=_add_switch if name == "add-switch" else _set_switch)
    remove = actions.add_parser("remove-switch", help="remove a switch and its port groups")
    remove.add_argument("switch")
    remove.set_defaults(func=_remove_switch)
    for name, words in (("add-group", "make a port group"), ("set-group", "change one")):
        parser = actions.add_parser(name, help=words)
        parser.add_argument("group")
        parser.add_argument("--switch", required=name == "add-group")
        parser.add_argument("--vlan", type=int, help="0: none; 4095: guests tag frames themselves")
        _policies(parser, ("accept", "reject", "inherit"))
        _teams(parser)
        parser.add_argument(
            "--team-inherit", action="store_true", help="team as the switch does, but for the rest"
        )
        parser.set_defaults(func=_add_group if name == "add-group" else _set_group)
    actions.choices["set-group"].add_argument("--name", help="its new name")
    remove = actions.add_parser("remove-group", help="remove a port group that no VM uses")
    remove.add_argument("group")
    remove.set_defaults(func=_remove_group)
    nat = actions.add_parser("set-nat", help="lead a switch outside through this machine, or not")
    nat.add_argument("switch")
    nat.add_argument("state", choices=("on", "off"))
    nat.add_argument(
        "--network", default="", metavar="CIDR", help="of its guests; default: one that is free"
    )
    nat.add_argument(
        "--machine",
        choices=("accept", "reject"),
        help="let guests reach this machine's own addresses; default: reject",
    )
    nat.add_argument(
        "--name-server",
        action="append",
        metavar="ADDRESS",
        help="that guests are told; '' for those that this machine asks (default)",
    )
    nat.set_defaults(func=_set_nat)
    for parser in actions.choices.values():
        parser.add_argument("--json", action="store_true", help="print as JSON")


def _policies(parser: argparse.ArgumentParser, choices: tuple[str, ...]) -> None:
    for name, words in _POLICIES:
        parser.add_argument(f"--{name}", choices=choices, help=words)


def _teams(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--balance", choices=tuple(_BALANCING), help="how cards get their uplinks")
    for name, words in (
        ("active", "used in this order; '' for none"),
        ("standby", "used where an active one has no link; the rest is not used"),
    ):
        parser.add_argument(f"--{name}", action="append", metavar="NIC", help=f"uplink: {words}")
    for name, words in (
        ("failback", "an uplink whose link is back is used again"),
        ("notify", "tell physical switches when a card moves to another uplink"),
    ):
        parser.add_argument(f"--{name}", choices=("yes", "no"), help=words)


def _teaming(options: argparse.Namespace) -> Teaming:
    """Return what is said of a team; None: it stays."""

    def names(given: list[str] | None) -> tuple[str, ...] | None:
        return None if given is None else tuple(filter(None, given))

    def truth(given: str | None) -> bool | None:
        return None if given is None else given == "yes"

    return Teaming(
        None if options.balance is None else _BALANCING[options.balance],
        truth(options.notify),
        truth(options.failback),
        names(options.active),
        names(options.standby),
    )


def _group_teaming(options: argparse.Namespace, before: Teaming, switch: SwitchFact) -> Teaming:
    own = AS_ABOVE if options.team_inherit else before
    return changed(own, _teaming(options), switch.uplinks, switch.teaming)


def _list(options: argparse.Namespace) -> int:
    now = _present(options)
    if options.json:
        shown = asdict(now.networks)
        for group in shown["groups"]:
            group["cards"] = [
                {"vm": vm.vm, "card": number, "mac": nic.mac, "connected": nic.connected}
                for vm, number, nic in now.cards(group["name"])
            ]
        print(json.dumps(shown))
        return 0
    console = PlainConsole()
    for switch in now.networks.switches:
        uplinks = _team(switch) or _outside(switch)
        console.print(
            styled((switch.name, "bold"), f"  MTU {switch.mtu}, {uplinks}"), soft_wrap=True
        )
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title in ("port group", "VLAN", "promiscuous", "MAC changes", "forged", "cards"):
            table.add_column(title, overflow="fold")
        for group in now.networks.groups:
            if group.switch == switch.name:
                policy = now.networks.policy(group)
                words = [
                    _WORDS[value]
                    for value in (policy.promiscuous, policy.mac_changes, policy.forged_transmits)
                ]
                cards = ", ".join(
                    f"{vm.config.name} {nic.mac}" for vm, _, nic in now.live(group.name)
                )
                table.add_row(group.name, str(group.vlan), *words, cards or "-")
        console.print(table)
    return 0


def _team(switch: SwitchFact) -> str:
    """Return the uplinks of a switch, and what those are for that cards are not spread over."""
    team = in_force(switch.teaming, AS_ABOVE, switch.uplinks)
    marked = [
        *team.active,
        *(f"{name} (standby)" for name in team.standby),
        *(f"{name} (unused)" for name in team.unused),
    ]
    return ", ".join(marked)


def _outside(switch: SwitchFact) -> str:
    if switch.nat is None:
        return "no uplink"
    reach = " and of the machine's own addresses" if switch.nat.reach_host else ""
    return f"NAT of {switch.nat.network}{reach}"


def _ask(options: argparse.Namespace, request: object, done: str) -> int:
    with Calls(find_home(options.home).calls_socket) as calls:
        calls.ask(request, m.Empty)
    print(json.dumps({"done": done}) if options.json else done)
    return 0


def _override(options: argparse.Namespace, before: PolicyOverride) -> PolicyOverride:
    def value(given: str | None, old: bool | None) -> bool | None:  # noqa: FBT001 (three values)
        return old if given is None else {"accept": True, "reject": False}.get(given)

    return PolicyOverride(
        value(options.promiscuous, before.promiscuous),
        value(options.mac_changes, before.mac_changes),
        value(options.forged_transmits, before.forged_transmits),
    )


def _security(options: argparse.Namespace, before: SecurityPolicy) -> SecurityPolicy:
    wanted = _override(
        options,
        PolicyOverride(before.promiscuous, before.mac_changes, before.forged_transmits),
    )
    return SecurityPolicy(
        wanted.promiscuous is True, wanted.mac_changes is True, wanted.forged_transmits is True
    )


def _uplinks(options: argparse.Namespace) -> tuple[str, ...] | None:
    if options.uplink is None:
        return None
    return tuple(name for name in options.uplink if name)


def _add_switch(options: argparse.Namespace) -> int:
    uplinks = _uplinks(options) or ()
    request = c.AddSwitch(
        "",
        options.switch,
        options.ports or PORTS,
        options.mtu or SwitchFact("", 0).mtu,
        uplinks,
        _security(options, SecurityPolicy()),
        WHY,
        teaming=changed(AS_ABOVE, _teaming(options), uplinks),
    )
    return _ask(options, request, f"{options.switch} is made")


def _set_switch(options: argparse.Namespace) -> int:
    before = _present(options).networks.switch(options.switch)
    uplinks = _uplinks(options)
    request = c.UpdateSwitch(
        "",
        options.switch,
        options.ports,
        options.mtu,
        uplinks,
        _security(options, before.security),
        WHY,
        teaming=changed(
            before.teaming, _teaming(options), before.uplinks if uplinks is None else uplinks
        ),
    )
    return _ask(options, request, f"{options.switch} is changed")


def _remove_switch(options: argparse.Namespace) -> int:
    request = c.RemoveSwitch("", options.switch, WHY)
    return _ask(options, request, f"{options.switch} is removed")


def _set_nat(options: argparse.Namespace) -> int:
    names = options.name_server
    request = c.SetNat(
        "",
        options.switch,
        options.state == "on",
        options.network,
        None if options.machine is None else options.machine == "accept",
        None if names is None else tuple(filter(None, names)),
        WHY,
    )
    if options.state == "off":
        return _ask(options, request, f"{options.switch} leads nowhere")
    home = find_home(options.home)
    with Calls(home.calls_socket) as calls:
        calls.ask(request, m.Empty)
    found = _present(options).networks.switch(options.switch).nat
    shown = found.network if found else ""
    done = f"{options.switch} leads outside by NAT; its guests are in {shown}"
    print(json.dumps({"done": done, "network": shown}) if options.json else done)
    return 0


def _add_group(options: argparse.Namespace) -> int:
    policy = _override(options, PolicyOverride())
    switch = _present(options).networks.switch(options.switch)
    request = c.AddPortGroup(
        *("", options.group, options.switch, options.vlan or 0, policy, WHY),
        teaming=_group_teaming(options, AS_ABOVE, switch),
    )
    return _ask(options, request, f"{options.group} is made")


def _set_group(options: argparse.Namespace) -> int:
    networks = _present(options).networks
    before = networks.group(options.group)
    switch = networks.switch(options.switch or before.switch)
    request = c.UpdatePortGroup(
        "",
        options.group,
        options.name,
        options.switch,
        options.vlan,
        _override(options, before.security),
        WHY,
        teaming=_group_teaming(options, before.teaming, switch),
    )
    return _ask(options, request, f"{options.group} is changed")


def _remove_group(options: argparse.Namespace) -> int:
    request = c.RemovePortGroup("", options.group, WHY)
    return _ask(options, request, f"{options.group} is removed")
