"""CMS signatures: openssl is the judge of ours, and we are of openssl's."""

from __future__ import annotations

import base64
import contextlib
import functools
import shutil
import subprocess
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import SignatureError
from casemate.formats.cms import sign_bare, sign_detached, verify_detached
from casemate.testing.pki import SIGNED, Identity, issue, shared_pki

CONTENT = b"the exact bytes\r\nof a descriptor\n"
KEYS = {
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa-3072": lambda: rsa.generate_private_key(3, 3072),
    "p-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p-521": lambda: ec.generate_private_key(ec.SECP521R1()),
}
DIGESTS = ("sha256", "sha384", "sha512")

with_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is absent")


@functools.cache
def identity(kind: str) -> Identity:
    return issue(f"Signer {kind}", key=KEYS[kind]())


def signed(kind: str, digest: str = "sha256", content: bytes = CONTENT) -> bytes:
    who = identity(kind)
    return sign_detached(content, who.certificate, who.key, signing_time=SIGNED, digest=digest)


def openssl(place, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["openssl", *arguments], cwd=place, capture_output=True, check=False, timeout=60
    )


@pytest.fixture
def place(tmp_path):
    """A directory with the content and, by kind of key, certificate and key."""
    (tmp_path / "content").write_bytes(CONTENT)
    for kind in KEYS:
        (tmp_path / f"{kind}.pem").write_bytes(identity(kind).pem)
        (tmp_path / f"{kind}.key").write_bytes(identity(kind).key_pem)
    return tmp_path


@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("kind", KEYS)
def test_what_we_sign_we_verify(kind, digest):
    result = verify_detached(signed(kind, digest), CONTENT)
    assert result.certificate == identity(kind).certificate
    assert result.signing_time == SIGNED
    assert result.digest_algorithm == digest
    assert result.has_attributes
    assert result.chain == ()


@pytest.mark.parametrize("kind", KEYS)
def test_the_same_input_gives_the_same_bytes(kind):
    assert signed(kind) == signed(kind)


def test_lines_are_those_of_a_vib():
    lines = signed("rsa-2048").decode().splitlines()
    assert lines[0] == "-----BEGIN PKCS7-----"
    assert lines[-1] == "-----END PKCS7-----"
    assert {len(line) for line in lines[1:-2]} == {64}


def test_signing_times_after_2049_survive():
    who, far = identity("p-256"), datetime(2077, 1, 2, 3, 4, 5, tzinfo=UTC)
    signature = sign_detached(CONTENT, who.certificate, who.key, signing_time=far)
    assert verify_detached(signature, CONTENT).signing_time == far


def test_embedded_intermediates_come_back():
    pki = shared_pki()
    result = verify_detached(pki.sign(CONTENT, "partner"), CONTENT)
    assert result.chain == (pki.issuers["partner"].certificate,)


def test_a_key_that_is_not_the_certificates_cannot_sign():
    with pytest.raises(SignatureError):
        sign_bare(CONTENT, identity("p-256").certificate, identity("p-384").key)


@pytest.mark.parametrize("kind", KEYS)
def test_a_bare_signature_needs_the_certificate_from_elsewhere(kind):
    who = identity(kind)
    signature = sign_bare(CONTENT, who.certificate, who.key)
    with pytest.raises(SignatureError) as caught:
        verify_detached(signature, CONTENT)
    assert caught.value.code == "signer-missing"
    others = [identity(other).certificate for other in KEYS]
    result = verify_detached(signature, CONTENT, certificates=others)
    assert result.certificate == who.certificate
    assert result.signing_time is None
    assert not result.has_attributes


def test_a_bare_signature_over_changed_content_is_invalid():
    who = identity("rsa-2048")
    signature = sign_bare(CONTENT, who.certificate, who.key)
    with pytest.raises(SignatureError) as caught:
        verify_detached(signature, CONTENT + b"x", certificates=[who.certificate])
    assert caught.value.code == "signature-invalid"


def test_signed_attributes_cannot_pass_as_content():
    who = identity("rsa-2048")
    attributes = b"\x31\x0b" + b"looks alike"
    signature = sign_bare(attributes, who.certificate, who.key)
    with pytest.raises(SignatureError) as caught:
        verify_detached(signature, attributes, certificates=[who.certificate])
    assert caught.value.code == "signature-malformed"


@with_openssl
@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("kind", KEYS)
def test_openssl_verifies_what_we_sign(place, kind, digest):
    (place / "signature").write_bytes(signed(kind, digest))
    verify = (
        *("cms", "-verify", "-binary", "-inform", "PEM", "-in", "signature"),
        *("-CAfile", f"{kind}.pem", "-purpose", "any", "-no_check_time", "-out", "out"),
    )
    good = openssl(place, *verify, "-content", "content")
    assert good.returncode == 0, good.stderr
    assert (place / "out").read_bytes() == CONTENT
    (place / "changed").write_bytes(CONTENT + b" ")
    assert openssl(place, *verify, "-content", "changed").returncode != 0


