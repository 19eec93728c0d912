"""Authenticode signatures of PE images, as UEFI Secure Boot checks them.

A CMS SignedData whose content is an SpcIndirectDataContent: the image's digest. Same image, same
key, same bytes: no signing time is put in, because firmware does not look at any.

Source: "Windows Authenticode Portable Executable Signature Format" (2008), UEFI 2.10 section 32.5.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from casemate.formats import cms_asn1 as shapes
from casemate.formats.pe import attach_signature, authenticode_digest

DIGEST: Final = "sha256"
"""The only digest that every Secure Boot firmware knows."""

_SPC_INDIRECT_DATA: Final = x509.ObjectIdentifier("1.3.6.1.4.1.311.2.1.4")
_SPC_PE_IMAGE: Final = x509.ObjectIdentifier("1.3.6.1.4.1.311.2.1.15")
_SHA256: Final = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")
_PE_IMAGE_DATA: Final = bytes.fromhex("3009 0301 00 a004 a202 8000")
"""SpcPeImageData: no flags, and an empty file name where a link to the file would stand."""


@asn1.sequence
class _ImageAttribute:
    oid: x509.ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
class _DigestInfo:
    algorithm: shapes.DigestAlgorithm
    digest: bytes


@asn1.sequence
class _IndirectData:
    data: _ImageAttribute
    digest: _DigestInfo


@asn1.sequence
class _Content:
    oid: x509.ObjectIdentifier
    content: Annotated[asn1.TLV, asn1.Explicit(0)]


@asn1.sequence
class _SignedData:
    version: int
    digest_algorithms: asn1.SetOf[shapes.DigestAlgorithm]
    content: _Content
    certificates: Annotated[list[asn1.TLV], asn1.Implicit(0)]
    signers: asn1.SetOf[shapes.SignerInfo]


@asn1.sequence
class _ContentInfo:
    oid: x509.ObjectIdentifier
    content: Annotated[_SignedData, asn1.Explicit(0)]


def sign_image(image: bytes, certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> bytes:
    """Return the image with a signature.

    Args:
        image: an unsigned PE32+ image.
        certificate: of the signer; this one, or one above it, stands in the firmware's db.
        key: the certificate's private key.

    Raises:
        ArgumentError: the image is signed already.
        FormatError: it is no PE32+ image.
    """
    algorithm = shapes.DigestAlgorithm(oid=_SHA256, parameters=asn1.Null())
    indirect = asn1.encode_der(
        _IndirectData(
            data=_ImageAttribute(
                oid=_SPC_PE_IMAGE, value=asn1.decode_der(asn1.TLV, _PE_IMAGE_DATA)
            ),
            digest=_DigestInfo(algorithm=algorithm, digest=authenticode_digest(image, DIGEST)),
        )
    )
    attributes = asn1.SetOf(
        [
            _attribute(shapes.CONTENT_TYPE, _SPC_INDIRECT_DATA),
            _attribute(shapes.MESSAGE_DIGEST, hashlib.new(DIGEST, _body(indirect)).digest()),
        ]
    )
    message = asn1.encode_der(attributes)
    signer = shapes.SignerInfo(
        version=1,
        sid=shapes.IssuerAndSerial(
            issuer=asn1.decode_der(asn1.TLV, certificate.issuer.public_bytes()),
            serial=certificate.serial_number,
        ),
        digest_algorithm=algorithm,
        signed_attributes=attributes,
        signature_algorithm=shapes.SignatureAlgorithm(
            oid=shapes.RSA_ENCRYPTION, parameters=asn1.Null()
        ),
        signature=key.sign(message, padding.PKCS1v15(), hashes.SHA256()),
        unsigned_attributes=None,
    )
    encoded = certificate.public_bytes(serialization.Encoding.DER)
    signed = _ContentInfo(
        oid=shapes.SIGNED_DATA,
        content=_SignedData(
            version=1,
            digest_algorithms=asn1.SetOf([algorithm]),
            content=_Content(oid=_SPC_INDIRECT_DATA, content=asn1.decode_der(asn1.TLV, indirect)),
            certificates=[asn1.decode_der(asn1.TLV, encoded)],
            signers=asn1.SetOf([signer]),
        ),
    )
    return attach_signature(image, asn1.encode_der(signed))


def _attribute(oid: x509.ObjectIdentifier, value: object) -> shapes.Attribute:
    return shapes.Attribute(oid=oid, values=asn1.SetOf([shapes.encoded(value)]))


def _body(element: bytes) -> bytes:
    """Return a DER element without its tag and length: what the message digest covers."""
    first = element[1]
    return element[2 + (first & 0x7F if first & 0x80 else 0) :]
