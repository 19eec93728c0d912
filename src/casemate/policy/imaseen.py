"""IMA lists grow: what was judged and found good in an earlier round is not judged again.

The same first bytes of a list, with the same policy and the same quoted PCR 0-9, give the same
result and lead PCR 10 to the same value, whatever the boot. So judging goes on from there; where
that finds anything wrong, the whole list is judged, and that counts.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from casemate.errors import Finding
from casemate.formats.ima import IMA_PCR, parse_ima, write_ima
from casemate.formats.imareplay import ImaState
from casemate.formats.imatext import parse_ima_any
from casemate.policy.ima import MAX_FINDINGS, ImaResult, RuntimePolicy, appraise_ima

Pcrs = Mapping[str, Mapping[int, bytes]]


@dataclass(frozen=True, slots=True)
class Seen:
    """The first ``size`` bytes of a list, which were good; ``digest`` is their SHA-256.

    ``against`` stands for policy and quoted PCRs; ``until`` is when the first of the policy's keys
    ends, after which what it signed has to be looked at again.
    """

    size: int
    digest: bytes
    against: bytes
    state: ImaState
    warnings: tuple[Finding, ...] = ()
    until: datetime | None = None


def appraise_growing(
    data: bytes,
    pcrs: Pcrs,
    policy: RuntimePolicy,
    identifier: str,
    now: datetime,
    seen: Seen | None = None,
) -> tuple[ImaResult, Seen | None]:
    """Judge a whole list, from where ``seen`` ends if it begins so; return what is seen now.

    Args:
        data: the list.
        pcrs: the quoted values, bank → PCR → value.
        policy: the runtime policy, and ``identifier`` the name of its exact content.
        identifier: see ``policy``.
        now: the present.
        seen: what an earlier round of this host left.

    Raises:
        FormatError, LimitError: as ``parse_ima`` says.
    """
    against = _against(pcrs, identifier)
    if seen is not None and _begins(data, pcrs, against, now, seen):
        measured = parse_ima(data[seen.size :])
        result = appraise_ima(measured, pcrs, policy, now, start=seen.state)
        if not result.findings:
            warnings = (*seen.warnings, *result.warnings)[:MAX_FINDINGS]
            result = replace(result, warnings=warnings)
            written = write_ima(measured.entries[: result.appraised])
            return result, _seen(data, seen.size, written, against, result, seen.until)
    measured = parse_ima_any(data)
    result = appraise_ima(measured, pcrs, policy, now)
    if result.findings or result.state is None or measured.algorithm != "sha1":
        return result, None
    ends = [one.not_after for one in policy.keys if one.not_after is not None]
    written = write_ima(measured.entries[: result.appraised])
    return result, _seen(data, 0, written, against, result, min(ends, default=None))


def _begins(data: bytes, pcrs: Pcrs, against: bytes, now: datetime, seen: Seen) -> bool:
    quoted = {bank for bank, values in pcrs.items() if IMA_PCR in values}
    return (
        len(data) >= seen.size > 0
        and hmac.compare_digest(against, seen.against)
        and quoted == set(seen.state.values)
        and (seen.until is None or now <= seen.until)
        and hashlib.sha256(data[: seen.size]).digest() == seen.digest
    )


def _seen(
    data: bytes,
    begun: int,
    written: bytes,
    against: bytes,
    result: ImaResult,
    until: datetime | None,
) -> Seen | None:
    """Return what is seen; None where a record was not written in the usual way."""
    size = begun + len(written)
    if result.state is None or data[begun:size] != written:
        return None
    digest = hashlib.sha256(data[:size]).digest()
    return Seen(size, digest, against, result.state, result.warnings, until)


def _against(pcrs: Pcrs, identifier: str) -> bytes:
    boot = sorted(
        (bank, sorted((pcr, value) for pcr, value in values.items() if pcr != IMA_PCR))
        for bank, values in pcrs.items()
    )
    return hashlib.sha256(repr((identifier, boot)).encode()).digest()
