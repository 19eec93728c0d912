"""PE images: sections, digests and signatures; firmware's own verdict is in the guest tests."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import itertools
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, CasemateError, FormatError
from casemate.formats.authenticode import sign_image
from casemate.formats.pe import (
    add_sections,
    attach_signature,
    attached_signature,
    authenticode_digest,
    parse_pe,
)
from casemate.testing.smallpe import small_pe


@pytest.fixture(scope="module")
def signer() -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    return certificate, key


@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=4))
def test_what_is_added_is_found_again_and_nothing_overlaps(contents: list[bytes]) -> None:
    added = {f".part{number}": content for number, content in enumerate(contents)}
    data = add_sections(small_pe(), added)
    image = parse_pe(data)
    for name, content in added.items():
        assert image.section(data, name) == content
    places = sorted((one.address, one.address + one.virtual_size) for one in image.sections)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))
    assert places[-1][1] <= image.size_of_image


def test_the_digest_leaves_out_checksum_and_signature_and_nothing_else() -> None:
    data = small_pe()
    image = parse_pe(data)
    checksum, security = image.optional + 64, image.optional + 112 + 32
    kept = data[:checksum] + data[checksum + 4 : security] + data[security + 8 :]
    assert authenticode_digest(data, "sha256") == hashlib.sha256(kept).digest()
    signed = attach_signature(data, b"signature")
    assert attached_signature(signed) == b"signature"
    assert authenticode_digest(signed, "sha384") == authenticode_digest(data, "sha384")


@given(st.integers(0, 1535), st.integers(1, 255))
def test_every_changed_byte_changes_the_digest(at: int, flip: int) -> None:
    data = bytearray(small_pe())
    image = parse_pe(data)
    excluded = {*range(image.optional + 64, image.optional + 68)}
    excluded |= {*range(image.optional + 144, image.optional + 152)}
    before = authenticode_digest(data, "sha256")
    data[at] ^= flip
    try:
        after = authenticode_digest(data, "sha256")
    except CasemateError:
        return
    # A header that moves the boundaries may cut the same bytes differently, never fewer.
    assert (after == before) == (at in excluded) or at < 1024


@given(st.binary(max_size=2048))
def test_any_bytes_are_an_image_or_refused(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        parse_pe(data)


@given(st.integers(0, 1023), st.binary(min_size=1, max_size=8))
def test_damaged_headers_are_refused_or_harmless(at: int, patch: bytes) -> None:
    data = bytearray(small_pe())
    data[at : at + len(patch)] = patch
    for use in (parse_pe, lambda one: authenticode_digest(one, "sha256"), attached_signature):
        with contextlib.suppress(FormatError):
            use(bytes(data))


def test_a_signed_image_takes_no_more_sections_and_no_second_signature() -> None:
    signed = attach_signature(small_pe(), b"signature")
    with pytest.raises(ArgumentError):
        add_sections(signed, {".more": b"x"})
    with pytest.raises(ArgumentError):
        attach_signature(signed, b"another")


def test_too_many_sections_do_not_fit_the_headers() -> None:
    with pytest.raises(ArgumentError):
        add_sections(small_pe(), {f".s{number}": b"x" for number in range(40)})


@pytest.mark.interop
def test_sbverify_accepts_our_signature_and_refuses_a_changed_image(
    signer: tuple[x509.Certificate, rsa.RSAPrivateKey], tmp_path: Path
) -> None:
    certificate, key = signer
    pem = tmp_path / "signer.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    image = add_sections(small_pe(), {".linux": b"kernel" * 1000, ".cmdline": b"quiet"})
    signed = sign_image(image, certificate, key)
    assert signed == sign_image(image, certificate, key)
    file = tmp_path / "image.efi"
    for data, status in ((signed, 0), (signed.replace(b"quiet", b"loud!"), 1)):
        file.write_bytes(data)
        ran = subprocess.run(
            ["sbverify", "--cert", str(pem), str(file)], capture_output=True, check=False
        )
        assert ran.returncode == status, ran.stderr
