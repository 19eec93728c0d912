"""Read X.509 certificates from strangers, completely or not at all.

``cryptography`` reads most of a certificate only when asked, and then raises what it likes. Here
everything is read at once, so that a certificate that was loaded can be used without surprises.
Source: RFC 5280 section 4.1.
"""

from __future__ import annotations

from typing import Annotated, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1

from casemate.errors import FormatError

_VERSION_3: Final = 2
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@asn1.sequence
class _ToBeSigned:
    version: Annotated[int | None, asn1.Explicit(0)]
    serial: int
    signature: asn1.TLV
    issuer: asn1.TLV
    validity: asn1.TLV
    subject: asn1.TLV
    key: asn1.TLV
    issuer_id: Annotated[asn1.BitString | None, asn1.Implicit(1)]
    subject_id: Annotated[asn1.BitString | None, asn1.Implicit(2)]
    extensions: Annotated[list[asn1.TLV] | None, asn1.Explicit(3)]


@asn1.sequence
class _Certificate:
    to_be_signed: _ToBeSigned
    algorithm: asn1.TLV
    signature: asn1.BitString


def load_certificate(der: bytes, *, component: str = "") -> x509.Certificate:
    """Return a version 3 certificate of which every field can be read.

    Raises:
        FormatError: It cannot be read, or its key is of a kind we cannot use (``certificate``).
    """
    try:
        fields = asn1.decode_der(_Certificate, der).to_be_signed
        if fields.version != _VERSION_3 or fields.serial <= 0:
            raise ValueError("it is not version 3, or has no serial number")
        certificate = x509.load_der_x509_certificate(der)
        for read in (
            certificate.subject.rfc4514_string,
            certificate.issuer.public_bytes,
            certificate.public_key,
            lambda: certificate.extensions,
            lambda: certificate.not_valid_before_utc,
            lambda: certificate.not_valid_after_utc,
        ):
            read()
    except _UNREADABLE as error:
        raise FormatError(
            f"A certificate cannot be read: {error}.",
            code="certificate",
            component=component,
            remedy="Ask for a version 3 certificate with an RSA or elliptic-curve key, as DER.",
        ) from error
    return certificate
