"""The ASN.1 shapes of CMS SignedData, and the object identifiers it uses.

This is the one place that leans on the declarative decoder of ``cryptography``, which reads strict
DER only. Certificates are read as a list, not as a set: their order does not matter, the bytes are
the same, and widespread signers do not sort them.

Sources: RFC 5652 section 5 and 11, RFC 4055, RFC 5754, RFC 5758.
"""

from __future__ import annotations

from typing import Annotated, Final

from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier

DATA: Final = ObjectIdentifier("1.2.840.113549.1.7.1")
SIGNED_DATA: Final = ObjectIdentifier("1.2.840.113549.1.7.2")
CONTENT_TYPE: Final = ObjectIdentifier("1.2.840.113549.1.9.3")
MESSAGE_DIGEST: Final = ObjectIdentifier("1.2.840.113549.1.9.4")
SIGNING_TIME: Final = ObjectIdentifier("1.2.840.113549.1.9.5")

RSA_ENCRYPTION: Final = ObjectIdentifier("1.2.840.113549.1.1.1")
RSASSA_PSS: Final = ObjectIdentifier("1.2.840.113549.1.1.10")
MGF1: Final = ObjectIdentifier("1.2.840.113549.1.1.8")

DIGESTS: Final = {
    ObjectIdentifier("2.16.840.1.101.3.4.2.1"): "sha256",
    ObjectIdentifier("2.16.840.1.101.3.4.2.2"): "sha384",
    ObjectIdentifier("2.16.840.1.101.3.4.2.3"): "sha512",
}
RSA_WITH: Final = {
    ObjectIdentifier("1.2.840.113549.1.1.11"): "sha256",
    ObjectIdentifier("1.2.840.113549.1.1.12"): "sha384",
    ObjectIdentifier("1.2.840.113549.1.1.13"): "sha512",
}
ECDSA_WITH: Final = {
    ObjectIdentifier("1.2.840.10045.4.3.2"): "sha256",
    ObjectIdentifier("1.2.840.10045.4.3.3"): "sha384",
    ObjectIdentifier("1.2.840.10045.4.3.4"): "sha512",
}
WEAK: Final = {
    ObjectIdentifier("1.2.840.113549.2.2"): "MD2",
    ObjectIdentifier("1.2.840.113549.2.4"): "MD4",
    ObjectIdentifier("1.2.840.113549.2.5"): "MD5",
    ObjectIdentifier("1.3.14.3.2.26"): "SHA-1",
    ObjectIdentifier("1.2.840.113549.1.1.2"): "MD2 with RSA",
    ObjectIdentifier("1.2.840.113549.1.1.4"): "MD5 with RSA",
    ObjectIdentifier("1.2.840.113549.1.1.5"): "SHA-1 with RSA",
    ObjectIdentifier("1.2.840.10040.4.3"): "SHA-1 with DSA",
    ObjectIdentifier("1.2.840.10045.4.1"): "SHA-1 with ECDSA",
}
"""Algorithms that are known and refused, by the name people know them under."""


@asn1.sequence
class DigestAlgorithm:
    """AlgorithmIdentifier of a digest: parameters absent or NULL."""

    oid: ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class MaskAlgorithm:
    """AlgorithmIdentifier of a mask generation function."""

    oid: ObjectIdentifier
    digest: DigestAlgorithm


@asn1.sequence
class PssParameters:
    """RSASSA-PSS-params; what is absent has its SHA-1 default and is refused later."""

    digest: Annotated[DigestAlgorithm | None, asn1.Explicit(0)]
    mask: Annotated[MaskAlgorithm | None, asn1.Explicit(1)]
    salt_length: Annotated[int | None, asn1.Explicit(2)]
    trailer: Annotated[int | None, asn1.Explicit(3)]


@asn1.sequence
class SignatureAlgorithm:
    """AlgorithmIdentifier of a signature."""

    oid: ObjectIdentifier
    parameters: asn1.Null | PssParameters | None


@asn1.sequence
class IssuerAndSerial:
    """IssuerAndSerialNumber; the issuer's name stays as encoded."""

    issuer: asn1.TLV
    serial: int


@asn1.sequence
class Attribute:
    """One attribute; values stay as encoded until somebody asks for them."""

    oid: ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class SignerInfo:
    """SignerInfo."""

    version: int
    sid: IssuerAndSerial | Annotated[bytes, asn1.Implicit(0)]
    digest_algorithm: DigestAlgorithm
    signed_attributes: Annotated[asn1.SetOf[Attribute] | None, asn1.Implicit(0)]
    signature_algorithm: SignatureAlgorithm
    signature: bytes
    unsigned_attributes: Annotated[asn1.SetOf[Attribute] | None, asn1.Implicit(1)]


@asn1.sequence
class EncapsulatedContent:
    """EncapsulatedContentInfo; content is absent in a detached signature."""

    oid: ObjectIdentifier
    content: Annotated[bytes | None, asn1.Explicit(0)]


@asn1.sequence
class SignedData:
    """SignedData."""

    version: int
    digest_algorithms: asn1.SetOf[DigestAlgorithm]
    content: EncapsulatedContent
    certificates: Annotated[list[asn1.TLV] | None, asn1.Implicit(0)]
    revocations: Annotated[list[asn1.TLV] | None, asn1.Implicit(1)]
    signers: asn1.SetOf[SignerInfo]


@asn1.sequence
class ContentInfo:
    """ContentInfo that holds SignedData."""

    oid: ObjectIdentifier
    content: Annotated[SignedData, asn1.Explicit(0)]


def encoded(value: object) -> asn1.TLV:
    """Return a value as the already encoded element that an open type holds."""
    return asn1.decode_der(asn1.TLV, asn1.encode_der(value))
