"""Step 2 of an appraisal: the PCR values are those that this TPM signed for this challenge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from casemate.errors import AppraisalError
from casemate.formats.algorithms import ALGORITHMS
from casemate.formats.tpm import (
    Attest,
    Public,
    check_nonce,
    check_pcr_values,
    parse_attest,
    parse_signature,
    verify_quote_signature,
)

MAX_QUOTES = 8
"""Quotes of one evidence: one a bank at most."""

_REFRESH = "Ask for fresh evidence; if it stays so, do not trust this host."

Values = Mapping[str, Mapping[int, bytes]]


@dataclass(frozen=True, slots=True)
class Clock:
    """The TPM's own counters at the time of the quotes."""

    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int


def check_quotes(
    quotes: Sequence[tuple[bytes, bytes]], values: Values, ak: Public, nonce: bytes
) -> Clock:
    """Check that ``values`` are exactly what the quotes cover, all of one boot.

    Args:
        quotes: (TPMS_ATTEST, TPMT_SIGNATURE) pairs.
        values: bank → PCR → value, as sent beside them.
        ak: the attestation key, whose identity was checked.
        nonce: of this challenge.

    Raises:
        AppraisalError, SignatureError, FormatError: ``no-quote``, ``bank-unknown``,
            ``not-tpm-generated``, ``wrong-attest-type``, ``signature-invalid``, ``alg-mismatch``,
            ``weak-alg``, ``stale-nonce``, ``missing-pcr``, ``unquoted-pcr``, ``bank-mismatch``,
            ``pcr-digest``, ``reset-between-quotes``, ``malformed``.
    """
    if not 1 <= len(quotes) <= MAX_QUOTES:
        raise AppraisalError(
            f"the evidence holds {len(quotes)} quotes", code="no-quote", remedy=_REFRESH
        )
    unknown = [bank for bank in values if bank not in ALGORITHMS]
    if unknown:
        raise AppraisalError(
            "PCR values of an unknown bank were sent", code="bank-unknown", remedy=_REFRESH
        )
    clocks: list[Clock] = []
    covered: set[str] = set()
    for attest_bytes, signature_bytes in quotes:
        attest = _check_one(attest_bytes, signature_bytes, values, ak, nonce)
        covered |= {str(selection.bank) for selection in attest.quoted().selections}
        clocks.append(
            Clock(
                attest.clock,
                attest.reset_count,
                attest.restart_count,
                attest.safe,
                attest.firmware_version,
            )
        )
    stray = sorted(set(values) - covered)
    if stray:
        raise AppraisalError(
            f"the values of bank {stray[0]} are not covered by a quote",
            code="bank-not-quoted",
            remedy=_REFRESH,
        )
    if len({(c.reset_count, c.restart_count, c.firmware_version) for c in clocks}) != 1:
        raise AppraisalError(
            "the TPM was reset between two quotes of the same evidence",
            code="reset-between-quotes",
            component="TPM",
            remedy=_REFRESH,
        )
    return clocks[-1]


def check_coverage(values: Values, banks: Sequence[str], pcrs: Sequence[int]) -> None:
    """Check that all banks and PCRs that a reference needs were quoted.

    Raises:
        AppraisalError: ``bank-not-quoted``, ``missing-pcr``.
    """
    for bank in banks:
        if bank not in values:
            raise AppraisalError(
                f"bank {bank} was not quoted", code="bank-not-quoted", remedy=_REFRESH
            )
        missing = [pcr for pcr in pcrs if pcr not in values[bank]]
        if missing:
            raise AppraisalError(
                f"PCR {missing[0]} of bank {bank} was not quoted",
                code="missing-pcr",
                component=f"PCR {missing[0]}",
                remedy=_REFRESH,
            )


def _check_one(
    attest_bytes: bytes, signature_bytes: bytes, values: Values, ak: Public, nonce: bytes
) -> Attest:
    attest = parse_attest(attest_bytes)
    quote = attest.quoted()
    signature = parse_signature(signature_bytes)
    verify_quote_signature(ak, attest_bytes, signature)
    check_nonce(attest, nonce)
    banks = {str(selection.bank) for selection in quote.selections}
    check_pcr_values(
        quote, {bank: values[bank] for bank in banks if bank in values}, signature.hash
    )
    return attest
