"""What requests make of switches and port groups, and how what came of them is told."""

from __future__ import annotations

from dataclasses import replace

from casemate.calls import networks as c
from casemate.kernel.stream import FactStream
from casemate.machine.networks import Networks, PortGroupFact, SwitchFact


def made_switch(request: c.AddSwitch) -> SwitchFact:
    """Return the switch that is asked for; its number is still to be given."""
    return SwitchFact(
        request.name,
        0,
        request.ports,
        request.mtu,
        request.uplinks,
        request.security,
        shaping=request.shaping,
        teaming=request.teaming,
    )


def changed_switch(before: SwitchFact, request: c.UpdateSwitch) -> SwitchFact:
    """Return the switch with what is asked for; what is None stays."""
    return replace(
        before,
        ports=before.ports if request.ports is None else request.ports,
        mtu=before.mtu if request.mtu is None else request.mtu,
        uplinks=before.uplinks if request.uplinks is None else request.uplinks,
        security=before.security if request.security is None else request.security,
        shaping=before.shaping if request.shaping is None else request.shaping,
        teaming=before.teaming if request.teaming is None else request.teaming,
    )


def made_group(request: c.AddPortGroup) -> PortGroupFact:
    """Return the port group that is asked for."""
    return PortGroupFact(
        request.name,
        request.switch,
        request.vlan,
        request.security,
        request.shaping,
        request.teaming,
    )


def changed_group(before: PortGroupFact, request: c.UpdatePortGroup) -> PortGroupFact:
    """Return the port group with what is asked for; what is None stays."""
    return PortGroupFact(
        before.name if request.name is None else request.name,
        before.switch if request.switch is None else request.switch,
        before.vlan if request.vlan is None else request.vlan,
        before.security if request.security is None else request.security,
        before.shaping if request.shaping is None else request.shaping,
        before.teaming if request.teaming is None else request.teaming,
    )


def tell_networks(stream: FactStream, before: Networks, after: Networks) -> None:
    """State the switches and port groups that there are, and that others are gone."""
    for switch in after.switches:
        stream.publish(switch)
    for group in after.groups:
        stream.publish(group)
    for group in before.groups:
        if not after.has(group.name):
            stream.retract(PortGroupFact, group.key)
    kept = {switch.name for switch in after.switches}
    for switch in before.switches:
        if switch.name not in kept:
            stream.retract(SwitchFact, switch.key)
