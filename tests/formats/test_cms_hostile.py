"""Signatures whose every part is well encoded and whose meaning is a trap."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from casemate.errors import SignatureError
from casemate.formats import cms_asn1 as shapes
from casemate.formats.cms import sign_bare, sign_detached, verify_detached
from casemate.formats.cms_checks import MAX_CERTIFICATES, MAX_SIGNATURE
from casemate.testing.pki import MADE, SIGNED, issue

CONTENT = b"content"
RSA = issue("RSA", key=rsa.generate_private_key(65537, 2048))
EC = issue("EC")
SHA224 = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.4")
SHA1 = x509.ObjectIdentifier("1.3.14.3.2.26")
SHA512 = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.3")
RSA_WITH_SHA1 = x509.ObjectIdentifier("1.2.840.113549.1.1.5")
RSA_WITH_SHA512 = x509.ObjectIdentifier("1.2.840.113549.1.1.13")
PKCS9_OTHER = x509.ObjectIdentifier("1.2.840.113549.1.9.15")


def taken_apart(who=RSA) -> shapes.ContentInfo:
    pem = sign_detached(CONTENT, who.certificate, who.key, signing_time=SIGNED)
    return asn1.decode_der(shapes.ContentInfo, base64.b64decode(b"".join(pem.split(b"\n")[1:-2])))


def rebuilt(change: Callable[[shapes.ContentInfo, shapes.SignerInfo], None], who=RSA) -> bytes:
    """A signature with one part exchanged."""
    info = taken_apart(who)
    signer = info.content.signers.as_list()[0]
    change(info, signer)
    info.content.signers = asn1.SetOf([signer])
    return asn1.encode_der(info)


def attribute(oid: x509.ObjectIdentifier, *values: object) -> shapes.Attribute:
    return shapes.Attribute(oid=oid, values=asn1.SetOf([shapes.encoded(one) for one in values]))


TYPE = attribute(shapes.CONTENT_TYPE, shapes.DATA)
DIGEST = attribute(shapes.MESSAGE_DIGEST, hashlib.sha256(CONTENT).digest())
OTHER_DIGEST = attribute(shapes.MESSAGE_DIGEST, hashlib.sha256(b"other").digest())


def resigned(*attributes: shapes.Attribute) -> bytes:
    """A genuine signature over these attributes."""

    def change(_info: shapes.ContentInfo, signer: shapes.SignerInfo) -> None:
        signed = asn1.SetOf(list(attributes))
        signer.signed_attributes = signed
        signer.signature = RSA.key.sign(
            asn1.encode_der(signed), padding.PKCS1v15(), hashes.SHA256()
        )

    return rebuilt(change)


def algorithms(
    digest: x509.ObjectIdentifier | None = None,
    signature: x509.ObjectIdentifier | None = None,
    parameters: shapes.PssParameters | asn1.Null | None = None,
    who=RSA,
) -> bytes:
    def change(_info: shapes.ContentInfo, signer: shapes.SignerInfo) -> None:
        if digest:
            signer.digest_algorithm = shapes.DigestAlgorithm(oid=digest, parameters=None)
        if signature:
            signer.signature_algorithm = shapes.SignatureAlgorithm(
                oid=signature, parameters=parameters
            )

    return rebuilt(change, who)


def pss(digest=None, mask=None, salt=32, generator=shapes.MGF1) -> bytes:
    def of(oid):
        return shapes.DigestAlgorithm(oid=oid, parameters=None)

    parameters = shapes.PssParameters(
        digest=digest and of(digest),
        mask=mask and shapes.MaskAlgorithm(oid=generator, digest=of(mask)),
        salt_length=salt,
        trailer=None,
    )
    return algorithms(signature=shapes.RSASSA_PSS, parameters=parameters)


def embedding(certificates: Sequence[x509.Certificate]) -> bytes:
    def change(info: shapes.ContentInfo, _signer: shapes.SignerInfo) -> None:
        info.content.certificates = [
            asn1.decode_der(asn1.TLV, one.public_bytes(Encoding.DER)) for one in certificates
        ]

    return rebuilt(change)


def twin() -> x509.Certificate:
    """Another certificate with the signer's issuer and serial number."""
    return (
        x509.CertificateBuilder()
        .subject_name(RSA.certificate.subject)
        .issuer_name(RSA.certificate.issuer)
        .public_key(rsa.generate_private_key(65537, 2048).public_key())
        .serial_number(RSA.certificate.serial_number)
        .not_valid_before(MADE)
        .not_valid_after(MADE + timedelta(days=1))
        .sign(EC.key, hashes.SHA256())
    )


def edwards() -> bytes:
    """A signer whose key is neither RSA nor on a curve we know."""
    key = ed25519.Ed25519PrivateKey.generate()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(RSA.certificate.subject)
        .issuer_name(RSA.certificate.issuer)
        .public_key(key.public_key())
        .serial_number(RSA.certificate.serial_number)
        .not_valid_before(MADE)
        .not_valid_after(MADE + timedelta(days=1))
        .sign(EC.key, hashes.SHA256())
    )
    return embedding([certificate])


def set_type(info: shapes.ContentInfo, _signer: shapes.SignerInfo) -> None:
    info.oid = shapes.DATA


def set_content(info: shapes.ContentInfo, _signer: shapes.SignerInfo) -> None:
    info.content.content.content = CONTENT


def no_signer() -> bytes:
    info = taken_apart()
    info.content.signers = asn1.SetOf([])
    return asn1.encode_der(info)


def garbage_certificate(info: shapes.ContentInfo, _signer: shapes.SignerInfo) -> None:
    info.content.certificates = [shapes.encoded(b"no certificate")]


