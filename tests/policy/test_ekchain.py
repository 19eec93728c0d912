"""EK certificates: what vendors really ship is accepted, what forgers make is refused."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.errors import AppraisalError, CasemateError, FormatError, SignatureError
from casemate.formats import der
from casemate.formats.certificates import load_certificate
from casemate.formats.ekcert import normalise, parse_lenient, verify_issued_by
from casemate.policy.ekchain import EkStore, check_ek_certificate, revoked_by
from casemate.policy.tpmidentity import load_ek_roots
from casemate.testing import ekcerts
from casemate.testing.ekcerts import NOW

ROOT = ekcerts.authority("TPM root")
PLAIN = ekcerts.ek(ROOT).der
STORE = EkStore((parse_lenient(ROOT.der),))


def _code(data: bytes, store: EkStore = STORE, **kwargs: object) -> str:
    with pytest.raises((AppraisalError, SignatureError, FormatError)) as caught:
        check_ek_certificate(data, store, NOW, **kwargs)  # type: ignore[arg-type]
    return caught.value.code


def test_a_plain_certificate_is_accepted_and_its_tpm_named() -> None:
    verdict = check_ek_certificate(ekcerts.ek(ROOT).der, STORE, NOW)
    assert verdict.root is not None
    assert verdict.certificate.tpm == {
        "manufacturer": "id:53544D20",
        "model": "ST33HTPHAHD4",
        "version": "id:00010102",
    }
    assert verdict.warnings == ()


@pytest.mark.parametrize("shape", ekcerts.SHAPES)
def test_certificates_as_vendors_ship_them_are_accepted(shape: str) -> None:
    made = ekcerts.ek(ROOT, shape=shape)
    verdict = check_ek_certificate(made.nv, STORE, NOW, ek=made.key.public_key())
    assert verdict.certificate.raw == made.der
    assert verdict.root is not None


STRINGS = st.sampled_from(
    [(0x0C, "utf-8"), (0x13, "ascii"), (0x16, "ascii"), (0x1A, "ascii"), (0x14, "latin-1"),
     (0x1C, "utf-32-be"), (0x1E, "utf-16-be")]
)  # fmt: skip
FLAGS = st.sampled_from([None, b"\0", b"\xff", b"\1"])
_OTHER = der.write_tlv(0x0C, b"Maker")
_MAKER = der.write_tlv(der.SEQUENCE, bytes.fromhex("0603550403") + _OTHER)
OTHER_NAMES = st.sampled_from(
    [
        b"",
        der.write_tlv(0x82, b"tpm.example.org"),
        der.write_tlv(0xA0, bytes.fromhex("06082b06010505070803") + der.write_tlv(0xA0, _OTHER)),
        der.write_tlv(0xA4, der.write_tlv(der.SEQUENCE, der.write_tlv(der.SET, _MAKER))),
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        ekcerts.Odd,
        serial=st.integers(-(1 << 159), 1 << 159),
        criticals=st.tuples(FLAGS, FLAGS, FLAGS),
        strings=st.tuples(STRINGS, STRINGS, STRINGS),
        one_set=st.booleans(),
        more_names=OTHER_NAMES,
        header=st.booleans(),
        after=st.sampled_from([b"", b"\xff" * 300, b"\0" * 300]),
    )
)
def test_certificates_that_look_wrong_and_are_right_are_accepted(how: ekcerts.Odd) -> None:
    made = ekcerts.odd(ROOT, how)
    verdict = check_ek_certificate(made.nv, STORE, NOW, ek=made.key.public_key())
    assert verdict.root is not None
    assert verdict.certificate.tpm == dict(ekcerts.TPM.values())
    assert verdict.certificate.serial == how.serial
    assert verdict.certificate.raw == made.der


@pytest.mark.parametrize(
    "how",
    [
        ekcerts.Odd(strings=((0x02, "utf-8"),)),
        ekcerts.Odd(strings=((0x04, "utf-8"),)),
        ekcerts.Odd(after=b"\xff\0"),
        ekcerts.Odd(after=b"\xff" * 20 + b"more"),
        ekcerts.Odd(header=True, after=b"\0\xff"),
        ekcerts.Odd(after=b"\xff" * (16 << 10)),
    ],
)
def test_what_no_vendor_makes_is_refused(how: ekcerts.Odd) -> None:
    made = ekcerts.odd(ROOT, how)
    assert _code(made.nv) in {"ek-profile", "ek-malformed", "limit"}


def test_ca_is_one_whatever_it_writes_for_true() -> None:
    ca = ekcerts.ek(ROOT, shape="ca").der
    true = bytes.fromhex("0101ff")
    place = ca.index(true, ca.index(bytes.fromhex("0603551d13")) + 8)
    bent = ca[: place + 2] + b"\1" + ca[place + 3 :]
    assert parse_lenient(bent).is_ca
    assert _code(bent) == "ek-profile"


def test_larger_curves_are_taken_for_the_key_and_for_its_authority() -> None:
    large = ekcerts.authority("P-384", key=ec.generate_private_key(ec.SECP384R1()))
    store = EkStore((parse_lenient(large.der),))
    key = ec.generate_private_key(ec.SECP384R1())
    made = ekcerts.odd(large, ekcerts.Odd(serial=-5), key=key)
    assert check_ek_certificate(made.nv, store, NOW, ek=key.public_key()).root is not None
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    assert _code(made.nv, store, ek=other) == "ek-mismatch"


def test_signatures_that_no_maker_gives_are_refused_and_say_so() -> None:
    root = ekcerts.authority("RSA root", key=rsa.generate_private_key(65537, 2048))
    store = EkStore((parse_lenient(root.der),))
    assert check_ek_certificate(ekcerts.ek(root).der, store, NOW).root is not None
    for shape in ("pss", "pss-bare"):  # without parameters it would be SHA-1
        assert _code(ekcerts.ek(root, shape=shape).der, store) == "weak-algorithm"


def test_roots_are_pinned_as_their_makers_ship_them() -> None:
    strange = [ekcerts.odd(ROOT, ekcerts.Odd(serial=n)).der for n in (-7, 0)]
    strange.append(ekcerts.ek(ROOT, shape="unsorted").der)
    for one in strange:
        with pytest.raises(FormatError):
            load_certificate(one)
    pem = b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(one) + b"-----END CERTIFICATE-----\n"
        for one in strange
    )
    assert [one.raw for one in load_ek_roots([ROOT.der, b"# two\n" + pem])] == [ROOT.der, *strange]
    for bad in (b"", b"text", pem[:200], ROOT.der[:-1], pem.replace(b"\nMII", b"\nM!I")):
        with pytest.raises(FormatError) as caught:
            load_ek_roots([bad])
        assert caught.value.code == "ek-roots"


def test_oaep_marked_keys_are_rsa_keys() -> None:
    key = rsa.generate_private_key(65537, 2048)
    made = ekcerts.ek(ROOT, key=key, shape="oaep")
    assert check_ek_certificate(made.nv, STORE, NOW, ek=key.public_key()).root is not None


def test_any_changed_byte_is_noticed() -> None:
    made = ekcerts.ek(ROOT, shape="unsorted").der
    good = parse_lenient(made)
    for place in range(0, len(made), 3):
        changed = bytearray(made)
        changed[place] ^= 0x01
        try:
            read = parse_lenient(bytes(changed))
            verify_issued_by(read, STORE.roots[0])
        except CasemateError:
            continue
        assert read.tbs == good.tbs, f"byte {place} is not covered"


def test_a_certificate_that_was_sorted_anew_has_a_wrong_signature() -> None:
    assert _code(ekcerts.ek(ROOT, shape="resorted").der) == "ek-signature"


def test_strangers_and_wrong_profiles_are_refused() -> None:
    stranger = ekcerts.authority("Stranger")
    made = ekcerts.ek(stranger).der
    assert _code(made) == "ek-untrusted"
    lab = EkStore(STORE.roots, lab=True)
    assert [f.code for f in check_ek_certificate(made, lab, NOW).warnings] == ["ek-untrusted"]
    same_name = ekcerts.authority("TPM root")
    assert _code(ekcerts.ek(same_name).der) == "ek-signature"
    for shape in ("no-usage", "ca", "no-name"):
        assert _code(ekcerts.ek(ROOT, shape=shape).der) == "ek-profile"
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert _code(ekcerts.ek(ROOT).der, ek=other) == "ek-mismatch"


def test_paths_go_through_intermediates_but_never_end_at_one() -> None:
    middle = ekcerts.authority("TPM intermediate", ROOT)
    made = ekcerts.ek(middle).der
    assert check_ek_certificate(made, STORE, NOW, chain=[middle.der]).root == STORE.roots[0]
    helped = EkStore(STORE.roots, (parse_lenient(middle.der),))
    assert check_ek_certificate(made, helped, NOW).root == STORE.roots[0]
    assert _code(made) == "ek-untrusted"
    assert _code(made, EkStore((), helped.intermediates)) == "ek-untrusted"
    leaf = ekcerts.ek(ROOT)
    assert _code(ekcerts.ek(leaf.as_authority()).der, chain=[leaf.der]) in {
        "ek-signature",
        "ek-untrusted",
    }


def test_expiry_warns_and_revocation_refuses() -> None:
    made = ekcerts.ek(ROOT)
    late = made.certificate.not_valid_after_utc + timedelta(days=1)
    verdict = check_ek_certificate(made.der, STORE, late)
    assert {finding.code for finding in verdict.warnings} == {"ek-expired"}
    crl = ekcerts.crl(ROOT, [made.certificate.serial_number])
    revoked = frozenset(revoked_by(crl, STORE.roots))
    assert _code(made.der, EkStore(STORE.roots, revoked=revoked)) == "ek-revoked"
    with pytest.raises(SignatureError):
        revoked_by(ekcerts.crl(ekcerts.authority("TPM root"), [1]), STORE.roots)
    with pytest.raises(FormatError):
        revoked_by(b"0\x03\x02\x01\x00", STORE.roots)


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda b: b"0\x82\x00\x40" + b))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_lenient(data)


@settings(max_examples=300)
@given(st.data())
def test_any_damage_is_read_or_refused(data: st.DataObject) -> None:
    made = bytearray(PLAIN)
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(made[: data.draw(st.integers(0, len(made)))])
    for raw in (bytes(made), cut):
        try:
            read = parse_lenient(raw)
            assert read.public_key is not None
        except CasemateError:
            continue


def test_padding_may_be_anything_but_more() -> None:
    made = ekcerts.ek(ROOT).der
    assert normalise(made + b"\xff" * 500) == made
    assert normalise(made + b"\0" * 500) == made
    for tail in (b"\xff\0", b"x", made):
        with pytest.raises(FormatError):
            normalise(made + tail)


def test_lengths_that_are_not_der_are_refused() -> None:
    for raw in (b"0\x80\0\0", b"0\x81\x05hello", b"0\x82\0\x90" + bytes(144), b"\x1f\x01\0", b"0"):
        with pytest.raises(FormatError):
            der.read_tlv(raw)
    assert der.oid_text(bytes.fromhex("6781050801")) == "2.23.133.8.1"


def test_names_and_dates_are_those_that_cryptography_reads() -> None:
    made = ekcerts.ek(ROOT)
    read = parse_lenient(made.der)
    assert read.serial == made.certificate.serial_number
    assert read.not_before == made.certificate.not_valid_before_utc
    assert read.not_after == made.certificate.not_valid_after_utc
    assert read.subject == made.certificate.subject.public_bytes()
    assert read.tbs == made.certificate.tbs_certificate_bytes


def test_dates_of_both_centuries() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(1999, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    read = parse_lenient(built.public_bytes(serialization.Encoding.DER))
    assert (read.not_before.year, read.not_after.year) == (1999, 9999)
