"""VIBs for tests: small, signed by the test PKI, and the judgement of a whole VIB at once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from casemate.formats.compressed import content_digest
from casemate.formats.descriptor import Checksum, Descriptor, PayloadInfo, write_descriptor
from casemate.formats.vib import parse_vib, write_vib
from casemate.policy.acceptance import VibVerdict, verify_payload, verify_vib
from casemate.policy.levels import Level
from casemate.policy.trust import TrustStore, trust_from_files
from casemate.testing.pki import NOW, Pki, shared_pki

PAYLOADS: Final = {"demo": b"what the demo brings"}
MAX_UNPACKED: Final = 64 << 20
"""Bytes that a test payload may unpack to."""


def announce(name: str, data: bytes, kind: str = "tgz") -> PayloadInfo:
    """Return the descriptor's entry for a payload."""
    return PayloadInfo(name, kind, len(data), (Checksum("sha-256", hashlib.sha256(data).digest()),))


def make_descriptor(
    level: str = "partner",
    payloads: Mapping[str, bytes] = PAYLOADS,
    **changes: Any,  # noqa: ANN401 - the fields of Descriptor
) -> Descriptor:
    """Return a descriptor of these payloads; ``changes`` replace its fields."""
    descriptor = Descriptor(
        name="demo",
        version="1.0.0-1",
        vendor="CSM",
        summary="A demonstration",
        release_date=datetime(2026, 2, 1, 12, 0, tzinfo=UTC),
        acceptance_level=level,
        payloads=tuple(announce(name, data) for name, data in payloads.items()),
    )
    return replace(descriptor, **changes)


def make_vib(
    level: str = "partner", payloads: Mapping[str, bytes] = PAYLOADS, *, pki: Pki | None = None
) -> bytes:
    """Return a VIB of this level, signed by the level's signer."""
    descriptor = write_descriptor(make_descriptor(level, payloads))
    signature = (pki or shared_pki()).sign(descriptor, level)
    return write_vib(descriptor, signature, payloads.items())


def trust_of(pki: Pki) -> TrustStore:
    """Return a store in which the CA of each level may give that level alone."""
    return trust_from_files((Level(level), ca.pem) for level, ca in pki.issuers.items())


def judge(
    data: bytes,
    trust: TrustStore | None = None,
    host_level: Level = Level.PARTNER,
    now: datetime = NOW,
) -> VibVerdict:
    """Judge a whole VIB: container, signature, signer, level, every payload.

    Raises:
        CasemateError: The first thing found wrong.
    """
    vib = parse_vib(data)
    store = trust_of(shared_pki()) if trust is None else trust
    verdict = verify_vib(vib.descriptor_bytes, vib.signature, store, host_level, now)
    for name, payload in vib.payloads.items():
        verify_payload(
            verdict.descriptor,
            name,
            size=len(payload),
            sha256=hashlib.sha256(payload).digest(),
            uncompressed_sha256=content_digest(payload, "sha256", MAX_UNPACKED),
        )
    return verdict
