"""A plain Linux machine in miniature: firmware's log, IMA, a software TPM, an agent's answers."""

from __future__ import annotations

from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    BankValues,
    EvidenceReply,
    IdentityReply,
    Quote,
)
from casemate.formats.algorithms import digest
from casemate.formats.eventlog import EventLog, write
from casemate.formats.eventtypes import EV_NO_ACTION
from casemate.formats.ima import IMA_PCR, ImaEntry, write_ima
from casemate.formats.tpm import Credential, write_public, write_signature
from casemate.testing.faketpm import FakeTpm
from casemate.testing.firmwarelogs import machine
from casemate.testing.imalists import aggregate, record
from casemate.testing.smallhost import ek_certificate
from casemate.testing.softkeys import SoftEk, SoftKey

BANK = "sha256"


class LinuxHost:
    """Boots from ``log``, measures the boot aggregate, then what is run."""

    def __init__(self, log: EventLog | None = None) -> None:
        self.ek, self.ak = SoftEk(), SoftKey()
        self.boot(log or machine())

    def boot(self, log: EventLog) -> None:
        """Reset the TPM and boot."""
        self.tpm = FakeTpm((BANK,))
        self.log = log
        self.entries: list[ImaEntry] = []
        for event in log.events:
            if event.type != EV_NO_ACTION:
                self.tpm.extend(event.pcr, {BANK: event.digest(BANK) or b""})
        self._measure(aggregate(self.tpm.values()[BANK], BANK))

    def run(self, path: bytes, content: bytes = b"content") -> None:
        """Run a program, as IMA sees it."""
        self._measure(record(path, content))

    def _measure(self, entry: ImaEntry) -> None:
        self.tpm.extend(IMA_PCR, {BANK: digest(BANK, entry.data)})
        self.entries.append(entry)

    def identity(self) -> IdentityReply:
        """Say who the TPM is."""
        public = write_public(self.ek.public), write_public(self.ak.public)
        return IdentityReply(ek_certificate(self.ek), *public, "TEST", "1", "fake")

    def activate(self, request: ActivateCredential) -> ActivationReply:
        """Answer a credential challenge."""
        challenge = Credential(request.credential_blob, request.encrypted_secret)
        return ActivationReply(self.ek.activate(challenge, self.ak.public.name()))

    def evidence(self, request: Quote) -> EvidenceReply:
        """Give fresh evidence."""
        attest, signature = self.tpm.quote(request.nonce, {BANK: request.pcrs}, self.ak)
        values = self.tpm.values()[BANK]
        return EvidenceReply(
            quotes=((attest, write_signature(signature)),),
            pcrs=(BankValues(BANK, tuple((pcr, values[pcr]) for pcr in sorted(request.pcrs))),),
            log=write(self.log),
            components=(),
            boot_complete=True,
            taken=0.0,
            measurements=write_ima(tuple(self.entries)),
        )
