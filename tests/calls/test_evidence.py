"""Attestation messages as JSON."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.calls import evidence
from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    BankValues,
    EvidenceReply,
    IdentityReply,
    Quote,
)
from casemate.errors import CasemateError, FormatError, LimitError
from casemate.machine.facts import ComponentFact
from casemate.policy.auditheads import LogHead

BLOB = st.binary(max_size=40)
TEXT = st.text(max_size=12)
COMPONENTS = st.builds(
    ComponentFact,
    file_name=TEXT,
    vib_id=TEXT,
    vib_name=TEXT,
    vib_version=TEXT,
    vib_vendor=TEXT,
    acceptance_level=TEXT,
    signer=TEXT,
    pcr=st.integers(0, 23),
    drtm_pcr=st.integers(0, 23),
    sha256=BLOB,
    sha384=BLOB,
    size=st.integers(0, 1 << 40),
)
BANKS = st.builds(
    BankValues,
    algorithm=TEXT,
    values=st.lists(st.tuples(st.integers(0, 23), BLOB), max_size=3).map(tuple),
)
MESSAGES = st.one_of(
    st.builds(IdentityReply, BLOB, BLOB, BLOB, TEXT, TEXT, TEXT),
    st.builds(ActivateCredential, BLOB, BLOB),
    st.builds(ActivationReply, BLOB),
    st.builds(
        Quote,
        BLOB,
        st.lists(TEXT, max_size=3).map(tuple),
        st.lists(st.integers(0, 23), max_size=4).map(tuple),
        st.integers(0, 9),
    ),
    st.builds(
        EvidenceReply,
        quotes=st.lists(st.tuples(BLOB, BLOB), max_size=2).map(tuple),
        pcrs=st.lists(BANKS, max_size=2).map(tuple),
        log=BLOB,
        components=st.lists(COMPONENTS, max_size=2).map(tuple),
        boot_complete=st.booleans(),
        taken=st.floats(allow_nan=False, allow_infinity=False),
        heads=st.lists(st.builds(LogHead, st.integers(0, 9), BLOB), max_size=2).map(tuple),
        measurements=BLOB,
    ),
)


@given(MESSAGES)
def test_what_is_encoded_decodes_to_the_same(message: evidence.Message) -> None:
    assert evidence.decode(type(message), evidence.encode(message)) == message


@pytest.mark.parametrize(
    ("number", "digest"), [(-1, b""), (1 << 53, b""), (10**4000, b""), (1, bytes(65))]
)
def test_entry_of_an_audit_log_without_end_is_refused(number: int, digest: bytes) -> None:
    good = EvidenceReply((), (), b"", (), boot_complete=True, taken=1, heads=(LogHead(7, b"7"),))
    value = json.loads(evidence.encode(good))
    value["heads"] = [{"number": number, "digest": base64.b64encode(digest).decode()}]
    with pytest.raises(FormatError):
        evidence.decode(EvidenceReply, json.dumps(value).encode())


@given(st.binary(max_size=300))
def test_any_bytes_give_only_our_error(body: bytes) -> None:
    with pytest.raises(CasemateError):
        evidence.decode(EvidenceReply, body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["quotes", "pcrs", "log", "components", "bootComplete", "taken"]),
                inner,
                max_size=6,
            )
        ),
    )
)
def test_any_json_gives_a_message_or_our_error(value: object) -> None:
    try:
        message = evidence.decode(EvidenceReply, json.dumps(value).encode())
    except CasemateError:
        return
    assert isinstance(message, EvidenceReply)


def test_requests_have_the_documented_names() -> None:
    body = json.loads(evidence.encode(Quote(b"n", ("sha256",), (11, 12))))
    assert body == {"nonce": "bg==", "banks": ["sha256"], "pcrs": [11, 12]}
    body = json.loads(evidence.encode(ActivateCredential(b"b", b"s")))
    assert body == {"credentialBlob": "Yg==", "encryptedSecret": "cw=="}


def test_a_field_given_twice_is_refused() -> None:
    with pytest.raises(FormatError):
        evidence.decode(ActivationReply, b'{"secret":"bg==","secret":"bw=="}')


def test_nesting_bomb_is_refused() -> None:
    with pytest.raises(FormatError):
        evidence.decode(ActivationReply, b"[" * 1_000_000)


def test_huge_number_is_refused() -> None:
    good = evidence.encode(EvidenceReply((), (), b"", (), boot_complete=True, taken=1))
    with pytest.raises(FormatError):
        evidence.decode(EvidenceReply, good.replace(b'"taken":1', b'"taken":' + b"9" * 400))


def test_a_body_beyond_the_limit_is_refused() -> None:
    with pytest.raises(LimitError):
        evidence.decode(Quote, b" " * (evidence.REQUEST_LIMIT + 1), limit=evidence.REQUEST_LIMIT)
