"""What one round of attestation says about the round before: clocks, resets, firmware, logs.

A TPM counts its resets and resumes, and its clock only runs forward. The counters are obfuscated
by a constant per key unless the key is in the endorsement hierarchy (TPM 2.0 Library part 1,
section 36.7), so only differences mean anything, modulo 2^32.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from casemate.errors import Finding, FormatError
from casemate.policy.quotes import Clock

COMPONENT: Final = "TPM"
_U32: Final = 1 << 32
_HALF: Final = 1 << 31
_MOST_ENTRIES: Final = 1 << 53
_LONGEST_DIGEST: Final = 64


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


@dataclass(frozen=True, slots=True)
class LogHead:
    """An entry of a host's audit log: its number, and what stands for it and all before it.

    Number 0 is the beginning of a log without entries. Raises FormatError.
    """

    number: int
    digest: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.number < _MOST_ENTRIES or len(self.digest) > _LONGEST_DIGEST:
            raise FormatError("no entry of an audit log has such a number or digest")


AUDIT_CODES: Final = frozenset(
    {"audit-missing", "audit-truncated", "audit-changed", "audit-unproven"}
)
"""Findings of ``check_log`` that stay until somebody says that they are no matter."""


def check_log(known: LogHead | None, shown: Sequence[LogHead]) -> tuple[Finding, ...]:
    """Compare a host's audit log with its head in the last good round: it only grows.

    Args:
        known: the head then; None where there was none.
        shown: the head now, then the entry that was asked for.

    Codes: ``audit-missing``, ``audit-truncated``, ``audit-changed``; ``audit-unproven`` where
    another entry was shown than the one that is known here.
    """
    if known is None:
        return ()
    if not shown:
        return (_of_log("audit-missing", "the host shows no audit log any more, and had one"),)
    if shown[0].number < known.number:
        return (
            _of_log(
                "audit-truncated",
                f"the host's audit log ends with entry {shown[0].number}, and had {known.number}",
            ),
        )
    then = next((one for one in shown if one.number == known.number), None)
    if then is None:
        return (
            _of_log(
                "audit-unproven",
                f"the host does not show entry {known.number} of its audit log, which was its end",
            ),
        )
    if not hmac.compare_digest(then.digest, known.digest):
        return (
            _of_log(
                "audit-changed",
                f"the host's audit log up to entry {known.number} is not the one that it was",
            ),
        )
    return ()


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


def _of_log(code: str, reason: str) -> Finding:
    remedy = (
        "Find out who wrote to the host's store, or set it up anew; then clear the failure: what "
        "the log is then counts."
    )
    return Finding(code, "audit log", reason, remedy)


def _finding(code: str, reason: str, remedy: str) -> Finding:
    return Finding(code, COMPONENT, reason, remedy)
