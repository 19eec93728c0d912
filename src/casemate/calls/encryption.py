"""Requests about the encryption of the host's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class EncryptionReply:
    """How the state is protected: ``mode`` is TPM or None; the identity of its recovery key."""

    mode: str
    require_secure_boot: bool
    require_exec_installed_only: bool
    recovery_id: str = ""


@dataclass(frozen=True, slots=True)
class RecoveryReply:
    """The recovery key as people write it down; both empty where the state is not encrypted."""

    recovery_id: str
    key: str


@dataclass(frozen=True, slots=True)
class EncryptionGet:
    """Tell how the host's state is encrypted."""

    session: str = ""
    reply: ClassVar = EncryptionReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class EncryptionSet:
    """Seal the state to the boot option execInstalledOnly as well, or no longer."""

    session: str = ""
    require_exec_installed_only: bool = False
    reply: ClassVar = EncryptionReply
    privilege: ClassVar[str] = "Host.Config.Settings"


@dataclass(frozen=True, slots=True)
class RecoveryList:
    """Show the recovery key of the state; noted in the audit log."""

    session: str = ""
    reply: ClassVar = RecoveryReply
    privilege: ClassVar[str] = "Host.Config.Settings"


@dataclass(frozen=True, slots=True)
class RecoveryRotate:
    """Replace the recovery key of the state by a new one; the old one opens nothing any more."""

    session: str = ""
    reply: ClassVar = RecoveryReply
    privilege: ClassVar[str] = "Host.Config.Settings"


REQUESTS: tuple[type, ...] = (EncryptionGet, EncryptionSet, RecoveryList, RecoveryRotate)
