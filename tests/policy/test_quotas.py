"""Quotas: one who takes everything takes it from itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from casemate.policy.quotas import displaced, peer_of_address

OF_ONE, LIMIT = 4, 10


@given(st.lists(st.sampled_from("abcdef"), max_size=60))
def test_there_are_never_too_many_and_the_modest_lose_nothing(askers: list[str]) -> None:
    kept: dict[int, str] = {}
    for number, asker in enumerate(askers):
        held = list(kept.values()).count(asker)
        old = displaced(kept, asker, of_one=OF_ONE, limit=LIMIT)
        if old is not None:
            loser = kept[old]
            assert old == min(key for key, one in kept.items() if one == loser)
            others = [list(kept.values()).count(one) for one in set(kept.values())]
            assert loser == asker or list(kept.values()).count(loser) == max(others)
            del kept[old]
        kept[number] = asker
        assert len(kept) <= LIMIT
        assert list(kept.values()).count(asker) <= max(held + 1, OF_ONE)
        assert list(kept.values()).count(asker) <= OF_ONE


def test_a_flood_of_one_costs_others_nothing() -> None:
    kept = dict.fromkeys(range(3), "honest")
    for number in range(3, 1000):
        if (old := displaced(kept, "greedy", of_one=OF_ONE, limit=LIMIT)) is not None:
            del kept[old]
        kept[number] = "greedy"
    assert list(kept.values()).count("honest") == 3


def test_a_subscriber_of_ipv6_is_one_peer() -> None:
    assert peer_of_address("2001:db8:1:2::5") == peer_of_address("2001:db8:1:2:ffff::9%eth0")
    assert peer_of_address("2001:db8:1:2::5") != peer_of_address("2001:db8:1:3::5")
    assert peer_of_address("::ffff:192.0.2.1") == peer_of_address("192.0.2.1")
    assert len(peer_of_address("x" * 1000)) == 64
