"""EK certificates as TPMs really hold them.

Vendors ship certificates that strict readers refuse: behind a TCG header of seven bytes, padded to
the size of the NV index, with names whose SETs are not sorted, with critical extensions of their
own, with the key marked as OAEP only. They are read here from their original bytes, and those are
what a signature is checked over: nothing is encoded anew.

TCG EK Credential Profile 2.5; TCG PC Client Implementation 1.21, section 7.4.5 (the header).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from casemate.errors import FormatError, LimitError, SignatureError
from casemate.formats import der
from casemate.formats.der import Tlv, oid_text, read_tlv, write_tlv
from casemate.formats.text import escape

MAX_SIZE: Final = 16 << 10
"""Bytes of what an NV index holds; certificates have 700 to 2,000."""
EK_USAGE: Final = "2.23.133.8.1"
"""tcg-kp-EKCertificate."""
_TPM_ATTRIBUTES: Final = {
    "2.23.133.2.1": "manufacturer",
    "2.23.133.2.2": "model",
    "2.23.133.2.3": "version",
}
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_ALTERNATIVE_NAME: Final = "2.5.29.17"
_EXTENDED_USAGE: Final = "2.5.29.37"
_KEY_USAGE: Final = "2.5.29.15"
_STRINGS: Final[Mapping[int, str]] = {
    0x0C: "utf-8",
    0x13: "utf-8",
    0x16: "utf-8",
    0x1A: "utf-8",
    0x14: "latin-1",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}
"""UTF8, Printable, IA5, Visible, T61, Universal and BMP strings: vendors use what they like."""
_RSA: Final = bytes.fromhex("06092a864886f70d010101")
_OAEP: Final = bytes.fromhex("06092a864886f70d010107")
_HEADER: Final = 7
_DIRECTORY_NAME: Final = 0xA4
_EXTENSIONS: Final = 0xA3
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_CERT_SIGN: Final = 0x04
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_SIGNATURES: Final[Mapping[str, tuple[str, hashes.HashAlgorithm]]] = {
    "1.2.840.113549.1.1.11": ("rsa", hashes.SHA256()),
    "1.2.840.113549.1.1.12": ("rsa", hashes.SHA384()),
    "1.2.840.113549.1.1.13": ("rsa", hashes.SHA512()),
    "1.2.840.10045.4.3.2": ("ec", hashes.SHA256()),
    "1.2.840.10045.4.3.3": ("ec", hashes.SHA384()),
    "1.2.840.10045.4.3.4": ("ec", hashes.SHA512()),
}


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension; ``value`` is its DER."""

    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class LenientCertificate:
    """What there is to say about a certificate, and the bytes it was said with.

    Attributes:
        raw: the certificate, without header and padding.
        tbs: the bytes that are signed.
        serial: the serial number.
        issuer, subject: the names' DER.
        spki: the key's DER, as in the certificate.
        extensions: by object identifier.
        is_ca: whether basic constraints and key usage let it issue certificates.
        usages: the extended key usages.
        tpm: manufacturer, model and version of the TPM, as the alternative name states them.
    """

    raw: bytes
    tbs: bytes
    serial: int
    issuer: bytes
    subject: bytes
    not_before: datetime
    not_after: datetime
    spki: bytes
    extensions: Mapping[str, Extension]
    signature_algorithm: str
    signature: bytes
    is_ca: bool
    usages: tuple[str, ...]
    tpm: Mapping[str, str]

    @property
    def public_key(self) -> PublicKey:
        """The key; one that is marked as OAEP only is an RSA key all the same.

        Raises:
            FormatError: ``ek-key``: a key of another kind.
        """
        try:
            algorithm, _ = read_tlv(self.spki).items()
            spki = _plain_rsa(self.spki) if _OAEP in algorithm.content else self.spki
            key = serialization.load_der_public_key(spki)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise FormatError(f"EK certificate: its key: {error}", code="ek-key") from error
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            raise FormatError("EK certificate: neither RSA nor an elliptic curve", code="ek-key")
        return key

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, hexadecimal."""
        return hashlib.sha256(self.raw).hexdigest()


def name_text(name: bytes) -> str:
    """Return the values in a distinguished name (DER), printable, joined by commas."""
    values: list[str] = []
    for group in read_tlv(name).expect(der.SEQUENCE).items():
        for pair in group.expect(der.SET).items():
            values += (item.content.decode("utf-8", "replace") for item in pair.items()[1:])
    return escape(", ".join(values))


def normalise(data: bytes) -> bytes:
    """Return the certificate inside what an NV index holds: no TCG header, no padding.

    Raises:
        FormatError: ``ek-malformed``.
        LimitError: larger than any certificate.
    """
    if len(data) > MAX_SIZE:
        raise LimitError(f"an EK certificate of {len(data)} bytes")
    if data[:3] == b"\x10\x01\x00" and data[5:_HEADER] == b"\x10\x02":
        data = data[_HEADER : 5 + int.from_bytes(data[3:5], "big")]
    try:
        first = read_tlv(data).expect(der.SEQUENCE)
    except FormatError as error:
        raise _bad(error.reason) from error
    rest = data[len(first.raw) :]
    if rest.strip(b"\xff") and rest.strip(b"\0"):
        raise _bad("something else than padding follows it")
    return first.raw


def parse_lenient(data: bytes) -> LenientCertificate:
    """Read a certificate, an EK's or its CA's, as it comes from a TPM or a vendor.

    Raises:
        FormatError: ``ek-malformed``.
        LimitError: larger than any certificate.
    """
    raw = normalise(data)
    try:
        return _parse(raw)
    except (IndexError, ValueError) as error:
        raise _bad("its structure is not that of a certificate") from error
    except FormatError as error:
        raise _bad(error.reason) from error


def _bad(reason: str) -> FormatError:
    return FormatError(
        f"EK certificate: {reason}",
        code="ek-malformed",
        component="TPM",
        remedy="Read the certificate from the TPM again, or get it from the vendor's site.",
    )


def _parse(raw: bytes) -> LenientCertificate:
    tbs, algorithm, signature = read_tlv(raw).items()
    parts = list(tbs.expect(der.SEQUENCE).items())
    if parts[0].tag == _VERSION:
        parts.pop(0)
    serial, inner, issuer, validity, subject, spki, *rest = parts
    if inner.raw != algorithm.raw:
        raise _bad("it names two signature algorithms")
    begin, end = validity.expect(der.SEQUENCE).items()
    extensions = _extensions(rest)
    return LenientCertificate(
        raw=raw,
        tbs=tbs.raw,
        serial=int.from_bytes(serial.expect(der.INTEGER).content, "big", signed=True),
        issuer=issuer.expect(der.SEQUENCE).raw,
        subject=subject.expect(der.SEQUENCE).raw,
        not_before=_time(begin),
        not_after=_time(end),
        spki=spki.expect(der.SEQUENCE).raw,
        extensions=extensions,
        signature_algorithm=oid_text(algorithm.items()[0].expect(der.OBJECT_ID).content),
        signature=der.bits(signature.expect(der.BIT_STRING).content),
        is_ca=_is_ca(extensions),
        usages=_usages(extensions),
        tpm=_tpm(extensions),
    )


def _extensions(parts: list[Tlv]) -> dict[str, Extension]:
    found: dict[str, Extension] = {}
    for part in parts:
        if part.tag != _EXTENSIONS:
            continue
        for item in read_tlv(part.content).expect(der.SEQUENCE).items():
            name, *middle, value = item.expect(der.SEQUENCE).items()
            oid = oid_text(name.expect(der.OBJECT_ID).content)
            if oid in found:
                raise _bad(f"the extension {oid} comes twice")
            critical = bool(middle) and _true(middle[0])
            found[oid] = Extension(critical, value.expect(der.OCTET_STRING).content)
    return found


def _true(item: Tlv) -> bool:
    """Tell whether a BOOLEAN is true: for DER that is FF alone, for some vendors anything."""
    return bool(item.content.strip(b"\0"))


def _is_ca(extensions: Mapping[str, Extension]) -> bool:
    found = extensions.get(_BASIC_CONSTRAINTS)
    if found is None:
        return False
    items = read_tlv(found.value).expect(der.SEQUENCE).items()
    authority = bool(items) and items[0].tag == der.BOOLEAN and _true(items[0])
    usage = extensions.get(_KEY_USAGE)
    if usage is None:
        return authority
    content = read_tlv(usage.value).expect(der.BIT_STRING).content
    return authority and len(content) > 1 and bool(content[1] & _CERT_SIGN)


def _usages(extensions: Mapping[str, Extension]) -> tuple[str, ...]:
    found = extensions.get(_EXTENDED_USAGE)
    if found is None:
        return ()
    items = read_tlv(found.value).expect(der.SEQUENCE).items()
    return tuple(oid_text(item.expect(der.OBJECT_ID).content) for item in items)


def _tpm(extensions: Mapping[str, Extension]) -> dict[str, str]:
    result: dict[str, str] = {}
    found = extensions.get(_ALTERNATIVE_NAME)
    if found is not None:
        for name in read_tlv(found.value).expect(der.SEQUENCE).items():
            if name.tag == _DIRECTORY_NAME:
                result.update(_tpm_attributes(read_tlv(name.content)))
    return result


def _time(item: Tlv) -> datetime:
    text = item.content.decode("ascii")
    if item.tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif item.tag != _GENERALIZED_TIME:
        raise _bad("a time of another kind")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _tpm_attributes(name: Tlv) -> dict[str, str]:
    result: dict[str, str] = {}
    for group in name.expect(der.SEQUENCE).items():
        for pair in group.expect(der.SET).items():
            oid, value = pair.expect(der.SEQUENCE).items()
            key = _TPM_ATTRIBUTES.get(oid_text(oid.expect(der.OBJECT_ID).content))
            encoding = _STRINGS.get(value.tag)
            if key is not None and encoding is not None:
                result[key] = value.content.decode(encoding, "replace")
    return result


def _plain_rsa(spki: bytes) -> bytes:
    """Return the key's DER as a plain RSA key: OAEP says how to use it, not what it is."""
    _, key = read_tlv(spki).items()
    algorithm = write_tlv(der.SEQUENCE, _RSA + b"\x05\x00")
    return write_tlv(der.SEQUENCE, algorithm + key.raw)


