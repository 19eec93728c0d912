"""esxcli network: virtual switches, port groups, cards, in ESXi's namespaces and columns."""

from __future__ import annotations

import argparse

from casemate.calls import networks as c
from casemate.calls.esxcli import failover, hostinterface, nat, shaping
from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.hostinterface import truth
from casemate.calls.esxcli.networkfacts import Present, present
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.calls.messages import Empty
from casemate.errors import AbsentError, NotFoundError
from casemate.machine.facts import PowerState, VmFact
from casemate.machine.hardware import HostNic
from casemate.machine.networks import (
    PORTS,
    PolicyOverride,
    SecurityPolicy,
    SwitchFact,
)

WHY = "esxcli"
_FLAGS = (
    ("-p", "--allow-promiscuous", "promiscuous"),
    ("-m", "--allow-mac-change", "mac_changes"),
    ("-f", "--allow-forged-transmits", "forged_transmits"),
)
_GROUP_COLUMNS = ("Name", "Virtual Switch", "Active Clients", "VLAN ID")
_NIC_COLUMNS = (
    *("Name", "PCI Device", "Driver", "Admin Status", "Link Status", "Speed", "Duplex"),
    *("MAC Address", "MTU", "Description"),
)
_VM_COLUMNS = ("World ID", "Name", "Num Ports", "Networks")
_POLICY = {
    "promiscuous": "Allow Promiscuous",
    "mac_changes": "Allow MAC Address Change",
    "forged_transmits": "Allow Forged Transmits",
}


