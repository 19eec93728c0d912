"""All that was found about a host, sorted into the sections of an attestation result.

A section that nobody appraised has the tier *none*: it is never taken for good. The trust vector
of a section says the same in the numbers of AR4SI.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from casemate.errors import Finding
from casemate.formats.ear import (
    CRYPTO_FAILED,
    UNEXPECTED_EVIDENCE,
    Section,
    Submodule,
    Tier,
    TrustVector,
)
from casemate.policy.appraise import Appraisal, Verdict

_FIELD: Final[Mapping[Section, str]] = {
    Section.IDENTITY: "instance_identity",
    Section.FIRMWARE: "hardware",
    Section.BOOT: "executables",
    Section.KERNEL: "configuration",
    Section.VIBS: "executables",
    Section.RUNTIME: "executables",
    Section.DRTM: "hardware",
    Section.HARDENING: "configuration",
}
"""The claim of the trust vector that a section speaks about."""
_GOOD: Final[Mapping[str, int]] = {
    "instance_identity": 2,
    "configuration": 2,
    "executables": 3,
    "hardware": 2,
}
_RUNTIME_APPROVED: Final = 2
_UNSAFE: Final = 32
_BAD: Final[Mapping[str, int]] = {
    "instance_identity": 96,
    "configuration": 96,
    "executables": 96,
    "hardware": 96,
}
_UNRECOGNISED: Final = 33
UNRECOGNISED_CODES: Final = frozenset({"component-added", "ima-unknown-file", "runtime-component"})
CRYPTO_CODES: Final = frozenset(
    {"signature-invalid", "alg-mismatch", "pcr-digest", "not-tpm-generated", "ek-signature"}
)
NOT_APPRAISED_CODES: Final = frozenset({"not-appraised", "no-reference"})

_BY_CODE: Final[tuple[tuple[Section, tuple[str, ...]], ...]] = (
    (Section.DRTM, ("drtm-", "launch-")),
    (Section.RUNTIME, ("ima-", "boot-aggregate", "no-progress", "runtime-")),
    (Section.HARDENING, ("hardening-", "elf-", "tcg-")),
    (
        Section.FIRMWARE,
        (
            "firmware-",
            "secure-boot-",
            "dma-",
            "separator-",
            "duplicate-separator",
            "unknown-event-type",
            "illegal-type-",
            "event-order",
            "event-type-vendor",
            "missing-exit-",
            "no-action-digest",
            "malformed-locality",
        ),
    ),
    (
        Section.IDENTITY,
        (
            "ek-",
            "ak-",
            "activation",
            "weak-",
            "alg-mismatch",
            "key-",
            "identity-",
            "tpm-",
            "clock-",
            "resume",
            "unexpected-reset",
            "reset-",
            "nonce-",
            "stale-nonce",
            "signature-invalid",
            "not-tpm-generated",
            "wrong-attest-type",
            "pcr-digest",
            "no-quote",
            "bank-not-quoted",
            "bank-mismatch",
            "bank-unknown",
            "missing-pcr",
            "unquoted-pcr",
        ),
    ),
    (
        Section.KERNEL,
        (
            "boot-option-",
            "security-option-",
            "boot-incomplete",
            "boot-complete-",
            "asset-tag-",
            "system-version-",
        ),
    ),
    (
        Section.VIBS,
        ("component-", "vib-", "version-", "signer-", "trust-anchor-", "report-differs"),
    ),
)
"""The sections by the beginnings of reason codes, first match first; the rest goes by PCR."""
_PCR_SECTIONS: Final[Mapping[int, Section]] = {
    **dict.fromkeys((0, 1, 2, 3, 6), Section.FIRMWARE),
    **dict.fromkeys((4, 5, 7, 8, 9), Section.BOOT),
    10: Section.RUNTIME,
    **dict.fromkeys((11, 12, 13), Section.VIBS),
    14: Section.KERNEL,
    **dict.fromkeys((17, 18, 19, 20, 21, 22), Section.DRTM),
}
_PCR: Final = re.compile(r"PCR ([0-9]{1,2})\b", re.ASCII)


@dataclass(frozen=True, slots=True)
class Judged:
    """What one appraisal contributes: the sections that it covers, and what it found."""

    sections: frozenset[Section]
    findings: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()


def section_of(finding: Finding) -> Section:
    """Return the section of a result to which a finding belongs."""
    for section, beginnings in _BY_CODE:
        if finding.code.startswith(beginnings):
            return section
    match = _PCR.search(finding.component) or _PCR.search(finding.reason)
    return _PCR_SECTIONS.get(int(match[1]), Section.BOOT) if match else Section.BOOT


def section_of_pcr(pcr: int) -> Section:
    """Return the section of a result to which a PCR's own value belongs."""
    return _PCR_SECTIONS.get(pcr, Section.BOOT)


