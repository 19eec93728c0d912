"""The measurements of the running host: the log, what was loaded, and proofs by the TPM.

One thread has the TPM to itself and finishes each piece of work whole, also when the one who asked
for it has left: a quote and the log that explains it are taken together, so a verifier never sees
a log that is behind its quote, and what is extended is logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    BankValues,
    EvidenceReply,
    IdentityReply,
    Quote,
)
from casemate.errors import ArgumentError, CasemateError, TpmError
from casemate.formats.eventlog import parse
from casemate.kernel.boot.loader import extend
from casemate.kernel.boot.record import read_record, write_record
from casemate.kernel.journal import Journal
from casemate.kernel.tpm.device import Maker, Tpm
from casemate.machine.facts import ComponentFact
from casemate.policy.auditheads import LogHead
from casemate.policy.measure import BootMeasurer, PlannedEvent
from casemate.policy.trust import MODULE_KEYS

NONCE_LIMIT = 64
"""Bytes of qualifying data that every TPM 2.0 accepts (the size of its largest digest)."""

PCRS = range(24)
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class Measurements:
    """The boot's record, continued; ``open_tpm`` connects to the TPM."""

    def __init__(self, place: Path, open_tpm: Callable[[], Tpm]) -> None:
        self.record, self.components, log = read_record(place)
        self._place = place
        self._journal = Journal(place, log)
        self._open_tpm = open_tpm
        self._tpm: Tpm | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="tpm")
        self._measurer = BootMeasurer(self.record.banks, drtm=self.record.drtm)
        self.complete = False
        self.accelerator = ""
        self.lost = ""
        self.find_certificate: Callable[[Maker, bytes], Awaitable[bytes]] = _nowhere
        """Looks for the certificate of a TPM that has it in no usual place."""
        self.heads: Callable[[int], tuple[LogHead, ...]] = lambda _entry: ()
        """Shows the head of the audit log, and an entry of it."""

    async def start(self) -> None:
        """Bring log and PCRs in step; a TPM that went away is noted, and no reason to stop."""
        try:
            await self._with_tpm(lambda _: None)
        except TpmError as error:
            _log.warning("the TPM does not answer: %s", error.reason)
        self.complete = self._journal.complete

    async def boot_complete(self) -> None:
        """Measure that the boot is complete; a second life of the kernel does not repeat it."""
        if not self.complete:
            await self._append(self._measurer.boot_complete())
            self.complete = True

    async def runtime_component(self, fact: ComponentFact, digests: Mapping[str, bytes]) -> None:
        """Measure what is loaded after Boot Complete, and keep it with the record of the boot.

        Raises TpmError; then nothing may be loaded.
        """
        await self._append(self._measurer.runtime_component(fact.file_name, digests))
        kept = [one for one in self.components if one.file_name != fact.file_name]
        self.components = (*kept, fact)
        write_record(self._place, self.record, list(self.components), self._journal.log)

    async def module_key(self, certificate: bytes) -> None:
        """Measure a key (DER) that a Linux module is signed by, unless this boot already has.

        Raises TpmError; then nothing by it may be loaded.
        """
        planned = self._measurer.trust_anchor((MODULE_KEYS,), certificate)
        known = parse(self._journal.log).events
        if any(one.event not in known for one in planned):
            await self._append(planned)

    async def with_tpm(self, work: Callable[[Tpm], _Result]) -> _Result:
        """Do a piece of work in the thread that has the TPM. Raises TpmError."""
        return await self._with_tpm(work)

    async def security_option(self, text: str) -> None:
        """Measure ``KEY = VALUE``: something that decides what may run, or shows what did.

        Raises TpmError.
        """
        await self._append(self._measurer.security_option(text))

    async def identity(self) -> IdentityReply:
        """Return the TPM's identity. Raises TpmError."""

        def read(tpm: Tpm) -> tuple[IdentityReply, Maker]:
            endorsement, maker = tpm.ek(), tpm.maker()
            told = IdentityReply(
                ek_certificate=endorsement.certificate,
                ek_public=endorsement.public,
                ak_public=tpm.ak(),
                manufacturer=maker.manufacturer,
                firmware_version=maker.firmware_version,
                kind=tpm.kind,
            )
            return told, maker

        identity, maker = await self._with_tpm(read)
        if identity.ek_certificate:
            return identity
        certificate = await self.find_certificate(maker, identity.ek_public)
        return replace(identity, ek_certificate=certificate)

    async def activate(self, request: ActivateCredential) -> ActivationReply:
        """Answer a credential challenge. Raises TpmError when it is not for this TPM."""
        return await self._with_tpm(
            lambda tpm: ActivationReply(
                tpm.activate_credential(request.credential_blob, request.encrypted_secret)
            )
        )

    async def quote(self, request: Quote) -> EvidenceReply:
        """Return fresh evidence. Raises ArgumentError, TpmError."""
        if not 8 <= len(request.nonce) <= NONCE_LIMIT:  # noqa: PLR2004  (shorter proves no freshness)
            raise ArgumentError(
                f"a nonce has 8 to {NONCE_LIMIT} bytes, this one {len(request.nonce)}",
                argument="nonce",
            )
        if not request.banks or not set(request.banks) <= set(self.record.banks):
            raise ArgumentError(
                f"this host measures into {', '.join(self.record.banks)}", argument="banks"
            )
        pcrs = tuple(sorted(set(request.pcrs)))
        if not pcrs or not set(pcrs) <= set(PCRS):
            raise ArgumentError("PCRs are numbered 0 to 23", argument="pcrs")

        heads = self.heads(request.entry)

        def take(tpm: Tpm) -> EvidenceReply:
            values = tpm.read_pcrs(request.banks, pcrs)
            return EvidenceReply(
                quotes=(tpm.quote(request.nonce, request.banks, pcrs),),
                pcrs=tuple(
                    BankValues(bank, tuple(sorted(values[bank].items()))) for bank in request.banks
                ),
                log=self._journal.log,
                components=self.components,
                boot_complete=self.complete,
                taken=time.time(),
                heads=heads,
                accelerator=self.accelerator,
            )

        return await self._with_tpm(take)

    async def close(self) -> None:
        """Shut the TPM down in order, so that its clock counts as safe after the next boot."""
        if not self.lost:
            try:
                await self._with_tpm(lambda tpm: tpm.shutdown())
            except TpmError as error:
                _log.warning("the TPM did not shut down in order: %s", error.reason)
        await asyncio.get_running_loop().run_in_executor(self._worker, self._close)

    async def _append(self, planned: tuple[PlannedEvent, ...]) -> None:
        def work(tpm: Tpm) -> None:
            done = []
            self._journal.intend([one.event for one in planned])
            try:
                for one in planned:
                    extend(tpm, one)
                    done.append(one.event)
            finally:
                self._journal.settle(done)

        await self._with_tpm(work)

    async def _with_tpm(self, work: Callable[[Tpm], _Result]) -> _Result:
        running = asyncio.get_running_loop().run_in_executor(self._worker, self._work, work)
        running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return await asyncio.shield(running)

    def _work(self, work: Callable[[Tpm], _Result]) -> _Result:
        if self.lost:
            raise TpmError(self.lost, component="tpm")
        try:
            if self._tpm is None:
                self._tpm = self._open_tpm()
                self._journal.recover(self._tpm, self.record.banks)
            return work(self._tpm)
        except TpmError as error:
            self._close()
            if error.code == "tpm-gone":
                self.lost = (
                    "The TPM went away; what was measured went with it."
                    " VMs go on, but nothing can be proven until the host is booted again."
                )
                _log.error("%s", self.lost)
            raise

    def _close(self) -> None:
        if self._tpm is not None:
            try:
                self._tpm.close()
            except CasemateError as error:
                _log.warning("the TPM did not close: %s", error.reason)
            self._tpm = None


async def _nowhere(_maker: Maker, _public: bytes) -> bytes:
    return b""
