"""What one round of attestation says about the round before: clocks, resets, firmware.

A TPM counts its resets and resumes, and its clock only runs forward. The counters are obfuscated
by a constant per key unless the key is in the endorsement hierarchy (TPM 2.0 Library part 1,
section 36.7), so only differences mean anything, modulo 2^32.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from casemate.errors import Finding
from casemate.policy.quotes import Clock

COMPONENT: Final = "TPM"
_U32: Final = 1 << 32
_HALF: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class Continuity:
    """What came out.

    ``rebooted``: the TPM was reset since the last round, as the host said: start afresh.
    ``resumed``: it was suspended; keep the logs, take the next quote as the new base line.
    """

    findings: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    rebooted: bool = False
    resumed: bool = False


def check_continuity(previous: Clock, current: Clock, *, new_boot: bool) -> Continuity:
    """Compare the TPM's counters with those of the last good round of the same key.

    Args:
        previous: the counters then.
        current: the counters now.
        new_boot: the host says that it has booted since: another boot id and another log.

    Codes: ``clock-rollback``, ``unexpected-reset``, ``reset-missing``; warnings ``resume``,
    ``clock-unsafe``, ``tpm-firmware-changed``.
    """
    warnings = list(_warnings(previous, current))
    resets = (current.reset_count - previous.reset_count) % _U32
    restarts = (current.restart_count - previous.restart_count) % _U32
    if resets >= _HALF or (resets == 0 and current.clock < previous.clock):
        return Continuity(
            (
                _finding(
                    "clock-rollback",
                    "the TPM's clock or reset counter went backwards",
                    "Do not trust this host: its quotes are old, or come from another TPM.",
                ),
            ),
            tuple(warnings),
        )
    if resets and not new_boot:
        return Continuity(
            (
                _finding(
                    "unexpected-reset",
                    f"the TPM was reset {resets} times, but the host did not boot: its PCRs may "
                    "have been filled again by software",
                    "Do not trust this host. Look at the machine; then boot it again.",
                ),
            ),
            tuple(warnings),
        )
    if new_boot and not resets:
        return Continuity(
            (
                _finding(
                    "reset-missing",
                    "the host says that it booted, but its TPM was not reset",
                    "Boot the host through its firmware (no kexec), or look at what it runs.",
                ),
            ),
            tuple(warnings),
        )
    resumed = not resets and 0 < restarts < _HALF
    if resumed:
        warnings.append(
            _finding(
                "resume",
                "the host was suspended and resumed",
                "Nothing to do: the next quote is the new base line.",
            )
        )
    return Continuity((), tuple(warnings), rebooted=bool(resets), resumed=resumed)


def check_tpm_firmware(clock: Clock, denied: AbstractSet[int]) -> tuple[Finding, ...]:
    """Refuse TPM firmware that is on a list of bad versions.

    The list only makes sense for keys whose quotes show the version as it is (see above).
    """
    if clock.firmware_version not in denied:
        return ()
    return (
        _finding(
            "tpm-firmware",
            f"the TPM runs firmware 0x{clock.firmware_version:016x}, which is known to be bad",
            "Update the TPM's firmware, clear it, and enrol the host again.",
        ),
    )


def _warnings(previous: Clock, current: Clock) -> tuple[Finding, ...]:
    found: list[Finding] = []
    if not current.safe:
        found.append(
            _finding(
                "clock-unsafe",
                "the TPM lost power without an orderly shutdown, so its clock may repeat",
                "Ask once more; then nothing: it concerns only the TPM's clock.",
            )
        )
    if previous.firmware_version != current.firmware_version:
        found.append(
            _finding(
                "tpm-firmware-changed",
                "the TPM's firmware has changed",
                "Check that somebody updated it; its makers publish which versions are good.",
            )
        )
    return tuple(found)


def _finding(code: str, reason: str, remedy: str) -> Finding:
    return Finding(code, COMPONENT, reason, remedy)
