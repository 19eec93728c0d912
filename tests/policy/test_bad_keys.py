"""Bad inputs, keys and certificates: entries BI-027 to BI-042 of the catalogue, a test each."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from casemate.formats import tpm
from casemate.formats.ekcert import parse_lenient
from casemate.policy.ekchain import EkStore, check_ek_certificate, revoked_by
from casemate.policy.enrolment import (
    Issued,
    Pinned,
    check_challenge,
    check_key,
    check_registration,
)
from casemate.policy.tpmidentity import TpmIdentity, check_identity
from casemate.testing import ekcerts
from casemate.testing.expect import codes, refused
from casemate.testing.pki import NOW
from casemate.testing.smallhost import SmallHost, ek_maker
from casemate.testing.softkeys import SoftKey

T0 = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
HOST = SmallHost()


def identity(host: SmallHost = HOST) -> TpmIdentity:
    return check_identity(host.claim(), [ek_maker().certificate], NOW)


def _ak(**changes: object) -> tpm.Public:
    return replace(HOST.ak.public, **changes)  # type: ignore[arg-type]


def test_bi_027_attestation_key_not_restricted() -> None:
    loose = HOST.ak.public.attributes & ~tpm.Attributes.RESTRICTED
    assert refused(lambda: tpm.check_attestation_key(_ak(attributes=loose))) == "ak-attributes"


@pytest.mark.parametrize("lacking", ["FIXED_TPM", "FIXED_PARENT", "SENSITIVE_DATA_ORIGIN"])
def test_bi_028_attestation_key_from_outside(lacking: str) -> None:
    loose = HOST.ak.public.attributes & ~tpm.Attributes[lacking]
    assert refused(lambda: tpm.check_attestation_key(_ak(attributes=loose))) == "ak-attributes"


def test_bi_029_attestation_key_that_decrypts() -> None:
    both = HOST.ak.public.attributes | tpm.Attributes.DECRYPT
    assert refused(lambda: tpm.check_attestation_key(_ak(attributes=both))) == "ak-attributes"


def test_bi_030_weak_keys() -> None:
    scheme = tpm.Scheme("rsassa", "sha256")
    for key in (
        tpm.RsaKey(1024, 0, b"\xff" * 128),
        tpm.RsaKey(2048, 3, b"\xff" * 256),
        tpm.EccKey("p192", None, bytes(24), bytes(24)),
    ):
        public = _ak(key=key, scheme=scheme)
        assert refused(lambda p=public: tpm.check_attestation_key(p)) == "weak-key"
    unknown = tpm.write_public(HOST.ak.public).replace(b"\0\3", b"\0\x7f", 1)
    assert refused(lambda: tpm.parse_public(unknown)) == "malformed"


def test_bi_031_challenge_for_another_name() -> None:
    secret = b"s" * 32
    credential = tpm.make_credential(
        HOST.ek.public, SoftKey().public.name(), secret, entropy=bytes(tpm.ENTROPY_SIZE)
    )
    assert refused(lambda: HOST.ek.activate(credential, HOST.ak.public.name())) == "integrity"
    pinned = Pinned("h", identity().fingerprint, HOST.ak.public.name())
    other = SoftKey().public.name()
    assert refused(lambda: check_key(pinned, other, None)) == "key-changed"


def test_bi_032_wrong_answer_to_a_challenge() -> None:
    issued = Issued("h", b"s" * 32, T0, timedelta(minutes=5))
    for answer in (b"", b"t" * 32, b"s" * 31):
        assert refused(lambda a=answer: check_challenge(issued, "h", a, T0)) == "activation"
    assert refused(lambda: check_challenge(issued, "other", b"s" * 32, T0)) == "activation"
    check_challenge(issued, "h", b"s" * 32, T0)


def test_bi_033_challenge_answered_twice() -> None:
    spent = Issued("h", b"s" * 32, T0, timedelta(minutes=5), spent=True)
    assert refused(lambda: check_challenge(spent, "h", b"s" * 32, T0)) == "activation-spent"


def test_bi_034_same_name_with_another_tpm() -> None:
    pinned = Pinned("h", identity().fingerprint, HOST.ak.public.name())
    check_registration(pinned, "h", identity())
    check_registration(None, "h", identity())
    other = identity(SmallHost())
    assert refused(lambda: check_registration(pinned, "h", other)) == "identity-conflict"


ROOT = ekcerts.authority("TPM root")
STORE = EkStore((parse_lenient(ROOT.der),))


def _ek(data: bytes, store: EkStore = STORE, key: object = None) -> str:
    return refused(lambda: check_ek_certificate(data, store, ekcerts.NOW, ek=key))  # type: ignore[arg-type]


def test_bi_036_certificate_of_another_ek() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert _ek(ekcerts.ek(ROOT).der, key=other) == "ek-mismatch"


def test_bi_037_unknown_root() -> None:
    made = ekcerts.ek(ekcerts.authority("Stranger")).der
    assert _ek(made) == "ek-untrusted"
    lab = check_ek_certificate(made, EkStore(STORE.roots, lab=True), ekcerts.NOW)
    assert codes(lab.warnings) == {"ek-untrusted"}


def test_bi_038_expired_warns_and_revoked_refuses() -> None:
    made = ekcerts.ek(ROOT)
    late = check_ek_certificate(made.der, STORE, ekcerts.NOW + timedelta(days=9000))
    early = check_ek_certificate(made.der, STORE, ekcerts.BEGIN - timedelta(days=1))
    assert codes(late.warnings) == codes(early.warnings) == {"ek-expired"}
    listed = revoked_by(ekcerts.crl(ROOT, [made.certificate.serial_number]), STORE.roots)
    assert _ek(made.der, EkStore(STORE.roots, revoked=frozenset(listed))) == "ek-revoked"


@pytest.mark.parametrize("shape", ["no-usage", "ca", "no-name"])
def test_bi_039_not_an_ek_certificate(shape: str) -> None:
    assert _ek(ekcerts.ek(ROOT, shape=shape).der) == "ek-profile"


@pytest.mark.parametrize("shape", ekcerts.SHAPES)
def test_bi_040_vendors_oddities_are_accepted(shape: str) -> None:
    made = ekcerts.ek(ROOT, shape=shape)
    found = check_ek_certificate(made.nv, STORE, ekcerts.NOW, ek=made.key.public_key())
    assert found.certificate.raw == made.der


def test_bi_041_signature_broken_by_encoding_anew() -> None:
    assert _ek(ekcerts.ek(ROOT, shape="resorted").der) == "ek-signature"


def test_bi_042_key_changed_between_enrolment_and_quote() -> None:
    pinned = Pinned("h", identity().fingerprint, HOST.ak.public.name())
    other = SoftKey().public.name()
    assert refused(lambda: check_key(pinned, other, None)) == "key-changed"
    check_key(pinned, HOST.ak.public.name(), None)