@with_openssl
@pytest.mark.parametrize("options", [(), ("-noattr",), ("-keyid",), ("-md", "sha512")], ids=str)
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_we_verify_what_openssl_signs(place, kind, options, form):
    made = openssl(
        place,
        *("cms", "-sign", "-binary", "-in", "content", "-signer", f"{kind}.pem"),
        *("-inkey", f"{kind}.key", "-outform", form, "-out", "signature", *options),
    )
    assert made.returncode == 0, made.stderr
    signature = (place / "signature").read_bytes()
    result = verify_detached(signature, CONTENT)
    assert result.certificate == identity(kind).certificate
    assert result.has_attributes == ("-noattr" not in options)
    with pytest.raises(SignatureError):
        verify_detached(signature, CONTENT[:-1])


@with_openssl
@pytest.mark.parametrize("salt", ["-1", "-2", "0"])
@pytest.mark.parametrize("digest", DIGESTS)
def test_we_verify_rsa_pss(place, digest, salt):
    made = openssl(
        place,
        *("cms", "-sign", "-binary", "-in", "content", "-signer", "rsa-2048.pem", "-md", digest),
        *("-inkey", "rsa-2048.key", "-keyopt", "rsa_padding_mode:pss"),
        *("-keyopt", f"rsa_pss_saltlen:{salt}", "-outform", "DER", "-out", "signature"),
    )
    assert made.returncode == 0, made.stderr
    signature = (place / "signature").read_bytes()
    assert verify_detached(signature, CONTENT).digest_algorithm == digest
    with pytest.raises(SignatureError):
        verify_detached(signature, b"other")


@with_openssl
@pytest.mark.parametrize(
    ("kind", "digest"), [("rsa-2048", "sha1"), ("rsa-2048", "md5"), ("p-256", "sha1")]
)
def test_weak_digests_are_refused_although_openssl_makes_them(place, kind, digest):
    made = openssl(
        place,
        *("cms", "-sign", "-binary", "-in", "content", "-signer", f"{kind}.pem"),
        *("-inkey", f"{kind}.key", "-md", digest, "-outform", "DER", "-out", "signature"),
    )
    if made.returncode:
        pytest.skip(f"this openssl does not sign with {digest}")
    with pytest.raises(SignatureError) as caught:
        verify_detached((place / "signature").read_bytes(), CONTENT)
    assert caught.value.code == "weak-algorithm"


@with_openssl
def test_two_signers_are_one_too_many(place):
    made = openssl(
        place,
        *("cms", "-sign", "-binary", "-in", "content", "-outform", "DER", "-out", "signature"),
        *("-signer", "p-256.pem", "-inkey", "p-256.key"),
        *("-signer", "p-384.pem", "-inkey", "p-384.key"),
    )
    assert made.returncode == 0, made.stderr
    with pytest.raises(SignatureError) as caught:
        verify_detached((place / "signature").read_bytes(), CONTENT)
    assert caught.value.code == "signer-ambiguous"


@with_openssl
def test_a_signature_that_carries_its_own_content_is_refused(place):
    made = openssl(
        place,
        *("cms", "-sign", "-binary", "-nodetach", "-in", "content", "-outform", "DER"),
        *("-signer", "p-256.pem", "-inkey", "p-256.key", "-out", "signature"),
    )
    assert made.returncode == 0, made.stderr
    with pytest.raises(SignatureError) as caught:
        verify_detached((place / "signature").read_bytes(), CONTENT)
    assert caught.value.code == "signature-malformed"


@given(st.binary(max_size=512))
@pytest.mark.parametrize("wrap", [bytes, lambda data: b"-----BEGIN PKCS7-----\n" + data])
def test_whatever_the_bytes_only_our_error_escapes(wrap, data):
    with pytest.raises(SignatureError):
        verify_detached(wrap(data), CONTENT)


@pytest.mark.filterwarnings("ignore::UserWarning")  # cryptography warns about odd certificates
@given(st.data())
@pytest.mark.parametrize("kind", ["rsa-2048", "p-256"])
def test_whatever_is_changed_only_our_error_escapes(kind, data):
    good = bare(kind) if data.draw(st.booleans()) else der(kind)
    at = data.draw(st.integers(0, len(good) - 1))
    end = data.draw(st.integers(at, min(at + 8, len(good))))
    broken = good[:at] + data.draw(st.binary(max_size=8)) + good[end:]
    with contextlib.suppress(SignatureError):
        verify_detached(broken, CONTENT, certificates=[identity(kind).certificate])


@functools.cache
def bare(kind: str) -> bytes:
    return sign_bare(CONTENT, identity(kind).certificate, identity(kind).key)


@functools.cache
def der(kind: str) -> bytes:
    return base64.b64decode(b"".join(signed(kind).splitlines()[1:-1]))
