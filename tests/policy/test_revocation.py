"""The revocation list: who may write it, what it stops, and what cannot pass for one."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError
from casemate.formats.vib import parse_vib
from casemate.policy.acceptance import excuse, verify_vib
from casemate.policy.levels import Level
from casemate.policy.revocation import (
    Revocations,
    measured_text,
    parse_revocations,
    verify_revocations,
    write_revocations,
)
from casemate.policy.signedtext import join_signed
from casemate.testing.pki import NOW, SIGNED, shared_pki
from casemate.testing.vibs import make_vib, trust_of

VIB = parse_vib(make_vib())
DIGEST = hashlib.sha256(VIB.descriptor_bytes).digest()


def fingerprint(identity):
    return identity.certificate.fingerprint(hashes.SHA256())


def judged(revoked):
    return verify_vib(
        *(VIB.descriptor_bytes, VIB.signature, trust_of(shared_pki()), Level.PARTNER, NOW),
        revoked,
    )


def signed(revoked, level="certified"):
    body = write_revocations(revoked)
    return join_signed(body, shared_pki().sign(body, level))


def test_a_list_without_it_lets_a_vib_pass():
    assert judged(Revocations(1, NOW, {bytes(32): "x"}, {bytes(32): "y"})).signer


@pytest.mark.parametrize(
    ("revoked", "code"),
    [
        (Revocations(vibs={DIGEST: "CVE"}), "vib-revoked"),
        (Revocations(certificates={fingerprint(shared_pki().signers["partner"]): "lost"}), None),
        (Revocations(certificates={fingerprint(shared_pki().issuers["partner"]): "lost"}), None),
    ],
    ids=["the VIB", "its signer", "the CA above"],
)
def test_what_is_revoked_is_refused_and_never_excused(revoked, code):
    with pytest.raises(CasemateError) as caught:
        judged(revoked)
    assert caught.value.code == (code or "signer-revoked")
    with pytest.raises(CasemateError):
        excuse(caught.value, VIB.descriptor)


@pytest.mark.parametrize("level", ["accepted", "partner", "community"])
def test_only_the_strictest_level_may_revoke(level):
    with pytest.raises(CasemateError) as caught:
        verify_revocations(signed(Revocations(1, NOW), level), trust_of(shared_pki()), NOW)
    assert caught.value.code == "signer-untrusted"


def test_an_unsigned_or_changed_list_is_refused():
    data = signed(Revocations(1, SIGNED, {}, {DIGEST: "CVE"}))
    assert verify_revocations(data, trust_of(shared_pki()), NOW).vibs == {DIGEST: "CVE"}
    for bad in (data.replace(b"CVE", b"XXX"), data.partition(b"-----")[0]):
        with pytest.raises(CasemateError):
            verify_revocations(bad, trust_of(shared_pki()), NOW)


@given(
    st.dictionaries(st.binary(min_size=32, max_size=32), st.text("abc -", max_size=9)),
    st.integers(0, 1 << 50),
)
def test_what_is_written_is_read(entries, number):
    revoked = Revocations(number, SIGNED, entries, {})
    assert parse_revocations(write_revocations(revoked)) == revoked


@given(st.binary(max_size=200))
def test_whatever_the_bytes_only_our_errors_come_out(data):
    with pytest.raises(CasemateError):
        parse_revocations(data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"revocations-1", b"revocations-9"),
        (b'"number": 1', b'"number": -1'),
        (b'"number": 1', b'"number": true'),
        (b'"reason"', b'"why"'),
        (b"CVE", b"C\\u001b[2J"),
        (DIGEST.hex().encode(), b"00"),
        (DIGEST.hex().encode(), b"zz" * 32),
        (b'"vibs": [', b'"vibs": {"x": ['),
        (b"2026-", b"26-"),
    ],
)
def test_lists_with_odd_values_are_refused(old, new):
    body = write_revocations(Revocations(1, SIGNED, {}, {DIGEST: "CVE"}))
    assert old in body
    with pytest.raises(CasemateError):
        parse_revocations(body.replace(old, new))


def test_a_boot_shows_which_list_was_in_force():
    data = signed(Revocations(7, SIGNED))
    text = measured_text(data, Revocations(7, SIGNED))
    assert text == f"revocationList = 7 {hashlib.sha256(data).hexdigest()}"
