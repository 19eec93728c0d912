"""Tells how the state is encrypted, and its recovery key to those who may know it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from casemate.calls.encryption import EncryptionGet, EncryptionReply, RecoveryList, RecoveryReply
from casemate.kernel.accounts import Session
from casemate.kernel.boot.statedisk import RECOVERY, read_record
from casemate.kernel.home import Home

KEY_LIMIT = 256
"""Characters of the file with the recovery key."""


class Encryption:
    """Answers the requests. ``sealed`` tells that this host's state is encrypted."""

    def __init__(self, home: Home, *, sealed: bool) -> None:
        self._home = home
        self._sealed = sealed

    def handlers(self) -> dict[type, Callable[..., Awaitable[object]]]:
        """Return the handlers of this topic."""
        return {EncryptionGet: self._get, RecoveryList: self._recovery}

    async def _get(self, _request: EncryptionGet, _: Session) -> EncryptionReply:
        return EncryptionReply(
            mode="TPM" if self._sealed else "None",
            require_secure_boot=self._sealed,
            require_exec_installed_only=False,
            recovery_id=self._identifier(),
        )

    async def _recovery(self, _request: RecoveryList, _: Session) -> RecoveryReply:
        try:
            key = (self._home.state / RECOVERY).read_text()[:KEY_LIMIT].strip()
        except OSError:
            return RecoveryReply("", "")
        return RecoveryReply(self._identifier(), key)

    def _identifier(self) -> str:
        record = read_record(self._home) if self._sealed else None
        return record.recovery_id if record else ""
