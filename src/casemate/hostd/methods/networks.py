"""Virtual switches and port groups: HostNetworkSystem."""

from __future__ import annotations

from dataclasses import replace

from casemate.calls import networks as c
from casemate.calls.messages import Empty
from casemate.hostd.registry import Context, Ring, Served
from casemate.hostd.selection import text
from casemate.hostd.vmchange import unsupported
from casemate.machine.networks import (
    PORTS,
    REJECT,
    PolicyOverride,
    PortGroupFact,
    SecurityPolicy,
    SwitchFact,
)
from casemate.machine.shaping import INHERITED, Shaping
from casemate.machine.teaming import AS_ABOVE, Teaming, in_force, over
from casemate.vim25 import faults
from casemate.vim25.values import Obj, Value

WHY = "vSphere API"
_MTU = 1500
_CRITERIA = ("checkBeacon", "checkDuplex", "checkErrorPercent")
"""By which else than its link an uplink would be taken for failed."""


def _spec(context: Context, name: str) -> Obj:
    spec = context.arguments.get(name)
    return spec if isinstance(spec, Obj) else Obj("HostVirtualSwitchSpec")


def _number(spec: Obj, name: str, default: int) -> int:
    value = spec.get(name)
    if value is None:
        return default
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _flag(value: Value) -> bool | None:
    return value if isinstance(value, bool) else None


def _policy(spec: Obj) -> PolicyOverride:
    """Return what a spec says of security."""
    policy = spec.get("policy")
    if not isinstance(policy, Obj):
        return PolicyOverride()
    security = policy.get("security")
    if not isinstance(security, Obj):
        return PolicyOverride()
    return PolicyOverride(
        _flag(security.get("allowPromiscuous")),
        _flag(security.get("macChanges")),
        _flag(security.get("forgedTransmits")),
    )


def _shaping(spec: Obj, before: Shaping) -> Shaping:
    """Return what a spec says of traffic shaping: what it leaves out stays."""
    policy = spec.get("policy")
    shaping = policy.get("shapingPolicy") if isinstance(policy, Obj) else None
    if not isinstance(shaping, Obj):
        return before
    enabled = _flag(shaping.get("enabled"))
    return Shaping(
        before.enabled if enabled is None else enabled,
        _number(shaping, "averageBandwidth", before.average),
        _number(shaping, "peakBandwidth", before.peak),
        _number(shaping, "burstSize", before.burst),
    )


def _teaming(spec: Obj) -> Teaming:
    """Return what a spec says of teaming. Raises FaultError on what this host does not do."""
    policy = spec.get("policy")
    said = policy.get("nicTeaming") if isinstance(policy, Obj) else None
    if not isinstance(said, Obj):
        return AS_ABOVE
    criteria = said.get("failureCriteria")
    if isinstance(criteria, Obj) and any(criteria.get(name) is True for name in _CRITERIA):
        raise unsupported(
            "An uplink fails when its link is down: there is no beacon probing, and neither duplex"
            " nor errors are looked at."
        )
    rolling = _flag(said.get("rollingOrder"))
    order = said.get("nicOrder")
    given = order if isinstance(order, Obj) else None
    return Teaming(
        text(said.get("policy")) or None,
        _flag(said.get("notifySwitches")),
        None if rolling is None else not rolling,
        None if given is None else _names(given.get("activeNic")),
        None if given is None else _names(given.get("standbyNic")),
    )


def _names(value: Value) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(map(text, value)) if isinstance(value, tuple) else (text(value),)


def _over(policy: PolicyOverride, before: SecurityPolicy) -> SecurityPolicy:
    return SecurityPolicy(
        before.promiscuous if policy.promiscuous is None else policy.promiscuous,
        before.mac_changes if policy.mac_changes is None else policy.mac_changes,
        before.forged_transmits if policy.forged_transmits is None else policy.forged_transmits,
    )


def _uplinks(spec: Obj) -> tuple[str, ...]:
    bridge = spec.get("bridge")
    if not isinstance(bridge, Obj):
        return ()
    if bridge.type not in {"HostVirtualSwitchBondBridge", "HostVirtualSwitchSimpleBridge"}:
        raise unsupported("A virtual switch is connected to network cards of this host.")
    return _names(bridge.get("nicDevice"))


