"""IMA lists made in memory, and Hypothesis strategies for them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from casemate.formats.algorithms import ALGORITHMS, digest
from casemate.formats.ima import IMA_PCR, OLD_NAME_SIZE, OLD_TEMPLATE, ImaEntry
from casemate.formats.imareplay import boot_aggregates, replay_ima


def pack_fields(*fields: bytes) -> bytes:
    """Return template data: each field with its length before it."""
    return b"".join(struct.pack("<I", len(field)) + field for field in fields)


def record(
    path: bytes,
    content: bytes = b"content",
    *,
    template: str = "ima-ng",
    extra: Sequence[bytes] = (),
    algorithm: str = "sha256",
    pcr: int = IMA_PCR,
) -> ImaEntry:
    """Return the record that a kernel makes of a file with this content."""
    if template == OLD_TEMPLATE:
        data = digest("sha1", content) + path.ljust(OLD_NAME_SIZE, b"\0")
    else:
        label = f"ima:{algorithm}" if template.endswith("v2") else algorithm
        value = label.encode() + b":\0" + digest(algorithm, content)
        data = pack_fields(value, path + b"\0", *extra)
    return ImaEntry(pcr, digest("sha1", data), template, data)


def aggregate(pcrs: Mapping[int, bytes], bank: str = "sha256", kernel: str = "current") -> ImaEntry:
    """Return the first record of a list: the boot aggregate over PCR values."""
    value = bank.encode() + b":\0" + boot_aggregates(pcrs, bank)[kernel]
    data = pack_fields(value, b"boot_aggregate\0")
    return ImaEntry(IMA_PCR, digest("sha1", data), "ima-ng", data)


def violation(path: bytes) -> ImaEntry:
    """Return a violation record."""
    data = pack_fields(b"sha256:\0" + bytes(32), path + b"\0")
    return ImaEntry(IMA_PCR, bytes(20), "ima-ng", data)


def boot_pcrs(banks: Sequence[str] = ("sha256",)) -> dict[str, dict[int, bytes]]:
    """Return some values of PCR 0-9."""
    return {
        bank: {pcr: bytes((pcr + 1,)) * ALGORITHMS[bank].size for pcr in range(10)}
        for bank in banks
    }


def quoted(
    entries: Sequence[ImaEntry], banks: Sequence[str] = ("sha256",), *, padded: bool = False
) -> dict[str, dict[int, bytes]]:
    """Return PCR 0-10 of a host that booted and then measured ``entries``."""
    pcrs = boot_pcrs(banks)
    for bank in banks:
        pcrs[bank][IMA_PCR] = replay_ima(entries, bank, padded=padded)
    return pcrs


def entries_strategy() -> st.SearchStrategy[tuple[ImaEntry, ...]]:
    """Lists of any templates, known and unknown, with any paths."""
    paths = st.binary(min_size=1, max_size=64).filter(lambda path: not path.endswith(b"\0"))
    named = st.builds(
        lambda path, template, count: record(path, template=template, extra=[b""] * count),
        paths,
        st.sampled_from(("ima-ng", "ima-sig", "ima-buf", "of-tomorrow", "ima")),
        st.integers(0, 3),
    )
    return st.lists(named | paths.map(violation), max_size=12).map(tuple)
