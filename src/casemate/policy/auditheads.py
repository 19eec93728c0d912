"""What a head of a host's audit log says about the head in the round before.

Hosts load this as well as verifiers, so it loads no cryptography.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from casemate.errors import Finding, FormatError

MOST_ENTRIES: Final = 1 << 53
"""No entry of a log has this number: beyond, JSON's numbers are not exact everywhere."""
_LONGEST_DIGEST: Final = 64


@dataclass(frozen=True, slots=True)
class LogHead:
    """An entry of a host's audit log: its number, and what stands for it and all before it.

    Number 0 is the beginning of a log without entries. Raises FormatError.
    """

    number: int
    digest: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.number < MOST_ENTRIES or len(self.digest) > _LONGEST_DIGEST:
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


def _of_log(code: str, reason: str) -> Finding:
    remedy = (
        "Find out who wrote to the host's store, or set it up anew; then clear the failure: what "
        "the log is then counts."
    )
    return Finding(code, "audit log", reason, remedy)
