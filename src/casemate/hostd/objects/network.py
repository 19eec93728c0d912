"""The host's network as vSphere shows it: switches, port groups, cards."""

from __future__ import annotations

from collections.abc import Iterator

from casemate.errors import NotFoundError
from casemate.hostd.objects.base import Getters, Scope, flags
from casemate.machine.facts import HostFact
from casemate.machine.hardware import HostNic
from casemate.machine.networks import AddressFact, PortGroupFact, SecurityPolicy, SwitchFact
from casemate.machine.shaping import Shaping
from casemate.machine.teaming import AS_ABOVE, BALANCING, Team, Teaming, in_force
from casemate.vim25 import types
from casemate.vim25.values import Obj, Value

GROUPS_PER_SWITCH = 512
MANAGEMENT = "management"
"""The service of a host's addresses that clients look for."""


def dns(host: HostFact) -> Obj:
    """Return HostDnsConfig: what the machine has from elsewhere, and the host does not set."""
    name, _, domain = host.name.partition(".")
    return Obj(
        "HostDnsConfig",
        dhcp=True,
        hostName=name,
        domainName=domain,
        address=host.name_servers,
    )


def network_info(scope: Scope, _key: str = "") -> Obj:
    """Return HostNetworkInfo."""
    world = scope.world
    return Obj(
        "HostNetworkInfo",
        vswitch=tuple(_switch(scope, switch) for switch in world.switches.values()),
        portgroup=tuple(
            _group(scope, group)
            for group in world.port_groups.values()
            if group.switch in world.switches
        ),
        pnic=tuple(_pnic(nic) for nic in world.nics()),
        vnic=tuple(_vnic(address) for address in world.addresses.values()),
        dnsConfig=dns(world.host),
        ipRouteConfig=_routes(scope),
        ipV6Enabled=True,
        atBootIpV6Enabled=True,
    )


def _config(scope: Scope, _key: str) -> Obj:
    """Return HostNetworkConfig."""
    world = scope.world
    return Obj(
        "HostNetworkConfig",
        vswitch=tuple(
            Obj("HostVirtualSwitchConfig", name=switch.name, spec=_switch_spec(switch))
            for switch in world.switches.values()
        ),
        portgroup=tuple(
            Obj("HostPortGroupConfig", spec=_group_spec(group))
            for group in world.port_groups.values()
        ),
        dnsConfig=dns(world.host),
    )


_FAILURE = Obj(
    "HostNicFailureCriteria",
    checkSpeed="minimum",
    speed=10,
    checkDuplex=False,
    fullDuplex=False,
    checkErrorPercent=False,
    percentage=0,
    checkBeacon=False,
)
"""A card fails when its link is down: nothing else is looked at."""


def _policy(
    promiscuous: bool | None,  # noqa: FBT001 (three values of one kind)
    changes: bool | None,  # noqa: FBT001
    forged: bool | None,  # noqa: FBT001
    shaping: Shaping,
    teaming: Obj,
) -> Obj:
    return Obj(
        "HostNetworkPolicy",
        security=Obj(
            "HostNetworkSecurityPolicy",
            allowPromiscuous=promiscuous,
            macChanges=changes,
            forgedTransmits=forged,
        ),
        nicTeaming=teaming,
        offloadPolicy=Obj(
            "HostNetOffloadCapabilities", csumOffload=True, tcpSegmentation=True, zeroCopyXmit=False
        ),
        shapingPolicy=_shaping(shaping),
    )


def _team(team: Team) -> Obj:
    """Return HostNicTeamingPolicy with all that is in force."""
    return Obj(
        "HostNicTeamingPolicy",
        policy=team.balancing,
        reversePolicy=True,
        notifySwitches=team.notify,
        rollingOrder=not team.failback,
        failureCriteria=_FAILURE,
        nicOrder=Obj("HostNicOrderPolicy", activeNic=team.active, standbyNic=team.standby),
    )


def _own_team(teaming: Teaming) -> Obj:
    """Return HostNicTeamingPolicy with what a port group says itself."""
    order = None
    if teaming.orders:
        order = Obj(
            "HostNicOrderPolicy",
            activeNic=teaming.active or (),
            standbyNic=teaming.standby or (),
        )
    return Obj(
        "HostNicTeamingPolicy",
        policy=teaming.balancing,
        notifySwitches=teaming.notify,
        rollingOrder=None if teaming.failback is None else not teaming.failback,
        nicOrder=order,
    )


def _shaping(shaping: Shaping) -> Obj:
    """Return the policy; without any of its fields where it is as the switch says."""
    if shaping.enabled is None:
        return Obj("HostNetworkTrafficShapingPolicy")
    return Obj(
        "HostNetworkTrafficShapingPolicy",
        enabled=shaping.enabled,
        averageBandwidth=shaping.average,
        peakBandwidth=shaping.peak,
        burstSize=shaping.burst,
    )


def _whole(policy: SecurityPolicy, shaping: Shaping, team: Team) -> Obj:
    return _policy(
        policy.promiscuous, policy.mac_changes, policy.forged_transmits, shaping, _team(team)
    )


def _switch_spec(switch: SwitchFact) -> Obj:
    bridge: Value = None
    team = in_force(switch.teaming, AS_ABOVE, switch.uplinks)
    if switch.uplinks:
        bridge = Obj("HostVirtualSwitchBondBridge", nicDevice=switch.uplinks)
    return Obj(
        "HostVirtualSwitchSpec",
        numPorts=switch.ports,
        bridge=bridge,
        policy=_whole(switch.security, switch.shaping, team),
        mtu=switch.mtu,
    )


