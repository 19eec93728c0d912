"""Who may sign what: trust anchors bound to acceptance levels, and the path from a signer to one.

A chain ends at an anchor, and an anchor gives the levels it is bound to and no others: a key that
leaks below one level's CA cannot sign for another level. A certificate that is itself an anchor
is trusted as it is, as ESXi trusts its one signing certificate; everybody else needs a path of CA
certificates and the purpose *code signing*.

Validity is judged at the signing time, because VIBs outlive their signers' certificates. A time
stamp by a trusted authority proves that time; without one the signer's word counts for a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from casemate.errors import AcceptanceError, CasemateError, FormatError, SignatureError
from casemate.formats.certificates import load_certificate
from casemate.formats.cms import Signed
from casemate.formats.cms_checks import MIN_RSA_BITS
from casemate.formats.timestamp import read_token
from casemate.policy.levels import Level

__all__ = ["Anchor", "Level", "TrustStore", "subject_of", "trust_from_files", "verify_signer"]

MAX_DEPTH: Final = 4
"""CA certificates between signer and anchor."""
CLOCK_SKEW: Final = timedelta(minutes=10)
"""How far a signer's clock may be ahead of ours."""
GRACE: Final = timedelta(days=5 * 365)
"""How long after the end of a signer's certificate the signing time is believed that the signer
alone claims: longer than a host is supported, but not for ever, because old keys leak."""

MODULE_KEYS: Final = "modules"
"""Directory of the trust directory: certificates of the keys that sign modules, PEM."""
CLOCKS: Final = "timestamps"
"""Directory of the trust directory: anchors of time stamp authorities, PEM."""

_DER: Final = serialization.Encoding.DER
_WEAK_DIGESTS: Final = ("md5", "sha1", "sha224")


@dataclass(frozen=True, slots=True)
class Anchor:
    """A certificate that is trusted to give certain levels."""

    certificate: x509.Certificate
    levels: frozenset[Level]

    @property
    def der(self) -> bytes:
        """The certificate's DER bytes."""
        return self.certificate.public_bytes(_DER)

    @property
    def subject(self) -> str:
        """The subject, as people read it."""
        return subject_of(self.certificate)


@dataclass(frozen=True, slots=True)
class TrustStore:
    """All anchors of a host; without any, nothing signed is trusted.

    ``clocks`` are the anchors of time stamp authorities; without any, time stamps prove nothing.
    ``modules`` are the certificates of the keys that sign Linux modules.
    """

    anchors: tuple[Anchor, ...] = ()
    clocks: tuple[x509.Certificate, ...] = ()
    modules: tuple[x509.Certificate, ...] = ()

    def giving(self, level: Level) -> tuple[Anchor, ...]:
        """Return the anchors that may give a level."""
        return tuple(anchor for anchor in self.anchors if level in anchor.levels)


def trust_from_files(
    entries: Iterable[tuple[Level, bytes]],
    clocks: Iterable[bytes] = (),
    modules: Iterable[bytes] = (),
) -> TrustStore:
    """Return the store made of certificate files.

    A certificate that comes under several levels becomes one anchor that gives them all.

    Args:
        entries: Level and content of each file: one or more PEM certificates, or one DER.
        clocks: Content of the files with anchors of time stamp authorities.
        modules: Content of the files with certificates of module keys; any key will do.

    Raises:
        FormatError: A file holds no certificate, or one with a weak key (code ``trust-anchor``).
    """
    found: dict[x509.Certificate, set[Level]] = {}
    for level, data in entries:
        for certificate in _load(level.value, data):
            found.setdefault(certificate, set()).add(level)
    return TrustStore(
        tuple(Anchor(certificate, frozenset(levels)) for certificate, levels in found.items()),
        tuple(dict.fromkeys(one for data in clocks for one in _load(CLOCKS, data))),
        module_keys(modules),
    )


def module_keys(files: Iterable[bytes]) -> tuple[x509.Certificate, ...]:
    """Return the certificates of the keys that sign Linux modules.

    Those that a distribution makes for one build are as it makes them: nothing is asked of them.

    Raises:
        FormatError: A file holds no certificate (code ``trust-anchor``).
    """
    found: dict[x509.Certificate, None] = {}
    for data in files:
        try:
            found |= dict.fromkeys(x509.load_pem_x509_certificates(data))
        except ValueError as error:
            raise FormatError(
                f"A file in trust/{MODULE_KEYS} holds no certificate.",
                code="trust-anchor",
                component=MODULE_KEYS,
                remedy="Replace it by the module key's certificate, as PEM, or remove it.",
            ) from error
    return tuple(found)


def subject_of(certificate: x509.Certificate) -> str:
    """Return a certificate's subject as text, also when it is not well encoded."""
    try:
        return certificate.subject.rfc4514_string()
    except ValueError:
        return "unreadable subject"