def register(namespaces: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace."""
    top = namespace(namespaces, "network", "networking")
    nic = namespace(top, "nic", "physical network cards")
    command(
        nic,
        "list",
        "List the physical network cards.",
        _nics,
        table=("PhysicalNIC", _NIC_COLUMNS),
    )
    hostinterface.register(top)
    vms = namespace(top, "vm", "networks of VMs")
    command(
        vms,
        "list",
        "List the running VMs that have network cards.",
        _vms,
        table=("VM", _VM_COLUMNS),
    )
    port = namespace(vms, "port", "ports of a VM")
    ports = command(port, "list", "List the ports of a VM.", _vm_ports)
    ports.add_argument("-w", "--world-id", type=int, required=True)
    standard = namespace(namespace(top, "vswitch", "virtual switches"), "standard", "standard ones")
    _switches(standard)
    _groups(namespace(standard, "portgroup", "port groups"))


def _switches(standard: Group[argparse.ArgumentParser]) -> None:
    shown = command(standard, "list", "List the virtual switches.", _list_switches)
    shown.add_argument("-v", "--vswitch-name")
    add = command(standard, "add", "Add a virtual switch.", _add_switch)
    add.add_argument("-v", "--vswitch-name", required=True)
    add.add_argument("-P", "--ports", type=int, default=PORTS)
    change = command(standard, "set", "Change a virtual switch.", _set_switch)
    change.add_argument("-v", "--vswitch-name", required=True)
    change.add_argument("-m", "--mtu", type=int)
    remove = command(standard, "remove", "Remove a virtual switch.", _remove_switch)
    remove.add_argument("-v", "--vswitch-name", required=True)
    uplink = namespace(standard, "uplink", "uplinks of a virtual switch")
    for name, words in (("add", "Add an uplink."), ("remove", "Remove an uplink.")):
        one = command(uplink, name, words, _add_uplink if name == "add" else _remove_uplink)
        one.add_argument("-u", "--uplink-name", required=True)
        one.add_argument("-v", "--vswitch-name", required=True)
    policy = namespace(standard, "policy", "policies")
    _security(policy, "-v", "--vswitch-name")
    shaping.register(policy, group=False)
    failover.register(policy, group=False)
    nat.register(standard)


def _groups(groups: Group[argparse.ArgumentParser]) -> None:
    command(
        groups,
        "list",
        "List the port groups.",
        _list_groups,
        table=("PortGroup", _GROUP_COLUMNS),
    )
    for name, words, run in (
        ("add", "Add a port group.", _add_group),
        ("remove", "Remove a port group.", _remove_group),
    ):
        one = command(groups, name, words, run)
        one.add_argument("-p", "--portgroup-name", required=True)
        one.add_argument("-v", "--vswitch-name", required=True)
    change = command(groups, "set", "Set the VLAN of a port group.", _set_group)
    change.add_argument("-p", "--portgroup-name", required=True)
    change.add_argument("-v", "--vlan-id", type=int)
    policy = namespace(groups, "policy", "policies")
    _security(policy, "-p", "--portgroup-name")
    shaping.register(policy, group=True)
    failover.register(policy, group=True)


def _security(policy: Group[argparse.ArgumentParser], short: str, long: str) -> None:
    security = namespace(policy, "security", "security policy")
    group = long == "--portgroup-name"
    shown = command(security, "get", "Show the policy.", _get_group if group else _get_switch)
    shown.add_argument(short, long, required=True)
    run = _set_group_policy if group else _set_switch_policy
    change = command(security, "set", "Change the policy.", run)
    for letter, name, place in _FLAGS:
        # -p is the port group's in its own namespace, as on ESXi, where promiscuous is -o there.
        used = "-o" if letter == short else letter
        change.add_argument(used, name, dest=place, type=truth)
    change.add_argument(short, long, required=True)
    if group:
        change.add_argument("-u", "--use-vswitch", action="store_true")


def _list_switches(options: argparse.Namespace) -> Run:
    now = yield from present()
    wanted = options.vswitch_name
    switches = [now.networks.switch(wanted)] if wanted else list(now.networks.switches)
    rows = [_switch_row(now, switch) for switch in switches]
    names = [switch.name for switch in switches]
    return Answer(rows, headers=names, structure="VirtualSwitch")


def _switch_row(now: Present, switch: SwitchFact) -> Row:
    groups = [group for group in now.networks.groups if group.switch == switch.name]
    used = sum(len(now.live(group.name)) for group in groups) + len(switch.uplinks)
    return {
        "Name": switch.name,
        "Class": "cswitch",
        "Num Ports": switch.ports,
        "Used Ports": used,
        "Configured Ports": switch.ports,
        "MTU": switch.mtu,
        "CDP Status": "down",
        "Beacon Enabled": False,
        "Beacon Interval": 1,
        "Beacon Threshold": 3,
        "Beacon Required By": "",
        "Uplinks": switch.uplinks,
        "Portgroups": tuple(group.name for group in groups),
    }


def _list_groups(_options: argparse.Namespace) -> Run:
    now = yield from present()
    rows: list[Row] = [
        {
            "Name": group.name,
            "Virtual Switch": group.switch,
            "Active Clients": len(now.live(group.name)),
            "VLAN ID": group.vlan,
        }
        for group in sorted(now.networks.groups, key=lambda group: group.name)
    ]
    return Answer(rows, kind="table", structure="PortGroup", columns=_GROUP_COLUMNS)


def _add_switch(options: argparse.Namespace) -> Run:
    return (yield from _done(c.AddSwitch("", options.vswitch_name, options.ports, why=WHY)))


def _set_switch(options: argparse.Namespace) -> Run:
    return (yield from _done(c.UpdateSwitch("", options.vswitch_name, mtu=options.mtu, why=WHY)))


def _remove_switch(options: argparse.Namespace) -> Run:
    return (yield from _done(c.RemoveSwitch("", options.vswitch_name, WHY)))


def _add_uplink(options: argparse.Namespace) -> Run:
    before = (yield from present()).networks.switch(options.vswitch_name)
    uplinks = (*before.uplinks, options.uplink_name)
    return (yield from _done(c.UpdateSwitch("", before.name, uplinks=uplinks, why=WHY)))


def _remove_uplink(options: argparse.Namespace) -> Run:
    before = (yield from present()).networks.switch(options.vswitch_name)
    if options.uplink_name not in before.uplinks:
        name = options.uplink_name
        raise AbsentError(f"{name} is no uplink of {before.name}", name=name)
    uplinks = tuple(name for name in before.uplinks if name != options.uplink_name)
    return (yield from _done(c.UpdateSwitch("", before.name, uplinks=uplinks, why=WHY)))


def _add_group(options: argparse.Namespace) -> Run:
    request = c.AddPortGroup("", options.portgroup_name, options.vswitch_name, why=WHY)
    return (yield from _done(request))


def _set_group(options: argparse.Namespace) -> Run:
    request = c.UpdatePortGroup("", options.portgroup_name, vlan=options.vlan_id, why=WHY)
    return (yield from _done(request))


def _remove_group(options: argparse.Namespace) -> Run:
    group = (yield from present()).networks.group(options.portgroup_name)
    if group.switch != options.vswitch_name:
        name = options.portgroup_name
        raise AbsentError(f"{options.vswitch_name} has no port group {name}", name=name)
    return (yield from _done(c.RemovePortGroup("", group.name, WHY)))


def _done(request: object) -> Run:
    yield from ask(request, Empty)
    return Answer([])


def _get_switch(options: argparse.Namespace) -> Run:
    policy = (yield from present()).networks.switch(options.vswitch_name).security
    return Answer([_policy_row(policy)], structure="SwitchSecurityPolicy")


def _get_group(options: argparse.Namespace) -> Run:
    networks = (yield from present()).networks
    group = networks.group(options.portgroup_name)
    row: Row = {
        **_policy_row(networks.policy(group)),
        **{
            f"Override vSwitch {label}": getattr(group.security, name) is not None
            for name, label in _POLICY.items()
        },
    }
    return Answer([row], structure="PortGroupSecurityPolicy")


def _policy_row(policy: SecurityPolicy) -> Row:
    return {label: getattr(policy, name) is True for name, label in _POLICY.items()}


def _set_switch_policy(options: argparse.Namespace) -> Run:
    before = (yield from present()).networks.switch(options.vswitch_name)
    values = [
        getattr(before.security, name) if (given := getattr(options, name)) is None else given
        for name in _POLICY
    ]
    return (
        yield from _done(c.UpdateSwitch("", before.name, security=SecurityPolicy(*values), why=WHY))
    )


def _set_group_policy(options: argparse.Namespace) -> Run:
    before = (yield from present()).networks.group(options.portgroup_name)
    old = PolicyOverride() if options.use_vswitch else before.security
    values = [
        getattr(old, name) if (given := getattr(options, name)) is None else given
        for name in _POLICY
    ]
    policy = PolicyOverride(*values)
    return (yield from _done(c.UpdatePortGroup("", before.name, security=policy, why=WHY)))


def _nics(_options: argparse.Namespace) -> Run:
    now = yield from present()
    rows = [_nic_row(nic) for nic in now.nics]
    return Answer(rows, kind="table", structure="PhysicalNIC", columns=_NIC_COLUMNS)


def _nic_row(nic: HostNic) -> Row:
    return {
        "Name": nic.name,
        "PCI Device": nic.pci_address,
        "Driver": nic.driver,
        "Admin Status": "Up",
        "Link Status": "Up" if nic.link_up else "Down",
        "Speed": nic.speed_mbps,
        "Duplex": "Full" if nic.full_duplex else "Half",
        "MAC Address": nic.mac,
        "MTU": nic.mtu,
        "Description": nic.driver,
    }


def _vms(_options: argparse.Namespace) -> Run:
    now = yield from present()
    rows: list[Row] = [
        {
            "World ID": vm.pid or 0,
            "Name": vm.config.name,
            "Num Ports": len(vm.config.nics),
            "Networks": tuple(nic.network for nic in vm.config.nics),
        }
        for vm in now.vms
        if vm.power is PowerState.POWERED_ON and vm.config.nics
    ]
    return Answer(rows, kind="table", structure="VM", columns=_VM_COLUMNS)


def _vm_ports(options: argparse.Namespace) -> Run:
    now = yield from present()
    found = next((vm for vm in now.vms if vm.pid == options.world_id), None)
    if found is None:
        raise NotFoundError(f"No VM has the world {options.world_id}.", component="vm")
    rows = [_port_row(now, found, number) for number in range(len(found.config.nics))]
    return Answer(rows, structure="Port")


def _port_row(now: Present, vm: VmFact, number: int) -> Row:
    nic = vm.config.nics[number]
    switch = now.networks.group(nic.network).switch if now.networks.has(nic.network) else ""
    return {
        "Port ID": number,
        "vSwitch": switch,
        "Portgroup": nic.network,
        "DVPort ID": "",
        "MAC Address": nic.mac,
        "IP Address": "0.0.0.0",  # noqa: S104 (what ESXi shows where only the guest knows)
        "Team Uplink": now.uplink(vm, number),
        "Uplink Port ID": 0,
        "Active Filters": "",
    }
