"""An appraisal as JSON: what ``casemate attest --json`` prints and a verifier keeps and serves."""

from __future__ import annotations

from casemate.errors import Finding
from casemate.policy.appraise import Appraisal
from casemate.policy.explain import ComponentResult


def appraisal_json(appraisal: Appraisal) -> dict[str, object]:
    """Return verdict, findings, warnings, components, and PCRs with what they prove."""
    tables = appraisal.pcrs or {}
    return {
        "verdict": appraisal.verdict.value,
        "findings": [finding_json(finding) for finding in appraisal.findings],
        "warnings": [finding_json(finding) for finding in appraisal.warnings],
        "components": [_component(row) for row in appraisal.components],
        "pcrs": {
            bank: {str(pcr): result.quoted.hex() for pcr, result in rows.items()}
            for bank, rows in tables.items()
        },
        "replay": {
            bank: {
                str(pcr): {
                    "replayed": result.replayed.hex() if result.replayed else None,
                    "expected": result.expected.hex() if result.expected else None,
                    "status": result.status.value,
                }
                for pcr, result in rows.items()
            }
            for bank, rows in tables.items()
        },
    }


def finding_json(finding: Finding) -> dict[str, str]:
    """Return a finding as an object."""
    return {
        "code": finding.code,
        "component": finding.component,
        "reason": finding.reason,
        "remedy": finding.remedy,
    }


def _component(row: ComponentResult) -> dict[str, object]:
    ref = row.component
    return {
        "file": ref.file_name,
        "vib": ref.vib_id,
        "name": ref.vib_name,
        "version": ref.vib_version,
        "vendor": ref.vib_vendor,
        "level": ref.level,
        "signer": ref.signer,
        "pcrs": list(row.pcrs),
        "status": row.status,
        "expected": row.expected.hex() if row.expected else None,
        "found": row.found.hex() if row.found else None,
        "claimedVersion": row.claimed_version,
    }
