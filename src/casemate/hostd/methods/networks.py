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
from casemate.vim25 import faults
from casemate.vim25.values import Obj, Value

WHY = "vSphere API"
_MTU = 1500
_TEAMING = frozenset({"", "loadbalance_srcid", "failover_explicit"})
"""Policies that choose one uplink: all that a switch of one has to do."""


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


def _policy(spec: Obj, uplinks: tuple[str, ...]) -> PolicyOverride:
    """Return what a spec says of security. Raises FaultError on what this host does not do."""
    policy = spec.get("policy")
    if not isinstance(policy, Obj):
        return PolicyOverride()
    teaming = policy.get("nicTeaming")
    if isinstance(teaming, Obj):
        _check_teaming(teaming, uplinks)
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


def _check_teaming(teaming: Obj, uplinks: tuple[str, ...]) -> None:
    """Raise FaultError where a spec wants more than one uplink to be used, or a strange one."""
    if text(teaming.get("policy")) not in _TEAMING:
        raise unsupported("A virtual switch has one uplink here: there is no teaming.")
    order = teaming.get("nicOrder")
    for names in (
        (order.get("activeNic"), order.get("standbyNic")) if isinstance(order, Obj) else ()
    ):
        if isinstance(names, tuple) and not {text(name) for name in names} <= set(uplinks):
            raise faults.invalid_argument(
                "policy.nicTeaming.nicOrder", "It names what is no uplink of the switch."
            )


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
    devices = bridge.get("nicDevice")
    names = devices if isinstance(devices, tuple) else (devices,)
    return tuple(text(name) for name in names)


def _fill(before: SwitchFact, spec: Obj) -> SwitchFact:
    """Return a switch as a spec wants it: what the spec leaves out stays."""
    uplinks = _uplinks(spec)
    return replace(
        before,
        ports=_number(spec, "numPorts", before.ports),
        mtu=_number(spec, "mtu", before.mtu),
        uplinks=uplinks,
        security=_over(_policy(spec, uplinks), before.security),
        shaping=_shaping(spec, before.shaping),
    )


async def _add_switch(context: Context) -> Value:
    name = text(context.arguments.get("vswitchName"))
    made = _fill(SwitchFact(name, 0, PORTS, _MTU, (), REJECT), _spec(context, "spec"))
    request = c.AddSwitch(
        *(context.who.handle, name, made.ports, made.mtu, made.uplinks, made.security, WHY),
        shaping=made.shaping,
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
    )
    await context.link.ask(request, Empty)
    await context.replica.until(lambda: switches.get(name) == made)
    return None


async def _remove_switch(context: Context) -> Value:
    name = text(context.arguments.get("vswitchName"))
    await context.link.ask(c.RemoveSwitch(context.who.handle, name, WHY), Empty)
    await context.replica.until(lambda: name not in context.replica.world.switches)
    return None


def _group_spec(context: Context) -> tuple[PolicyOverride, Shaping, str, str, int]:
    spec = _spec(context, "portgrp")
    name, switch = text(spec.get("name")), text(spec.get("vswitchName"))
    if not name:
        raise faults.invalid_argument("portgrp.name", "A port group needs a name.")
    known = context.replica.world.switches.get(switch)
    policy = _policy(spec, known.uplinks if known else ())
    return policy, _shaping(spec, INHERITED), name, switch, _number(spec, "vlanId", 0)


async def _add_group(context: Context) -> Value:
    policy, shaping, name, switch, vlan = _group_spec(context)
    request = c.AddPortGroup(context.who.handle, name, switch, vlan, policy, WHY, shaping)
    await context.link.ask(request, Empty)
    await context.replica.until(lambda: name in context.replica.world.port_groups)
    return None


async def _update_group(context: Context) -> Value:
    policy, shaping, name, switch, vlan = _group_spec(context)
    group = text(context.arguments.get("pgName"))
    request = c.UpdatePortGroup(context.who.handle, group, name, switch, vlan, policy, WHY, shaping)
    await context.link.ask(request, Empty)

    def done() -> bool:
        known = context.replica.world.port_groups.get(name)
        return known == PortGroupFact(name, switch, vlan, policy, shaping)

    await context.replica.until(done)
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
