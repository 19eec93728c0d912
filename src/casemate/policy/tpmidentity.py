"""Whose TPM it is: EK certificate, EK, AK, and the credential challenge that ties them together."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from casemate.errors import AppraisalError, Finding, FormatError
from casemate.formats.ekcert import EK_USAGE as EK_USAGE_OID
from casemate.formats.ekcert import LenientCertificate, name_text, parse_lenient
from casemate.formats.tpm import (
    Credential,
    Public,
    check_attestation_key,
    make_credential,
    parse_public,
)
from casemate.policy.ekchain import EkStore, check_ek_certificate

COMPONENT = "TPM"
EK_USAGE = x509.ObjectIdentifier(EK_USAGE_OID)
"""tcg-kp-EKCertificate: TCG EK Credential Profile 2.5, 3.2.16."""

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


def load_ek_roots(files: Iterable[bytes]) -> tuple[LenientCertificate, ...]:
    """Read pinned certificates, PEM or DER, as makers of TPMs ship them.

    Raises:
        FormatError: ``ek-roots``.
    """
    roots: list[LenientCertificate] = []
    for data in files:
        try:
            found = [] if data.startswith(b"\x30") else list(map(_der, _PEM.findall(data)))
            roots += map(_usable, found or [data])
        except (ValueError, FormatError) as error:
            raise FormatError(
                f"a pinned EK root is no certificate that can be used: {error}",
                code="ek-roots",
                component="EK roots",
                remedy="Put only certificates of TPM makers into that directory.",
            ) from error
    return tuple(roots)


_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([^-]+)-----END CERTIFICATE-----")


def _usable(der: bytes) -> LenientCertificate:
    """Read a certificate with a key that we can use. Raises FormatError."""
    root = parse_lenient(der)
    root.public_key.public_bytes(*_SPKI)
    return root


def _der(text: bytes) -> bytes:
    return base64.b64decode(b"".join(text.split()), validate=True)


def check_identity(
    claim: Claim, roots: Sequence[x509.Certificate | LenientCertificate], now: datetime
) -> TpmIdentity:
    """Step 1: the EK is one that a pinned authority vouches for, and the AK is fit to attest.

    Every pinned certificate is trusted to issue EK certificates. Expiry is a warning only: a TPM
    lives longer than its certificate says.

    Raises:
        AppraisalError: ``ek-missing``, ``ak-attributes``, ``weak-key``, ``weak-alg``, and as
            ``check_ek_certificate`` says.
        SignatureError: ``ek-signature``.
        FormatError: certificate or key are malformed.
    """
    if not claim.ek_certificate:
        raise AppraisalError(
            "the TPM has no EK certificate",
            code="ek-missing",
            component=COMPONENT,
            remedy="Use a TPM with an RSA 2048 EK certificate, or let casemate up make one.",
        )
    ek, ak = parse_public(claim.ek_public), parse_public(claim.ak_public)
    store = EkStore(tuple(map(_lenient, roots)))
    verdict = check_ek_certificate(claim.ek_certificate, store, now, ek=ek.crypto_key())
    check_attestation_key(ak)
    issuer = name_text(verdict.root.subject) if verdict.root else ""
    fingerprint = hashlib.sha256(ek.crypto_key().public_bytes(*_SPKI)).hexdigest()
    return TpmIdentity(ek, ak, fingerprint, issuer, verdict.warnings)


def _lenient(root: x509.Certificate | LenientCertificate) -> LenientCertificate:
    if isinstance(root, LenientCertificate):
        return root
    return _parsed(root.public_bytes(serialization.Encoding.DER))


@lru_cache(maxsize=256)
def _parsed(der: bytes) -> LenientCertificate:
    """Read a pinned root once: it is asked for in every round."""
    return parse_lenient(der)


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
