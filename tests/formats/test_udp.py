"""Datagrams in frames: what is written is read, and what is bent is refused."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError
from casemate.formats.udp import Datagram, End, checksum, parse_frame, write_frame

ENDS = st.builds(
    End, st.binary(min_size=6, max_size=6), st.ip_addresses(v=4), st.integers(0, 65535)
)
DATAGRAMS = st.builds(Datagram, ENDS, ENDS, st.binary(max_size=1472))


@given(DATAGRAMS)
def test_what_is_written_is_read_and_its_sums_are_right(datagram):
    frame = write_frame(datagram)
    assert parse_frame(frame) == datagram
    assert checksum(frame[14:34]) == 0
    length = len(frame) - 34
    pseudo = frame[26:34] + b"\0\x11" + length.to_bytes(2, "big")
    assert checksum(pseudo + frame[34:]) == 0


def test_a_known_header_has_its_known_sum():
    # The example that texts about RFC 1071 use.
    header = bytes.fromhex("4500003c1c4640004006b1e6ac100a63ac100a0c")
    assert checksum(header) == 0
    assert checksum(header[:10] + b"\0\0" + header[12:]) == 0xB1E6


@given(DATAGRAMS, st.data())
def test_a_frame_that_is_cut_anywhere_is_refused(datagram, data):
    frame = write_frame(datagram)
    with pytest.raises(FormatError):
        parse_frame(frame[: data.draw(st.integers(0, len(frame) - 1))])


@given(st.binary(max_size=200))
def test_whatever_the_bytes_only_our_own_error_escapes(data):
    with contextlib.suppress(FormatError):
        parse_frame(data)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        pytest.param(12, b"\x86\xdd", id="IPv6"),
        pytest.param(14, b"\x46", id="options"),
        pytest.param(14, b"\x65", id="version"),
        pytest.param(20, b"\x20\x00", id="first fragment"),
        pytest.param(20, b"\x00\x01", id="later fragment"),
        pytest.param(23, b"\x06", id="TCP"),
        pytest.param(16, b"\x00\x10", id="short packet"),
        pytest.param(38, b"\x00\x07", id="short datagram"),
        pytest.param(38, b"\xff\xff", id="long datagram"),
    ],
)
def test_what_is_no_whole_datagram_is_refused(place, value):
    end = End(bytes(6), IPv4Address("10.0.0.1"), 67)
    frame = write_frame(Datagram(end, end, b"hello"))
    with pytest.raises(FormatError):
        parse_frame(frame[:place] + value + frame[place + len(value) :])
