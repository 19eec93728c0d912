"""Time stamp tokens (RFC 3161) that prove when a CMS signature existed.

A token is CMS over a small record: a digest of the signature's bytes and a time. It rides along as
an unsigned attribute. Only whether it fits the signature is decided here; whether its maker is a
time stamp authority that somebody trusts is policy.

Sources: RFC 3161 section 2.4.2 and appendix A, RFC 5816 (certificate identifiers with SHA-256).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes

from casemate.errors import FormatError, SignatureError
from casemate.formats import cms_asn1 as shapes
from casemate.formats.cms_checks import Check

TOKEN: Final = x509.ObjectIdentifier("1.2.840.113549.1.9.16.2.14")
"""The unsigned attribute that holds a token."""
MAX_TOKENS: Final = 4
"""Tokens of one signature; real ones have one."""

_TST_INFO: Final = x509.ObjectIdentifier("1.2.840.113549.1.9.16.1.4")
_SIGNING_CERTIFICATE: Final = x509.ObjectIdentifier("1.2.840.113549.1.9.16.2.47")
_SHA256: Final = next(oid for oid, name in shapes.DIGESTS.items() if name == "sha256")
_GRANTED: Final = (0, 1)
_TIME: Final = re.compile(rb"([0-9]{14})(?:\.[0-9]{1,9})?Z", re.ASCII)
_GENERALIZED_TIME: Final = b"\x18"


@dataclass(frozen=True, slots=True)
class TimeStamp:
    """A token that fits: the signature existed at ``time``, says the holder of ``certificate``."""

    time: datetime
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]


@asn1.sequence
class _Imprint:
    algorithm: shapes.DigestAlgorithm
    digest: bytes


@asn1.sequence
class _Accuracy:
    seconds: int | None
    milliseconds: Annotated[int | None, asn1.Implicit(0)]
    microseconds: Annotated[int | None, asn1.Implicit(1)]


@asn1.sequence
class _TstInfo:
    version: int
    policy: x509.ObjectIdentifier
    imprint: _Imprint
    serial: int
    time: asn1.TLV
    accuracy: _Accuracy | None
    ordering: Annotated[bool, asn1.Default(value=False)]
    nonce: int | None
    authority: Annotated[list[asn1.TLV] | None, asn1.Implicit(0)]
    extensions: Annotated[list[asn1.TLV] | None, asn1.Implicit(1)]


@asn1.sequence
class _IssuerSerial:
    names: list[asn1.TLV]
    serial: int


@asn1.sequence
class _CertificateId:
    algorithm: shapes.DigestAlgorithm | None
    digest: bytes
    issuer_serial: _IssuerSerial | None


@asn1.sequence
class _SigningCertificate:
    certificates: list[_CertificateId]
    policies: list[asn1.TLV] | None


@asn1.sequence
class _Query:
    version: int
    imprint: _Imprint
    with_certificate: bool


@asn1.sequence
class _Status:
    status: int
    texts: list[asn1.TLV] | None
    failure: asn1.BitString | None


@asn1.sequence
class _Reply:
    status: _Status
    token: shapes.ContentInfo | None


def write_query(signature: bytes) -> bytes:
    """Return the DER of a request to stamp a signature value, for any authority (RFC 3161)."""
    algorithm = shapes.DigestAlgorithm(oid=_SHA256, parameters=asn1.Null())
    imprint = _Imprint(algorithm=algorithm, digest=hashlib.sha256(signature).digest())
    return asn1.encode_der(_Query(version=1, imprint=imprint, with_certificate=True))


def token_of(reply: bytes, *, component: str = "") -> bytes:
    """Return the token in an authority's reply, or the token that ``reply`` is itself.

    Raises:
        FormatError: ``timestamp-reply``: it is neither, or the authority refused.
    """
    try:
        asn1.decode_der(shapes.ContentInfo, reply)
    except ValueError:
        pass
    else:
        return reply
    why = "It is no reply of a time stamp authority"
    try:
        found = asn1.decode_der(_Reply, reply)
        if found.token is not None and found.status.status in _GRANTED:
            return asn1.encode_der(found.token)
        why = f"The time stamp authority refused (status {found.status.status})"
    except ValueError as error:
        why = f"{why} ({error})"
    raise FormatError(
        f"{why}.",
        code="timestamp-reply",
        component=component,
        remedy="Ask the authority again with the query that casemate vib stamp --query wrote.",
    )


def read_token(token: bytes, signature: bytes, *, component: str = "") -> TimeStamp:
    """Check that a token is whole and made for this signature.

    Args:
        token: its DER.
        signature: the signature value that was stamped.
        component: what errors say they are about.

    Raises:
        SignatureError: ``timestamp-invalid``.
    """
    check = Check(component)
    try:
        return _read(check, token, signature)
    except SignatureError as error:
        raise SignatureError(
            f"The time stamp of the signature is refused. {error.reason}",
            code="timestamp-invalid",
            component=component,
            remedy="Get the file again from its source, or have it signed and stamped again.",
        ) from error


def _read(check: Check, token: bytes, signature: bytes) -> TimeStamp:
    malformed = "signature-malformed"
    try:
        info = asn1.decode_der(shapes.ContentInfo, token)
        data = info.content
        content = data.content.content
        if info.oid != shapes.SIGNED_DATA or data.content.oid != _TST_INFO or content is None:
            raise check.error(malformed, "It is no time stamp token.")
        record = asn1.decode_der(_TstInfo, content)
        moment = _moment(record)
    except ValueError as error:
        raise check.error(malformed, f"It is no time stamp token ({error}).") from error
    signers = data.signers.as_list()
    if len(signers) != 1 or signers[0].signed_attributes is None:
        raise check.error(malformed, "It does not have one signer with signed attributes.")
    signer, attributes = signers[0], signers[0].signed_attributes
    digest = check.digest_name(signer.digest_algorithm)
    embedded = check.certificates(data)
    certificate = check.find_signer(signer, embedded)
    check.signature(certificate, signer, digest, asn1.encode_der(attributes))
    check.attributes(attributes.as_list(), digest, content, kind=_TST_INFO)
    _check_identity(check, attributes.as_list(), certificate)
    stamped = hashlib.new(check.digest_name(record.imprint.algorithm), signature).digest()
    if not hmac.compare_digest(stamped, record.imprint.digest):
        raise check.error("content-changed", "It was made for another signature.")
    others = tuple(one for one in embedded if one != certificate)
    return TimeStamp(moment, certificate, others)


def _moment(record: _TstInfo) -> datetime:
    """Return the time, to the second. Raises ValueError."""
    found = _TIME.fullmatch(record.time.data)
    if record.time.tag_bytes != _GENERALIZED_TIME or found is None:
        raise ValueError("its time is none")
    return datetime.strptime(found[1].decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def _check_identity(
    check: Check, attributes: Sequence[shapes.Attribute], certificate: x509.Certificate
) -> None:
    """Raise unless the token names the certificate that it was signed with, by a strong digest."""
    values = [one.values.as_list() for one in attributes if one.oid == _SIGNING_CERTIFICATE]
    if len(values) != 1 or len(values[0]) != 1:
        raise check.error("weak-algorithm", "It does not name its signer's certificate by SHA-2.")
    try:
        named = values[0][0].parse(_SigningCertificate).certificates
    except ValueError as error:
        raise check.error("signature-malformed", f"Its signer's name: {error}.") from error
    if not named:
        raise check.error("signature-malformed", "It names no certificate.")
    name = "sha256" if named[0].algorithm is None else check.digest_name(named[0].algorithm)
    algorithm = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
    if not hmac.compare_digest(named[0].digest, certificate.fingerprint(algorithm[name])):
        raise check.error("signature-invalid", "It names another certificate than its signer's.")
