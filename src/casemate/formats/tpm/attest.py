"""TPMS_ATTEST, the bytes that a TPM signs, and the PCR digest of a quote.

TPM 2.0 Library part 2, section 10.12. All integers are big-endian.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from casemate.errors import AppraisalError, FormatError
from casemate.formats import algorithms
from casemate.formats.algorithms import ALGORITHMS, NAME_BY_ID
from casemate.formats.reader import Reader
from casemate.formats.tpm import ids

TPM_GENERATED: Final = 0xFF544347
"""TPM_GENERATED_VALUE: a restricted key never signs outside data that begins so."""
TYPE_QUOTE: Final = 0x8018
ATTEST_TYPES: Final = {
    0x8014: "nv",
    0x8015: "command-audit",
    0x8016: "session-audit",
    0x8017: "certify",
    TYPE_QUOTE: "quote",
    0x8019: "time",
    0x801A: "creation",
    0x801C: "nv-digest",
}
MAX_SELECTIONS: Final = 16
"""Banks in one selection (TPML_PCR_SELECTION)."""
MAX_SELECT_SIZE: Final = 4
"""Bytes of a PCR bitmap: 32 PCRs, the PC Client profile uses 24."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected PCRs of one bank, ascending; ``size`` is the bitmap's size in bytes.

    ``bank`` is an algorithm's name, or its bare number where unknown to us.
    """

    bank: str | int
    pcrs: tuple[int, ...]
    size: int = 3


@dataclass(frozen=True, slots=True)
class Quote:
    """TPMS_QUOTE_INFO: what was selected, and the digest over the selected values."""

    selections: tuple[Selection, ...]
    digest: bytes


@dataclass(frozen=True, slots=True)
class Attest:
    """TPMS_ATTEST.

    Attributes:
        type: one of the values of ``ATTEST_TYPES``.
        signer: the signing key's qualified name.
        extra_data: the caller's nonce.
        clock: milliseconds the TPM has been powered.
        reset_count, restart_count: TPM resets, and resumes since the last one. Obfuscated unless
            the key is in the endorsement or platform hierarchy.
        safe: the clock has never been higher than it is now.
        firmware_version: of the TPM; obfuscated likewise.
        quote: None unless ``type`` is ``quote``.
        attested: the type-specific part as it came.
    """

    type: str
    signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    quote: Quote | None
    attested: bytes

    def quoted(self) -> Quote:
        """Return the quote.

        Raises:
            AppraisalError: ``wrong-attest-type``: the key signed something else than a quote.
        """
        if self.quote is None:
            raise AppraisalError(
                f"the attestation data is of type {self.type}, not a quote",
                code="wrong-attest-type",
            )
        return self.quote


def parse_attest(data: bytes | memoryview) -> Attest:
    """Read exactly one TPMS_ATTEST.

    Raises:
        FormatError: ``not-tpm-generated`` (wrong magic), ``wrong-attest-type`` (no such type), or
            ``malformed``.
    """
    reader = Reader(data, "TPMS_ATTEST")
    if reader.u32be() != TPM_GENERATED:
        raise FormatError(
            "the attestation data does not begin with the TPM's own mark", code="not-tpm-generated"
        )
    number = reader.u16be()
    kind = ATTEST_TYPES.get(number)
    if kind is None:
        raise FormatError(
            f"attestation data of unknown type 0x{number:04x}", code="wrong-attest-type"
        )
    signer, extra_data = reader.tpm2b(ids.MAX_NAME), reader.tpm2b(ids.MAX_NAME)
    clock, resets, restarts, safe = reader.u64be(), reader.u32be(), reader.u32be(), reader.u8()
    if safe not in {0, 1}:
        raise reader.error(f"the safe flag is {safe}")
    firmware_version = reader.u64be()
    attested = reader.rest()
    return Attest(
        kind,
        signer,
        extra_data,
        clock,
        resets,
        restarts,
        bool(safe),
        firmware_version,
        _parse_quote(attested) if number == TYPE_QUOTE else None,
        attested,
    )


def _parse_quote(data: bytes) -> Quote:
    reader = Reader(data, "TPMS_QUOTE_INFO")
    selections = read_selections(reader)
    digest = reader.tpm2b(ids.MAX_DIGEST)
    reader.end()
    return Quote(selections, digest)


def read_selections(reader: Reader) -> tuple[Selection, ...]:
    """Read a TPML_PCR_SELECTION; every bank at most once."""
    count = reader.u32be()
    if count > MAX_SELECTIONS:
        raise reader.error(f"{count} selections, at most {MAX_SELECTIONS} are allowed")
    selections = [_read_selection(reader) for _ in range(count)]
    if len({selection.bank for selection in selections}) != count:
        raise reader.error("a bank is selected twice")
    return tuple(selections)


def _read_selection(reader: Reader) -> Selection:
    number, size = reader.u16be(), reader.u8()
    if not 1 <= size <= MAX_SELECT_SIZE:
        raise reader.error(f"a PCR bitmap of {size} bytes")
    return Selection(NAME_BY_ID.get(number, number), bitmap_pcrs(reader.take(size)), size)


def bitmap_pcrs(bitmap: bytes) -> tuple[int, ...]:
    """Return the PCRs of a bitmap: bit i of byte n is PCR 8n + i."""
    bits = int.from_bytes(bitmap, "little")
    return tuple(pcr for pcr in range(len(bitmap) * 8) if bits >> pcr & 1)


def write_quote(quote: Quote) -> bytes:
    """Return the TPMS_QUOTE_INFO's bytes."""
    parts = [len(quote.selections).to_bytes(4, "big")]
    for selection in quote.selections:
        bank = selection.bank
        number = ALGORITHMS[bank].id if isinstance(bank, str) else bank
        bits = sum(1 << pcr for pcr in selection.pcrs)
        bitmap = bits.to_bytes(selection.size, "little")
        parts += (number.to_bytes(2, "big"), bytes((selection.size,)), bitmap)
    return b"".join(parts) + ids.tpm2b(quote.digest)


