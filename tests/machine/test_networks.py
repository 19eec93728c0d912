"""Switches and port groups: what may be, and that the wires follow from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import AbsentError, ArgumentError, CasemateError, ExistsError, InUseError
from casemate.machine.networkplan import Card, needs_tags, tap_name, traffic_of
from casemate.machine.networks import (
    FIRST,
    TRUNK,
    AddressFact,
    Networks,
    PolicyOverride,
    PortGroupFact,
    SecurityPolicy,
    SwitchFact,
)
from casemate.machine.wiring import plan_network

NICS = frozenset({"eth0", "eth1"})
POLICIES = st.builds(SecurityPolicy, st.booleans(), st.booleans(), st.booleans())
OVERRIDES = st.builds(PolicyOverride, *[st.none() | st.booleans()] * 3)
VLANS = st.sampled_from([0, 1, 10, 10, 4094, TRUNK])
HOSTS = st.builds(
    lambda policies, groups, uplink: Networks(
        tuple(
            SwitchFact(f"s{n}", n, security=policy, uplinks=("eth0",) if uplink and not n else ())
            for n, policy in enumerate(policies)
        ),
        tuple(
            PortGroupFact(f"g{n}", f"s{n % len(policies)}", vlan, override)
            for n, (vlan, override) in enumerate(groups)
        ),
    ),
    st.lists(POLICIES, min_size=1, max_size=3),
    st.lists(st.tuples(VLANS, OVERRIDES), max_size=6),
    st.booleans(),
)
CARDS = st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=8).map(
    lambda found: [
        Card(str(n), 0, f"00:50:56:00:00:{n:02x}", f"g{group}", connected)
        for n, (group, connected) in enumerate(found)
    ]
)


@given(HOSTS, CARDS)
def test_cards_share_a_bridge_only_where_switch_and_vlan_are_one(networks, cards):
    plan = plan_network(networks, cards)
    bridges = {port.name: port.bridge for port in plan.ports}
    for one in cards:
        for other in cards:
            if not (networks.has(one.group) and networks.has(other.group)):
                continue
            first, second = networks.group(one.group), networks.group(other.group)
            alike = first.switch == second.switch and first.vlan % TRUNK == second.vlan % TRUNK
            assert (bridges[one.tap] == bridges[other.tap]) == alike


@given(HOSTS, CARDS)
def test_a_card_without_a_port_group_is_wired_to_nothing(networks, cards):
    wired = {port.name for port in plan_network(networks, cards).ports}
    for card in cards:
        assert (card.tap in wired) == networks.has(card.group)


@given(HOSTS, CARDS)
def test_every_port_has_a_filter_and_a_policy_decides_what_it_says(networks, cards):
    plan = plan_network(networks, cards)
    filters = {one.name: one for one in plan.filters}
    assert Counter(port.name for port in plan.ports) == Counter(one.name for one in plan.filters)
    for card in cards:
        if not networks.has(card.group):
            continue
        group = networks.group(card.group)
        policy, found = networks.policy(group), filters[card.tap]
        port = next(port for port in plan.ports if port.name == card.tap)
        assert found.guest
        assert found.source == ("" if policy.forged_transmits else card.mac)
        assert bool(found.tags) <= (group.vlan == TRUNK)
        assert not port.flood
        assert port.learning <= (policy.mac_changes and policy.forged_transmits)
        assert port.up == card.connected
        for mirror in found.mirrors:
            seeing = next(port for port in plan.ports if port.name == mirror.name)
            assert seeing.bridge == port.bridge
            assert mirror.name != card.tap
    seen = {mirror.name for one in plan.filters for mirror in one.mirrors}
    for card in cards:
        if card.tap in seen:
            assert networks.policy(networks.group(card.group)).promiscuous


@given(HOSTS, CARDS)
def test_names_are_interfaces_of_linux_and_every_bridge_is_there(networks, cards):
    plan = plan_network(networks, cards)
    names = [one.name for one in (*plan.bridges, *plan.vlans)]
    assert len(set(names)) == len(names)
    assert all(0 < len(name) < 16 for name in names)
    assert {port.bridge for port in plan.ports} <= {bridge.name for bridge in plan.bridges}
    assert bool(plan.vlans) <= needs_tags(networks)


def test_a_card_without_an_address_is_wired_to_nothing_rather_than_to_all():
    plan = plan_network(FIRST, [Card("1", 0, "", "VM Network")])
    assert (plan.ports, plan.filters) == ((), ())


def test_the_longest_names_still_fit():
    switch = SwitchFact("s", 126, uplinks=("eth0",))
    groups = (PortGroupFact("t", "s", TRUNK), PortGroupFact("g", "s", 4094))
    plan = plan_network(
        Networks((switch,), groups), [Card("999999999", 9, "00:50:56:00:00:01", "t")]
    )
    assert all(len(one.name) < 16 for one in (*plan.bridges, *plan.vlans, *plan.ports))
    for vm, number in (("1234567890", 0), ("x", 0), ("1", 10), ("", 0)):
        with pytest.raises(ArgumentError):
            tap_name(vm, number)


def test_a_trunk_has_each_vlan_of_its_switch_once():
    groups = (
        PortGroupFact("trunk", "vSwitch0", TRUNK),
        PortGroupFact("ten", "vSwitch0", 10),
        PortGroupFact("ten again", "vSwitch0", 10),
    )
    networks = replace(FIRST, groups=(*FIRST.groups, *groups))
    plan = plan_network(networks, [Card("1", 0, "00:50:56:00:00:01", "trunk")])
    assert [(vlan.parent, vlan.vlan) for vlan in plan.vlans] == [("t1.0", 10)]
    assert [port.bridge for port in plan.ports] == ["vs0v0", "vs0v10"]
    assert plan.filters[0].tags == (10,)


def test_an_uplink_carries_vlans_with_tags_and_is_not_filtered_as_a_guest():
    networks = FIRST.changed_switch(replace(FIRST.switches[0], uplinks=("eth0",)), NICS)
    networks = networks.with_group(PortGroupFact("ten", "vSwitch0", 10))
    plan = plan_network(networks, ())
    assert plan.uplinks == ("eth0",)
    assert [(port.name, port.bridge, port.flood) for port in plan.ports] == [
        ("eth0", "vs0v0", True),
        ("up0v10", "vs0v10", True),
    ]
    assert not any(one.guest for one in plan.filters)


REFUSED = [
    (lambda n: n.with_switch(SwitchFact("", 0), NICS), ArgumentError, "vswitchName"),
    (lambda n: n.with_switch(SwitchFact("x" * 32, 0), NICS), ArgumentError, "vswitchName"),
    (lambda n: n.with_switch(SwitchFact("a\nb", 0), NICS), ArgumentError, "vswitchName"),
    (lambda n: n.with_switch(SwitchFact("vSwitch0", 0), NICS), ExistsError, "vSwitch0"),
    (lambda n: n.with_switch(SwitchFact("s", 0, mtu=1279), NICS), ArgumentError, "spec.mtu"),
    (lambda n: n.with_switch(SwitchFact("s", 0, mtu=9001), NICS), ArgumentError, "spec.mtu"),
    (
        lambda n: n.with_switch(SwitchFact("s", 0, ports=7), NICS),
        ArgumentError,
        "spec.numPorts",
    ),
    (
        lambda n: n.with_switch(SwitchFact("s", 0, uplinks=("eth7",)), NICS),
        ArgumentError,
        "spec.bridge.nicDevice",
    ),
    (
        lambda n: n.with_switch(SwitchFact("s", 0, uplinks=("eth0", "eth0")), NICS),
        ArgumentError,
        "spec.bridge.nicDevice",
    ),
    (lambda n: n.changed_switch(SwitchFact("none", 0), NICS), AbsentError, "none"),
    (lambda n: n.without_switch("none", ()), AbsentError, "none"),
    (lambda n: n.without_switch("vSwitch0", {"VM Network"}), InUseError, "VM Network"),
    (
        lambda n: n.with_group(PortGroupFact("VM Network", "vSwitch0")),
        ExistsError,
        "VM Network",
    ),
    (lambda n: n.with_group(PortGroupFact("g", "none")), AbsentError, "none"),
    (
        lambda n: n.with_group(PortGroupFact("g", "vSwitch0", 4096)),
        ArgumentError,
        "portgrp.vlanId",
    ),
    (
        lambda n: n.with_group(PortGroupFact("g", "vSwitch0", -1)),
        ArgumentError,
        "portgrp.vlanId",
    ),
    (
        lambda n: n.with_group(PortGroupFact("x" * 81, "vSwitch0")),
        ArgumentError,
        "portgrp.name",
    ),
    (
        lambda n: n.changed_group("none", PortGroupFact("g", "vSwitch0"), ()),
        AbsentError,
        "none",
    ),
    (
        lambda n: n.changed_group("VM Network", PortGroupFact("g", "vSwitch0"), {"VM Network"}),
        InUseError,
        "VM Network",
    ),
    (lambda n: n.without_group("VM Network", {"VM Network"}), InUseError, "VM Network"),
    (lambda n: n.without_group("none", ()), AbsentError, "none"),
]


@pytest.mark.parametrize(("change", "error", "argument"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_is_refused_by_its_name(change, error, argument):
    with pytest.raises(CasemateError) as caught:
        change(FIRST)
    assert type(caught.value) is error
    assert argument in {getattr(caught.value, "argument", ""), getattr(caught.value, "name", "")}


def test_an_uplink_belongs_to_one_switch_and_numbers_are_used_again():
    networks = FIRST.with_switch(SwitchFact("one", 0, uplinks=("eth0",)), NICS)
    assert networks.switch("one").number == 1
    with pytest.raises(InUseError):
        networks.with_switch(SwitchFact("two", 0, uplinks=("eth0",)), NICS)
    freed = networks.without_switch("vSwitch0", ()).with_switch(SwitchFact("two", 9), NICS)
    assert freed.switch("two").number == 0
    assert freed.groups == ()


@pytest.mark.parametrize(
    ("prefix", "mask"),
    [(0, "0.0.0.0"), (8, "255.0.0.0"), (25, "255.255.255.128"), (32, "255.255.255.255")],
)
def test_a_mask_is_as_long_as_its_prefix(prefix, mask):
    assert AddressFact("eth0", "192.0.2.1", prefix).netmask == mask


def test_traffic_is_counted_from_the_guest_s_side_for_all_its_cards():
    table = (
        "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes\n"
        "    lo:  9 1 0 0 0 0 0 0  9 1 0 0 0 0 0 0\n"
        "  t7.0: 100 1 0 0 0 0 0 0 3000 2 0 0 0 0 0 0\n"
        "  t7.1:  10 1 0 0 0 0 0 0  500 2 0 0 0 0 0 0\n"
        "  t9.0:   1 0 0 0 0 0 0 0\n"
        " vs0v0:   5 1 0 0 0 0 0 0    6 1 0 0 0 0 0 0\n"
    )
    assert traffic_of(table) == {"7": (3500, 110)}


@given(st.text())
def test_any_text_has_some_traffic_or_none(text):
    assert isinstance(traffic_of(text), dict)


def test_a_port_group_says_only_what_differs_from_its_switch():
    networks = replace(FIRST, switches=(replace(FIRST.switches[0], security=SecurityPolicy(True)),))
    group = PortGroupFact("g", "vSwitch0", 0, PolicyOverride(mac_changes=True))
    networks = networks.with_group(group)
    assert networks.policy(group) == SecurityPolicy(True, True, False)
    own = replace(group, security=PolicyOverride(promiscuous=False))
    assert networks.changed_group("g", own, {"g"}).policy(own) == SecurityPolicy()
