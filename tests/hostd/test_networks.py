"""Virtual switches and port groups over the API, as clients send them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from casemate.calls import networks as c
from casemate.calls.messages import Empty
from casemate.hostd import vmspec
from casemate.hostd.methods.networks import NETWORK_METHODS
from casemate.hostd.registry import Ring
from casemate.machine.facts import NicSpec, VmConfig
from casemate.machine.governance import OptionFact
from casemate.machine.nat import Nat
from casemate.machine.networks import (
    AddressFact,
    PolicyOverride,
    PortGroupFact,
    SecurityPolicy,
    SwitchFact,
)
from casemate.machine.shaping import Shaping
from casemate.machine.teaming import Teaming, UplinksFact
from casemate.policy.options import API_COMPATIBILITY
from casemate.testing.fakefacts import fake_vm
from casemate.testing.fakekernel import FakeKernel
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Obj

SYSTEM = MoRef("HostNetworkSystem", "networkSystem")
POLICY = (
    "<policy><security><allowPromiscuous>{}</allowPromiscuous></security>"
    "<nicTeaming><policy>loadbalance_srcid</policy></nicTeaming></policy>"
)
PORT_GROUP = "<portgrp><name>{}</name><vlanId>{}</vlanId><vswitchName>{}</vswitchName>{}</portgrp>"


@pytest.fixture
def compatible(play: Callable[..., None]) -> Callable[..., None]:
    """Play a story on a host with ring C switched on."""
    kernel = FakeKernel()
    kernel.state(OptionFact(API_COMPATIBILITY, "TRUE"))
    return lambda story: play(story, kernel)


def test_all_of_it_governs_the_host_and_takes_the_right_of_the_network():
    assert {(one.ring, one.privilege) for one in NETWORK_METHODS} == {
        (Ring.HOST, "Host.Config.Network")
    }


def test_a_switch_and_its_port_groups_come_change_and_go(compatible: Callable[..., None]) -> None:
    async def story(host) -> None:
        root = host.root
        spec = f"<spec><numPorts>64</numPorts>{POLICY.format('true')}<mtu>9000</mtu></spec>"
        made = await root.call(
            "AddVirtualSwitch", SYSTEM, f"<vswitchName>vSwitch1</vswitchName>{spec}"
        )
        assert made.status == 200, made.text
        switch = host.kernel.find(SwitchFact, "vSwitch1")
        team = Teaming("loadbalance_srcid")
        assert switch == SwitchFact("vSwitch1", 1, 64, 9000, (), SecurityPolicy(True), teaming=team)
        group = PORT_GROUP.format("web", 7, "vSwitch1", "<policy></policy>")
        assert (await root.call("AddPortGroup", SYSTEM, group)).status == 200
        shown = await root.call("Fetch", SYSTEM, "<prop>networkInfo</prop>")
        assert "<vlanId>7</vlanId><vswitchName>vSwitch1</vswitchName>" in shown.text
        assert "<key>key-vim.host.VirtualSwitch-vSwitch1</key>" in shown.text
        assert "<portgroup>key-vim.host.PortGroup-web</portgroup>" in shown.text
        # What the group leaves open is the switch's.
        assert re.search(
            r"<computedPolicy><security><allowPromiscuous>true</allowPromiscuous>", shown.text
        )
        found = await root.call(
            "Fetch", MoRef("Folder", "ha-folder-network"), "<prop>childEntity</prop>"
        )
        assert "HaNetwork-web" in found.text
        change = PORT_GROUP.format("www", 8, "vSwitch1", POLICY.format("false"))
        reply = await root.call("UpdatePortGroup", SYSTEM, f"<pgName>web</pgName>{change}")
        assert reply.status == 200, reply.text
        assert host.kernel.find(PortGroupFact, "www") == PortGroupFact(
            "www", "vSwitch1", 8, PolicyOverride(promiscuous=False), teaming=team
        )
        gone = await root.call("Fetch", MoRef("Network", "HaNetwork-web"), "<prop>name</prop>")
        assert "ManagedObjectNotFound" in gone.text
        update = "<vswitchName>vSwitch1</vswitchName><spec><numPorts>128</numPorts></spec>"
        assert (await root.call("UpdateVirtualSwitch", SYSTEM, update)).status == 200
        assert host.kernel.find(SwitchFact, "vSwitch1").ports == 128
        remove = "<vswitchName>vSwitch1</vswitchName>"
        assert (await root.call("RemoveVirtualSwitch", SYSTEM, remove)).status == 200
        assert host.kernel.find(PortGroupFact, "www") is None

    compatible(story)


SHAPING = (
    "<policy><shapingPolicy><enabled>{}</enabled><averageBandwidth>8000000</averageBandwidth>"
    "<peakBandwidth>16000000</peakBandwidth><burstSize>524288</burstSize></shapingPolicy></policy>"
)


def test_traffic_shaping_is_a_switchs_or_a_port_groups_own_and_shown_with_what_is_in_force(
    compatible,
):
    async def story(host) -> None:
        root = host.root
        spec = f"<spec><numPorts>64</numPorts>{SHAPING.format('true')}</spec>"
        made = "<vswitchName>s</vswitchName>"
        assert (await root.call("AddVirtualSwitch", SYSTEM, made + spec)).status == 200
        shaping = Shaping(True, 8_000_000, 16_000_000, 524_288)
        assert host.kernel.find(SwitchFact, "s").shaping == shaping
        for name, policy in (("own", SHAPING.format("false")), ("inherits", "<policy></policy>")):
            group = PORT_GROUP.format(name, 0, "s", policy)
            assert (await root.call("AddPortGroup", SYSTEM, group)).status == 200
        assert host.kernel.find(PortGroupFact, "own").shaping == replace(shaping, enabled=False)
        assert host.kernel.find(PortGroupFact, "inherits").shaping == Shaping()
        shown = await root.call("Fetch", SYSTEM, "<prop>networkInfo</prop>")
        enabled = re.findall(r"<shapingPolicy>(?:<enabled>(\w+)</enabled>)?", shown.text)
        # vSwitch0's and s's own; then in force and own: of VM Network, own, inherits.
        assert enabled.count("true") == 2
        off = f"<spec><numPorts>64</numPorts>{SHAPING.format('false')}</spec>"
        assert (await root.call("UpdateVirtualSwitch", SYSTEM, made + off)).status == 200
        assert host.kernel.find(SwitchFact, "s").shaping == replace(shaping, enabled=False)

    compatible(story)


TEAM = (
    "<nicTeaming><policy>{}</policy><notifySwitches>false</notifySwitches>"
    "<rollingOrder>true</rollingOrder><nicOrder>{}</nicOrder></nicTeaming>"
)
BOND = (
    '<bridge xsi:type="HostVirtualSwitchBondBridge"><nicDevice>eth8</nicDevice>'
    "<nicDevice>eth9</nicDevice></bridge>"
)


def test_a_team_is_a_switchs_or_a_port_groups_own_and_shown_with_what_is_in_force(compatible):
    async def story(host) -> None:
        root = host.root
        name = "<vswitchName>s</vswitchName>"
        order = "<activeNic>eth9</activeNic><standbyNic>eth8</standbyNic>"
        team = TEAM.format("failover_explicit", order)
        spec = f"<spec><numPorts>64</numPorts>{BOND}<policy>{team}</policy></spec>"
        made = await root.call("AddVirtualSwitch", SYSTEM, name + spec)
        assert made.status == 200, made.text
        said = Teaming("failover_explicit", False, False, ("eth9",), ("eth8",))
        switch = host.kernel.find(SwitchFact, "s")
        assert (switch.uplinks, switch.teaming) == (("eth8", "eth9"), said)
        own = f"<policy>{TEAM.format('loadbalance_srcmac', '<activeNic>eth8</activeNic>')}</policy>"
        for group, policy in (("own", own), ("inherits", "<policy></policy>")):
            body = PORT_GROUP.format(group, 0, "s", policy)
            reply = await root.call("AddPortGroup", SYSTEM, body)
            assert reply.status == 200, reply.text
        assert host.kernel.find(PortGroupFact, "inherits").teaming == Teaming()
        assert host.kernel.find(PortGroupFact, "own").teaming == Teaming(
            "loadbalance_srcmac", False, False, ("eth8",), ()
        )
        shown = await root.call("Fetch", SYSTEM, "<prop>networkInfo</prop>")
        # The switch's own and what is in force in "inherits"; "own" says it and has it.
        assert shown.text.count(f"<nicOrder>{order}</nicOrder>") == 2
        assert shown.text.count("<policy>loadbalance_srcmac</policy>") == 2
        # What an update leaves out stays; a switch that loses an uplink keeps its order.
        spec = "<spec><numPorts>64</numPorts></spec>"
        assert (await root.call("UpdateVirtualSwitch", SYSTEM, name + spec)).status == 200
        switch = host.kernel.find(SwitchFact, "s")
        assert (switch.uplinks, switch.teaming) == ((), said)

    compatible(story)


async def events(host) -> str:
    """Return the events up to now."""
    host.kernel.state(OptionFact("Config.HostAgent.log.level", "info"))
    for _ in range(10_000):
        reply = await host.root.call(
            "QueryEvents", MoRef("EventManager", "ha-eventmgr"), "<filter/>"
        )
        if "Option Config.HostAgent.log.level set" in reply.text:
            return str(reply.text)
        await asyncio.sleep(0.006)
    raise AssertionError(reply.text)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ((), ("eth8",), ["problem.net.redundancy.lost"]),
        ((), ("eth8", "eth9"), ["problem.net.connectivity.lost"]),
        (("eth8",), ("eth8", "eth9"), ["problem.net.connectivity.lost"]),
        (("eth8", "eth9"), ("eth8",), ["clear.net.connectivity.restored"]),
        (
            ("eth8", "eth9"),
            (),
            ["clear.net.connectivity.restored", "clear.net.redundancy.restored"],
        ),
        (("eth9",), (), ["clear.net.redundancy.restored"]),
    ],
)
def test_links_that_go_and_come_are_events_as_esxi_tells_them(compatible, before, after, told):
    async def story(host) -> None:
        request = c.UpdateSwitch("", "vSwitch0", uplinks=("eth8", "eth9"))
        await host.kernel.ask(request, Empty)
        late = ("eth8", "eth9")
        host.kernel.state(UplinksFact(before, late))
        host.kernel.state(UplinksFact(after, late))
        found = await events(host)
        kinds = re.findall(r"<eventTypeId>esx\.([a-z.]+)</eventTypeId>", found)
        first = [kind for kind in kinds if before and kind.startswith("problem")][:1]
        assert kinds == [*first, *told]

    compatible(story)


def test_links_of_cards_outside_of_teams_are_nobody_s_news(compatible):
    async def story(host) -> None:
        await host.kernel.ask(c.UpdateSwitch("", "vSwitch0", uplinks=("eth8",)), Empty)
        host.kernel.state(UplinksFact(("eth8",), ("eth8",)))
        assert "esx.problem" not in await events(host)

    compatible(story)


def test_what_a_client_changes_of_a_switch_leaves_its_nat(compatible):
    async def story(host) -> None:
        nat = c.SetNat("", "vSwitch0", on=True, network="10.9.0.0/24")
        await host.kernel.ask(nat, Empty)
        root = host.root
        update = "<vswitchName>vSwitch0</vswitchName><spec><numPorts>64</numPorts></spec>"
        assert (await root.call("UpdateVirtualSwitch", SYSTEM, update)).status == 200
        switch = host.kernel.find(SwitchFact, "vSwitch0")
        assert (switch.ports, switch.nat) == (64, Nat("10.9.0.0/24"))

    compatible(story)


@pytest.mark.parametrize(
    ("method", "body", "fault"),
    [
        ("AddVirtualSwitch", "<vswitchName>vSwitch0</vswitchName>", "AlreadyExists"),
        ("AddVirtualSwitch", "<vswitchName></vswitchName>", "InvalidArgument"),
        (
            "AddVirtualSwitch",
            "<vswitchName>s</vswitchName><spec><numPorts>8</numPorts><mtu>20</mtu></spec>",
            "InvalidArgument",
        ),
        (
            "AddVirtualSwitch",
            (
                "<vswitchName>s</vswitchName><spec><numPorts>8</numPorts><policy><shapingPolicy>"
                "<enabled>true</enabled><averageBandwidth>5</averageBandwidth></shapingPolicy>"
                "</policy></spec>"
            ),
            "InvalidArgument",
        ),
        (
            "AddVirtualSwitch",
            (
                "<vswitchName>s</vswitchName><spec><numPorts>8</numPorts>"
                '<bridge xsi:type="HostVirtualSwitchBondBridge">'
                "<nicDevice>vmnic7</nicDevice></bridge>"
                "</spec>"
            ),
            "InvalidArgument",
        ),
        (
            "AddVirtualSwitch",
            (
                "<vswitchName>s</vswitchName><spec><numPorts>8</numPorts><policy><nicTeaming>"
                "<nicOrder><activeNic>vmnic7</activeNic></nicOrder></nicTeaming></policy></spec>"
            ),
            "InvalidArgument",
        ),
        (
            "AddVirtualSwitch",
            (
                "<vswitchName>s</vswitchName><spec><numPorts>8</numPorts><policy><nicTeaming>"
                "<policy>loadbalance_ip</policy></nicTeaming></policy></spec>"
            ),
            "NotSupported",
        ),
        (
            "AddVirtualSwitch",
            (
                "<vswitchName>s</vswitchName><spec><numPorts>8</numPorts><policy><nicTeaming>"
                "<failureCriteria><checkBeacon>true</checkBeacon></failureCriteria></nicTeaming>"
                "</policy></spec>"
            ),
            "NotSupported",
        ),
        ("RemoveVirtualSwitch", "<vswitchName>none</vswitchName>", "NotFound"),
        ("RemoveVirtualSwitch", "<vswitchName>vSwitch0</vswitchName>", "ResourceInUse"),
        ("RemovePortGroup", "<pgName>none</pgName>", "NotFound"),
        ("RemovePortGroup", "<pgName>VM Network</pgName>", "ResourceInUse"),
        ("AddPortGroup", PORT_GROUP.format("g", 0, "none", "<policy/>"), "NotFound"),
        ("AddPortGroup", PORT_GROUP.format("g", 4096, "vSwitch0", "<policy/>"), "InvalidArgument"),
        (
            "AddPortGroup",
            PORT_GROUP.format("VM Network", 0, "vSwitch0", "<policy/>"),
            "AlreadyExists",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_fault(
    compatible: Callable[..., None], method: str, body: str, fault: str
) -> None:
    async def story(host) -> None:
        reply = await host.root.call(method, SYSTEM, body)
        assert reply.status == 500
        assert f'xsi:type="{fault}"' in reply.text, reply.text

    compatible(story)


def test_a_reader_changes_nothing(compatible: Callable[..., None]) -> None:
    async def story(host) -> None:
        group = PORT_GROUP.format("web", 0, "vSwitch0", "<policy/>")
        reply = await host.reader.call("AddPortGroup", SYSTEM, group)
        assert "NoPermission" in reply.text
        assert not [one for one in host.kernel.asked if isinstance(one, c.AddPortGroup)]

    compatible(story)


def changed(device: Obj, *nics: NicSpec) -> tuple[NicSpec, ...]:
    config = VmConfig("v", "", "[d] v/v.vmx", "other", 1, 32, "bios", nics=nics)
    change = Obj("VirtualDeviceConfigSpec", operation="edit" if nics else "add", device=device)
    spec = Obj("VirtualMachineConfigSpec", deviceChange=(change,))
    return vmspec.changed(spec, config, ["VM Network", "web"]).config.nics


def nic(**fields) -> Obj:
    return Obj("VirtualVmxnet3", key=4000, **fields)


def test_addresses_and_cables_are_as_the_client_says():
    assert changed(nic()) == (NicSpec("", "VM Network", "vmxnet3"),)
    assert changed(nic(addressType="manual", macAddress="00:50:56:00:00:AA")) == (
        NicSpec("00:50:56:00:00:aa", "VM Network", "vmxnet3", manual=True),
    )
    present = NicSpec("00:0c:29:00:00:01", "VM Network", "vmxnet3")
    # A client sends back what it read, with what it changes.
    same = nic(addressType="generated", macAddress=present.mac)
    assert changed(same, present) == (present,)
    backing = Obj("VirtualEthernetCardNetworkBackingInfo", deviceName="web")
    assert changed(nic(backing=backing), present)[0].network == "web"
    for start, now in ((False, True), (True, False), (False, False)):
        info = Obj("VirtualDeviceConnectInfo", startConnected=start, connected=now)
        assert not changed(nic(connectable=info), present)[0].connected
    info = Obj("VirtualDeviceConnectInfo", startConnected=True, connected=False)
    off = NicSpec("00:0c:29:00:00:01", "VM Network", "vmxnet3", connected=False)
    assert changed(nic(connectable=info), off)[0].connected


def test_a_card_in_an_unknown_port_group_is_refused():
    backing = Obj("VirtualEthernetCardNetworkBackingInfo", deviceName="none")
    with pytest.raises(FaultError) as caught:
        changed(nic(backing=backing))
    assert caught.value.object.type == "InvalidArgument"


def test_a_network_that_vms_name_and_the_host_has_not_is_shown_as_lost(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        vm = fake_vm(5)
        lost = replace(vm.config, nics=(replace(vm.config.nics[0], network="lost"),))
        host.kernel.state(replace(vm, config=lost))
        ref = MoRef("Network", "HaNetwork-lost")
        reply = await host.root.call("Fetch", ref, "<prop>summary</prop>")
        while reply.status != 200:
            await asyncio.sleep(0.005)
            reply = await host.root.call("Fetch", ref, "<prop>summary</prop>")
        assert "<accessible>false</accessible>" in reply.text

    play(story)


def test_the_host_s_own_address_serves_management_and_finds_the_host(
    play: Callable[..., None],
) -> None:
    index = MoRef("SearchIndex", "ha-searchindex")
    cards = MoRef("HostVirtualNicManager", "ha-vnic-mgr")

    async def story(host) -> None:
        key = "<key>key-vim.host.VirtualNic-eth0</key>"
        for service, offered in (("management", True), ("vmotion", False)):
            reply = await host.root.call("QueryNetConfig", cards, f"<nicType>{service}</nicType>")
            assert (reply.status, key in reply.text) == (200, offered)
            assert ("<selectedVnic>" in reply.text) is offered
        wrong = await host.root.call("QueryNetConfig", cards, "<nicType>tea</nicType>")
        assert wrong.fault == "InvalidArgument"
        for method in ("FindByIp", "FindAllByIp"):
            for ip, found in (("192.0.2.9", True), ("192.0.2.8", False)):
                body = f"<ip>{ip}</ip><vmSearch>false</vmSearch>"
                reply = await host.root.call(method, index, body)
                assert ("ha-host" in reply.text) is found, (method, ip)

    kernel = FakeKernel()
    kernel.state(AddressFact("eth0", "192.0.2.9", 24))
    play(story, kernel)
