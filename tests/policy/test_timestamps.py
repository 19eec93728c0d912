"""RFC 3161 time stamps, made by OpenSSL: what they prove, and every way to pass a wrong one off."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, SignatureError
from casemate.formats import cms_asn1
from casemate.formats.cms import sign_detached, verify_detached, with_time_stamp
from casemate.formats.descriptor import write_descriptor
from casemate.formats.timestamp import read_token
from casemate.formats.vib import parse_vib, write_vib
from casemate.image.vibbuild import stamp_query, stamp_vib
from casemate.policy.levels import Level
from casemate.policy.trust import GRACE, TrustStore, stamped_at, trust_from_files, verify_signer
from casemate.testing.pki import Identity, issue, shared_pki
from casemate.testing.vibs import PAYLOADS, make_descriptor

CONTENT = b"<vib/>"
SHA256 = bytes.fromhex("0609608648016503040201")
SHA512 = bytes.fromhex("0609608648016503040203")
DAY = timedelta(days=1)
TODAY = datetime.now(UTC).replace(microsecond=0)
CONFIG = """
[tsa]
default_tsa = it
[it]
serial = {place}/serial
default_policy = 1.2.3.4
digests = sha256, sha384
signer_digest = {digest}
ess_cert_id_alg = {naming}
"""


def authority(name: str = "TSA", issuer: Identity | None = None, **changes: object) -> Identity:
    """Return a time stamp authority; OpenSSL wants its purpose to be critical, and so do we."""
    options = {"purposes": (ExtendedKeyUsageOID.TIME_STAMPING,), "begins": TODAY - 20 * DAY}
    made = issue(name, issuer, **options | changes)  # type: ignore[arg-type]
    certificate = made.certificate
    builder = x509.CertificateBuilder(
        issuer_name=certificate.issuer,
        subject_name=certificate.subject,
        public_key=certificate.public_key(),
        serial_number=certificate.serial_number,
        not_valid_before=certificate.not_valid_before_utc,
        not_valid_after=certificate.not_valid_after_utc,
    )
    for extension in certificate.extensions:
        critical = extension.critical or isinstance(extension.value, x509.ExtendedKeyUsage)
        builder = builder.add_extension(extension.value, critical=critical)
    signing = issuer.key if issuer else made.key
    return Identity(builder.sign(signing, certificate.signature_hash_algorithm), made.key)


@pytest.fixture(scope="module")
def root() -> Identity:
    return issue("Clock root", authority=True, begins=TODAY - 30 * DAY)


@pytest.fixture(scope="module")
def clock(root: Identity) -> Identity:
    return authority(issuer=root)


@pytest.fixture
def stamp(tmp_path: Path) -> Callable[..., bytes]:
    """Have OpenSSL make a token for a signature value."""

    def make(value: bytes, tsa: Identity, digest: str = "sha256", naming: str = "sha256") -> bytes:
        (tmp_path / "serial").write_text("01")
        (tmp_path / "value").write_bytes(value)
        (tmp_path / "tsa.pem").write_bytes(tsa.pem)
        (tmp_path / "tsa.key").write_bytes(tsa.key_pem)
        (tmp_path / "tsa.cnf").write_text(
            CONFIG.format(place=tmp_path, digest=digest, naming=naming)
        )
        run = ["openssl", "ts"]
        for words in (
            ["-query", "-data", "value", f"-{digest}", "-cert", "-out", "query"],
            [
                *("-reply", "-queryfile", "query", "-config", "tsa.cnf", "-signer", "tsa.pem"),
                *("-inkey", "tsa.key", "-token_out", "-out", "token"),
            ],
        ):
            subprocess.run(
                [*run, *words], cwd=tmp_path, check=True, capture_output=True, timeout=30
            )
        return (tmp_path / "token").read_bytes()

    return make


def signed(signer: Identity, at: datetime = TODAY) -> bytes:
    return sign_detached(CONTENT, signer.certificate, signer.key, signing_time=at)


def store(*clocks: Identity) -> TrustStore:
    levels = [(Level.PARTNER, shared_pki().issuers["partner"].pem)]
    return trust_from_files(levels, [one.pem for one in clocks])


def short_lived() -> Identity:
    ca = shared_pki().issuers["partner"]
    return issue("Short", ca, begins=TODAY - 10 * DAY, ends=TODAY + 10 * DAY)


def stamped(signature: bytes, token: Callable[..., bytes], tsa: Identity, **more: str) -> bytes:
    value = verify_detached(signature, CONTENT).signature
    return with_time_stamp(signature, token(value, tsa, **more))


@pytest.mark.parametrize("digest", ["sha256", "sha384"])
def test_a_stamp_outlives_the_grace_that_a_claim_has(root, clock, stamp, digest):
    bare = signed(short_lived())
    late = TODAY + 10 * DAY + GRACE + DAY
    with pytest.raises(SignatureError) as caught:
        verify_signer(verify_detached(bare, CONTENT), Level.PARTNER, store(root), late)
    assert caught.value.code == "signer-expired"
    found = verify_detached(stamped(bare, stamp, clock, digest=digest), CONTENT)
    assert verify_signer(found, Level.PARTNER, store(root), late)
    assert abs(stamped_at(found, store(root), late) - datetime.now(UTC)) < timedelta(minutes=5)
    # The authority's own certificate as anchor does as well.
    assert stamped_at(found, store(clock), late)


def test_a_stamp_after_the_end_of_the_certificate_proves_that_it_is_too_late(root, clock, stamp):
    ca = shared_pki().issuers["partner"]
    ended = issue("Ended", ca, begins=TODAY - 20 * DAY, ends=TODAY - 5 * DAY)
    claims = signed(ended, at=TODAY - 6 * DAY)
    assert verify_signer(verify_detached(claims, CONTENT), Level.PARTNER, store(root), TODAY + DAY)
    found = verify_detached(stamped(claims, stamp, clock), CONTENT)
    with pytest.raises(SignatureError) as caught:
        verify_signer(found, Level.PARTNER, store(root), TODAY + DAY)
    assert caught.value.code == "signer-expired"


def test_a_claim_after_the_stamp_is_a_lie(root, clock, stamp):
    found = verify_detached(stamped(signed(short_lived(), TODAY + DAY), stamp, clock), CONTENT)
    with pytest.raises(SignatureError) as caught:
        verify_signer(found, Level.PARTNER, store(root), TODAY + 2 * DAY)
    assert caught.value.code == "signing-time"


def test_strangers_clocks_prove_nothing(root, stamp):
    bare = signed(short_lived())
    strangers = {
        "nobody's": authority("Stranger"),
        "for code": issue("Coder", root, begins=TODAY - DAY),
        "ended": authority("Ended", root, ends=TODAY - DAY),
    }
    for tsa in (strangers["nobody's"], strangers["ended"]):
        found = verify_detached(stamped(bare, stamp, tsa), CONTENT)
        assert stamped_at(found, store(root), TODAY + DAY) is None
        assert stamped_at(found, store(), TODAY + DAY) is None
    with pytest.raises(subprocess.CalledProcessError):
        stamp(b"value", strangers["for code"])  # OpenSSL refuses to stamp with it


def test_a_clock_that_may_do_more_than_stamp_is_none(root, stamp):
    both = (ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING)
    tsa = authority("Both", root, purposes=both)
    try:
        token = stamp(b"value", tsa)
    except subprocess.CalledProcessError:
        return  # OpenSSL refuses already
    as_signed = verify_detached(signed(short_lived()), CONTENT)
    object.__setattr__(as_signed, "signature", b"value")
    object.__setattr__(as_signed, "time_stamps", (token,))
    assert stamped_at(as_signed, store(root), TODAY + DAY) is None


def test_a_stamp_of_another_signature_is_refused(root, clock, stamp):
    bare = signed(short_lived())
    with pytest.raises(SignatureError) as caught:
        with_time_stamp(bare, stamp(b"another", clock))
    assert caught.value.code == "timestamp-invalid"
    other = verify_detached(stamped(signed(short_lived()), stamp, clock), CONTENT)
    moved = verify_detached(bare, CONTENT)
    object.__setattr__(moved, "time_stamps", other.time_stamps)
    with pytest.raises(SignatureError) as caught:
        verify_signer(moved, Level.PARTNER, store(root), TODAY + DAY)
    assert caught.value.code == "timestamp-invalid"


def test_a_token_that_names_its_signer_by_sha1_alone_is_refused(clock, stamp):
    with pytest.raises(SignatureError) as caught:
        read_token(stamp(b"value", clock, naming="sha1"), b"value")
    assert caught.value.code == "timestamp-invalid"


def test_a_token_whose_signer_was_swapped_is_refused(root, clock, stamp):
    info = asn1.decode_der(cms_asn1.ContentInfo, stamp(b"value", clock))
    twin = authority("TSA", root, key=clock.key)
    info.content.certificates = [
        asn1.decode_der(asn1.TLV, twin.certificate.public_bytes(Encoding.DER))
    ]
    with pytest.raises(SignatureError) as caught:
        read_token(asn1.encode_der(info), b"value")
    assert caught.value.code == "timestamp-invalid"


def test_a_signature_with_a_stamp_is_still_one_for_openssl(clock, stamp, tmp_path):
    signer = short_lived()
    (tmp_path / "sig").write_bytes(stamped(signed(signer), stamp, clock))
    (tmp_path / "content").write_bytes(CONTENT)
    (tmp_path / "cert").write_bytes(signer.pem)
    words = ["-verify", "-binary", "-inform", "PEM", "-in", "sig", "-content", "content"]
    more = ["-certfile", "cert", "-noverify", "-out", "out"]
    subprocess.run(["openssl", "cms", *words, *more], cwd=tmp_path, check=True, capture_output=True)


@given(st.binary(max_size=600))
def test_any_bytes_are_refused_in_our_own_words(data):
    with pytest.raises(CasemateError):
        read_token(data, b"value")


def test_any_change_is_refused_or_changes_nothing(clock, stamp):
    token = stamp(b"value", clock)
    honest = read_token(token, b"value")
    for place in range(0, len(token), 5):
        changed = bytearray(token)
        changed[place] ^= 0x55
        try:
            found = read_token(bytes(changed), b"value")
        except CasemateError:
            continue
        assert (found.time, found.certificate) == (honest.time, honest.certificate)


def test_an_authoritys_reply_to_our_query_is_taken_and_a_refusal_told(clock, stamp, tmp_path):
    descriptor = write_descriptor(make_descriptor())
    data = write_vib(descriptor, shared_pki().sign(descriptor, "partner"), PAYLOADS.items())
    stamp(b"", clock)  # writes the authority's files
    query = stamp_query(data)
    for name, content in (("good", query), ("bad", query.replace(SHA256, SHA512))):
        (tmp_path / "query").write_bytes(content)
        words = ["-reply", "-queryfile", "query", "-config", "tsa.cnf", "-signer", "tsa.pem"]
        more = ["-inkey", "tsa.key", "-out", name]
        command = ["openssl", "ts", *words, *more]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=30)
    made = stamp_vib(data, (tmp_path / "good").read_bytes())
    vib = parse_vib(made)
    assert verify_detached(vib.signature, vib.descriptor_bytes).time_stamps
    with pytest.raises(CasemateError) as caught:
        stamp_vib(data, (tmp_path / "bad").read_bytes())
    assert caught.value.code == "timestamp-reply"
    assert "refused" in caught.value.reason
    with pytest.raises(CasemateError) as caught:
        stamp_vib(data, b"text")
    assert caught.value.code == "timestamp-reply"
