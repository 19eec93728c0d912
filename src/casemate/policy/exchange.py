"""Reference values from and for others: CoRIM in both ways, TCG RIM in.

Whatever comes in counts only when its signature was verified by somebody who may vouch for every
component, while it is valid, and when it says something definite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from casemate.errors import AcceptanceError, Finding, FormatError, SignatureError
from casemate.formats.cms import Signed
from casemate.formats.corim import (
    CONTENT_TYPES,
    Comid,
    Corim,
    Digests,
    Environment,
    Measurement,
    ReferenceTriple,
    parse_corim,
)
from casemate.formats.cose import Sign1, parse_sign1, verify_sign1
from casemate.formats.eventlog import EventLog
from casemate.formats.eventtypes import EV_NO_ACTION
from casemate.formats.manifest import Manifest
from casemate.formats.rim import BaseRim, parse_rim
from casemate.formats.xmldsig import verify_enveloped
from casemate.policy.describe import Kind, describe
from casemate.policy.measure import STATIC_PCRS
from casemate.policy.references import REFERENCE_LEVEL
from casemate.policy.signedtext import SignedText, verify_signed
from casemate.policy.trust import TrustStore, subject_of, verify_signer

COMPONENT: Final = "reference"
PROFILE: Final = "tag:casemate,2026:reference/1"
PCRS_KEY: Final = "pcrs"
"""The key of the measurement whose integrity registers are PCRs."""
_FILES: Final = frozenset({Kind.LAUNCH, Kind.COMPONENT, Kind.BOOT_OPTION_FILE})


def corim_from_manifest(manifest: Manifest) -> Corim:
    """Return what a manifest expects as a CoRIM: its PCRs, and the digest of each component."""
    environment = Environment(vendor=manifest.profile_vendor, model=manifest.profile_name)
    registers: dict[int | str, Digests] = {}
    for bank in manifest.algorithms:
        for pcr, value in manifest.pcrs[bank].items():
            registers[pcr] = (*registers.get(pcr, ()), (bank, value))
    rows: dict[str, Measurement] = {}
    for expected in manifest.events:
        about, component = describe(expected.event), expected.component
        if about.kind not in _FILES or component is None:
            continue
        digests = tuple((str(bank), value) for bank, value in expected.event.digests)
        rows[component.file_name] = Measurement(
            component.file_name, digests, component.vib_id, component.vib_version
        )
    measured = (Measurement(PCRS_KEY, registers=registers), *rows.values())
    comid = Comid(
        f"{manifest.profile_name} {manifest.build}",
        manifest.serial,
        (ReferenceTriple(environment, measured),),
    )
    return Corim(comid.tag_id, (comid,), PROFILE, manifest.created)


def accept_corim(data: bytes, trust: TrustStore, now: datetime) -> tuple[Corim, str]:
    """Return a signed CoRIM and the subject of its signer.

    Raises:
        SignatureError: ``signature-missing``, ``signature-invalid``, ``signer-missing``, or as
            ``verify_signer`` says.
        FormatError: ``reference-expired``, ``reference-empty``, ``reference-profile`` (of a
            profile that is not known here), ``reference-environments`` (about several kinds of
            machines), ``reference-uncompared`` (a value that is not compared here), or as
            ``parse_corim`` says.
    """
    try:
        message = parse_sign1(data)
    except FormatError as error:
        parse_corim(data)
        raise SignatureError(
            "The CoRIM is not signed.", code="signature-missing", component=COMPONENT
        ) from error
    subject = _verify(message, trust, now)
    corim = parse_corim(message.payload)
    if not any(comid.references for comid in corim.comids):
        raise _refused("it has no reference value", "reference-empty")
    begins, ends = corim.not_before or now, corim.not_after or now
    if not begins <= now <= ends:
        raise _refused("it is not valid now", "reference-expired")
    _check_definite(corim)
    return corim, subject


def _check_definite(corim: Corim) -> None:
    """Refuse what would count for less, or for more, than it says."""
    # A profile gives the values their meaning: who does not know it must not use them.
    if corim.profile not in {"", PROFILE}:
        raise _refused(f"its profile {corim.profile[:64]!r} is not known here", "reference-profile")
    triples = [triple for comid in corim.comids for triple in comid.references]
    kinds = {replace(triple.environment, layer=None, index=None) for triple in triples}
    if len(kinds) > 1:
        reason = "it is about several kinds of machines, and the hosts of a policy are of one"
        raise _refused(reason, "reference-environments")
    for one in (one for triple in triples for one in triple.measurements):
        named = any(isinstance(key, str) for key in one.registers)
        if one.others or named or not (one.digests or one.registers):
            raise _refused(
                f"it says of {one.key[:64]!r} what is not compared here", "reference-uncompared"
            )


def _verify(message: Sign1, trust: TrustStore, now: datetime) -> str:
    if message.content_type not in CONTENT_TYPES:
        raise _refused("the signed content is no CoRIM", "corim-malformed")
    chain = message.certificates()
    if not chain:
        raise SignatureError(
            "The CoRIM carries no certificate of its signer.",
            code="signer-missing",
            component=COMPONENT,
        )
    key = chain[0].public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        raise SignatureError("The signer's key is of an unknown kind.", code="weak-algorithm")
    verify_sign1(message, key)
    return _vouched(chain, trust, now)


def _vouched(chain: Sequence[x509.Certificate], trust: TrustStore, now: datetime) -> str:
    """Return the subject of a signer who may vouch for references."""
    signed = Signed(chain[0], tuple(chain[1:]), None, "sha256", has_attributes=False)
    try:
        verify_signer(signed, REFERENCE_LEVEL, trust, now, component=COMPONENT)
    except AcceptanceError as error:
        raise SignatureError(
            "The signer may sign VIBs of a lower level, but not references.",
            code="signer-untrusted",
            component=COMPONENT,
        ) from error
    return subject_of(chain[0])


def _refused(reason: str, code: str) -> FormatError:
    return FormatError(
        f"the reference is refused: {reason}",
        code=code,
        component=COMPONENT,
        remedy="Get the reference again from its author.",
    )


def accept_rim(
    data: bytes,
    signature: bytes,
    trust: TrustStore,
    now: datetime,
    signer: x509.Certificate | None = None,
) -> tuple[BaseRim, str]:
    """Return a signed RIM and the subject of its signer.

    Args:
        data: the manifest.
        signature: a detached CMS signature over its exact bytes; empty: the one inside counts.
        trust: who may vouch for references.
        now: the time.
        signer: the certificate behind the signature inside, where the manifest does not bring it.

    Raises:
        SignatureError: ``signature-missing``, or as ``verify_signed``, ``verify_enveloped`` and
            ``verify_signer`` say.
        FormatError: as ``parse_rim`` says.
    """
    rim = parse_rim(data)
    if signature or not rim.has_xmldsig:
        subject = verify_signed(SignedText(data, signature), trust, now, component=COMPONENT)
        return rim, subject
    return rim, _vouched(verify_enveloped(data, signer), trust, now)


def pcrs_of_corim(corim: Corim) -> tuple[int, ...]:
    """Return the PCRs that a CoRIM speaks about: its registers, and where components are."""
    found: set[int] = set()
    for comid in corim.comids:
        for triple in comid.references:
            for one in triple.measurements:
                found |= {key for key in one.registers if isinstance(key, int)}
                found |= set(STATIC_PCRS) if one.digests else set()
    return tuple(sorted(found))


def compare_with_corim(
    corim: Corim, log: EventLog, quoted: Mapping[str, Mapping[int, bytes]]
) -> tuple[Finding, ...]:
    """Compare a host's components and PCRs with reference values.

    The log must have been compared with the quote before. Components are looked up by their name
    in the log, which proves nothing; what counts is that the digest is one that the reference has.

    Codes: ``component-changed``, ``component-added``, ``component-removed``, ``pcr-changed``,
    ``not-appraised`` (no digest and no PCR in it).
    """
    known: dict[str, set[tuple[str, bytes]]] = {}
    registers: dict[int, set[tuple[str, bytes]]] = {}
    for comid in corim.comids:
        for triple in comid.references:
            for one in triple.measurements:
                if one.digests:
                    known.setdefault(one.key, set()).update(one.digests)
                for key, digests in one.registers.items():
                    if isinstance(key, int):
                        registers.setdefault(key, set()).update(digests)
    if not known and not registers:
        return (_finding("not-appraised", COMPONENT, "the reference compares with nothing"),)
    return (*_components(known, log), *_pcrs(registers, quoted))


def _components(known: Mapping[str, set[tuple[str, bytes]]], log: EventLog) -> Sequence[Finding]:
    findings: dict[str, Finding] = {}
    seen: set[str] = set()
    for event in log.events:
        about = describe(event)
        if event.type == EV_NO_ACTION or about.kind not in _FILES:
            continue
        seen.add(about.name)
        expected = known.get(about.name)
        found = {(str(bank), value) for bank, value in event.digests}
        if expected is None:
            reason = f"{about.name} in PCR {event.pcr} is not in the reference"
            findings[about.name] = _finding("component-added", about.name, reason)
        elif not _agree(found, expected):
            bank, value = min(found) if found else ("", b"")
            wanted = ", ".join(f"{name} {digest.hex()}" for name, digest in sorted(expected))
            reason = f"expected {about.name}, {wanted}; found {bank} {value.hex()}"
            findings[about.name] = _finding("component-changed", about.name, reason)
    for name in sorted(set(known) - seen):
        findings[name] = _finding("component-removed", name, f"{name} was not loaded")
    return tuple(findings.values())


def _agree(found: set[tuple[str, bytes]], expected: set[tuple[str, bytes]]) -> bool:
    """Tell whether all banks that both know agree, and there is one."""
    banks = {bank for bank, _ in expected} & {bank for bank, _ in found}
    return bool(banks) and all(pair in expected for pair in found if pair[0] in banks)


def _pcrs(
    registers: Mapping[int, set[tuple[str, bytes]]], quoted: Mapping[str, Mapping[int, bytes]]
) -> Sequence[Finding]:
    findings: list[Finding] = []
    for pcr, expected in sorted(registers.items()):
        values = {(bank, row[pcr]) for bank, row in quoted.items() if pcr in row}
        if not _agree(values, expected):
            reason = f"PCR {pcr} has not one of the reference's values"
            findings.append(_finding("pcr-changed", f"PCR {pcr}", reason))
    return findings


def _finding(code: str, component: str, reason: str) -> Finding:
    return Finding(
        code,
        component,
        reason,
        "If the change was wanted, load a reference that has it; if not, do not trust this host.",
    )