CASES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a signature longer than any": ("signature-malformed", lambda: bytes(MAX_SIGNATURE + 1)),
    "a PEM block whose base64 is wrong": (
        "signature-malformed",
        lambda: b"-----BEGIN PKCS7-----\nAAA\n-----END PKCS7-----\n",
    ),
    "a PEM block that begins as one thing and ends as another": (
        "signature-malformed",
        lambda: b"-----BEGIN PKCS7-----\nAAAA\n-----END CMS-----\n",
    ),
    "CMS that is not signed data": ("signature-malformed", lambda: rebuilt(set_type)),
    "content inside the signature": ("signature-malformed", lambda: rebuilt(set_content)),
    "nobody signed": ("signer-ambiguous", no_signer),
    "a certificate that is none": (
        "signature-malformed",
        lambda: rebuilt(garbage_certificate),
    ),
    "more certificates than any chain has": (
        "signature-malformed",
        lambda: embedding([RSA.certificate] * (MAX_CERTIFICATES + 1)),
    ),
    "two certificates that claim to be the signer's": (
        "signer-ambiguous",
        lambda: embedding([RSA.certificate, twin()]),
    ),
    "another key under the signer's name": ("signature-invalid", lambda: embedding([twin()])),
    "an Edwards key": ("algorithm-unsupported", edwards),
    "no message digest": ("signature-malformed", lambda: resigned(TYPE)),
    "no content type": ("signature-malformed", lambda: resigned(DIGEST)),
    "another content type": (
        "signature-malformed",
        lambda: resigned(attribute(shapes.CONTENT_TYPE, shapes.SIGNED_DATA), DIGEST),
    ),
    "two message digests": (
        "signature-malformed",
        lambda: resigned(TYPE, DIGEST, OTHER_DIGEST),
    ),
    "one message digest with two values": (
        "signature-malformed",
        lambda: resigned(TYPE, attribute(shapes.MESSAGE_DIGEST, b"a" * 32, b"b" * 32)),
    ),
    "a message digest that is a number": (
        "signature-malformed",
        lambda: resigned(TYPE, attribute(shapes.MESSAGE_DIGEST, 5)),
    ),
    "a signing time that is text": (
        "signature-malformed",
        lambda: resigned(TYPE, DIGEST, attribute(shapes.SIGNING_TIME, "noon")),
    ),
    "a digest of other content": ("content-changed", lambda: resigned(TYPE, OTHER_DIGEST)),
    "a hundred attributes": (
        "signature-malformed",
        lambda: resigned(TYPE, DIGEST, *(attribute(PKCS9_OTHER, n) for n in range(100))),
    ),
    "SHA-1 as the digest": ("weak-algorithm", lambda: algorithms(digest=SHA1)),
    "SHA-224 as the digest": ("algorithm-unsupported", lambda: algorithms(digest=SHA224)),
    "RSA with SHA-1": ("weak-algorithm", lambda: algorithms(signature=RSA_WITH_SHA1)),
    "RSA with another digest than announced": (
        "signature-malformed",
        lambda: algorithms(signature=RSA_WITH_SHA512),
    ),
    "an RSA signature that says ECDSA": (
        "algorithm-unsupported",
        lambda: algorithms(signature=next(iter(shapes.ECDSA_WITH))),
    ),
    "an ECDSA signature that says RSA": (
        "algorithm-unsupported",
        lambda: algorithms(signature=shapes.RSA_ENCRYPTION, who=EC),
    ),
    "RSA-PSS without parameters, which means SHA-1": (
        "weak-algorithm",
        lambda: algorithms(signature=shapes.RSASSA_PSS, parameters=None),
    ),
    "RSA-PSS that leaves the digest to its default": (
        "weak-algorithm",
        lambda: pss(mask=next(iter(shapes.DIGESTS))),
    ),
    "RSA-PSS that leaves the mask to its default": (
        "weak-algorithm",
        lambda: pss(digest=next(iter(shapes.DIGESTS))),
    ),
    "RSA-PSS with SHA-1 in the mask": (
        "weak-algorithm",
        lambda: pss(digest=next(iter(shapes.DIGESTS)), mask=SHA1),
    ),
    "RSA-PSS with another digest than announced": (
        "signature-malformed",
        lambda: pss(digest=SHA512, mask=SHA512),
    ),
    "RSA-PSS with a salt longer than any key": (
        "signature-malformed",
        lambda: pss(*[next(iter(shapes.DIGESTS))] * 2, salt=1 << 40),
    ),
    "RSA-PSS with a negative salt": (
        "signature-malformed",
        lambda: pss(*[next(iter(shapes.DIGESTS))] * 2, salt=-1),
    ),
    "RSA-PSS over a PKCS #1 signature": (
        "signature-invalid",
        lambda: pss(*[next(iter(shapes.DIGESTS))] * 2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_for_its_own_reason(name):
    code, make = CASES[name]
    with pytest.raises(SignatureError) as caught:
        verify_detached(make(), CONTENT, component="demo")
    assert caught.value.code == code, caught.value
    assert caught.value.component == "demo"


def test_the_same_parts_put_together_again_are_good():
    assert verify_detached(rebuilt(lambda _info, _signer: None), CONTENT).has_attributes
    assert verify_detached(resigned(TYPE, DIGEST), CONTENT).signing_time is None


@pytest.mark.parametrize(
    "key",
    [rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP256K1())],
    ids=["rsa-1024", "secp256k1"],
)
def test_we_do_not_sign_with_what_we_would_refuse(key):
    weak = issue("Weak", key=key)
    with pytest.raises(SignatureError):
        sign_bare(CONTENT, weak.certificate, weak.key)
