"""The audit of a host's memory hardening, and its security domains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.policy.hardeningreport import EntropyRow, Row
from casemate.policy.privileges import READ


@dataclass(frozen=True, slots=True)
class HardeningReply:
    """The whole audit.

    ``violations`` are findings about running processes since the kernel started, as (code,
    component, reason, remedy); each has been measured into the TPM.
    """

    rows: tuple[Row, ...]
    entropy: tuple[EntropyRow, ...]
    score: int
    violations: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True, slots=True)
class DomainRow:
    """A security domain, its walls, and the processes in it as (name, pid)."""

    name: str
    enforcement: str
    about: str
    walls: tuple[str, ...]
    processes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class SecpolicyReply:
    """All security domains."""

    domains: tuple[DomainRow, ...]


@dataclass(frozen=True, slots=True)
class HardeningAudit:
    """Audit components, processes, entropy (by so many launches; 0 skips it) and the platform."""

    session: str
    launches: int
    reply: ClassVar = HardeningReply
    privilege: ClassVar[str] = "Global.Diagnostics"


@dataclass(frozen=True, slots=True)
class SecpolicyList:
    """List the security domains and the processes in them."""

    session: str
    reply: ClassVar = SecpolicyReply
    privilege: ClassVar[str] = READ
    audited: ClassVar[bool] = False


REQUESTS: tuple[type, ...] = (HardeningAudit, SecpolicyList)