def from_appraisal(appraisal: Appraisal, *, drtm: bool) -> Judged:
    """Return what an appraisal of one of our hosts covers.

    Args:
        appraisal: from ``policy.appraise``.
        drtm: whether its reference expects a D-RTM launch.
    """
    covered = {Section.IDENTITY}
    if appraisal.pcrs is not None:
        # Whoever boots as the reference says has judged every program, and measures violations.
        covered |= {Section.KERNEL, Section.VIBS, Section.HARDENING}
        covered |= {Section.DRTM} if drtm else set()
    findings = appraisal.findings
    if appraisal.verdict is not Verdict.TRUSTED and not findings:
        findings = (
            Finding(
                "undecided",
                "PCR 12",
                "the appraisal came to no end",
                "Ask for the evidence again.",
            ),
        )
    return Judged(frozenset(covered), findings, appraisal.warnings)


def submodules(judged: Iterable[Judged], policy_id: str) -> dict[str, Submodule]:
    """Return all sections of a result; what no one covers has the tier *none*."""
    covered: set[Section] = set()
    findings: dict[Section, list[Finding]] = {section: [] for section in Section}
    warnings: dict[Section, list[Finding]] = {section: [] for section in Section}
    for one in judged:
        covered |= one.sections
        for finding in one.findings:
            findings[section_of(finding)].append(finding)
        for warning in one.warnings:
            warnings[section_of(warning)].append(warning)
    return {
        section.value: _submodule(
            section, section in covered, findings[section], warnings[section], policy_id
        )
        for section in Section
    }


def _submodule(
    section: Section,
    covered: bool,  # noqa: FBT001  # one of five plain values
    findings: list[Finding],
    warnings: list[Finding],
    policy_id: str,
) -> Submodule:
    name = _FIELD[section]
    claim = _claim(section, {finding.code for finding in findings})
    if claim is None and covered:
        claim = _RUNTIME_APPROVED if section is Section.RUNTIME else _GOOD[name]
        # A warning about a TPM's clock or certificate dates does not make it another TPM.
        if warnings and section is not Section.IDENTITY:
            claim = _UNSAFE
    vector = TrustVector() if claim is None else TrustVector(**{name: claim})
    return Submodule(
        vector.tier, vector, policy_id if covered else "", tuple(findings), tuple(warnings)
    )


def _claim(section: Section, codes: set[str]) -> int | None:
    """Return the claim that follows from findings, None without any."""
    if codes & CRYPTO_CODES:
        return CRYPTO_FAILED
    if codes <= NOT_APPRAISED_CODES:
        return UNEXPECTED_EVIDENCE if codes else None
    if section is Section.RUNTIME and codes <= UNRECOGNISED_CODES:
        return _UNRECOGNISED
    return _BAD[_FIELD[section]]


def overall(sections: Mapping[str, Submodule], needed: Iterable[Section]) -> Tier:
    """Return the tier of the host: the worst of all sections; *none* where a needed one lacks."""
    worst = max((one.status for one in sections.values()), default=Tier.NONE)
    lacking = any(sections[one.value].status is Tier.NONE for one in needed)
    return Tier.NONE if lacking and worst is Tier.AFFIRMING else worst