def _fill(before: SwitchFact, spec: Obj) -> SwitchFact:
    """Return a switch as a spec wants it: what the spec leaves out stays."""
    uplinks, said = _uplinks(spec), _teaming(spec)
    team = in_force(before.teaming, AS_ABOVE, before.uplinks)
    unchanged = (said.active, said.standby) == (team.active, team.standby)
    if unchanged and (uplinks == before.uplinks or not team.active + team.standby):
        # A client sends back what it read: that all uplinks are active is not its order.
        said = replace(said, active=None, standby=None)
    return replace(
        before,
        ports=_number(spec, "numPorts", before.ports),
        mtu=_number(spec, "mtu", before.mtu),
        uplinks=uplinks,
        security=_over(_policy(spec), before.security),
        shaping=_shaping(spec, before.shaping),
        teaming=over(before.teaming, said),
    )


async def _add_switch(context: Context) -> Value:
    name = text(context.arguments.get("vswitchName"))
    made = _fill(SwitchFact(name, 0, PORTS, _MTU, (), REJECT), _spec(context, "spec"))
    request = c.AddSwitch(
        *(context.who.handle, name, made.ports, made.mtu, made.uplinks, made.security, WHY),
        shaping=made.shaping,
        teaming=made.teaming,
    )
    await context.link.ask(request, Empty)
    await context.replica.until(lambda: name in context.replica.world.switches)
    return None


async def _update_switch(context: Context) -> Value:
    name = text(context.arguments.get("vswitchName"))
    switches = context.replica.world.switches
    before = switches.get(name, SwitchFact(name, 0))
    made = _fill(before, _spec(context, "spec"))
    request = c.UpdateSwitch(
        *(context.who.handle, name, made.ports, made.mtu, made.uplinks, made.security, WHY),
        shaping=made.shaping,
        teaming=made.teaming,
    )
    await context.link.ask(request, Empty)
    await context.replica.until(lambda: switches.get(name) == made)
    return None


async def _remove_switch(context: Context) -> Value:
    name = text(context.arguments.get("vswitchName"))
    await context.link.ask(c.RemoveSwitch(context.who.handle, name, WHY), Empty)
    await context.replica.until(lambda: name not in context.replica.world.switches)
    return None


def _group_spec(context: Context) -> PortGroupFact:
    spec = _spec(context, "portgrp")
    name, switch = text(spec.get("name")), text(spec.get("vswitchName"))
    if not name:
        raise faults.invalid_argument("portgrp.name", "A port group needs a name.")
    return PortGroupFact(
        name,
        switch,
        _number(spec, "vlanId", 0),
        _policy(spec),
        _shaping(spec, INHERITED),
        _teaming(spec),
    )


async def _add_group(context: Context) -> Value:
    made = _group_spec(context)
    request = c.AddPortGroup(
        *(context.who.handle, made.name, made.switch, made.vlan, made.security, WHY),
        shaping=made.shaping,
        teaming=made.teaming,
    )
    await context.link.ask(request, Empty)
    await context.replica.until(lambda: made.name in context.replica.world.port_groups)
    return None


async def _update_group(context: Context) -> Value:
    made = _group_spec(context)
    group = text(context.arguments.get("pgName"))
    request = c.UpdatePortGroup(
        *(context.who.handle, group, made.name, made.switch, made.vlan, made.security, WHY),
        shaping=made.shaping,
        teaming=made.teaming,
    )
    await context.link.ask(request, Empty)
    groups = context.replica.world.port_groups
    await context.replica.until(lambda: groups.get(made.name) == made)
    return None


async def _remove_group(context: Context) -> Value:
    name = text(context.arguments.get("pgName"))
    await context.link.ask(c.RemovePortGroup(context.who.handle, name, WHY), Empty)
    await context.replica.until(lambda: name not in context.replica.world.port_groups)
    return None


_SYSTEM = "HostNetworkSystem"
_RING = Ring.HOST
_PRIVILEGE = c.AddSwitch.privilege

NETWORK_METHODS = (
    Served(_SYSTEM, "AddVirtualSwitch", _PRIVILEGE, _add_switch, (c.AddSwitch,), ring=_RING),
    Served(
        _SYSTEM, "UpdateVirtualSwitch", _PRIVILEGE, _update_switch, (c.UpdateSwitch,), ring=_RING
    ),
    Served(
        _SYSTEM, "RemoveVirtualSwitch", _PRIVILEGE, _remove_switch, (c.RemoveSwitch,), ring=_RING
    ),
    Served(_SYSTEM, "AddPortGroup", _PRIVILEGE, _add_group, (c.AddPortGroup,), ring=_RING),
    Served(_SYSTEM, "UpdatePortGroup", _PRIVILEGE, _update_group, (c.UpdatePortGroup,), ring=_RING),
    Served(_SYSTEM, "RemovePortGroup", _PRIVILEGE, _remove_group, (c.RemovePortGroup,), ring=_RING),
)
