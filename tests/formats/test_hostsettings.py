"""What a new host is told: whatever the bytes, a network that works or an error of ours."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, CasemateError, FormatError
from casemate.formats.hostsettings import (
    SIZE_LIMIT,
    FirstSettings,
    HostNetwork,
    check_hash,
    host_network,
    parse_first,
    parse_network,
    write_first,
    write_network,
)

HASH = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21l$" + "A" * 43
NETWORKS = st.builds(
    lambda bits, prefix, host, gateway: (bits, prefix, host, gateway),
    st.integers(1 << 24, (223 << 24) - 1).filter(lambda ip: ip >> 24 != 127),
    st.integers(8, 30),
    st.integers(1, 2**22),
    st.integers(1, 2**22),
)


def dotted(number: int) -> str:
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


@given(NETWORKS)
def test_a_network_is_kept_as_it_was_given(numbers):
    bits, prefix, host, gateway = numbers
    room = (1 << (32 - prefix)) - 2
    base = bits >> (32 - prefix) << (32 - prefix)
    own, other = base + 1 + host % room, base + 1 + gateway % room
    mask = dotted((1 << 32) - (1 << (32 - prefix)))
    given_gateway = dotted(other) if other != own else ""
    network = host_network("esx1", dotted(own), mask, given_gateway)
    assert network == host_network("esx1", dotted(own), str(prefix), given_gateway)
    assert parse_network(write_network(network)) == network
    first = FirstSettings(network, HASH)
    assert parse_first(write_first(first)) == first
    assert HASH not in repr(first)


def test_nothing_chosen_is_the_usual_name_and_dhcp():
    assert parse_first(write_first(FirstSettings())) == FirstSettings(HostNetwork("casemate"))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "casemate-first-2"},
        {"shell": "/bin/sh"},
        {"passwordHash": "x"},
        {"passwordHash": HASH.replace("m=65536", "m=9999999")},
        {"passwordHash": HASH.replace("t=3", "t=999")},
        {"network": None},
        {"network": {"hostName": "a b", "address": "", "gateway": ""}},
        {"network": {"hostName": "a" * 65, "address": "", "gateway": ""}},
        {"network": {"hostName": "a", "address": "192.0.2.1", "gateway": ""}},
        {"network": {"hostName": "a", "address": "192.0.2.1/33", "gateway": ""}},
        {"network": {"hostName": "a", "address": "192.0.2.1/24", "gateway": "192.0.2.1"}},
        {"network": {"hostName": "a", "address": "", "gateway": "192.0.2.1"}},
    ],
)
def test_settings_that_are_not_plain_are_refused(change):
    facts = json.loads(write_first(FirstSettings())) | change
    with pytest.raises(FormatError):
        parse_first(json.dumps(facts).encode())


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.text(max_size=9), st.lists).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_bytes_give_an_error_of_ours(data):
    for parse in (parse_first, parse_network):
        with pytest.raises(CasemateError):
            parse(data)


def test_settings_too_large_are_refused_before_they_are_read():
    with pytest.raises(FormatError):
        parse_first(b" " * SIZE_LIMIT + write_first(FirstSettings()))


@given(st.text(max_size=200))
def test_no_other_text_is_taken_for_a_hash(text):
    with pytest.raises(ArgumentError):
        check_hash(text)
