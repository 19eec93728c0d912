"""Whether a VIB may be used on a host: signature, signer, level, and every payload.

The rules are ESXi's, with the holes closed: a level that the signature does not back is refused
whatever else is asked for, and an unsigned VIB is a community VIB on a community host or nothing.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives import serialization

from casemate.errors import AcceptanceError, CasemateError, DigestError, SignatureError
from casemate.formats.cms import verify_detached
from casemate.formats.descriptor import Descriptor, parse_descriptor
from casemate.formats.imgdb import DbVib
from casemate.policy.levels import Level
from casemate.policy.revocation import NOTHING_REVOKED, Revocations
from casemate.policy.trust import TrustStore, stamped_at, subject_of, verify_signer


@dataclass(frozen=True, slots=True)
class VibVerdict:
    """A VIB that may be used.

    ``signer`` is the subject of the certificate that signed it and ``anchor`` that of the trust
    anchor behind it; ``signing_time`` is that of a trusted time stamp, else what the signer claims;
    for an unsigned VIB both are empty and the certificate has no bytes.
    """

    descriptor: Descriptor
    level: Level
    signer: str
    signer_certificate_der: bytes
    anchor: str
    signing_time: datetime | None


def verify_vib(
    descriptor_bytes: bytes,
    signature: bytes,
    trust: TrustStore,
    host_level: Level,
    now: datetime,
    revoked: Revocations = NOTHING_REVOKED,
) -> VibVerdict:
    """Judge a VIB by its descriptor and signature; payloads are judged one by one as they come.

    Args:
        descriptor_bytes: ``descriptor.xml`` exactly as it came.
        signature: ``sig.pkcs7`` exactly as it came; empty when unsigned.
        trust: The host's anchors.
        host_level: The loosest level that the host admits.
        now: The present, aware.
        revoked: What is no longer trusted.

    Raises:
        FormatError: The descriptor is malformed.
        SignatureError: ``vib-revoked``, ``signer-revoked``, ``signature-missing``,
            ``signature-invalid``, ``signature-malformed``, ``descriptor-changed``,
            ``weak-algorithm``, ``algorithm-unsupported``, ``signer-missing``,
            ``signer-ambiguous``, or as in ``verify_signer``.
        AcceptanceError: ``level-not-backed`` or ``level-too-low``.
    """
    descriptor = parse_descriptor(descriptor_bytes)
    return _verify(descriptor, descriptor_bytes, signature, trust, host_level, now, revoked)


def verify_listed(
    vib: DbVib,
    trust: TrustStore,
    host_level: Level,
    now: datetime,
    revoked: Revocations = NOTHING_REVOKED,
) -> VibVerdict:
    """Judge a VIB of an image database, which has read its descriptor already.

    Args:
        vib: As the database has it.
        trust: As ``verify_vib``.
        host_level: As ``verify_vib``.
        now: As ``verify_vib``.
        revoked: As ``verify_vib``.

    Raises:
        SignatureError: As ``verify_vib``.
        AcceptanceError: As ``verify_vib``.
    """
    return _verify(
        vib.descriptor, vib.descriptor_bytes, vib.signature, trust, host_level, now, revoked
    )


def _verify(
    descriptor: Descriptor,
    descriptor_bytes: bytes,
    signature: bytes,
    trust: TrustStore,
    host_level: Level,
    now: datetime,
    revoked: Revocations,
) -> VibVerdict:
    level = Level(descriptor.acceptance_level)
    vib_id = descriptor.vib_id
    revoked.check_vib(descriptor_bytes, vib_id)
    if not signature:
        _check_unsigned(level, vib_id)
        check_level(level, host_level, vib_id)
        return VibVerdict(descriptor, level, "", b"", "", None)
    try:
        signed = verify_detached(signature, descriptor_bytes, component=vib_id)
    except SignatureError as error:
        if error.code != "content-changed":
            raise
        raise SignatureError(
            f"The descriptor of {vib_id} was changed after it was signed.",
            code="descriptor-changed",
            component=vib_id,
        ) from error
    revoked.check_certificates((signed.certificate, *signed.chain), vib_id)
    anchor = verify_signer(signed, level, trust, now, component=vib_id)
    revoked.check_certificates((anchor.certificate,), vib_id)
    check_level(level, host_level, vib_id)
    return VibVerdict(
        descriptor=descriptor,
        level=level,
        signer=subject_of(signed.certificate),
        signer_certificate_der=signed.certificate.public_bytes(serialization.Encoding.DER),
        anchor=anchor.subject,
        signing_time=stamped_at(signed, trust, now, vib_id) or signed.signing_time,
    )


def excuse(error: CasemateError, descriptor: Descriptor) -> VibVerdict:
    """Return what a VIB counts as that is used without a good signature (``--no-sig-check``).

    It gives nobody's name and the lowest level, whatever it claims. What is revoked is never
    excused, and neither is anything but signature and level.

    Raises:
        CasemateError: ``error`` itself.
    """
    excusable = isinstance(error, SignatureError | AcceptanceError)
    if not excusable or error.code in {"vib-revoked", "signer-revoked", "path-not-allowed"}:
        raise error
    return VibVerdict(descriptor, Level.COMMUNITY, "", b"", "", None)


def check_level(level: Level, host_level: Level, vib_id: str) -> None:
    """Raise unless a host (or image profile) of this level may carry the VIB.

    Raises:
        AcceptanceError: ``level-too-low``, in ESXi's words.
    """
    if host_level.admits(level):
        return
    raise AcceptanceError(
        f"VIB {vib_id}'s acceptance level is {level}, which is not compliant with the "
        f"ImageProfile acceptance level {host_level}",
        code="level-too-low",
        component=vib_id,
        remedy="To change the host acceptance level, use the 'esxcli software acceptance set' "
        "command.",
    )


def verify_payload(
    descriptor: Descriptor,
    name: str,
    *,
    size: int,
    sha256: bytes,
    uncompressed_sha256: bytes | None = None,
) -> None:
    """Check a payload against the (verified) descriptor.

    Args:
        descriptor: From a ``VibVerdict``.
        name: The payload's name.
        size: Bytes of the payload as stored.
        sha256: Digest of the payload as stored.
        uncompressed_sha256: Digest of what it unpacks to; of the payload itself when it is not
            compressed. Without it only the digest of the stored form counts.

    Raises:
        DigestError: ``payload-unknown``, ``payload-size``, ``payload-changed``, or
            ``payload-unbound`` when the descriptor has no strong checksum to compare with.
    """
    announced = descriptor.payload(name)
    if announced is None:
        raise DigestError(
            f"The descriptor announces no payload {name}.",
            code="payload-unknown",
            component=descriptor.vib_id,
        )
    if size != announced.size:
        raise DigestError(
            f"Payload {name} has {size} bytes; {announced.size} were signed.",
            code="payload-size",
            component=descriptor.vib_id,
        )
    compared = 0
    for process, actual in (("", sha256), ("gunzip", uncompressed_sha256)):
        expected = announced.checksum("sha-256", process)
        if expected is None or actual is None:
            continue
        compared += 1
        if not hmac.compare_digest(expected, actual):
            raise DigestError(
                f"Payload {name} is not what was signed.",
                code="payload-changed",
                component=descriptor.vib_id,
            )
    if not compared:
        raise DigestError(
            f"The descriptor has no SHA-256 checksum of payload {name} to compare with.",
            code="payload-unbound",
            component=descriptor.vib_id,
            remedy="Ask the provider to build the VIB with SHA-256 checksums.",
        )


def _check_unsigned(level: Level, vib_id: str) -> None:
    if level is not Level.COMMUNITY:
        raise SignatureError(
            f"{vib_id} claims the acceptance level {level}, but nobody signed it.",
            code="signature-missing",
            component=vib_id,
            remedy="Do not use it: a genuine VIB of this level is signed.",
        )
