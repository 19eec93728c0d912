"""Detached CMS signatures (PKCS #7 SignedData): verify and make them.

VIBs carry one as PEM text with signed attributes; Linux kernel modules carry one as DER without
attributes and without certificates. Only whether the signature fits the bytes is decided here;
whether its maker is trusted is policy. Weak algorithms do not exist here, so no caller can forget
to refuse them.

Sources: RFC 5652, RFC 4056 (RSASSA-PSS), RFC 5754 (SHA-2), kernel ``module_signature.h``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from casemate.errors import SignatureError
from casemate.formats import cms_asn1 as shapes
from casemate.formats.cms_checks import HASHES, Check
from casemate.formats.timestamp import MAX_TOKENS, TOKEN, read_token

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class KeyElsewhere(Protocol):
    """A private key that is used without being held: in a token."""

    def sign_message(self, message: bytes, digest: str) -> bytes:
        """Return the signature of a message: RSA PKCS #1 v1.5, or ECDSA as DER."""


_OID_OF_DIGEST: Final = {name: oid for oid, name in shapes.DIGESTS.items()}
_OID_OF_ECDSA: Final = {name: oid for oid, name in shapes.ECDSA_WITH.items()}
_SET_TAG: Final = b"\x31"
_UTC_TIME_ENDS: Final = 2050


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that fits its content.

    ``chain`` holds the other embedded certificates, in file order and unverified.
    ``signing_time`` is what the signer claims, None when it claims nothing. ``signature`` is the
    bare signature value, and ``time_stamps`` are the tokens that came with it, unverified.
    """

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    signing_time: datetime | None
    digest_algorithm: str
    has_attributes: bool
    signature: bytes = b""
    time_stamps: tuple[bytes, ...] = ()


def verify_detached(
    signature: bytes,
    content: bytes | memoryview,
    *,
    certificates: Iterable[x509.Certificate] = (),
    component: str = "",
) -> Signed:
    """Check that a detached signature is over exactly these bytes.

    Args:
        signature: SignedData as PEM (``PKCS7`` or ``CMS``) or DER.
        content: The bytes that were signed.
        certificates: More candidates for the signer, for signatures that embed none.
        component: What errors say they are about.

    Raises:
        SignatureError: ``signature-malformed``, ``signature-invalid``, ``content-changed`` (the
            signature is whole, but over other content), ``weak-algorithm``,
            ``algorithm-unsupported``, ``signer-missing`` or ``signer-ambiguous``.
    """
    check = Check(component)
    data = check.signed_data(signature)
    signers = data.signers.as_list()
    if len(signers) != 1:
        raise check.error("signer-ambiguous", f"It has {len(signers)} signers instead of one.")
    signer = signers[0]
    digest = check.digest_name(signer.digest_algorithm)
    embedded = check.certificates(data)
    certificate = check.find_signer(signer, (*embedded, *certificates))
    attributes = signer.signed_attributes
    if attributes is None:
        if bytes(content[:1]) == _SET_TAG:
            # Else signed attributes could be passed off as content that somebody signed.
            raise check.error("signature-malformed", "Its content looks like signed attributes.")
        check.signature(certificate, signer, digest, bytes(content))
        signing_time = None
    else:
        check.signature(certificate, signer, digest, asn1.encode_der(attributes))
        signing_time = check.attributes(attributes.as_list(), digest, content)
    return Signed(
        certificate=certificate,
        chain=tuple(one for one in embedded if one != certificate),
        signing_time=signing_time,
        digest_algorithm=digest,
        has_attributes=attributes is not None,
        signature=signer.signature,
        time_stamps=_tokens(check, signer),
    )


def _tokens(check: Check, signer: shapes.SignerInfo) -> tuple[bytes, ...]:
    """Return the time stamp tokens among the unsigned attributes."""
    unsigned = signer.unsigned_attributes
    found = [
        asn1.encode_der(value)
        for attribute in ([] if unsigned is None else unsigned.as_list())
        if attribute.oid == TOKEN
        for value in attribute.values.as_list()
    ]
    if len(found) > MAX_TOKENS:
        raise check.error("signature-malformed", f"It has more than {MAX_TOKENS} time stamps.")
    return tuple(found)


def sign_detached(
    content: bytes,
    certificate: x509.Certificate,
    key: PrivateKey | KeyElsewhere,
    chain: Sequence[x509.Certificate] = (),
    *,
    signing_time: datetime,
    digest: str = "sha256",
) -> bytes:
    """Return a PEM signature with signed attributes, as VIBs carry it.

    Same input, same bytes: RSA signs with PKCS #1 v1.5, elliptic curves with RFC 6979.

    Args:
        content: The bytes to sign.
        certificate: The signer's; its key must be the public half of ``key``.
        key: RSA of at least 2048 bits, or NIST P-256, P-384 or P-521; held, or in a token.
        chain: Intermediate certificates to embed.
        signing_time: Time of signing, aware; kept to the second.
        digest: ``sha256``, ``sha384`` or ``sha512``.

    Raises:
        SignatureError: The key is too weak, of another kind, or not the certificate's.
    """
    moment = signing_time.astimezone(UTC).replace(microsecond=0)
    stamp = asn1.UTCTime(moment) if moment.year < _UTC_TIME_ENDS else asn1.GeneralizedTime(moment)
    attributes = asn1.SetOf(
        [
            _attribute(shapes.CONTENT_TYPE, shapes.DATA),
            _attribute(shapes.SIGNING_TIME, stamp),
            _attribute(shapes.MESSAGE_DIGEST, hashlib.new(digest, content).digest()),
        ]
    )
    signed = _assemble(
        certificate, key, digest, asn1.encode_der(attributes), attributes, (certificate, *chain)
    )
    return _pem(signed)


def with_time_stamp(signature: bytes, token: bytes, *, component: str = "") -> bytes:
    """Return a signature (PEM) with a time stamp token added to its unsigned attributes.

    Raises:
        SignatureError: ``signature-malformed``, or ``timestamp-invalid``: it is for another one.
    """
    check = Check(component)
    data = check.signed_data(signature)
    signers = data.signers.as_list()
    if len(signers) != 1:
        raise check.error("signer-ambiguous", f"It has {len(signers)} signers instead of one.")
    (signer,) = signers
    read_token(token, signer.signature, component=component)
    before = [] if signer.unsigned_attributes is None else signer.unsigned_attributes.as_list()
    others = [one for one in before if one.oid != TOKEN]
    stamp = shapes.Attribute(oid=TOKEN, values=asn1.SetOf([asn1.decode_der(asn1.TLV, token)]))
    signer.unsigned_attributes = asn1.SetOf([*others, stamp])
    data.signers = asn1.SetOf([signer])
    return _pem(asn1.encode_der(shapes.ContentInfo(oid=shapes.SIGNED_DATA, content=data)))


def _pem(signed: bytes) -> bytes:
    lines = base64.encodebytes(signed).replace(b"\n", b"")
    rows = [lines[start : start + 64] for start in range(0, len(lines), 64)]
    return b"\n".join((b"-----BEGIN PKCS7-----", *rows, b"-----END PKCS7-----", b""))


def sign_bare(
    content: bytes, certificate: x509.Certificate, key: PrivateKey, *, digest: str = "sha256"
) -> bytes:
    """Return a DER signature without attributes and certificates, as kernel modules carry it.

    Raises:
        SignatureError: As in ``sign_detached``.
    """
    return _assemble(certificate, key, digest, content, None, ())


def _attribute(oid: x509.ObjectIdentifier, value: object) -> shapes.Attribute:
    return shapes.Attribute(oid=oid, values=asn1.SetOf([shapes.encoded(value)]))


def _assemble(
    certificate: x509.Certificate,
    key: PrivateKey | KeyElsewhere,
    digest: str,
    message: bytes,
    attributes: asn1.SetOf[shapes.Attribute] | None,
    certificates: Sequence[x509.Certificate],
) -> bytes:
    """Sign ``message`` and return the DER of the whole ContentInfo."""
    check = Check(certificate.subject.rfc4514_string())
    public = certificate.public_key()
    check.strength(public)
    if isinstance(public, rsa.RSAPublicKey):
        algorithm = shapes.SignatureAlgorithm(oid=shapes.RSA_ENCRYPTION, parameters=asn1.Null())
    else:
        algorithm = shapes.SignatureAlgorithm(oid=_OID_OF_ECDSA[digest], parameters=None)
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(message, padding.PKCS1v15(), HASHES[digest])
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(message, ec.ECDSA(HASHES[digest], deterministic_signing=True))
    else:
        signature = key.sign_message(message, digest)
    digest_algorithm = shapes.DigestAlgorithm(oid=_OID_OF_DIGEST[digest], parameters=asn1.Null())
    signer = shapes.SignerInfo(
        version=1,
        sid=shapes.IssuerAndSerial(
            issuer=asn1.decode_der(asn1.TLV, certificate.issuer.public_bytes()),
            serial=certificate.serial_number,
        ),
        digest_algorithm=digest_algorithm,
        signed_attributes=attributes,
        signature_algorithm=algorithm,
        signature=signature,
        unsigned_attributes=None,
    )
    try:
        check.signature(certificate, signer, digest, message)
    except SignatureError as error:
        reason = "The key is not the one of the certificate."
        raise check.error("signature-invalid", reason) from error
    info = shapes.ContentInfo(
        oid=shapes.SIGNED_DATA,
        content=shapes.SignedData(
            version=1,
            digest_algorithms=asn1.SetOf([digest_algorithm]),
            content=shapes.EncapsulatedContent(oid=shapes.DATA, content=None),
            certificates=[
                asn1.decode_der(asn1.TLV, one.public_bytes(serialization.Encoding.DER))
                for one in certificates
            ]
            or None,
            revocations=None,
            signers=asn1.SetOf([signer]),
        ),
    )
    return asn1.encode_der(info)
