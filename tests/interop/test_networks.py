"""Virtual switches by pyVmomi, unmodified, as its samples and Ansible's modules do it."""

from __future__ import annotations

import contextlib
import gc
import ssl
from collections.abc import Iterator

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl

from casemate.testing.fakekernel import PASSWORD, USER, FakeKernel
from casemate.testing.hostsimulator import HostSimulator

pytestmark = [
    pytest.mark.interop,
    # pyVmomi leaves a connection open after a failed login.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


BEACON = vim.host.NetworkPolicy.NicFailureCriteria(checkBeacon=True)


@pytest.fixture(scope="module")
def si() -> Iterator[vim.ServiceInstance]:
    kernel = FakeKernel(vms=1)
    with HostSimulator(kernel).running() as running:
        trust = ssl.create_default_context(cadata=running.certificate.decode())
        made = SmartConnect(
            host="127.0.0.1", port=running.port, user=USER, pwd=PASSWORD, sslContext=trust
        )
        try:
            yield made
        finally:
            Disconnect(made)
            made._stub.DropConnections()
    gc.collect()


@pytest.fixture
def system(si: vim.ServiceInstance) -> vim.host.NetworkSystem:
    datacenter = si.content.rootFolder.childEntity[0]
    return datacenter.hostFolder.childEntity[0].host[0].configManager.networkSystem


def group(name: str, switch: str, vlan: int) -> vim.host.PortGroup.Specification:
    return vim.host.PortGroup.Specification(
        name=name, vlanId=vlan, vswitchName=switch, policy=vim.host.NetworkPolicy()
    )


@contextlib.contextmanager
def switch(system: vim.host.NetworkSystem, name: str) -> Iterator[None]:
    system.AddVirtualSwitch(name, vim.host.VirtualSwitch.Specification(numPorts=64, mtu=9000))
    try:
        yield
    finally:
        system.RemoveVirtualSwitch(name)


def test_a_switch_is_read_changed_and_written_back_as_it_was_read(system):
    with switch(system, "vSwitch5"):
        (found,) = [one for one in system.networkInfo.vswitch if one.name == "vSwitch5"]
        assert (found.numPorts, found.mtu, found.portgroup) == (64, 9000, [])
        spec = found.spec
        spec.policy.security.allowPromiscuous = True
        system.UpdateVirtualSwitch("vSwitch5", spec)
        system.AddPortGroup(group("lab", "vSwitch5", 12))
        (shown,) = [one for one in system.networkInfo.portgroup if one.spec.name == "lab"]
        assert shown.spec.vlanId == 12
        assert shown.spec.policy.security.allowPromiscuous is None
        assert shown.computedPolicy.security.allowPromiscuous is True
        assert shown.computedPolicy.security.forgedTransmits is False
        spec = shown.spec
        spec.vlanId = 13
        spec.policy.security.allowPromiscuous = False
        system.UpdatePortGroup("lab", spec)
        (shown,) = [one for one in system.networkInfo.portgroup if one.spec.name == "lab"]
        assert (shown.spec.vlanId, shown.computedPolicy.security.allowPromiscuous) == (13, False)
        system.RemovePortGroup("lab")
    assert [one.name for one in system.networkInfo.vswitch] == ["vSwitch0"]


def test_a_team_is_made_read_changed_and_written_back(system):
    bond = vim.host.VirtualSwitch.BondBridge(nicDevice=["eth7", "eth8"])
    with switch(system, "vSwitch6"):

        def spec() -> vim.host.VirtualSwitch.Specification:
            return next(one.spec for one in system.networkInfo.vswitch if one.name == "vSwitch6")

        change = spec()
        change.bridge = bond
        system.UpdateVirtualSwitch("vSwitch6", change)
        team = spec().policy.nicTeaming
        assert (team.policy, team.notifySwitches, team.rollingOrder) == (
            "loadbalance_srcid",
            True,
            False,
        )
        assert (team.nicOrder.activeNic, team.nicOrder.standbyNic) == (["eth7", "eth8"], [])
        change = spec()
        change.policy.nicTeaming.policy = "failover_explicit"
        change.policy.nicTeaming.nicOrder.activeNic = ["eth8"]
        change.policy.nicTeaming.nicOrder.standbyNic = ["eth7"]
        system.UpdateVirtualSwitch("vSwitch6", change)
        assert spec().bridge.nicDevice == ["eth7", "eth8"]
        own = group("lab", "vSwitch6", 0)
        own.policy.nicTeaming = vim.host.NetworkPolicy.NicTeamingPolicy(
            rollingOrder=True,
            nicOrder=vim.host.NetworkPolicy.NicOrderPolicy(activeNic=["eth7"]),
        )
        system.AddPortGroup(own)
        (shown,) = [one for one in system.networkInfo.portgroup if one.spec.name == "lab"]
        assert shown.spec.policy.nicTeaming.policy is None
        assert shown.spec.policy.nicTeaming.nicOrder.activeNic == ["eth7"]
        team = shown.computedPolicy.nicTeaming
        assert (team.policy, team.rollingOrder) == ("failover_explicit", True)
        assert (team.nicOrder.activeNic, team.nicOrder.standbyNic) == (["eth7"], [])
        system.UpdatePortGroup("lab", group("lab", "vSwitch6", 0))
        (shown,) = [one for one in system.networkInfo.portgroup if one.spec.name == "lab"]
        assert shown.computedPolicy.nicTeaming.nicOrder.activeNic == ["eth8"]
        for field, value in (("policy", "loadbalance_ip"), ("failureCriteria", BEACON)):
            change = spec()
            setattr(change.policy.nicTeaming, field, value)
            with pytest.raises(vmodl.fault.NotSupported):
                system.UpdateVirtualSwitch("vSwitch6", change)
        assert system.capabilities.supportsNicTeaming
        assert "loadbalance_ip" not in system.capabilities.nicTeamingPolicy


def test_faults_are_those_that_clients_know(system):
    with pytest.raises(vim.fault.AlreadyExists) as caught:
        system.AddVirtualSwitch("vSwitch0", None)
    assert caught.value.name == "vSwitch0"
    with pytest.raises(vim.fault.NotFound):
        system.RemovePortGroup("none")
    with pytest.raises(vim.fault.ResourceInUse):
        system.RemovePortGroup("VM Network")
    with pytest.raises(vim.fault.NotFound):
        system.AddPortGroup(group("lab", "none", 0))


def test_a_card_is_put_into_a_new_port_group_moved_and_unplugged(si, system):
    datacenter = si.content.rootFolder.childEntity[0]
    vm = datacenter.vmFolder.childEntity[0]
    system.AddPortGroup(group("web", "vSwitch0", 7))
    (network,) = [one for one in datacenter.network if one.name == "web"]
    assert network.summary.accessible

    def cards() -> list[vim.vm.device.VirtualEthernetCard]:
        return [
            device
            for device in vm.config.hardware.device
            if isinstance(device, vim.vm.device.VirtualEthernetCard)
        ]

    def change(operation: str, card: vim.vm.device.VirtualEthernetCard) -> None:
        spec = vim.vm.device.VirtualDeviceSpec(operation=operation, device=card)
        WaitForTask(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[spec])))

    backing = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo
    change(
        "add",
        vim.vm.device.VirtualE1000e(
            key=-1,
            addressType="manual",
            macAddress="00:50:56:00:aa:bb",
            backing=backing(deviceName="web", network=network),
        ),
    )
    _, added = cards()
    assert (added.addressType, added.macAddress) == ("manual", "00:50:56:00:aa:bb")
    assert added.backing.network == network
    assert vm in network.vm
    (shown,) = [one for one in system.networkInfo.portgroup if one.spec.name == "web"]
    assert shown.port[0].mac == ["00:50:56:00:aa:bb"]
    with pytest.raises(vim.fault.ResourceInUse):
        system.RemovePortGroup("web")
    added.connectable.startConnected = added.connectable.connected = False
    change("edit", added)
    assert not cards()[1].connectable.startConnected
    card = cards()[1]
    card.backing = backing(deviceName="VM Network")
    change("edit", card)
    assert network not in vm.network
    change("remove", cards()[1])
    assert len(cards()) == 1
    system.RemovePortGroup("web")
    assert [one.name for one in datacenter.network] == ["VM Network"]
