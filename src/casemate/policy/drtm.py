"""Appraisal of a dynamic launch from its log and quote, without a reference.

PCR 17-22 hold ones after power-on and are set to zero only by the launch instruction, whose hash
is the first extension of PCR 17 (PC Client Platform TPM Profile, section 4.6). TXT logs say so by
HASH_START; so do ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from casemate.errors import Finding
from casemate.formats.eventlog import EventLog
from casemate.formats.eventtypes import EV_NO_ACTION, TXT_HASH_START, TXT_PCR_MAPPING

LAUNCH_PCR: Final = 17
DRTM_PCRS: Final = range(17, 23)
_REMEDY: Final = "Enable TXT (or SKINIT) in the firmware and boot again; on our hosts: casemate up."


def appraise_drtm(
    log: EventLog, quoted: Mapping[str, Mapping[int, bytes]], *, required: bool
) -> tuple[Finding, ...]:
    """Find out whether a launch took place where the log or the policy says so.

    Codes: ``drtm-missing``, ``missing-pcr``.
    """
    events = [e for e in log.events if e.pcr in DRTM_PCRS and e.type != EV_NO_ACTION]
    if not events and not required:
        return ()
    if not any(LAUNCH_PCR in values for values in quoted.values()):
        return (_finding("missing-pcr", "PCR 17 was not quoted", "Quote PCR 17 and 18 as well."),)
    for values in quoted.values():
        for pcr in (LAUNCH_PCR, LAUNCH_PCR + 1):
            value = values.get(pcr)
            if value is not None and (not value.strip(b"\xff") or not any(value)):
                return (
                    _finding(
                        "drtm-missing",
                        f"no launch took place: PCR {pcr} has a value from power-on",
                        _REMEDY,
                    ),
                )
    first = next((e for e in events if e.pcr == LAUNCH_PCR and e.type != TXT_PCR_MAPPING), None)
    if first is None or first.type != TXT_HASH_START:
        return (
            _finding(
                "drtm-missing",
                "the log of PCR 17 does not begin with the launch",
                "Get the log again from the host; if it stays so, do not trust it.",
            ),
        )
    return ()


def _finding(code: str, reason: str, remedy: str) -> Finding:
    return Finding(code, "D-RTM launch", reason, remedy)