def verify_signer(
    signed: Signed, level: Level, store: TrustStore, now: datetime, *, component: str = ""
) -> Anchor:
    """Return the anchor that lets this signer give this level.

    Args:
        signed: What ``verify_detached`` returned.
        level: The level the signed thing claims.
        store: The host's anchors.
        now: The present, aware.
        component: What errors say they are about.

    Raises:
        SignatureError: ``clock-wrong``, ``signer-expired``, ``signing-time``, ``signer-purpose``,
            ``weak-algorithm``, ``signer-untrusted`` or ``timestamp-invalid``.
        AcceptanceError: ``level-not-backed``: trusted, but not for this level.
    """
    try:
        moment = _moment(signed, stamped_at(signed, store, now, component), now, component)
        for anchor in store.giving(level):
            if anchor.certificate == signed.certificate:
                return anchor
        found = _find_path(signed, store.giving(level), moment)
        if found is not None:
            return found
        other = next((a for a in store.anchors if a.certificate == signed.certificate), None)
        other = other or _find_path(signed, store.anchors, moment)
        if other is None:
            raise _explain(signed, store, moment, component)
    except ValueError as error:
        raise SignatureError(
            f"A certificate of the signature cannot be read: {error}.",
            code="signature-malformed",
            component=component,
        ) from error
    given = ", ".join(one.value for one in Level if one in other.levels)
    raise AcceptanceError(
        f"It claims the acceptance level {level}, but its signer "
        f"{subject_of(signed.certificate)} may only give: {given}.",
        code="level-not-backed",
        component=component,
        remedy=f"Ask the provider for a VIB that is signed for {level}, or whose level is honest.",
    )


def _load(level: str, data: bytes) -> list[x509.Certificate]:
    problem = "holds no certificate"
    try:
        encoded = (
            [data]
            if data.startswith(b"\x30")
            else [one.public_bytes(_DER) for one in x509.load_pem_x509_certificates(data)]
        )
        certificates = [load_certificate(one) for one in encoded]
        weak = next((one for one in certificates if _weak_key(one)), None)
        if weak is None:
            return certificates
        problem = f"holds a certificate with a weak key ({subject_of(weak)})"
    except (ValueError, FormatError) as error:
        problem = f"{problem} that can be used ({error})"
    raise FormatError(
        f"A trust anchor for {level} {problem}.",
        code="trust-anchor",
        component=f"trust/{level}",
        remedy="Replace the file by a CA certificate with RSA of 2048 bits or more, or ECDSA.",
    )


def stamped_at(
    signed: Signed, store: TrustStore, now: datetime, component: str = ""
) -> datetime | None:
    """Return the earliest time that a trusted authority saw the signature at, None without one.

    Every token must fit the signature: one that does not was put there by somebody.

    Raises:
        SignatureError: ``timestamp-invalid``.
    """
    if not store.clocks:
        return None
    times = []
    for token in signed.time_stamps:
        stamp = read_token(token, signed.signature, component=component)
        as_signed = Signed(stamp.certificate, stamp.chain, None, "", has_attributes=True)
        anchors = tuple(Anchor(one, frozenset()) for one in store.clocks)
        if stamp.time <= now + CLOCK_SKEW and _find_path(
            as_signed, anchors, stamp.time, ee_policy=_CLOCK_POLICY
        ):
            times.append(stamp.time)
    return min(times, default=None)


def _moment(signed: Signed, stamped: datetime | None, now: datetime, component: str) -> datetime:
    """Return the time at which validity is judged; nonsensical times raise.

    A time that an authority saw the signature at counts for ever, one that the signer alone claims
    as long as ``GRACE`` says.
    """
    begins = signed.certificate.not_valid_before_utc
    ends = signed.certificate.not_valid_after_utc
    moment = stamped or signed.signing_time or now
    signer = subject_of(signed.certificate)
    if stamped and signed.signing_time and signed.signing_time > stamped + CLOCK_SKEW:
        raise SignatureError(
            f"It claims to be signed on {signed.signing_time:%Y-%m-%d %H:%M}, but a time stamp "
            f"authority saw it on {stamped:%Y-%m-%d %H:%M}.",
            code="signing-time",
            component=component,
        )
    latest = max(begins, moment - CLOCK_SKEW)
    if now < latest:
        raise SignatureError(
            f"The clock of this host says {now:%Y-%m-%d %H:%M} UTC, which is before "
            f"{latest:%Y-%m-%d %H:%M}: the signature by {signer} cannot exist yet.",
            code="clock-wrong",
            component=component,
            remedy="Set the host's clock (esxcli system time set, or NTP), then try again.",
        )
    if moment < begins:
        raise SignatureError(
            f"It claims to be signed on {moment:%Y-%m-%d}, before the certificate of {signer} "
            f"began ({begins:%Y-%m-%d}).",
            code="signing-time",
            component=component,
        )
    if moment > ends:
        raise SignatureError(
            f"The certificate of {signer} ended on {ends:%Y-%m-%d}, before the signature was made "
            f"({moment:%Y-%m-%d}).",
            code="signer-expired",
            component=component,
            remedy="Ask the provider to sign it with a valid certificate.",
        )
    if stamped is None and now > ends + GRACE:
        raise SignatureError(
            f"The certificate of {signer} ended on {ends:%Y-%m-%d}: too long ago to believe that "
            f"the signature was made before, on {moment:%Y-%m-%d}.",
            code="signer-expired",
            component=component,
            remedy="Ask the provider to sign it again with a valid certificate.",
        )
    return moment


