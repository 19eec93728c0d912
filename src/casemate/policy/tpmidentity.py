"""Whose TPM it is: EK certificate, EK, AK, and the credential challenge that ties them together."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from casemate.errors import AppraisalError, Finding, FormatError
from casemate.formats.certificates import load_certificate
from casemate.formats.tpm import (
    Credential,
    Public,
    check_attestation_key,
    make_credential,
    parse_public,
)
from casemate.policy.trust import subject_of

COMPONENT = "TPM"
CERTIFICATE_LIMIT = 16 << 10
"""Bytes of an EK certificate; real ones have 700 to 2,000."""

EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")
"""tcg-kp-EKCertificate: TCG EK Credential Profile 2.5, 3.2.16."""

E = TypeVar("E", bound=x509.ExtensionType)

SECRET_SIZE = 32
"""Bytes of the secret in a challenge: the digest size of every EK template in use."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a host says about its TPM: EK certificate (DER), TPMT_PUBLIC of EK and AK."""

    ek_certificate: bytes
    ek_public: bytes
    ak_public: bytes


@dataclass(frozen=True, slots=True)
class TpmIdentity:
    """A claim whose EK is genuine; the AK belongs to it once the challenge is answered.

    ``fingerprint`` (SHA-256 of the EK's SubjectPublicKeyInfo) is the host's identity.
    """

    ek: Public
    ak: Public
    fingerprint: str
    issuer: str
    warnings: tuple[Finding, ...] = ()


def load_ek_roots(files: Iterable[bytes]) -> tuple[x509.Certificate, ...]:
    """Read pinned certificates, PEM or DER. Raises FormatError (``ek-roots``)."""
    roots: list[x509.Certificate] = []
    for data in files:
        try:
            pems = [] if data.startswith(b"\x30") else x509.load_pem_x509_certificates(data)
            ders = [pem.public_bytes(serialization.Encoding.DER) for pem in pems] or [data]
            roots += map(load_certificate, ders)
        except (ValueError, FormatError) as error:
            raise FormatError(
                f"a pinned EK root is no certificate that can be used: {error}",
                code="ek-roots",
                component="EK roots",
                remedy="Put only certificates of TPM makers into that directory.",
            ) from error
    return tuple(roots)


def check_identity(claim: Claim, roots: Sequence[x509.Certificate], now: datetime) -> TpmIdentity:
    """Step 1: the EK is one that a pinned authority vouches for, and the AK is fit to attest.

    Every pinned certificate is trusted to issue EK certificates. Expiry is a warning only: a TPM
    lives longer than its certificate says.

    Raises:
        AppraisalError: ``ek-missing``, ``ek-untrusted``, ``ek-profile``, ``ek-mismatch``,
            ``ak-attributes``, ``weak-key``, ``weak-alg``.
        FormatError: certificate or key are malformed.
    """
    certificate = _load(claim.ek_certificate)
    _check_profile(certificate)
    issuer = _issuer(certificate, roots)
    ek, ak = parse_public(claim.ek_public), parse_public(claim.ak_public)
    spki = _spki(ek)
    if spki != certificate.public_key().public_bytes(*_SPKI):
        raise AppraisalError(
            "the EK is not the key in the EK certificate",
            code="ek-mismatch",
            component=COMPONENT,
            remedy="Clear the TPM and restart the host; a swapped board needs a new enrolment.",
        )
    check_attestation_key(ak)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    return TpmIdentity(
        ek, ak, digest.finalize().hex(), subject_of(issuer), _validity(certificate, now)
    )


def make_challenge(identity: TpmIdentity, secret: bytes, entropy: bytes) -> Credential:
    """Make what only the TPM with this EK and this AK can answer with ``secret``."""
    return make_credential(identity.ek, identity.ak.name(), secret, entropy=entropy)


def check_activation(answer: bytes, secret: bytes) -> None:
    """Check the answer to a challenge, in constant time. Raises AppraisalError (``activation``)."""
    if not secret or not hmac.compare_digest(answer, secret):
        raise AppraisalError(
            "the attestation key does not belong to the TPM with this EK",
            code="activation",
            component=COMPONENT,
            remedy="Do not trust this host: its quotes come from a key outside its TPM.",
        )


_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _load(data: bytes) -> x509.Certificate:
    if not data:
        raise AppraisalError(
            "the TPM has no EK certificate",
            code="ek-missing",
            component=COMPONENT,
            remedy="Use a TPM with an RSA 2048 EK certificate, or let casemate up make one.",
        )
    if len(data) > CERTIFICATE_LIMIT:
        raise FormatError(f"an EK certificate of {len(data)} bytes", component=COMPONENT)
    return load_certificate(data, component=COMPONENT)


def _check_profile(certificate: x509.Certificate) -> None:
    usage = _extension(certificate, x509.ExtendedKeyUsage)
    constraints = _extension(certificate, x509.BasicConstraints)
    names = _extension(certificate, x509.SubjectAlternativeName)
    for wrong, what in (
        (usage is None or EK_USAGE not in usage, "is not marked as one"),
        (constraints is not None and constraints.ca, "is a CA's"),
        (names is None, "does not name its TPM"),
    ):
        if wrong:
            raise AppraisalError(
                f"the EK certificate {what}", code="ek-profile", component=COMPONENT
            )


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _issuer(certificate: x509.Certificate, roots: Sequence[x509.Certificate]) -> x509.Certificate:
    for root in roots:
        constraints = _extension(root, x509.BasicConstraints)
        if constraints is None or not constraints.ca:
            continue
        try:
            certificate.verify_directly_issued_by(root)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        return root
    raise AppraisalError(
        f"no pinned authority issued the EK certificate of {certificate.issuer.rfc4514_string()}",
        code="ek-untrusted",
        component=COMPONENT,
        remedy="If you trust the maker of this TPM, add its CA certificate to the EK roots.",
    )


def _spki(key: Public) -> bytes:
    return key.crypto_key().public_bytes(*_SPKI)


def _validity(certificate: x509.Certificate, now: datetime) -> tuple[Finding, ...]:
    if certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        return ()
    return (
        Finding(
            "ek-expired",
            COMPONENT,
            f"the EK certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} "
            f"to {certificate.not_valid_after_utc:%Y-%m-%d}",
            "Check the clocks; the maker's certificate does not limit the life of the TPM.",
        ),
    )
