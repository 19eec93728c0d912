"""Tells how the state is encrypted, and its recovery key to those who may know it; replaces it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from casemate.calls.encryption import (
    EncryptionGet,
    EncryptionReply,
    RecoveryList,
    RecoveryReply,
    RecoveryRotate,
)
from casemate.errors import NotSupportedError
from casemate.formats.statekey import StateKey
from casemate.kernel.accounts import Session
from casemate.kernel.boot.statedisk import (
    new_record,
    read_record,
    read_recovery,
    write_record,
    write_recovery,
)
from casemate.kernel.home import Home
from casemate.kernel.tpm.device import Tpm
from casemate.kernel.tpm.sealing import unseal
from casemate.policy.sealing import RECOVERY_SIZE, recovery_text


class Encryption:
    """Answers the requests.

    Args:
        home: with the banks and the state.
        sealed: whether this host's state is encrypted.
        with_tpm: does a piece of work with the TPM, in the thread that has it.
    """

    def __init__(
        self,
        home: Home,
        *,
        sealed: bool,
        with_tpm: Callable[[Callable[[Tpm], Any]], Awaitable[Any]],
    ) -> None:
        self._home = home
        self._sealed = sealed
        self._with_tpm = with_tpm
        self._lock = asyncio.Lock()

    def handlers(self) -> dict[type, Callable[..., Awaitable[object]]]:
        """Return the handlers of this topic."""
        return {
            EncryptionGet: self._get,
            RecoveryList: self._recovery,
            RecoveryRotate: self._rotate,
        }

    async def _get(self, _request: EncryptionGet, _: Session) -> EncryptionReply:
        record = self._record()
        return EncryptionReply(
            mode="TPM" if self._sealed else "None",
            require_secure_boot=self._sealed,
            require_exec_installed_only=False,
            recovery_id=record.recovery_id if record else "",
        )

    async def _recovery(self, _request: RecoveryList, _: Session) -> RecoveryReply:
        record = self._record()
        key = read_recovery(self._home, record) if record else ""
        return RecoveryReply(record.recovery_id if record and key else "", key)

    async def _rotate(self, _request: RecoveryRotate, _: Session) -> RecoveryReply:
        async with self._lock:
            record = self._record()
            if record is None:
                raise NotSupportedError(
                    "The state of this host is not encrypted.",
                    code="not-encrypted",
                    component="state",
                    remedy="Encrypt the disk of the system that the host runs on.",
                )
            sealed, serial = record.sealed, record.serial + 1
            pcrs = [pcr for pcr, _ in sealed.pcrs]
            key = await self._with_tpm(lambda tpm: unseal(tpm, sealed.public, sealed.private, pcrs))
            recovery = secrets.token_bytes(RECOVERY_SIZE)
            fresh = replace(new_record(key, recovery, sealed), serial=serial, fresh=False)
            text = recovery_text(recovery)
            write_record(self._home, fresh)
            write_recovery(self._home, fresh, text)
            return RecoveryReply(fresh.recovery_id, text)

    def _record(self) -> StateKey | None:
        return read_record(self._home) if self._sealed else None