def _find_path(
    signed: Signed,
    anchors: Sequence[Anchor],
    moment: datetime,
    ee_policy: verification.ExtensionPolicy | None = None,
) -> Anchor | None:
    """Return the anchor at which a path of certificates ends, None without a path."""
    if not anchors:
        return None
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store([anchor.certificate for anchor in anchors]))
        .time(moment)
        .max_chain_depth(MAX_DEPTH)
        .extension_policies(ca_policy=_CA_POLICY, ee_policy=ee_policy or _SIGNER_POLICY)
        .build_client_verifier()
    )
    try:
        chain = verifier.verify(signed.certificate, list(signed.chain)).chain
    except verification.VerificationError:
        return None
    return next((one for one in anchors if one.certificate == chain[-1]), None)


def _explain(signed: Signed, store: TrustStore, moment: datetime, component: str) -> CasemateError:
    """Return why there is no path, as exactly as can be said."""
    signer = subject_of(signed.certificate)
    if not _for_code(signed.certificate):
        return SignatureError(
            f"The certificate of {signer} is not for signing code.",
            code="signer-purpose",
            component=component,
            remedy="Ask the provider to sign it with a code-signing certificate.",
        )
    for certificate in (signed.certificate, *signed.chain):
        if _weak_key(certificate) or _weak_digest(certificate):
            return SignatureError(
                f"The certificate of {subject_of(certificate)} uses an algorithm that can be "
                "forged.",
                code="weak-algorithm",
                component=component,
                remedy="Ask the provider to sign it with SHA-256 and RSA of 2048 bits, or better.",
            )
    late = [
        one
        for one in (*signed.chain, *(anchor.certificate for anchor in store.anchors))
        if not one.not_valid_before_utc <= moment <= one.not_valid_after_utc
    ]
    for certificate in late:
        overlap = max(certificate.not_valid_before_utc, signed.certificate.not_valid_before_utc)
        if _find_path(signed, store.anchors, overlap) is not None:
            return SignatureError(
                f"{subject_of(certificate)}, on which the signature by {signer} rests, was not "
                f"valid on {moment:%Y-%m-%d}.",
                code="signer-expired",
                component=component,
                remedy="Ask the provider to sign it with a valid certificate.",
            )
    return SignatureError(
        f"Could not find a trusted signer: {signer} is not below any of the "
        f"{len(store.anchors)} trust anchors of this host.",
        code="signer-untrusted",
        component=component,
        remedy="If you trust this provider, add its CA: casemate trust add.",
    )


def _weak_key(certificate: x509.Certificate) -> bool:
    key = certificate.public_key()
    return isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS


def _weak_digest(certificate: x509.Certificate) -> bool:
    try:
        digest = certificate.signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        return True
    return isinstance(digest, hashes.HashAlgorithm) and digest.name in _WEAK_DIGESTS


def _for_code(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CODE_SIGNING in usage.value


def _require_code_signing(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage
) -> None:
    if ExtendedKeyUsageOID.CODE_SIGNING not in usage:
        raise ValueError("not for signing code")


def _require_time_stamping(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage
) -> None:
    if list(usage) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise ValueError("not for time stamps alone")


def _require_signing(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.digital_signature:
        raise ValueError("not for signatures")


def _require_issuing(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("not for issuing certificates")


_ANY: Final = verification.Criticality.AGNOSTIC
_CA_POLICY: Final = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, _ANY, None)
    .may_be_present(x509.KeyUsage, _ANY, _require_issuing)
)
_SIGNER_POLICY: Final = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.ExtendedKeyUsage, _ANY, _require_code_signing)
    .may_be_present(x509.KeyUsage, _ANY, _require_signing)
)
_CLOCK_POLICY: Final = (
    verification.ExtensionPolicy.permit_all()
    .require_present(
        x509.ExtendedKeyUsage, verification.Criticality.CRITICAL, _require_time_stamping
    )
    .may_be_present(x509.KeyUsage, _ANY, _require_signing)
)