def write_attest(attest: Attest) -> bytes:
    """Return the TPMS_ATTEST's bytes; ``write_attest(parse_attest(x)) == x``."""
    number = next(number for number, name in ATTEST_TYPES.items() if name == attest.type)
    return b"".join(
        (
            TPM_GENERATED.to_bytes(4, "big"),
            number.to_bytes(2, "big"),
            ids.tpm2b(attest.signer),
            ids.tpm2b(attest.extra_data),
            attest.clock.to_bytes(8, "big"),
            attest.reset_count.to_bytes(4, "big"),
            attest.restart_count.to_bytes(4, "big"),
            bytes((attest.safe,)),
            attest.firmware_version.to_bytes(8, "big"),
            attest.attested,
        )
    )


def pcr_digest(values: Iterable[bytes], algorithm: str) -> bytes:
    """Hash PCR values in selection order, with the signature scheme's hash (part 3, 18.4)."""
    return algorithms.digest(algorithm, b"".join(values))


def check_nonce(attest: Attest, nonce: bytes) -> None:
    """Check that the TPM signed this nonce, in constant time.

    Raises:
        AppraisalError: ``stale-nonce``.
    """
    if not nonce or not hmac.compare_digest(attest.extra_data, nonce):
        raise AppraisalError(
            "the quote answers another challenge",
            code="stale-nonce",
            remedy="Ask for fresh evidence with a new nonce.",
        )


def check_pcr_values(
    quote: Quote, values: Mapping[str, Mapping[int, bytes]], algorithm: str
) -> None:
    """Check that ``values`` are exactly the quoted PCRs, and that the TPM signed them.

    Args:
        quote: the signed part.
        values: bank → PCR → value, as sent beside the quote, unsigned.
        algorithm: the hash of the signature scheme.

    Raises:
        AppraisalError: ``missing-pcr`` (quoted, not sent), ``unquoted-pcr`` (sent, not quoted),
            ``bank-mismatch`` (a value's size is not its bank's), ``pcr-digest``.
    """
    quoted = {(s.bank, pcr) for s in quote.selections for pcr in s.pcrs}
    sent = {(bank, pcr) for bank, bank_values in values.items() for pcr in bank_values}
    for difference, code, what in (
        (quoted - sent, "missing-pcr", "quoted, but its value was not sent"),
        (sent - quoted, "unquoted-pcr", "sent, but not covered by the quote"),
    ):
        if difference:
            bank, pcr = min(difference, key=str)
            raise AppraisalError(f"PCR {pcr} of bank {bank} is {what}", code=code)
    for bank, bank_values in values.items():
        for pcr, value in bank_values.items():
            if len(value) != ALGORITHMS[bank].size:
                raise AppraisalError(
                    f"PCR {pcr} of bank {bank} has {len(value)} bytes", code="bank-mismatch"
                )
    ordered = (values[str(s.bank)][pcr] for s in quote.selections for pcr in s.pcrs)
    if not hmac.compare_digest(pcr_digest(ordered, algorithm), quote.digest):
        raise AppraisalError("the PCR values are not those that the TPM signed", code="pcr-digest")
