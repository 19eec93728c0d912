"""Teams: which uplink a card is bound to, and that no wiring of a team makes a loop or a copy."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, InUseError, NotSupportedError
from casemate.machine.networkplan import Card, NetworkPlan, Notice
from casemate.machine.networks import (
    CABLES_LIMIT,
    FIRST,
    GROUPS_LIMIT,
    TRUNK,
    UPLINKS_LIMIT,
    Networks,
    PolicyOverride,
    PortGroupFact,
    SwitchFact,
)
from casemate.machine.teaming import (
    ALL_UP,
    AS_ABOVE,
    BY_ADDRESS,
    BY_IP,
    BY_ORDER,
    BY_PORT,
    LinkState,
    Team,
    Teaming,
    announcement,
    bound,
    changed,
    in_force,
    over,
)
from casemate.machine.wiring import plan_network

NICS = ("eth0", "eth1", "eth2", "eth3")
MAC = "00:50:56:00:00:01"
STRANGER = "02:00:00:00:00:99"
BALANCING = st.sampled_from([BY_PORT, BY_ADDRESS, BY_ORDER])
ORDERS = st.permutations(NICS).flatmap(
    lambda names: st.tuples(st.integers(0, 4), st.integers(0, 4)).map(
        lambda cut: (tuple(names[: cut[0]]), tuple(names[cut[0] : cut[0] + cut[1]]))
    )
)
DOWN = st.frozensets(st.sampled_from(NICS))
TEAMS = st.builds(
    lambda balancing, failback, order: Team(balancing, True, failback, *order, ()),
    BALANCING,
    st.booleans(),
    ORDERS,
)
SAID = st.builds(
    lambda balancing, failback, order: Teaming(balancing, True, failback, *order),
    st.none() | BALANCING,
    st.none() | st.booleans(),
    ORDERS,
)


@given(TEAMS, DOWN, st.integers(0, 9))
def test_a_card_is_bound_to_an_uplink_with_a_link_where_its_team_has_one(team, down, port):
    named = {*team.active, *team.standby}
    found = bound(team, port, MAC, LinkState(down))
    assert (found in named) == bool(named)
    if named - down:
        assert found not in down
    if team.active and not set(team.active) & down:
        assert found in team.active


@given(TEAMS, DOWN, st.sampled_from(NICS), st.integers(0, 9))
def test_a_card_stays_where_it_is_when_another_uplink_fails(team, down, failing, port):
    before = bound(team, port, MAC, LinkState(down))
    assume(before not in down | {failing})
    assert bound(team, port, MAC, LinkState(down | {failing}, (failing,))) == before


@given(TEAMS, st.lists(st.sampled_from(NICS), max_size=12), st.integers(0, 9))
def test_without_failback_a_card_leaves_only_an_uplink_that_lost_its_link(team, turns, port):
    """Links go and come, one after the other."""
    team = replace(team, failback=False)
    known, state = frozenset(NICS), ALL_UP
    at = bound(team, port, MAC, state)
    for name in turns:
        had = at not in state.down
        state = state.seen(known, state.down ^ {name}, known)
        now = bound(team, port, MAC, state)
        assert now == at or not had or at in state.down
        at = now


def test_the_order_decides_and_standby_comes_last():
    team = Team(BY_ORDER, True, True, ("eth1", "eth0"), ("eth2",), ("eth3",))
    assert [bound(team, port, MAC) for port in range(3)] == ["eth1"] * 3
    assert bound(team, 0, MAC, LinkState(frozenset({"eth1"}))) == "eth0"
    assert bound(team, 0, MAC, LinkState(frozenset({"eth0", "eth1"}))) == "eth2"
    assert bound(team, 0, MAC, LinkState(frozenset(NICS))) == "eth1"


def test_ports_are_spread_over_the_active_and_a_standby_takes_the_place_of_one_that_fails():
    team = Team(BY_PORT, True, True, ("eth0", "eth1"), ("eth2",), ())
    assert [bound(team, port, MAC) for port in range(4)] == ["eth0", "eth1", "eth0", "eth1"]
    state = LinkState(frozenset({"eth0"}))
    assert [bound(team, port, MAC, state) for port in range(4)] == ["eth2", "eth1", "eth2", "eth1"]
    state = LinkState(frozenset({"eth0", "eth2"}))
    assert {bound(team, port, MAC, state) for port in range(4)} == {"eth1"}


def test_addresses_are_spread_by_themselves():
    team = Team(BY_ADDRESS, True, True, ("eth0", "eth1"), (), ())
    found = {bound(team, 0, f"00:50:56:00:00:{number:02x}") for number in (2, 3)}
    assert found == {"eth0", "eth1"}
    assert bound(team, 0, MAC) == bound(team, 1, MAC)


def test_an_uplink_that_came_back_waits_where_nobody_wants_it_back():
    known = frozenset({"eth0", "eth1"})
    team = Team(BY_ORDER, True, False, ("eth0",), ("eth1",), ())
    state = ALL_UP.seen(known, frozenset({"eth0"}), known)
    assert bound(team, 0, MAC, state) == "eth1"
    state = state.seen(known, frozenset(), known)
    assert bound(team, 0, MAC, state) == "eth1"
    assert bound(replace(team, failback=True), 0, MAC, state) == "eth0"
    state = state.seen(known, frozenset({"eth1"}), known)
    state = state.seen(known, frozenset(), known)
    assert bound(team, 0, MAC, state) == "eth0"


def test_an_uplink_that_never_had_a_link_has_lost_none():
    known = frozenset({"eth0", "eth1"})
    state = ALL_UP.seen(known, frozenset({"eth0"}), frozenset())
    assert state == LinkState(frozenset({"eth0"}))
    assert state.seen(known, frozenset(), known) == ALL_UP


def test_a_port_group_says_what_it_wants_otherwise_and_the_rest_is_its_switchs():
    whole = Teaming(BY_ORDER, False, None, ("eth0",), ("eth1",))
    own = Teaming(None, True, None, ("eth1",), None)
    assert in_force(whole, own, ("eth0", "eth1")) == Team(
        BY_ORDER, True, True, ("eth1",), (), ("eth0",)
    )
    assert in_force(whole, AS_ABOVE, ("eth0", "eth1")).standby == ("eth1",)
    # What was taken from the switch is in no team; what nobody orders is active.
    assert in_force(whole, AS_ABOVE, ("eth1",)) == Team(BY_ORDER, False, True, (), ("eth1",), ())
    assert in_force(AS_ABOVE, AS_ABOVE, ("eth1",)) == Team(BY_PORT, True, True, ("eth1",), (), ())
    assert over(whole, Teaming(standby=("eth1",))) == replace(whole, active=None)
    assert over(whole, Teaming(failback=False)) == replace(whole, failback=False)


def test_who_types_one_list_of_uplinks_keeps_the_other_but_for_what_moved():
    nics = ("eth0", "eth1", "eth2")
    before = Teaming(BY_ORDER, active=("eth0",), standby=("eth1",))
    assert changed(before, Teaming(active=("eth2",)), nics) == replace(before, active=("eth2",))
    moved = replace(before, active=("eth1", "eth0"), standby=())
    assert changed(before, Teaming(active=("eth1", "eth0")), nics) == moved
    assert changed(before, Teaming(standby=("eth0",)), nics) == replace(
        before, active=(), standby=("eth0",)
    )
    assert changed(before, Teaming(notify=False), nics) == replace(before, notify=False)
    # Where nobody ordered any, all are active; a port group begins with its switch's.
    assert changed(AS_ABOVE, Teaming(standby=("eth2",)), nics) == Teaming(
        active=("eth0", "eth1"), standby=("eth2",)
    )
    assert changed(AS_ABOVE, Teaming(active=("eth2",)), nics, before) == Teaming(
        active=("eth2",), standby=("eth1",)
    )
    # What the switch has no more is kept by neither.
    assert changed(before, Teaming(active=("eth0",)), ("eth0",)) == replace(before, standby=())


@pytest.mark.parametrize(
    ("teaming", "error"),
    [
        (Teaming(BY_IP), NotSupportedError),
        (Teaming("loadbalance_loadbased"), ArgumentError),
        (Teaming(active=("eth9",)), ArgumentError),
        (Teaming(active=("eth0",), standby=("eth0",)), ArgumentError),
    ],
)
def test_what_no_team_can_be_is_refused_with_its_reason(teaming, error):
    switch = replace(FIRST.switches[0], uplinks=NICS)
    with pytest.raises(error) as caught:
        FIRST.changed_switch(replace(switch, teaming=teaming), NICS)
    assert caught.value.reason
    networks = FIRST.changed_switch(switch, NICS)
    with pytest.raises(error):
        networks.with_group(PortGroupFact("g", "vSwitch0", teaming=teaming))
    group = replace(networks.groups[0], teaming=teaming)
    with pytest.raises(error):
        networks.changed_group(group.name, group, ())


def test_uplinks_are_each_one_switchs_and_come_once_and_not_without_end():
    switch = replace(FIRST.switches[0], uplinks=NICS, teaming=Teaming(active=("eth3",)))
    networks = FIRST.changed_switch(switch, NICS)
    # An order stays as it was said when an uplink is taken away.
    assert networks.changed_switch(replace(switch, uplinks=("eth0",)), ()).switches[0].teaming
    with pytest.raises(InUseError):
        networks.with_switch(SwitchFact("other", 0, uplinks=("eth3",)), NICS)
    with pytest.raises(ArgumentError):
        FIRST.changed_switch(replace(switch, uplinks=("eth3", "eth3")), NICS)
    many = tuple(f"eth{number}" for number in range(UPLINKS_LIMIT + 1))
    with pytest.raises(ArgumentError):
        FIRST.changed_switch(replace(switch, uplinks=many), many)


class Outcome:
    """Where a frame went in a plan: which cards got it, and by which uplinks it left."""

    def __init__(self, plan: NetworkPlan) -> None:
        self.ports = {port.name: port for port in plan.ports}
        self.filters = {one.name: one for one in plan.filters}
        self.ends = {cable.one: cable.other for cable in plan.cables}
        self.ends |= {other: one for one, other in self.ends.items()}
        self.plan = plan
        self.ways = {name for uplink in plan.uplinks for name in ways(plan, uplink).values()}
        self.got: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self._steps = 0

    def enter(self, name: str, source: str, to: str = "") -> None:
        """Have a frame come in at a port; to everybody, or to an address."""
        self._steps += 1
        assert self._steps < 10_000, "a loop"
        came, rules = self.ports[name], self.filters[name]
        if rules.source and rules.source != source:
            return
        if rules.own and not to and (source in rules.own) != rules.cable:
            return
        for mirror in rules.mirrors:
            if to and to != mirror.mac and not (rules.own and source in rules.own):
                self.got[mirror.name] += 1
        others = [
            port
            for port in self.ports.values()
            if port.bridge == came.bridge
            if port is not came
            if port.up
            if not (port.isolated and came.isolated)
        ]
        behind = [port for port in others if to in {port.mac, *port.beyond}] if to else []
        known = any(
            to in {port.mac, *port.beyond}
            for port in self.ports.values()
            if port.bridge == came.bridge
        )
        for port in (behind if known else [p for p in others if p.flood]) if to else others:
            if port.name in self.ends:
                self.enter(self.ends[port.name], source, to)
            elif port.name in self.ways:
                self.left[port.name] += 1
            else:
                self.got[port.name] += 1

    def round(self, name: str, source: str, vlan: int, to: str = "") -> None:
        """As ``enter``; a physical switch sends what leaves to all other uplinks."""
        self.enter(name, source, to)
        for left in tuple(self.left):
            for other in self.plan.uplinks:
                way = ways(self.plan, other).get(vlan)
                # What has a tag that the uplink knows not is dropped.
                if way is not None and way != left:
                    self.enter(way, source, to)


def ways(plan: NetworkPlan, name: str) -> dict[int, str]:
    """Return the interfaces of an uplink, or of a card whose guest tags, by VLAN."""
    return {0: name} | {link.vlan: link.name for link in plan.vlans if link.parent == name}


def members(plan: NetworkPlan, networks: Networks, cards: list[Card], vlan: int) -> dict[Card, str]:
    """Return the cards that are in a VLAN, and by which port."""
    found = {}
    for card in cards:
        own = networks.group(card.group).vlan
        if own == TRUNK:
            found[card] = ways(plan, card.tap)[vlan]
        elif own == vlan:
            found[card] = card.tap
    return found


VLANS = (0, 10)


@st.composite
def teams(draw) -> tuple[Networks, list[Card], LinkState]:
    uplinks = NICS[: draw(st.integers(2, 4))]
    order = draw(st.none() | st.permutations(uplinks))
    cut = draw(st.integers(1, 4))
    said = Teaming(draw(st.none() | BALANCING), None, draw(st.none() | st.booleans()))
    if order:
        said = replace(said, active=tuple(order[:cut]), standby=tuple(order[cut:]))
    override = replace(draw(st.none() | SAID) or AS_ABOVE)
    if override.orders:
        override = replace(
            override,
            active=tuple(name for name in override.active or () if name in uplinks),
            standby=tuple(name for name in override.standby or () if name in uplinks),
        )
    loose = PolicyOverride(draw(st.booleans()), True, True)
    networks = Networks(
        (SwitchFact("s", 0, uplinks=uplinks, teaming=said),),
        (
            PortGroupFact("plain", "s"),
            PortGroupFact("own", "s", teaming=override),
            PortGroupFact("loose", "s", security=loose),
            PortGroupFact("ten", "s", 10),
            PortGroupFact("trunk", "s", TRUNK),
        ),
    )
    groups = draw(
        st.lists(st.sampled_from(("plain", "own", "loose", "ten", "trunk")), min_size=1, max_size=6)
    )
    cards = [
        Card(str(number), draw(st.integers(0, 1)), f"00:50:56:00:00:{number:02x}", group)
        for number, group in enumerate(groups)
    ]
    down = draw(st.frozensets(st.sampled_from(uplinks)))
    return networks, cards, LinkState(down, tuple(sorted(down)))


@given(teams())
def test_what_a_card_sends_to_everybody_reaches_each_once_and_leaves_by_its_uplink(found):
    networks, cards, state = found
    plan = plan_network(networks, cards, state=state)
    for vlan in VLANS:
        ports = members(plan, networks, cards, vlan)
        for card, port in ports.items():
            outcome = Outcome(plan)
            outcome.round(port, card.mac, vlan)
            assert outcome.got == Counter(set(ports.values()) - {port})
            team = networks.team(networks.group(card.group))
            uplink = bound(team, int(card.vm) + card.number, card.mac, state)
            assert outcome.left == Counter([ways(plan, uplink)[vlan]] if uplink else [])


@given(teams())
def test_what_cards_send_each_other_goes_past_no_uplink(found):
    networks, cards, state = found
    plan = plan_network(networks, cards, state=state)
    for vlan in VLANS:
        ports = members(plan, networks, cards, vlan)
        for card, port in ports.items():
            for other, target in ports.items():
                if other is not card:
                    outcome = Outcome(plan)
                    outcome.round(port, card.mac, vlan, other.mac)
                    assert outcome.left == Counter()
                    assert outcome.got[target] == 1
                    assert set(outcome.got.values()) == {1}


@given(teams())
def test_what_comes_in_reaches_those_that_are_bound_to_its_uplink_and_leaves_by_none(found):
    networks, cards, state = found
    plan = plan_network(networks, cards, state=state)
    for vlan in VLANS:
        total: Counter[str] = Counter()
        for uplink in plan.uplinks:
            if vlan in ways(plan, uplink):
                outcome = Outcome(plan)
                outcome.enter(ways(plan, uplink)[vlan], STRANGER)
                assert outcome.left == Counter()
                total += outcome.got
        # Copies by all uplinks: each card takes one of them, unless its group takes no uplink.
        assert total == Counter(
            port
            for card, port in members(plan, networks, cards, vlan).items()
            if bound(networks.team(networks.group(card.group)), 0, card.mac, state)
        )


@given(teams())
def test_what_strangers_behind_a_card_send_to_everybody_comes_once_where_uplinks_work(found):
    networks, cards, state = found
    networks = replace(
        networks,
        groups=tuple(
            replace(group, teaming=AS_ABOVE, security=PolicyOverride(False, True, True))
            for group in networks.groups
        ),
    )
    plan = plan_network(networks, cards, state=state)
    for vlan in VLANS:
        ports = members(plan, networks, cards, vlan)
        for port in ports.values():
            outcome = Outcome(plan)
            if set(plan.uplinks) <= state.down:
                # No physical switch hears it: cables alone carry it.
                outcome.enter(port, STRANGER)
            else:
                outcome.round(port, STRANGER, vlan)
            assert outcome.got == Counter(set(ports.values()) - {port})


@given(teams())
def test_names_of_a_team_are_interfaces_of_linux_and_each_is_one(found):
    networks, cards, state = found
    plan = plan_network(networks, cards, state=state)
    names = [one.name for one in (*plan.bridges, *plan.vlans)]
    names += [end for cable in plan.cables for end in (cable.one, cable.other)]
    assert len(set(names)) == len(names)
    assert all(0 < len(name) < 16 for name in names)
    assert {port.bridge for port in plan.ports} <= {bridge.name for bridge in plan.bridges}
    assert {notice.by for notice in plan.notices} <= {port.name for port in plan.ports}


@given(teams())
def test_no_plan_has_more_cables_than_are_counted_before(found):
    networks, cards, state = found
    assert len(plan_network(networks, cards, state=state).cables) <= networks.cables()


def test_teams_that_take_too_many_cables_are_refused_and_fewer_uplinks_a_group_are_not():
    uplinks = tuple(f"eth{number}" for number in range(UPLINKS_LIMIT))
    networks = Networks((SwitchFact("s", 0, uplinks=uplinks),))
    each = UPLINKS_LIMIT * (UPLINKS_LIMIT - 1) // 2
    for vlan in range(CABLES_LIMIT // each):
        networks = networks.with_group(PortGroupFact(f"g{vlan}", "s", vlan))
    assert networks.cables() == each * (CABLES_LIMIT // each)
    another = PortGroupFact("another", "s", 4000)
    with pytest.raises(NotSupportedError) as caught:
        networks.with_group(another)
    assert "uplinks" in caught.value.remedy
    two = Teaming(active=uplinks[:1], standby=uplinks[1:2])
    wide = networks.with_group(replace(another, teaming=two))
    with pytest.raises(NotSupportedError):
        wide.changed_group("another", another, ())
    # Uplinks that come after the port groups are counted as well.
    narrow = replace(networks.switches[0], uplinks=uplinks[:4])
    less = networks.changed_switch(narrow, uplinks).with_group(another)
    with pytest.raises(NotSupportedError):
        less.changed_switch(networks.switches[0], uplinks)
    # Whoever has too many already can have fewer, step by step.
    other = PortGroupFact("other", "s", 4001)
    more = replace(networks, groups=(*networks.groups, another, other))
    fewer = more.changed_group("another", replace(another, teaming=two), ())
    assert more.cables() > fewer.cables() > CABLES_LIMIT


def test_two_uplinks_team_for_every_port_group_that_a_host_can_have():
    groups = tuple(PortGroupFact(f"g{vlan}", "s", vlan) for vlan in range(GROUPS_LIMIT))
    networks = Networks((SwitchFact("s", 0, uplinks=NICS[:2]),), groups)
    assert networks.cables() == GROUPS_LIMIT <= CABLES_LIMIT


def test_the_longest_names_of_a_team_still_fit():
    switch = SwitchFact("s", 126, uplinks=tuple(f"eth{n}" for n in range(UPLINKS_LIMIT)))
    groups = (PortGroupFact("t", "s", TRUNK), PortGroupFact("g", "s", 4094))
    cards = [Card(str(n), 0, f"00:50:56:00:00:{n:02x}", "g") for n in range(UPLINKS_LIMIT)]
    plan = plan_network(Networks((switch,), groups), cards)
    assert len(plan.cables) == UPLINKS_LIMIT * (UPLINKS_LIMIT - 1) // 2
    names = {port.name for port in plan.ports} | {bridge.name for bridge in plan.bridges}
    assert all(len(name) < 16 for name in names)


def test_one_uplink_is_wired_as_if_there_were_no_teams():
    one = replace(FIRST.switches[0], uplinks=("eth0",))
    networks = FIRST.changed_switch(one, NICS)
    cards = [Card(str(n), 0, f"00:50:56:00:00:{n:02x}", "VM Network") for n in range(4)]
    for state in (ALL_UP, LinkState(frozenset({"eth0"}))):
        plan = plan_network(networks, cards, state=state)
        assert [bridge.name for bridge in plan.bridges] == ["vs0v0"]
        assert (plan.cables, plan.notices) == ((), ())
        assert not any(port.isolated or port.beyond for port in plan.ports)
        assert not any(one.own for one in plan.filters)


def test_switches_are_told_where_cards_are_and_only_where_that_is_wanted():
    switch = replace(FIRST.switches[0], uplinks=("eth0", "eth1"))
    networks = FIRST.changed_switch(switch, NICS)
    cards = [Card(str(n), 0, f"00:50:56:00:00:{n:02x}", "VM Network") for n in range(2)]
    cards.append(Card("5", 0, "00:50:56:00:00:05", "VM Network", connected=False))
    assert plan_network(networks, cards).notices == (
        Notice(cards[0].mac, "eth0"),
        Notice(cards[1].mac, "eth1"),
    )
    group = replace(networks.groups[0], teaming=Teaming(notify=False))
    assert plan_network(networks.changed_group(group.name, group, ()), cards).notices == ()


def test_an_announcement_is_a_reverse_arp_request_for_the_address_itself():
    frame = announcement(MAC)
    own = bytes.fromhex(MAC.replace(":", ""))
    assert len(frame) == 60
    assert frame[:14] == b"\xff" * 6 + own + b"\x80\x35"
    # RFC 903: hardware Ethernet, protocol IPv4, operation 3, sender and target the same.
    assert frame[14:22].hex() == "0001080006040003"
    assert frame[22:42] == own + bytes(4) + own + bytes(4)
