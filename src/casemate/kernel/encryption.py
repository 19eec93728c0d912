"""Tells how the state is encrypted, and its recovery key to those who may know it; replaces it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from casemate.calls.encryption import (
    EncryptionGet,
    EncryptionReply,
    EncryptionSet,
    RecoveryList,
    RecoveryReply,
    RecoveryRotate,
)
from casemate.errors import NotSupportedError, StateError
from casemate.formats.statekey import Sealed, StateKey
from casemate.kernel.accounts import Session
from casemate.kernel.boot.statedisk import (
    new_record,
    read_record,
    read_recovery,
    seal_state,
    write_record,
    write_recovery,
)
from casemate.kernel.home import Home
from casemate.kernel.tpm.device import Tpm
from casemate.kernel.tpm.sealing import unseal
from casemate.policy.measure import EXEC_PCR
from casemate.policy.sealing import (
    BANK,
    RECOVERY_SIZE,
    can_seal,
    recovery_text,
    required_pcrs,
)


class Encryption:
    """Answers the requests.

    Args:
        home: with the banks and the state.
        sealed: whether this host's state is encrypted.
        with_tpm: does a piece of work with the TPM, in the thread that has it.
        told: is told whether the state needs execInstalledOnly, at once and whenever that changes.
    """

    def __init__(
        self,
        home: Home,
        *,
        sealed: bool,
        with_tpm: Callable[[Callable[[Tpm], Any]], Awaitable[Any]],
        told: Callable[[bool], object],
    ) -> None:
        self._home = home
        self._sealed = sealed
        self._with_tpm = with_tpm
        self._lock = asyncio.Lock()
        self._tell = told
        told(self._reply(self._record()).require_exec_installed_only)

    def handlers(self) -> dict[type, Callable[..., Awaitable[object]]]:
        """Return the handlers of this topic."""
        return {
            EncryptionGet: self._get,
            EncryptionSet: self._set,
            RecoveryList: self._recovery,
            RecoveryRotate: self._rotate,
        }

    async def _get(self, _request: EncryptionGet, _: Session) -> EncryptionReply:
        return self._reply(self._record())

    async def _set(self, request: EncryptionSet, _: Session) -> EncryptionReply:
        """Seal the key anew; it is taken from the TPM, so what it is sealed to holds now."""
        async with self._lock:
            record = self._needed()
            pcrs = required_pcrs(exec_installed_only=request.require_exec_installed_only)
            if pcrs != tuple(pcr for pcr, _ in record.sealed.pcrs):
                sealed = await self._with_tpm(lambda tpm: _seal_anew(tpm, record.sealed, pcrs))
                record = replace(record, serial=record.serial + 1, sealed=sealed)
                write_record(self._home, record)
                self._tell(request.require_exec_installed_only)
            return self._reply(record)

    async def _recovery(self, _request: RecoveryList, _: Session) -> RecoveryReply:
        record = self._record()
        key = read_recovery(self._home, record) if record else ""
        return RecoveryReply(record.recovery_id if record and key else "", key)

    async def _rotate(self, _request: RecoveryRotate, _: Session) -> RecoveryReply:
        async with self._lock:
            record = self._needed()
            sealed, serial = record.sealed, record.serial + 1
            pcrs = [pcr for pcr, _ in sealed.pcrs]
            key = await self._with_tpm(lambda tpm: unseal(tpm, sealed.public, sealed.private, pcrs))
            recovery = secrets.token_bytes(RECOVERY_SIZE)
            fresh = replace(new_record(key, recovery, sealed), serial=serial, fresh=False)
            text = recovery_text(recovery)
            # Whenever this is cut off, the key of the record that counts then is among them.
            old = read_recovery(self._home, record)
            both = {record.recovery_id: old, fresh.recovery_id: text}
            write_recovery(self._home, both)
            write_record(self._home, fresh)
            write_recovery(self._home, {fresh.recovery_id: text})
            return RecoveryReply(fresh.recovery_id, text)

    def _record(self) -> StateKey | None:
        return read_record(self._home) if self._sealed else None

    def _needed(self) -> StateKey:
        record = self._record()
        if record is None:
            raise NotSupportedError(
                "The state of this host is not encrypted.",
                code="not-encrypted",
                component="state",
                remedy="Encrypt the disk of the system that the host runs on.",
            )
        return record

    def _reply(self, record: StateKey | None) -> EncryptionReply:
        return EncryptionReply(
            mode="TPM" if self._sealed else "None",
            require_secure_boot=self._sealed,
            require_exec_installed_only=record is not None and EXEC_PCR in dict(record.sealed.pcrs),
            recovery_id=record.recovery_id if record else "",
        )


def _seal_anew(tpm: Tpm, sealed: Sealed, pcrs: Sequence[int]) -> Sealed:
    """Seal the key to other PCRs. Raises StateError where the host booted with the option off."""
    values = tpm.read_pcrs([BANK], pcrs)[BANK]
    if not can_seal(pcrs, values):
        raise StateError(
            "The state cannot require execInstalledOnly: this host did not boot with it.",
            code="exec-installed-only-off",
            component="state",
            remedy="Take execInstalledOnly=FALSE out of boot.cfg, restart, and set it again.",
        )
    key = unseal(tpm, sealed.public, sealed.private, [pcr for pcr, _ in sealed.pcrs])
    return seal_state(tpm, key, values, sealed.events)
