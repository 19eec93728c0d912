"""What guests say is believed in form alone, and bounded."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError
from casemate.machine import guestagent
from casemate.machine.facts import GuestInterface

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
NAMED = st.dictionaries(
    st.sampled_from(["return", "error", "host-name", "name", "hardware-address", "ip-addresses"]),
    JSON,
)


def reply(returned: object) -> bytes:
    return json.dumps({"return": returned}).encode()


def test_requests_are_lines_of_json() -> None:
    assert guestagent.command("guest-ping") == b'{"execute":"guest-ping"}\n'
    told = b'\xff{"execute":"guest-sync-delimited","arguments":{"id":7}}\n'
    assert guestagent.sync(7) == told


def test_name_and_interfaces_of_an_ordinary_guest() -> None:
    assert guestagent.host_name(guestagent.value(reply({"host-name": "web1"}))) == "web1"
    told = [
        {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": []},
        {
            "name": "ens3",
            "hardware-address": "00:50:56:AB:CD:EF",
            "ip-addresses": [
                {"ip-address-type": "ipv4", "ip-address": "192.0.2.7", "prefix": 24},
                {"ip-address-type": "ipv6", "ip-address": "fe80::1%ens3", "prefix": 64},
            ],
        },
    ]
    expected = GuestInterface("00:50:56:ab:cd:ef", ("192.0.2.7/24", "fe80::1/64"))
    assert guestagent.interfaces(guestagent.value(reply(told))) == (expected,)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"[" * 60000,
        b'{"return"',
        b'{"error": {"class": "GenericError"}}',
        b"[]",
        b"1",
        b'{"return": "' + b"a" * guestagent.REPLY_LIMIT + b'"}',
    ],
)
def test_a_reply_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(FormatError):
        guestagent.value(line)


@pytest.mark.parametrize(
    "name", [None, 7, {}, {"host-name": 1}, {"host-name": "a" * 256}, {"host-name": "a\x1b[2J"}]
)
def test_a_name_is_short_and_printable(name: object) -> None:
    with pytest.raises(FormatError):
        guestagent.host_name(name)


@given(st.binary(max_size=400) | NAMED.map(lambda told: json.dumps(told).encode()))
def test_whatever_a_guest_says_only_our_own_error_comes_out(line: bytes) -> None:
    try:
        returned = guestagent.value(line)
    except CasemateError:
        return
    for parse in (guestagent.host_name, guestagent.interfaces):
        try:
            parse(returned)
        except CasemateError:
            continue


def test_what_is_kept_of_interfaces_is_few() -> None:
    addresses = [{"ip-address": "::1", "prefix": number % 128} for number in range(200)]
    told = [{"hardware-address": "00:50:56:00:00:01", "ip-addresses": addresses}] * 100
    kept = guestagent.interfaces(told)
    assert len(kept) == guestagent.INTERFACES
    assert {len(one.addresses) for one in kept} == {guestagent.ADDRESSES}
