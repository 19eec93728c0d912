"""A DHCP server that gives a card its own address and nobody anything else."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError
from casemate.formats.dhcp import (
    CLIENT_PORT,
    SERVER_PORT,
    Kind,
    Request,
    parse_reply,
    parse_request,
    write_request,
)
from casemate.formats.udp import Datagram, End, parse_frame, write_frame
from casemate.machine.dhcp import DhcpService, answer, answer_frame, load_service

CARD = bytes.fromhex("005056000001")
OTHER = bytes.fromhex("005056000002")
STRANGER = bytes.fromhex("005056000099")
SERVICE = DhcpService(
    "10.1.2.0/24",
    "10.1.2.1",
    "02:ca:5e:00:00:00",
    ("192.0.2.53", "192.0.2.54"),
    1400,
    {"00:50:56:00:00:01": "10.1.2.7", "00:50:56:00:00:02": "10.1.2.8"},
)
NOWHERE, EVERYBODY = IPv4Address(0), IPv4Address("255.255.255.255")


def frame(data: bytes, source: bytes = CARD, ports: tuple[int, int] = (CLIENT_PORT, SERVER_PORT)):
    return write_frame(
        Datagram(End(source, NOWHERE, ports[0]), End(b"\xff" * 6, EVERYBODY, ports[1]), data)
    )


def asked(kind: Kind, **more) -> Request:
    plain = Request(kind, 7, CARD, broadcast=False, present=NOWHERE, wanted=None, server=None)
    return replace(plain, **more)


def test_a_client_of_our_own_gets_its_address_gateway_and_name_servers():
    """The client that a machine itself uses understands the server, by way of real frames."""
    offered = answer_frame(SERVICE, frame(write_request(7, CARD, "guest")))
    reply = parse_frame(offered)
    assert reply.target.hardware == CARD
    assert reply.source == End(bytes.fromhex("02ca5e000000"), IPv4Address("10.1.2.1"), SERVER_PORT)
    offer = parse_reply(reply.data, 7, CARD)
    assert offer.kind is Kind.OFFER
    given_now = answer_frame(SERVICE, frame(write_request(7, CARD, "guest", offer)))
    lease = parse_reply(parse_frame(given_now).data, 7, CARD)
    assert (lease.kind, str(lease.address), str(lease.gateway)) == (
        Kind.ACK,
        "10.1.2.7/24",
        "10.1.2.1",
    )
    assert [str(server) for server in lease.name_servers] == ["192.0.2.53", "192.0.2.54"]


def test_a_card_that_is_none_of_the_switch_gets_no_answer():
    assert answer_frame(SERVICE, frame(write_request(7, STRANGER, "x"), STRANGER)) is None


def test_a_card_cannot_ask_in_the_name_of_others():
    """One card cannot take all addresses by asking with made-up addresses in the message."""
    for number in range(256):
        name = bytes([0, 0x50, 0x56, 0, 0, number])
        found = answer_frame(SERVICE, frame(write_request(7, name, "x"), CARD))
        assert (found is None) == (name != CARD)


@given(st.ip_addresses(v=4))
def test_no_other_address_than_the_cards_own_is_confirmed(wanted):
    told = answer(SERVICE, asked(Kind.REQUEST, wanted=wanted))
    assert told is not None
    assert (told.kind is Kind.ACK) == (wanted == IPv4Address("10.1.2.7"))


def test_what_is_for_another_server_is_not_answered():
    theirs = IPv4Address("10.1.2.99")
    assert answer(SERVICE, asked(Kind.REQUEST, server=theirs)) is None
    for kind in (Kind.RELEASE, Kind.DECLINE, Kind.OFFER, Kind.ACK, Kind.NAK):
        assert answer(SERVICE, asked(kind)) is None
    assert answer_frame(SERVICE, frame(write_request(7, CARD, "x"), ports=(5000, 67))) is None


def test_a_guest_that_renews_is_told_at_its_address_and_one_that_asks_aloud_aloud():
    own = IPv4Address("10.1.2.7")
    plain = write_request(7, CARD, "x")
    quiet = plain[:10] + b"\0\0" + own.packed + plain[16:]
    offered = parse_frame(answer_frame(SERVICE, frame(plain)))
    assert offered.target.address == EVERYBODY
    assert parse_frame(answer_frame(SERVICE, frame(quiet))).target.address == own


def test_who_only_wants_to_know_gets_no_address():
    data = bytearray(write_request(7, CARD, "x"))
    data[data.index(b"\x35\x01\x01") + 2] = Kind.INFORM
    told = parse_frame(answer_frame(SERVICE, frame(bytes(data)))).data
    assert told[16:20] == bytes(4)
    assert parse_reply(told, 7, CARD).seconds == 0


@given(st.binary(max_size=400))
def test_whatever_is_asked_only_our_own_error_escapes(data):
    for message in (data, write_request(7, CARD, "x")[:240] + data):
        try:
            found = answer_frame(SERVICE, frame(message))
        except FormatError:
            continue
        assert found is None or parse_frame(found).target.hardware == CARD


@given(st.data())
def test_a_bent_question_is_answered_to_its_card_or_not_at_all(data):
    good = bytearray(frame(write_request(7, CARD, "guest")))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = answer_frame(SERVICE, bytes(good))
    except FormatError:
        return
    assert found is None or parse_frame(found).target.hardware in {CARD, OTHER}


@given(st.integers(0, 2**32 - 1), st.binary(min_size=6, max_size=6), st.text(max_size=80))
def test_what_our_client_asks_is_read_as_it_was_asked(transaction, card, name):
    read = parse_request(write_request(transaction, card, name))
    assert (read.kind, read.transaction, read.hardware) == (Kind.DISCOVER, transaction, card)


def test_what_a_server_knows_is_read_as_it_was_written():
    assert load_service(SERVICE.dump()) == SERVICE


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"null", b'{"name_servers": 1}'])
def test_what_is_no_service_is_refused(data):
    with pytest.raises(FormatError):
        load_service(data)
