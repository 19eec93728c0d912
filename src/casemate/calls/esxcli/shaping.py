"""esxcli network vswitch standard ... policy shaping, in ESXi's fields and units."""

from __future__ import annotations

import argparse
from dataclasses import replace

from casemate.calls import networks as c
from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.hostinterface import truth
from casemate.calls.esxcli.networkfacts import present
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.calls.messages import Empty
from casemate.machine.shaping import INHERITED, Shaping

WHY = "esxcli"
_KILOBIT = 1000
_KIBIBYTE = 1024


def register(policy: Group[argparse.ArgumentParser], *, group: bool) -> None:
    """Add the namespace below ``policy``, of port groups or of switches."""
    shaping = namespace(policy, "shaping", "traffic shaping")
    words = ("-p", "--portgroup-name") if group else ("-v", "--vswitch-name")
    shown = command(shaping, "get", "Show the policy.", _get_group if group else _get_switch)
    shown.add_argument(*words, required=True)
    change = command(shaping, "set", "Change the policy.", _set_group if group else _set_switch)
    change.add_argument(*words, required=True)
    change.add_argument("-e", "--enabled", type=truth)
    change.add_argument("-b", "--avg-bandwidth", type=int, metavar="KBPS")
    change.add_argument("-k", "--peak-bandwidth", type=int, metavar="KBPS")
    change.add_argument("-t", "--burst-size", type=int, metavar="KIB")
    if group:
        change.add_argument("-u", "--use-vswitch", action="store_true")


def _row(shaping: Shaping) -> Row:
    on = shaping.enabled is True
    return {
        "Enabled": on,
        "Average Bandwidth": f"{shaping.average // _KILOBIT if on else -1} Kbps",
        "Peak Bandwidth": f"{shaping.peak // _KILOBIT if on else -1} Kbps",
        "Burst Size": f"{shaping.burst // _KIBIBYTE if on else -1} Kib",
    }


def _get_switch(options: argparse.Namespace) -> Run:
    shaping = (yield from present()).networks.switch(options.vswitch_name).shaping
    return Answer([_row(shaping)], structure="SwitchShapingPolicy")


def _get_group(options: argparse.Namespace) -> Run:
    networks = (yield from present()).networks
    group = networks.group(options.portgroup_name)
    row: Row = {
        **_row(networks.shaping(group)),
        "Override vSwitch Shaping Policy": group.shaping.enabled is not None,
    }
    return Answer([row], structure="PortGroupShapingPolicy")


def _changed(options: argparse.Namespace, before: Shaping) -> Shaping:
    given = {
        "enabled": options.enabled,
        "average": _scaled(options.avg_bandwidth, _KILOBIT),
        "peak": _scaled(options.peak_bandwidth, _KILOBIT),
        "burst": _scaled(options.burst_size, _KIBIBYTE),
    }
    return replace(before, **{name: value for name, value in given.items() if value is not None})


def _scaled(value: int | None, unit: int) -> int | None:
    return None if value is None else value * unit


def _set_switch(options: argparse.Namespace) -> Run:
    before = (yield from present()).networks.switch(options.vswitch_name)
    shaping = _changed(options, before.shaping)
    yield from ask(c.UpdateSwitch("", before.name, why=WHY, shaping=shaping), Empty)
    return Answer([])


def _set_group(options: argparse.Namespace) -> Run:
    networks = (yield from present()).networks
    group = networks.group(options.portgroup_name)
    own = _changed(options, networks.shaping(group))
    shaping = INHERITED if options.use_vswitch else own
    yield from ask(c.UpdatePortGroup("", group.name, why=WHY, shaping=shaping), Empty)
    return Answer([])
