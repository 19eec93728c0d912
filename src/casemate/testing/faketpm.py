"""A TPM's PCRs in memory, with the locality rules of a PC Client TPM 2.0.

Rules as swtpm shows them: PCR 0-16 and 23 start at zero and take extends from any locality; 17-22
start at FF..FF, are set to zero by a D-RTM launch (the hash sequence at locality 4), and take
extends from few localities only. ``quote`` makes real quotes, signed by a software key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from casemate.errors import TpmError
from casemate.formats.algorithms import ALGORITHMS, digest
from casemate.formats.eventlog import PCR_COUNT
from casemate.formats.tpm import (
    Attest,
    Quote,
    Selection,
    Signature,
    pcr_digest,
    write_attest,
    write_quote,
)
from casemate.testing.softkeys import SoftKey

DRTM_PCRS: Final = range(17, 23)
_ANY: Final = frozenset(range(5))
EXTEND_LOCALITIES: Final[Mapping[int, frozenset[int]]] = {
    17: frozenset({2, 3, 4}),
    18: frozenset({2, 3, 4}),
    19: frozenset({2, 3}),
    20: frozenset({1, 2, 3}),
    21: frozenset({2}),
    22: frozenset({2}),
}
RESET_LOCALITIES: Final[Mapping[int, frozenset[int]]] = {
    16: frozenset(range(4)),
    20: frozenset({2}),
    21: frozenset({2}),
    22: frozenset({2}),
    23: frozenset(range(4)),
}


class FakeTpm:
    """PCR banks of a TPM that was started at ``locality``.

    Args:
        banks: names of the active banks.
        locality: of TPM2_Startup: 0, or 3.
        hcrtm: what the H-CRTM hashed before startup, if there is one.
    """

    def __init__(
        self,
        banks: Sequence[str] = ("sha256", "sha384"),
        *,
        locality: int = 0,
        hcrtm: bytes | None = None,
    ) -> None:
        self.banks = tuple(banks)
        self.reset_count = 0
        self._values: dict[str, dict[int, bytes]] = {}
        self.restart(locality=locality, hcrtm=hcrtm)

    def restart(self, *, locality: int = 0, hcrtm: bytes | None = None) -> None:
        """Reset and start the TPM as at power-on."""
        self.reset_count += 1
        for bank in self.banks:
            size = ALGORITHMS[bank].size
            self._values[bank] = {
                pcr: (b"\xff" if pcr in DRTM_PCRS else b"\0") * size for pcr in range(PCR_COUNT)
            }
            start = bytes(size - 1) + bytes((4 if hcrtm is not None else locality,))
            self._values[bank][0] = start
            if hcrtm is not None:
                self._values[bank][0] = digest(bank, start + digest(bank, hcrtm))

    def hash_launch(self, data: bytes) -> None:
        """Do a D-RTM launch: the hash sequence at locality 4 over ``data``."""
        for bank, values in self._values.items():
            values.update(dict.fromkeys(DRTM_PCRS, bytes(ALGORITHMS[bank].size)))
            values[17] = digest(bank, values[17] + digest(bank, data))

    def extend(self, pcr: int, digests: Mapping[str, bytes], locality: int = 0) -> None:
        """Extend one PCR in the banks for which a digest is given.

        Raises:
            TpmError: ``value`` (no such PCR or bank, wrong size) or ``locality``.
        """
        self._check(pcr, locality, EXTEND_LOCALITIES.get(pcr, _ANY))
        for bank, value in digests.items():
            if bank not in self._values or len(value) != ALGORITHMS[bank].size:
                raise TpmError(f"a digest of {len(value)} bytes for bank {bank}", code="value")
        for bank, value in digests.items():
            values = self._values[bank]
            values[pcr] = digest(bank, values[pcr] + value)

    def reset(self, pcr: int, locality: int = 0) -> None:
        """Set a resettable PCR to zero; raises as ``extend`` does."""
        self._check(pcr, locality, RESET_LOCALITIES.get(pcr, frozenset()))
        for bank, values in self._values.items():
            values[pcr] = bytes(ALGORITHMS[bank].size)

    def _check(self, pcr: int, locality: int, allowed: frozenset[int]) -> None:
        if not 0 <= pcr < PCR_COUNT:
            raise TpmError(f"there is no PCR {pcr}", code="value")
        if locality not in allowed:
            raise TpmError(f"PCR {pcr} refuses locality {locality}", code="locality")

    def values(self) -> dict[str, dict[int, bytes]]:
        """Return bank → PCR → value, as a copy."""
        return {bank: dict(values) for bank, values in self._values.items()}

    def quote(
        self, nonce: bytes, selection: Mapping[str, Sequence[int]], key: SoftKey
    ) -> tuple[bytes, Signature]:
        """Return (TPMS_ATTEST, signature) over the selected PCRs."""
        selections = tuple(Selection(bank, tuple(sorted(p))) for bank, p in selection.items())
        values = [self._values[bank][pcr] for bank, p in selection.items() for pcr in sorted(p)]
        quote = Quote(selections, pcr_digest(values, key.hash))
        attest = Attest(
            type="quote",
            signer=key.public.name(),
            extra_data=nonce,
            clock=1_000 * self.reset_count,
            reset_count=self.reset_count,
            restart_count=0,
            safe=True,
            firmware_version=0x2019_1023_0016_3636,
            quote=quote,
            attested=write_quote(quote),
        )
        data = write_attest(attest)
        return data, key.sign(data)
