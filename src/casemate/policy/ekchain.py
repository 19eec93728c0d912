"""Whether a TPM is genuine: its EK certificate, up to a pinned authority of a TPM maker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from casemate.errors import AppraisalError, Finding, FormatError, SignatureError
from casemate.formats.ekcert import (
    EK_USAGE,
    LenientCertificate,
    PublicKey,
    parse_lenient,
    verify_issued_by,
)

COMPONENT: Final = "TPM"
MAX_DEPTH: Final = 4
"""CA certificates between an EK certificate and its root; makers use one or two."""
MAX_CRL: Final = 8 << 20
"""Bytes of a revocation list."""


@dataclass(frozen=True, slots=True)
class EkStore:
    """Authorities of TPM makers.

    Attributes:
        roots: trusted to issue, directly or through others.
        intermediates: not trusted by themselves; they only complete paths.
        revoked: (issuer name's DER, serial number) of revoked certificates.
        lab: take unknown authorities with a warning; for trials only.
    """

    roots: tuple[LenientCertificate, ...]
    intermediates: tuple[LenientCertificate, ...] = ()
    revoked: frozenset[tuple[bytes, int]] = field(default_factory=frozenset)
    lab: bool = False


@dataclass(frozen=True, slots=True)
class EkVerdict:
    """A genuine EK certificate, the root it leads to (None in lab mode), and what to mention."""

    certificate: LenientCertificate
    root: LenientCertificate | None
    warnings: tuple[Finding, ...] = ()


def check_ek_certificate(
    data: bytes,
    store: EkStore,
    now: datetime,
    *,
    ek: PublicKey | None = None,
    chain: Iterable[bytes] = (),
) -> EkVerdict:
    """Check an EK certificate as the TPM holds it.

    Args:
        data: what the NV index holds.
        store: the pinned authorities.
        now: the present; validity that has ended is a warning, as a TPM outlives it.
        ek: the endorsement key that the certificate must be for.
        chain: more certificates from the TPM (NV 01C00100 and on), unverified.

    Raises:
        AppraisalError: ``ek-profile``, ``ek-mismatch``, ``ek-untrusted``, ``ek-revoked``.
        SignatureError: ``ek-signature``, ``weak-algorithm``: the authority is known, but it did
            not sign this.
        FormatError: ``ek-malformed``, ``ek-key``.
    """
    certificate = parse_lenient(data)
    _check_profile(certificate)
    if ek is not None and _spki(ek) != _spki(certificate.public_key):
        raise AppraisalError(
            "the EK is not the key in the EK certificate",
            code="ek-mismatch",
            component=COMPONENT,
            remedy="Clear the TPM and restart the host; a swapped board needs a new enrolment.",
        )
    helpers = [*store.intermediates, *map(parse_lenient, tuple(chain)[:MAX_DEPTH])]
    warnings: list[Finding] = []
    path = _path(certificate, store.roots, helpers)
    if not path:
        if not store.lab:
            raise AppraisalError(
                "no pinned authority stands behind the EK certificate",
                code="ek-untrusted",
                component=COMPONENT,
                remedy="If you trust the maker of this TPM, add its CA certificate to the roots.",
            )
        warnings.append(
            _finding("ek-untrusted", "no pinned authority stands behind the EK certificate")
        )
    for one in (certificate, *path):
        if (one.issuer, one.serial) in store.revoked:
            raise AppraisalError(
                "the EK certificate, or one on which it rests, was revoked by its maker",
                code="ek-revoked",
                component=COMPONENT,
                remedy="Do not trust this TPM; ask its maker why.",
            )
        if not one.not_before <= now <= one.not_after and not warnings:
            warnings.append(
                _finding(
                    "ek-expired",
                    f"a certificate of the EK was valid from {one.not_before:%Y-%m-%d} to "
                    f"{one.not_after:%Y-%m-%d}",
                )
            )
    return EkVerdict(certificate, path[-1] if path else None, tuple(warnings))


def revoked_by(crl: bytes, authorities: Sequence[LenientCertificate]) -> set[tuple[bytes, int]]:
    """Read a revocation list (DER or PEM) that one of ``authorities`` has signed.

    Raises:
        FormatError: ``crl-malformed``.
        SignatureError: ``crl-signature``: none of them has.
    """
    if len(crl) > MAX_CRL:
        raise FormatError(f"a revocation list of {len(crl)} bytes", code="crl-malformed")
    try:
        if crl.lstrip().startswith(b"-----"):
            listed = x509.load_pem_x509_crl(crl)
        else:
            listed = x509.load_der_x509_crl(crl)
        name = listed.issuer.public_bytes()
        for one in authorities:
            if one.subject == name and one.is_ca and listed.is_signature_valid(one.public_key):
                return {(name, entry.serial_number) for entry in listed}
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FormatError(f"a revocation list: {error}", code="crl-malformed") from error
    raise SignatureError(
        "the revocation list is not signed by a known authority", code="crl-signature"
    )


def _check_profile(certificate: LenientCertificate) -> None:
    for wrong, what in (
        (EK_USAGE not in certificate.usages, "is not marked as one"),
        (certificate.is_ca, "is a CA's"),
        (not certificate.tpm, "does not name its TPM"),
    ):
        if wrong:
            raise AppraisalError(
                f"the EK certificate {what}", code="ek-profile", component=COMPONENT
            )


def _path(
    certificate: LenientCertificate,
    roots: Sequence[LenientCertificate],
    helpers: Sequence[LenientCertificate],
) -> tuple[LenientCertificate, ...]:
    """Return the issuers up to a root, none without a path.

    Raises:
        SignatureError: a root is named as the issuer, and did not sign.
    """
    current, path = certificate, []
    problem: SignatureError | None = None
    for _ in range(MAX_DEPTH + 1):
        found: LenientCertificate | None = None
        for issuer in (*roots, *helpers):
            if not issuer.is_ca or issuer.subject != current.issuer or issuer == current:
                continue
            try:
                verify_issued_by(current, issuer)
            except SignatureError as error:
                problem = error
                continue
            found = issuer
            break
        if found is None:
            break
        path.append(found)
        if found in roots:
            return tuple(path)
        current = found
    if problem is not None:
        raise problem
    return ()


def _spki(key: PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _finding(code: str, reason: str) -> Finding:
    return Finding(
        code, COMPONENT, reason, "Check the clocks, and what the maker of this TPM publishes."
    )
