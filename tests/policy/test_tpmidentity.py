"""Whose TPM it is: forged certificates, swapped keys, unfit keys."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import AppraisalError, CasemateError, FormatError, SignatureError, TpmError
from casemate.formats.tpm import ENTROPY_SIZE, Attributes, write_public
from casemate.formats.tpm.public import AK_ATTRIBUTES
from casemate.policy.tpmidentity import (
    Claim,
    check_activation,
    check_identity,
    load_ek_roots,
    make_challenge,
)
from casemate.testing.pki import NOW, issue
from casemate.testing.smallhost import SmallHost, ek_certificate, ek_maker
from casemate.testing.softkeys import SoftEk, SoftKey

ROOTS = (ek_maker().certificate,)
HOST = SmallHost()
CLAIM = HOST.claim()


def refusal(claim: Claim, roots: tuple[x509.Certificate, ...] = ROOTS) -> str:
    with pytest.raises((AppraisalError, SignatureError)) as caught:
        check_identity(claim, roots, NOW)
    assert caught.value.remedy
    return caught.value.code


def test_a_genuine_tpm_is_known_by_its_ek() -> None:
    identity = check_identity(HOST.claim(), ROOTS, NOW)
    again = check_identity(HOST.claim(), ROOTS, NOW)
    assert identity.fingerprint == again.fingerprint
    assert identity.fingerprint != check_identity(SmallHost().claim(), ROOTS, NOW).fingerprint
    assert identity.warnings == ()
    assert "TPM maker" in identity.issuer


def test_an_ek_certificate_by_a_stranger_of_the_same_name_is_refused() -> None:
    forged = ek_certificate(HOST.ek, issue("TPM maker", authority=True))
    assert refusal(replace(HOST.claim(), ek_certificate=forged)) == "ek-signature"


def test_a_pinned_certificate_that_is_no_ca_vouches_for_nothing() -> None:
    leaf = issue("TPM maker")
    forged = ek_certificate(HOST.ek, leaf)
    claim = replace(HOST.claim(), ek_certificate=forged)
    assert refusal(claim, (leaf.certificate,)) == "ek-untrusted"


def test_no_pinned_root_trusts_nobody() -> None:
    assert refusal(HOST.claim(), ()) == "ek-untrusted"


def test_the_certificate_of_another_ek_is_refused() -> None:
    other = ek_certificate(SoftEk())
    assert refusal(replace(HOST.claim(), ek_certificate=other)) == "ek-mismatch"


def test_a_tpm_without_certificate_is_refused() -> None:
    assert refusal(replace(HOST.claim(), ek_certificate=b"")) == "ek-missing"


@pytest.mark.parametrize("authority", [True, False])
def test_a_certificate_that_is_not_an_eks_is_refused(authority: bool) -> None:
    other = issue("web server", ek_maker(), authority=authority)
    data = other.certificate.public_bytes(serialization.Encoding.DER)
    assert refusal(replace(HOST.claim(), ek_certificate=data)) == "ek-profile"


@pytest.mark.parametrize(
    "attributes",
    [
        *(AK_ATTRIBUTES & ~one for one in Attributes if one in AK_ATTRIBUTES),
        AK_ATTRIBUTES | Attributes.DECRYPT,
    ],
)
def test_a_key_that_could_sign_anything_or_come_from_outside_is_refused(
    attributes: Attributes,
) -> None:
    key = SoftKey(attributes=attributes)
    claim = replace(HOST.claim(), ak_public=write_public(key.public))
    assert refusal(claim) == "ak-attributes"


def test_a_short_attestation_key_is_refused() -> None:
    key = SoftKey(rsa.generate_private_key(public_exponent=65537, key_size=1024))
    assert refusal(replace(HOST.claim(), ak_public=write_public(key.public))) == "weak-key"


def test_an_expired_ek_certificate_is_a_warning_only() -> None:
    late = NOW + timedelta(days=36500)
    (warning,) = check_identity(HOST.claim(), ROOTS, late).warnings
    assert warning.code == "ek-expired"


@pytest.mark.parametrize("kind", ["ecc", "rsa"])
def test_the_tpm_with_both_keys_answers_the_challenge_and_no_other(kind: str) -> None:
    host = SmallHost()
    if kind == "rsa":
        host.ek = SoftEk(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    identity = check_identity(host.claim(), ROOTS, NOW)
    secret = secrets.token_bytes(32)
    challenge = make_challenge(identity, secret, secrets.token_bytes(ENTROPY_SIZE))
    check_activation(host.ek.activate(challenge, host.ak.public.name()), secret)
    with pytest.raises(TpmError):
        host.ek.activate(challenge, SoftKey().public.name())
    with pytest.raises(CasemateError):
        SmallHost().ek.activate(challenge, host.ak.public.name())


@pytest.mark.parametrize(("answer", "secret"), [(b"a", b"b"), (b"", b""), (b"", b"b"), (b"b", b"")])
def test_a_wrong_or_empty_answer_is_refused(answer: bytes, secret: bytes) -> None:
    with pytest.raises(AppraisalError) as caught:
        check_activation(answer, secret)
    assert caught.value.code == "activation"


@given(st.sampled_from(["ek_certificate", "ek_public", "ak_public"]), st.binary(max_size=200))
def test_any_bytes_give_only_our_error(field: str, data: bytes) -> None:
    with pytest.raises(CasemateError):
        check_identity(replace(HOST.claim(), **{field: data}), ROOTS, NOW)


@given(st.data())
def test_any_damaged_certificate_gives_only_our_error_or_says_the_same(data: st.DataObject) -> None:
    claim = CLAIM
    place = data.draw(st.integers(0, len(claim.ek_certificate) - 1))
    bits = data.draw(st.integers(1, 255))
    raw = bytearray(claim.ek_certificate)
    raw[place] ^= bits
    try:
        check_identity(replace(claim, ek_certificate=bytes(raw)), ROOTS, NOW)
    except CasemateError:
        return
    signed = [
        x509.load_der_x509_certificate(one).tbs_certificate_bytes
        for one in (bytes(raw), claim.ek_certificate)
    ]
    assert signed[0] == signed[1]


def test_a_huge_certificate_is_refused() -> None:
    with pytest.raises(FormatError):
        check_identity(replace(HOST.claim(), ek_certificate=b"\x30" * 100_000), ROOTS, NOW)


def test_roots_are_read_as_pem_or_der_and_nothing_else() -> None:
    maker = ek_maker()
    der = maker.certificate.public_bytes(serialization.Encoding.DER)
    assert [root.raw for root in load_ek_roots([maker.pem, der])] == [der, der]
    for bad in (b"", b"\x30\x82", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"):
        with pytest.raises(FormatError):
            load_ek_roots([bad])