def verify_issued_by(certificate: LenientCertificate, issuer: LenientCertificate) -> None:
    """Check that ``issuer`` is a CA, is named as the issuer, and signed the original bytes.

    Raises:
        SignatureError: ``ek-signature``: one of these is not so; ``weak-algorithm``.
    """
    if certificate.issuer != issuer.subject:
        raise _unsigned("it names another issuer")
    if not issuer.is_ca:
        raise _unsigned("its issuer may not issue certificates")
    chosen = _SIGNATURES.get(certificate.signature_algorithm)
    if chosen is None:
        raise SignatureError(
            f"the EK certificate is signed with {certificate.signature_algorithm}, which is weak "
            "or unknown",
            code="weak-algorithm",
            component="TPM",
        )
    kind, algorithm = chosen
    key = issuer.public_key
    try:
        if isinstance(key, rsa.RSAPublicKey) and kind == "rsa":
            key.verify(certificate.signature, certificate.tbs, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and kind == "ec":
            key.verify(certificate.signature, certificate.tbs, ec.ECDSA(algorithm))
        else:
            raise _unsigned("its signature is not of the issuer's kind")
    except (InvalidSignature, UnsupportedAlgorithm):
        raise _unsigned("its signature is wrong") from None


def _unsigned(reason: str) -> SignatureError:
    return SignatureError(f"the EK certificate: {reason}", code="ek-signature", component="TPM")
