"""Evidence of this Linux machine itself: its TPM, its firmware's event log, its IMA list."""

from __future__ import annotations

import time
from pathlib import Path

from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    BankValues,
    EvidenceReply,
    IdentityReply,
    Quote,
)
from casemate.errors import (
    AppraisalError,
    HostError,
    LimitError,
)
from casemate.formats.tpm import parse_attest, parse_signature
from casemate.formats.tpm.attest import check_pcr_values
from casemate.kernel.tpm.device import Tpm

EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
IMA_LIST = Path("/sys/kernel/security/ima/binary_runtime_measurements")
IMA_LIMIT = 8 << 20
"""Bytes of an IMA list: some 60,000 records."""
SNAPSHOTS = 16
"""Tries to quote and read PCRs while nothing changes: a quote takes up to half a second."""


class ThisMachine:
    """This Linux machine: its TPM, and the log that its firmware and boot loader have written."""

    def __init__(self, tpm: Tpm, log: Path = EVENT_LOG, measurements: Path = IMA_LIST) -> None:
        self._tpm = tpm
        self._identity: IdentityReply | None = None
        self._log = log
        self._measurements = measurements

    def identity(self) -> IdentityReply:
        """Say who the TPM is; asked once, since a hardware TPM makes its RSA EK in some seconds."""
        if self._identity is None:
            ek, maker = self._tpm.ek(), self._tpm.maker()
            self._identity = IdentityReply(
                ek.certificate,
                ek.public,
                self._tpm.ak(),
                maker.manufacturer,
                maker.firmware_version,
                "hardware",
            )
        return self._identity

    def activate(self, request: ActivateCredential) -> ActivationReply:
        """Answer a credential challenge."""
        secret = self._tpm.activate_credential(request.credential_blob, request.encrypted_secret)
        return ActivationReply(secret)

    def evidence(self, request: Quote) -> EvidenceReply:
        """Give fresh evidence: one quote, and values and log of about the same moment."""
        quotes, values = self._snapshot(request)
        try:
            log = self._log.read_bytes()
        except OSError as error:
            raise HostError(
                f"the firmware's event log cannot be read: {error.strerror}",
                component=str(self._log),
                remedy="Run the agent as root, with securityfs mounted.",
            ) from error
        return EvidenceReply(
            quotes=quotes,
            pcrs=tuple(BankValues(bank, tuple(one.items())) for bank, one in values.items()),
            log=log,
            components=(),
            boot_complete=True,
            taken=time.time(),
            measurements=self._ima(),
        )

    def _snapshot(
        self, request: Quote
    ) -> tuple[tuple[tuple[bytes, bytes], ...], dict[str, dict[int, bytes]]]:
        """Return quotes and values of one moment: IMA may extend PCR 10 between two commands."""
        banks = [bank for bank in request.banks if bank in self._tpm.banks()]
        for _ in range(SNAPSHOTS):
            quote = self._tpm.quote(request.nonce, banks, request.pcrs)
            values = self._tpm.read_pcrs(banks, request.pcrs)
            if _agree(quote, values):
                return (quote,), values
        raise HostError(
            f"the PCRs changed each of {SNAPSHOTS} times that they were quoted",
            code="pcrs-busy",
            component="TPM",
            remedy="The agent tries again by itself; let IMA measure less (its policy).",
        )

    def _ima(self) -> bytes:
        """Return the IMA list, read after the quote: it may only be longer than what was quoted."""
        try:
            with self._measurements.open("rb") as file:
                data = file.read(IMA_LIMIT + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise HostError(
                f"the IMA list cannot be read: {error.strerror}",
                component=str(self._measurements),
                remedy="Run the agent as root, with securityfs mounted.",
            ) from error
        if len(data) > IMA_LIMIT:
            raise LimitError(
                f"an IMA list of more than {IMA_LIMIT} bytes",
                component=str(self._measurements),
                remedy="Let IMA measure less (its policy), or boot the machine again.",
            )
        return data


def _agree(pair: tuple[bytes, bytes], values: dict[str, dict[int, bytes]]) -> bool:
    """Tell whether values that were read after a quote are those that it covers."""
    quote, algorithm = parse_attest(pair[0]).quoted(), str(parse_signature(pair[1]).hash)
    try:
        check_pcr_values(quote, values, algorithm)
    except AppraisalError:
        return False
    return True
