"""The PCR values beside a quote as tpm2-tools and Keylime write them: a dump of C structures.

Little-endian: u32 count, 16 selections of 8 bytes {u16 bank, u8 size, bitmap[4], pad}; u32 number
of digest lists, each {u32 count, 8 digests of {u16 size, 64 bytes}}. Nothing in it is signed: what
was selected is taken from the quote alone.
"""

from __future__ import annotations

from typing import Final

from casemate.formats.algorithms import ALGORITHMS, NAME_BY_ID
from casemate.formats.reader import Reader
from casemate.formats.tpm import ids
from casemate.formats.tpm.attest import bitmap_pcrs

_SELECTION_SLOTS: Final = 16
_SELECTION_SIZE: Final = 8
_BITMAP_SIZE: Final = 4
_DIGEST_SLOTS: Final = 8
MAX_LISTS: Final = 64
"""Digest lists of 8: 16 banks of 24 PCRs make 48."""


def parse_pcrs_blob(data: bytes | memoryview) -> dict[str, dict[int, bytes]]:
    """Read the blob and return bank → PCR → value.

    Raises:
        FormatError: counts, sizes or digest lengths that do not fit each other.
    """
    reader = Reader(data, "PCR values")
    wanted = _read_wanted(reader)
    digests = _read_digests(reader)
    reader.end()
    if len(digests) != len(wanted):
        raise reader.error(f"{len(digests)} values for {len(wanted)} selected PCRs")
    values: dict[str, dict[int, bytes]] = {}
    for (bank, pcr), digest in zip(wanted, digests, strict=True):
        if len(digest) != ALGORITHMS[bank].size:
            raise reader.error(f"PCR {pcr} of bank {bank} has {len(digest)} bytes")
        values.setdefault(bank, {})[pcr] = digest
    return values


def _read_wanted(reader: Reader) -> list[tuple[str, int]]:
    count = reader.u32le()
    if count > _SELECTION_SLOTS:
        raise reader.error(f"{count} selections")
    wanted: list[tuple[str, int]] = []
    for _ in range(count):
        number, size, bitmap = reader.u16le(), reader.u8(), reader.take(_BITMAP_SIZE)
        reader.skip(1)
        bank = NAME_BY_ID.get(number)
        if bank is None or size > _BITMAP_SIZE:
            raise reader.error(f"a selection of bank 0x{number:04x} with {size} bytes")
        wanted += ((bank, pcr) for pcr in bitmap_pcrs(bitmap[:size]))
    reader.skip((_SELECTION_SLOTS - count) * _SELECTION_SIZE)
    if len(set(wanted)) != len(wanted):
        raise reader.error("a PCR is selected twice")
    return wanted


def _read_digests(reader: Reader) -> list[bytes]:
    lists = reader.u32le()
    if lists > MAX_LISTS:
        raise reader.error(f"{lists} digest lists")
    digests: list[bytes] = []
    for _ in range(lists):
        count = reader.u32le()
        if count > _DIGEST_SLOTS:
            raise reader.error(f"a digest list of {count}")
        for _ in range(count):
            size, field = reader.u16le(), reader.take(ids.MAX_DIGEST)
            if size > ids.MAX_DIGEST:
                raise reader.error(f"a digest of {size} bytes")
            digests.append(field[:size])
        reader.skip((_DIGEST_SLOTS - count) * (2 + ids.MAX_DIGEST))
    return digests
