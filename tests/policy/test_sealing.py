"""Keys of the state: the policy is the TPM's own, recovery keys survive people, never strangers."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, FormatError, VerificationError
from casemate.formats.statekey import Sealed, StateKey, parse_state_key, write_state_key
from casemate.policy.sealing import (
    difference,
    parse_recovery,
    policy_digest,
    recovery_text,
    unwrap,
    wrap,
)

KEYS = st.binary(min_size=32, max_size=32)
IDENTIFIER = "00000000-0000-4000-8000-000000000001"


def test_the_policy_is_put_together_as_the_specification_says() -> None:
    """TPM 2.0 Library, part 3, TPM2_PolicyPCR: old digest, command code, selection, PCR digest."""
    value = hashlib.sha256(b"seven").digest()
    expected = hashlib.sha256(
        bytes(32)
        + bytes.fromhex("0000017f 00000001 000b 03 800000".replace(" ", ""))
        + hashlib.sha256(value).digest()
    ).digest()
    assert policy_digest({7: value}) == expected
    assert policy_digest({7: value, 14: bytes(32)}) == policy_digest({14: bytes(32), 7: value})


@given(KEYS, st.sampled_from(["-", " ", "", " - ", "\t"]))
def test_a_recovery_key_survives_being_written_down(key: bytes, between: str) -> None:
    text = recovery_text(key)
    assert len(text.split("-")) == 16
    assert all(len(group) == 6 for group in text.split("-"))
    assert parse_recovery(text.replace("-", between)) == key


@given(KEYS, st.integers(0, 15), st.integers(0, 5), st.integers(1, 9))
def test_a_mistyped_digit_is_found_and_its_group_named(
    key: bytes, group: int, digit: int, more: int
) -> None:
    groups = recovery_text(key).split("-")
    before = groups[group]
    other = str((int(before[digit]) + more) % 10)
    groups[group] = before[:digit] + other + before[digit + 1 :]
    with pytest.raises(ArgumentError, match=f"Group {group + 1} ") as caught:
        parse_recovery("-".join(groups))
    assert groups[group] not in caught.value.reason


@pytest.mark.parametrize("text", ["", "1" * 95, "1" * 97, "x" * 600, "\u0661" * 96])
def test_what_is_no_recovery_key_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError):
        parse_recovery(text)


@given(KEYS, KEYS)
def test_only_its_own_recovery_key_opens_a_box(own: bytes, other: bytes) -> None:
    key, nonce = bytes(64), bytes(12)
    box = wrap(key, own, IDENTIFIER, nonce)
    assert unwrap(box, own, IDENTIFIER, nonce) == key
    if own != other:
        with pytest.raises(VerificationError):
            unwrap(box, other, IDENTIFIER, nonce)
    with pytest.raises(VerificationError):
        unwrap(box, own, IDENTIFIER.replace("1", "2"), nonce)
    with pytest.raises(VerificationError):
        unwrap(box[:-1] + bytes([box[-1] ^ 1]), own, IDENTIFIER, nonce)


def test_what_firmware_measured_otherwise_is_named() -> None:
    before = (("SecureBoot", "aa"), ("PK", "bb"), ("db", "cc"))
    after = (("SecureBoot", "ab"), ("PK", "bb"), ("db", "cc"), ("dbx", "dd"))
    assert difference(before, after) == ("SecureBoot", "dbx")
    assert difference(before, before) == ()


RECORDS = st.builds(
    StateKey,
    serial=st.integers(0, 1 << 40),
    recovery_id=st.uuids().map(str),
    nonce=KEYS,
    box=st.binary(max_size=100),
    sealed=st.builds(
        Sealed,
        pcrs=st.dictionaries(st.integers(0, 23), KEYS, min_size=1).map(
            lambda one: tuple(sorted(one.items()))
        ),
        public=st.binary(max_size=100),
        private=st.binary(max_size=200),
        events=st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=3).map(tuple),
    ),
    fresh=st.booleans(),
)


@given(RECORDS)
def test_a_record_survives(record: StateKey) -> None:
    assert parse_state_key(write_state_key(record)) == record


@given(st.one_of(st.binary(max_size=300), RECORDS.map(write_state_key)), st.integers(0, 500))
def test_whatever_the_bytes_only_our_error_escapes(data: bytes, cut: int) -> None:
    for one in (data[:cut], data.replace(b'"', b"", 1), data.replace(b"{", b"[", 1)):
        try:
            parse_state_key(one)
        except FormatError:
            continue