def _switch(scope: Scope, switch: SwitchFact) -> Obj:
    groups = [g for g in scope.world.port_groups.values() if g.switch == switch.name]
    used = sum(len(scope.world.cards_in(group.name)) for group in groups)
    return Obj(
        "HostVirtualSwitch",
        name=switch.name,
        key=switch_key(switch.name),
        numPorts=switch.ports,
        numPortsAvailable=max(switch.ports - used - len(switch.uplinks), 0),
        mtu=switch.mtu,
        portgroup=tuple(group_key(group.name) for group in groups),
        pnic=tuple(nic_key(nic) for nic in switch.uplinks),
        spec=_switch_spec(switch),
    )


def _group_spec(group: PortGroupFact) -> Obj:
    own = group.security
    return Obj(
        "HostPortGroupSpec",
        name=group.name,
        vlanId=group.vlan,
        vswitchName=group.switch,
        policy=_policy(
            own.promiscuous,
            own.mac_changes,
            own.forged_transmits,
            group.shaping,
            _own_team(group.teaming),
        ),
    )


def _group(scope: Scope, group: PortGroupFact) -> Obj:
    networks = scope.world.configured()
    policy, shaping = networks.policy(group), networks.shaping(group)
    return Obj(
        "HostPortGroup",
        key=group_key(group.name),
        port=tuple(
            Obj(
                "HostPortGroupPort",
                key=f"{group_key(group.name)}-{vm}-{number}",
                mac=(mac,),
                type="virtualMachine",
            )
            for vm, number, mac in scope.world.cards_in(group.name)
        ),
        vswitch=switch_key(group.switch),
        computedPolicy=_whole(policy, shaping, networks.team(group)),
        spec=_group_spec(group),
    )


def _vnic(address: AddressFact) -> Obj:
    """Return an address of the host itself, which is in no port group."""
    return Obj(
        "HostVirtualNic",
        device=address.interface,
        key=f"key-vim.host.VirtualNic-{address.interface}",
        portgroup="",
        spec=Obj(
            "HostVirtualNicSpec",
            ip=Obj(
                "HostIpConfig",
                dhcp=False,
                ipAddress=address.address,
                subnetMask=address.netmask,
            ),
            mac=address.mac,
            mtu=address.mtu,
        ),
    )


def net_config(scope: Scope, service: str) -> Obj:
    """Return VirtualNicManagerNetConfig: every address serves management, none anything else.

    Raises:
        NotFoundError: vSphere knows no such service.
    """
    if service not in types.enum_type("HostVirtualNicManagerNicType").values:
        raise NotFoundError(f"no service {service[:40]!r}", component="nicType")
    addresses = scope.world.addresses.values() if service == MANAGEMENT else ()
    cards = tuple(_vnic(address) for address in addresses)
    return Obj(
        "VirtualNicManagerNetConfig",
        nicType=service,
        multiSelectAllowed=True,
        candidateVnic=cards,
        selectedVnic=tuple(card.get("key") for card in cards),
    )


def virtual_nics(scope: Scope, _key: str = "") -> Obj:
    """Return HostVirtualNicManagerInfo."""
    return Obj("HostVirtualNicManagerInfo", netConfig=(net_config(scope, MANAGEMENT),))


def _routes(scope: Scope, _key: str = "") -> Obj:
    """Return HostIpRouteConfig."""
    for address in scope.world.addresses.values():
        if address.gateway:
            return Obj(
                "HostIpRouteConfig",
                defaultGateway=address.gateway,
                gatewayDevice=address.interface,
            )
    return Obj("HostIpRouteConfig")


def _pnic(nic: HostNic) -> Obj:
    speed: Value = None
    if nic.link_up:
        speed = Obj("PhysicalNicLinkInfo", speedMb=nic.speed_mbps, duplex=nic.full_duplex)
    return Obj(
        "PhysicalNic",
        key=nic_key(nic.name),
        device=nic.name,
        pci=nic.pci_address,
        driver=nic.driver,
        linkSpeed=speed,
        spec=Obj("PhysicalNicSpec", linkSpeed=speed),
        wakeOnLanSupported=False,
        mac=nic.mac,
    )


def switch_key(name: str) -> str:
    """Return the key of a switch, as ESXi makes it."""
    return f"key-vim.host.VirtualSwitch-{name}"


def group_key(name: str) -> str:
    """Return the key of a port group, as ESXi makes it."""
    return f"key-vim.host.PortGroup-{name}"


def nic_key(name: str) -> str:
    """Return the key of a network card, as ESXi makes it."""
    return f"key-vim.host.PhysicalNic-{name}"


def _abilities() -> Iterator[str]:
    yield from ("supportsVlan", "supportsNicTeaming", "vswitchConfigSupported", "ipV6Supported")


NETWORK_GETTERS: Getters = {
    "networkInfo": network_info,
    "networkConfig": _config,
    "capabilities": lambda *_: flags(
        "HostNetCapabilities",
        *_abilities(),
        nicTeamingPolicy=BALANCING,
        maxPortGroupsPerVswitch=GROUPS_PER_SWITCH,
    ),
    "offloadCapabilities": lambda *_: Obj(
        "HostNetOffloadCapabilities", csumOffload=True, tcpSegmentation=True, zeroCopyXmit=False
    ),
    "ipRouteConfig": _routes,
    "dnsConfig": lambda scope, _key: dns(scope.world.host),
}
