"""esxcli network: ESXi's commands and columns, over the real rules of switches."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from casemate.calls.esxcli.answer import Answer
from casemate.calls.esxcli.table import add_namespaces
from casemate.calls.esxcli.tree import Running
from casemate.calls.messages import Snapshot, SnapshotReply
from casemate.cli.esxcli_output import render
from casemate.errors import CasemateError, NotSupportedError
from casemate.hostd.kernelclient import RefusedError
from casemate.machine.facts import Fact, NicSpec, PowerState, VmConfig, VmFact
from casemate.machine.hardware import HardwareFact, HostNic
from casemate.machine.networks import FIRST, AddressFact, PolicyOverride, PortGroupFact, SwitchFact
from casemate.machine.teaming import UplinksFact
from casemate.testing.fakenetworks import FakeNetworks

NIC = NicSpec("00:50:56:00:00:01", "VM Network", "vmxnet3")
VM = VmFact(
    "1",
    VmConfig("demo", "", "[d] demo/demo.vmx", "other", 1, 32, "bios", nics=(NIC,)),
    PowerState.POWERED_ON,
    "",
    "",
    pid=4242,
)


class Kernel:
    """Facts, and what changes them."""

    def __init__(self, *facts: Fact) -> None:
        self.facts = {
            (type(fact), fact.key): fact for fact in (*FIRST.switches, *FIRST.groups, *facts)
        }
        self._answers = FakeNetworks(self).answers()

    def state(self, *facts: Fact) -> None:
        self.facts |= {(type(fact), fact.key): fact for fact in facts}

    def retract(self, kind: type, key: str) -> None:
        del self.facts[kind, key]

    def machines(self) -> tuple[VmFact, ...]:
        return tuple(fact for fact in self.facts.values() if isinstance(fact, VmFact))

    def find(self, kind: type, key: str) -> Any:
        return self.facts.get((kind, key))

    def esxcli(self, line: str) -> Answer:
        parser = argparse.ArgumentParser()
        add_namespaces(parser)
        options = parser.parse_args(["network", *line.split()])
        running = Running(options.run(options))
        while running.answer is None:
            try:
                request = running.request
                if isinstance(request, Snapshot):
                    running.reply(SnapshotReply(tuple(self.facts.values())))
                else:
                    running.reply(self._answers[type(request)](request))
            except RefusedError as error:
                running.fail(error)
        return running.answer


def test_switches_and_port_groups_come_change_and_go():
    kernel = Kernel()
    standard = "vswitch standard"
    kernel.esxcli(f"{standard} add -v vSwitch1 -P 64")
    kernel.esxcli(f"{standard} set -v vSwitch1 -m 9000")
    kernel.esxcli(f"{standard} policy security set -v vSwitch1 -p true -f 1")
    kernel.esxcli(f"{standard} portgroup add -p web -v vSwitch1")
    kernel.esxcli(f"{standard} portgroup set -p web -v 7")
    kernel.esxcli(f"{standard} portgroup policy security set -p web -o false -m yes")
    assert kernel.find(SwitchFact, "vSwitch1").mtu == 9000
    assert kernel.find(PortGroupFact, "web") == PortGroupFact(
        "web", "vSwitch1", 7, PolicyOverride(promiscuous=False, mac_changes=True)
    )
    (shown,) = kernel.esxcli(f"{standard} portgroup policy security get -p web").rows
    assert shown == {
        "Allow Promiscuous": False,
        "Allow MAC Address Change": True,
        "Allow Forged Transmits": True,
        "Override vSwitch Allow Promiscuous": True,
        "Override vSwitch Allow MAC Address Change": True,
        "Override vSwitch Allow Forged Transmits": False,
    }
    kernel.esxcli(f"{standard} portgroup policy security set -p web -u")
    assert kernel.find(PortGroupFact, "web").security == PolicyOverride()
    (shown,) = kernel.esxcli(f"{standard} policy security get -v vSwitch1").rows
    assert list(shown.values()) == [True, False, True]
    (row,) = kernel.esxcli(f"{standard} list -v vSwitch1").rows
    assert (row["Num Ports"], row["Used Ports"], row["Portgroups"]) == (64, 0, ("web",))
    kernel.esxcli(f"{standard} portgroup remove -p web -v vSwitch1")
    kernel.esxcli(f"{standard} remove -v vSwitch1")
    assert [row["Name"] for row in kernel.esxcli(f"{standard} list").rows] == ["vSwitch0"]


def test_uplinks_are_added_and_removed_one_by_one():
    kernel = Kernel()
    kernel.esxcli("vswitch standard uplink add -u eth9 -v vSwitch0")
    assert kernel.find(SwitchFact, "vSwitch0").uplinks == ("eth9",)
    kernel.esxcli("vswitch standard uplink remove -u eth9 -v vSwitch0")
    assert kernel.find(SwitchFact, "vSwitch0").uplinks == ()


@pytest.mark.parametrize(
    "line",
    [
        "vswitch standard list -v none",
        "vswitch standard add -v vSwitch0",
        "vswitch standard set -v vSwitch0 -m 20",
        "vswitch standard remove -v vSwitch0",
        "vswitch standard uplink remove -u eth9 -v vSwitch0",
        "vswitch standard uplink add -u vmnic7 -v vSwitch0",
        "vswitch standard portgroup remove -p none -v vSwitch0",
        "vswitch standard portgroup add -p g -v none",
        "vm port list -w 1",
    ],
)
def test_what_cannot_be_is_refused(line: str):
    kernel = Kernel(VM)
    before = dict(kernel.facts)
    with pytest.raises(CasemateError):
        kernel.esxcli(line)
    assert kernel.facts == before


def test_lists_have_the_columns_of_esxi():
    kernel = Kernel(VM, AddressFact("eth0", "192.0.2.2", 24, gateway="192.0.2.1"))
    assert render(kernel.esxcli("vswitch standard portgroup list")) == (
        "Name        Virtual Switch  Active Clients  VLAN ID\n"
        "----------  --------------  --------------  -------\n"
        "VM Network  vSwitch0        1               0\n"
    )
    assert (
        render(kernel.esxcli("vm list")).splitlines()[2] == "4242      demo  1          VM Network"
    )
    assert "MAC Address: 00:50:56:00:00:01" in render(kernel.esxcli("vm port list -w 4242"))
    shown = render(kernel.esxcli("ip interface ipv4 get -i eth0")).splitlines()[2]
    assert shown.split() == [
        *("eth0", "192.0.2.2", "255.255.255.0", "192.0.2.255", "192.0.2.1", "false"),
    ]
    assert kernel.esxcli("ip interface ipv4 get -i eth7").rows == []


def test_the_host_s_own_interfaces_are_shown_as_they_are_and_none_can_be_made():
    kernel = Kernel(
        VM,
        AddressFact("eth0", "192.0.2.2", 24, "02:00:00:00:00:01", 1400),
        AddressFact("eth0", "192.0.2.3", 24, "02:00:00:00:00:01", 1400),
    )
    shown = render(kernel.esxcli("ip interface list"))
    assert shown.startswith("eth0\n   Name: eth0\n   MAC Address: 02:00:00:00:00:01\n")
    assert shown.count("Name: eth0") == 1
    assert "Portgroup:\n" in shown
    assert shown.rstrip().endswith("MTU: 1400")
    assert kernel.esxcli("ip interface list -N vmotion").rows == []
    for line in ("add -i vmk1 -p web", "remove -i vmk0", "set -i vmk0 -e false"):
        with pytest.raises(NotSupportedError) as caught:
            kernel.esxcli(f"ip interface {line}")
        assert caught.value.remedy


def test_traffic_shaping_is_set_for_a_switch_and_for_a_port_group_or_as_its_switch_says():
    kernel = Kernel(VM)
    kernel.esxcli("vswitch standard portgroup add -p web -v vSwitch0")
    off = "Enabled: false\nAverage Bandwidth: -1 Kbps\nPeak Bandwidth: -1 Kbps\nBurst Size: -1 Kib"

    def shown(line: str) -> str:
        lines = render(kernel.esxcli(line)).splitlines()
        return "\n".join(one.strip() for one in lines)

    switch, group = "vswitch standard policy shaping", "vswitch standard portgroup policy shaping"
    assert shown(f"{switch} get -v vSwitch0") == off
    kernel.esxcli(f"{switch} set -v vSwitch0 -e true -b 8000 -k 16000 -t 512")
    on = (
        "Enabled: true\nAverage Bandwidth: 8000 Kbps\n"
        "Peak Bandwidth: 16000 Kbps\nBurst Size: 512 Kib"
    )
    assert shown(f"{switch} get -v vSwitch0") == on
    assert shown(f"{group} get -p web") == (f"{on}\nOverride vSwitch Shaping Policy: false")
    kernel.esxcli(f"{group} set -p web -e false")
    assert shown(f"{group} get -p web") == (f"{off}\nOverride vSwitch Shaping Policy: true")
    kernel.esxcli(f"{group} set -p web -u")
    assert "8000 Kbps" in shown(f"{group} get -p web")
    for wrong in ("-b 0", "-b 16001 -k 16000", "-t 0", "-b 999999999999"):
        with pytest.raises(CasemateError):
            kernel.esxcli(f"{switch} set -v vSwitch0 -e true {wrong}")


def test_failover_is_set_for_a_switch_and_for_a_port_group_or_as_its_switch_says():
    kernel = Kernel(VM)
    for nic in ("eth7", "eth8", "eth9"):
        kernel.esxcli(f"vswitch standard uplink add -u {nic} -v vSwitch0")
    kernel.esxcli("vswitch standard portgroup add -p web -v vSwitch0")

    def shown(line: str) -> list[str]:
        return [one.strip() for one in render(kernel.esxcli(line)).splitlines()]

    switch = "vswitch standard policy failover"
    group = "vswitch standard portgroup policy failover"
    new = [
        "Load Balancing: srcport",
        "Network Failure Detection: link",
        "Notify Switches: true",
        "Failback: true",
        "Active Adapters: eth7, eth8, eth9",
        "Standby Adapters:",
        "Unused Adapters:",
    ]
    assert shown(f"{switch} get -v vSwitch0") == new
    kernel.esxcli(f"{switch} set -v vSwitch0 -l explicit -s eth8 -b false -n false")
    changed = [
        "Load Balancing: explicit",
        "Network Failure Detection: link",
        "Notify Switches: false",
        "Failback: false",
        "Active Adapters: eth7, eth9",
        "Standby Adapters: eth8",
        "Unused Adapters:",
    ]
    assert shown(f"{switch} get -v vSwitch0") == changed
    own = ["Load Balancing", "Network Failure Detection", "Notify Switches", "Failback", "Uplinks"]
    inherited = [*changed, *(f"Override Vswitch {name}: false" for name in own)]
    assert shown(f"{group} get -p web") == inherited
    kernel.esxcli(f"{group} set -p web -a eth9,eth8 -l mac")
    lines = shown(f"{group} get -p web")
    assert lines[4:7] == [
        "Active Adapters: eth9, eth8",
        "Standby Adapters:",
        "Unused Adapters: eth7",
    ]
    assert lines[0] == "Load Balancing: srcmac"
    overridden = [line for line in lines if line.startswith("Override") and "true" in line]
    assert overridden == [
        "Override Vswitch Load Balancing: true",
        "Override Vswitch Uplinks: true",
    ]
    kernel.esxcli(f"{group} set -p web -u")
    assert shown(f"{group} get -p web") == inherited
    kernel.esxcli("vswitch standard uplink remove -u eth9 -v vSwitch0")
    assert shown(f"{switch} get -v vSwitch0")[4] == "Active Adapters: eth7"


def test_a_card_s_uplink_and_the_links_of_a_team_are_shown():
    nics = [HostNic(name, "", "virtio", 1000, True, True, 1500, "") for name in ("eth8", "eth9")]
    kernel = Kernel(VM, HardwareFact((), (), tuple(nics), (), iommu=False))
    for nic in nics:
        kernel.esxcli(f"vswitch standard uplink add -u {nic.name} -v vSwitch0")

    def shown() -> tuple[object, ...]:
        links = [row["Link Status"] for row in kernel.esxcli("nic list").rows]
        return (*links, kernel.esxcli("vm port list -w 4242").rows[0]["Team Uplink"])

    assert shown() == ("Up", "Up", "eth9")
    kernel.state(UplinksFact(("eth9",), ("eth9",)))
    assert shown() == ("Up", "Down", "eth8")


def test_a_team_that_cannot_be_is_refused_with_what_to_do_instead():
    kernel = Kernel(VM)
    kernel.esxcli("vswitch standard uplink add -u eth9 -v vSwitch0")
    for line in ("-l iphash", "-f beacon"):
        with pytest.raises(CasemateError) as caught:
            kernel.esxcli(f"vswitch standard policy failover set -v vSwitch0 {line}")
        assert caught.value.remedy, line
    for line in ("-a eth3", "-a eth9 -s eth9"):
        with pytest.raises(CasemateError):
            kernel.esxcli(f"vswitch standard policy failover set -v vSwitch0 {line}")


def test_nat_is_switched_on_and_off_where_there_is_no_command_line_of_the_machine():
    kernel = Kernel()
    place = "vswitch standard nat"
    assert kernel.esxcli(f"{place} get -v vSwitch0").rows[0]["Enabled"] is False
    kernel.esxcli(f"{place} set -v vSwitch0 -e true -n 10.7.0.0/24 -a true")
    assert kernel.esxcli(f"{place} get -v vSwitch0").rows == [
        {
            "Enabled": True,
            "Network": "10.7.0.0/24",
            "Gateway": "10.7.0.1",
            "Allow Machine": True,
            "DNS": (),
        }
    ]
    kernel.esxcli(f"{place} set -v vSwitch0 -e false")
    assert kernel.esxcli(f"{place} get -v vSwitch0").rows[0]["Network"] == ""
