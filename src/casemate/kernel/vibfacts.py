"""A VIB as the calls describe it: what its descriptor says, and what its signature says of it."""

from __future__ import annotations

import hashlib

from casemate.calls.software import InstalledVib
from casemate.errors import CasemateError
from casemate.formats.imgdb import DbVib
from casemate.kernel.packages import Judge
from casemate.policy.levels import Level

SUCCEEDED = "Succeeded"


def describe(vib: DbVib, judge: Judge, installed: str, *, unchecked: bool = False) -> InstalledVib:
    """Return the description of a VIB.

    Args:
        vib: The VIB.
        judge: What its signature is judged by.
        installed: Date of installation, or empty.
        unchecked: Whether it was installed without checking its signature.
    """
    one = vib.descriptor
    level, signer, anchor, time, fingerprint = Level(one.acceptance_level), "", "", "", ""
    try:
        verdict = judge.verdict(vib.descriptor_bytes, vib.signature)
        state = SUCCEEDED if vib.signature else "Not signed: a community VIB needs no signature."
        signer, anchor = verdict.signer, verdict.anchor
        if verdict.signer_certificate_der:
            fingerprint = hashlib.sha256(verdict.signer_certificate_der).hexdigest()
        time = verdict.signing_time.isoformat() if verdict.signing_time else ""
    except CasemateError as error:
        state = f"Failed: {error.reason}"
        level = Level.COMMUNITY if unchecked else level
    return InstalledVib(
        vib_id=one.vib_id,
        name=one.name,
        version=one.version,
        type=one.type.value,
        vendor=one.vendor,
        acceptance_level=level.display_name,
        summary=one.summary,
        description=one.description,
        urls=tuple((url.key, url.href) for url in one.urls),
        creation_date=one.release_date.isoformat(),
        install_date=installed,
        depends=tuple(map(str, one.depends)),
        conflicts=tuple(map(str, one.conflicts)),
        replaces=tuple(map(str, one.replaces)),
        provides=tuple(map(str, one.provides)),
        maintenance_mode_required=one.install_needs_maintenance or one.remove_needs_maintenance,
        hardware_platforms=one.hardware_vendors,
        live_install_allowed=one.live_install_allowed,
        live_remove_allowed=one.live_remove_allowed,
        stateless_ready=one.stateless_ready,
        overlay=one.overlay,
        tags=one.tags,
        payloads=tuple(
            (
                payload.name,
                payload.type,
                next((c.value.hex() for c in payload.checksums if c.type == "sha-256"), ""),
            )
            for payload in one.payloads
        ),
        signer=signer,
        anchor=anchor,
        signing_time=time,
        signature=state,
        fingerprint=fingerprint,
    )
