"""The framing of the calls: strict both ways, and never anything but our own error."""

from __future__ import annotations

import contextlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.calls import messages
from casemate.calls.codec import (
    FRAME_LIMIT,
    REQUEST_LIMIT,
    FrameReader,
    decode,
    encode,
    encode_request,
)
from casemate.calls.messages import FactReply, Login, Logout, PowerOn, Quote, Subscribe
from casemate.calls.vocabulary import REQUESTS
from casemate.errors import FormatError, LimitError
from casemate.machine.facts import Allocation, PoolFact, TaskFact, TaskState

REPLIES = (FactReply, messages.Refusal, messages.Empty)


def body_of(frame: bytes) -> bytes:
    reader = FrameReader()
    reader.feed(frame)
    body = reader.next()
    assert body is not None
    return body


@given(
    st.builds(Login, user=st.text(), password=st.text(), peer=st.text())
    | st.builds(PowerOn, session=st.text(), vm=st.text(), why=st.text())
    | st.builds(
        Quote,
        nonce=st.binary(),
        banks=st.lists(st.text()).map(tuple),
        pcrs=st.lists(st.integers(-(2**31), 2**31)).map(tuple),
    ),
    st.integers(0, 2**31),
)
def test_every_request_survives_the_way_through(request: object, number: int) -> None:
    assert decode(body_of(encode(number, request)), REQUESTS) == (number, request)


@given(st.binary(max_size=300))
def test_whatever_the_bytes_only_our_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        decode(data, REQUESTS)


def test_facts_with_nested_values_and_enums_survive() -> None:
    task = TaskFact("t", "1", "VirtualMachine", "powerOn", TaskState.RUNNING, 0, 1.5, "root")
    pool = PoolFact("ha-root-pool", "Resources", "", Allocation(limit=-1), Allocation())
    for fact in (task, pool):
        message = FactReply("epoch", 1, type(fact).__name__, fact.key, fact)
        assert decode(body_of(encode(0, message)), REPLIES) == (0, message)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(
            {"id": 1, "is": "FormatDisk", "of": {}}, id="a request that is not on the list"
        ),
        pytest.param({"id": 1, "is": "Empty", "of": {}}, id="a reply offered as a request"),
        pytest.param({"id": 1, "is": "Subscribe", "of": {"uid": 0}}, id="a field too many"),
        pytest.param({"id": 1, "is": "PowerOn", "of": {"session": ""}}, id="a field too few"),
        pytest.param(
            {"id": 1, "is": "PowerOn", "of": {"session": 1, "vm": "1"}}, id="a number for a text"
        ),
        pytest.param({"id": True, "is": "Subscribe", "of": {}}, id="a truth value for the id"),
        pytest.param({"is": "Subscribe", "of": {}}, id="no id"),
        pytest.param(
            {"id": cbor2.CBORTag(2, b"\1"), "is": "Subscribe", "of": {}},
            id="a number that is built",
        ),
        pytest.param(
            {"id": 1, "is": cbor2.CBORTag(35, "(a+)+"), "of": {}}, id="an expression to compile"
        ),
        pytest.param(
            {"id": 1, "is": "Subscribe", "of": cbor2.CBORTag(28, {})}, id="a value to share"
        ),
        pytest.param({"id": 1, "is": "Subscribe", "of": []}, id="fields that are a list"),
        pytest.param(
            {"id": 1, "is": "Subscribe", "of": {}, "as": "root"}, id="something beside the frame"
        ),
    ],
)
def test_a_frame_that_is_not_exactly_right_is_refused(frame: object) -> None:
    with pytest.raises(FormatError):
        decode(cbor2.dumps(frame), REQUESTS)


def test_a_frame_that_announces_too_much_is_refused_before_it_arrives() -> None:
    with pytest.raises(LimitError):
        FrameReader().feed((FRAME_LIMIT + 1).to_bytes(4, "big"))


@given(st.integers(1, 7))
def test_frames_arrive_whole_however_they_are_cut(step: int) -> None:
    stream = encode(1, Subscribe()) + encode(2, PowerOn("s", "7"))
    reader, bodies = FrameReader(), []
    for start in range(0, len(stream), step):
        reader.feed(stream[start : start + step])
        while (body := reader.next()) is not None:
            bodies.append(decode(body, REQUESTS))
    assert bodies == [(1, Subscribe()), (2, PowerOn("s", "7"))]


def test_every_request_names_its_reply_and_its_privilege() -> None:
    for request in REQUESTS:
        assert isinstance(request.reply, type)
        assert "." in request.privilege


def test_a_request_that_the_kernel_would_not_take_is_not_sent() -> None:
    encode_request(1, Logout("x" * (REQUEST_LIMIT - 100)))
    with pytest.raises(LimitError):
        encode_request(1, Logout("x" * REQUEST_LIMIT))
