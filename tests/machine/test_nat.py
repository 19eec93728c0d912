"""Private networks of switches: chosen apart from all others, one address a card."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, LimitError
from casemate.machine.nat import (
    ADDRESSES,
    Nat,
    check_nat,
    choose_network,
    give_addresses,
    overlapping,
    reachable_server,
)

NAT = Nat("10.1.2.0/24")
SMALL = Nat("10.1.2.0/28")
CARDS = st.lists(st.integers(0, 40).map(lambda number: f"00:50:56:00:00:{number:02x}"), max_size=30)


@pytest.mark.parametrize(
    "network",
    ["8.8.8.0/24", "127.0.0.0/24", "169.254.0.0/24", "10.0.0.0/8", "10.0.0.0/30", "x", ""],
)
def test_a_network_that_is_not_private_or_of_no_use_is_refused(network):
    with pytest.raises(ArgumentError):
        check_nat(Nat(network))


@pytest.mark.parametrize("network", ["10.1.2.1/24", "10.1.2.0/24/3", "fd00::/64"])
def test_what_is_no_network_is_refused(network):
    with pytest.raises(ArgumentError):
        check_nat(Nat(network))


def test_networks_that_can_be_are_taken():
    for network in ("10.1.2.0/24", "192.168.7.0/28", "172.20.0.0/16", "100.64.0.0/24"):
        check_nat(Nat(network, name_servers=("9.9.9.9",)))


@pytest.mark.parametrize("server", ["127.0.0.53", "169.254.169.253", "224.0.0.1", "::1", "x", ""])
def test_a_name_server_that_guests_cannot_reach_is_refused(server):
    assert not reachable_server(server)
    with pytest.raises(ArgumentError):
        check_nat(Nat("10.1.2.0/24", name_servers=(server,)))


def test_more_name_servers_than_a_resolver_asks_are_refused():
    with pytest.raises(ArgumentError):
        check_nat(Nat("10.1.2.0/24", name_servers=("9.9.9.9",) * 4))


@given(st.text(max_size=20), st.lists(st.integers(0, 65535), max_size=5))
def test_a_chosen_network_is_apart_from_those_taken(seed, numbers):
    taken = [f"10.{number >> 8}.{number & 255}.0/24" for number in numbers]
    chosen = choose_network(seed, taken)
    assert not overlapping(chosen, taken)
    check_nat(Nat(chosen))
    again = choose_network(seed, [*taken, chosen])
    assert not overlapping(again, [*taken, chosen])


def test_no_network_is_left_where_all_are_taken():
    with pytest.raises(LimitError):
        choose_network("x", ["0.0.0.0/0"])


@given(CARDS, CARDS, CARDS)
def test_each_card_has_one_address_of_its_own_and_keeps_it(first, second, third):
    before: dict[str, str] = {}
    for cards in (first, second, third):
        given_now = dict(give_addresses(NAT, before, cards))
        assert len(set(given_now.values())) == len(given_now)
        assert set(cards) <= set(given_now)
        assert all(given_now[mac] == address for mac, address in before.items())
        for address in given_now.values():
            assert IPv4Address(address) in IPv4Network(NAT.network)
            assert address not in {"10.1.2.0", "10.1.2.1", "10.1.2.255"}
        before = given_now


def test_the_card_that_is_longest_away_gives_its_address_first():
    def macs(*numbers: int) -> list[str]:
        return [f"00:50:56:00:00:{number:02x}" for number in numbers]

    full = dict(give_addresses(SMALL, {}, macs(*range(13))))
    assert len(full) == 13
    without_two = dict(give_addresses(SMALL, full, macs(*range(1, 6), *range(7, 13))))
    without_two = dict(give_addresses(SMALL, without_two, macs(*range(2, 6), *range(7, 13))))
    # 0 and 6 have been away longer than 1.
    after = dict(give_addresses(SMALL, without_two, macs(*range(2, 6), *range(7, 13), 50, 51)))
    assert set(full) - set(after) == {*macs(0, 6)}
    assert after[macs(1)[0]] == full[macs(1)[0]]


def test_where_there_are_more_cards_than_addresses_the_last_get_none():
    macs = [f"00:50:56:00:{number >> 8:02x}:{number & 255:02x}" for number in range(300)]
    given_now = dict(give_addresses(Nat("10.1.0.0/16"), {}, macs))
    assert list(given_now) == macs[:ADDRESSES]
    assert len(give_addresses(SMALL, given_now, macs)) == 13


def test_addresses_of_a_former_network_are_given_no_more():
    former = {"00:50:56:00:00:01": "10.9.9.2"}
    assert dict(give_addresses(NAT, former, former)) == {"00:50:56:00:00:01": "10.1.2.2"}
