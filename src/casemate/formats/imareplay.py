"""What an IMA list proves against a quoted PCR, and the boot aggregate in its first record.

Kernels from 5.8 on extend every bank with the bank's own hash of the template data; older ones
extend all banks with the SHA-1 template hash, padded with zeros. A violation extends ones. The
list is read after the quote or before it, so a list that is longer than what was quoted is normal:
``match`` finds how far the quoted value goes, and the rest is pending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from casemate.formats.algorithms import ALGORITHMS, digest, hash_function
from casemate.formats.ima import IMA_PCR, ImaEntry

AGGREGATE_LAST: Final = 9
"""The boot aggregate covers PCR 0 to 9 in all banks but SHA-1 (kernel 5.8)."""
OLD_AGGREGATE_LAST: Final = 7
"""In SHA-1, and in older kernels, it covers PCR 0 to 7."""


@dataclass(frozen=True, slots=True)
class ImaState:
    """How far a list was proven: records, and the PCR's value there by bank.

    The state before the first record has no values: PCRs start at zero.
    """

    count: int = 0
    values: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Matched:
    """Where a list reaches the quoted values: ``state``, None where nowhere.

    ``wrong`` is the index of the first record, up to there, whose template hash is not that of its
    data; None: all are.
    """

    state: ImaState | None
    wrong: int | None = None


class KnownData:
    """Template data that many hosts show: each is hashed once, not for every host.

    Only members of ``templates`` are remembered, so that no host's list makes it grow.
    """

    def __init__(self, templates: frozenset[bytes] = frozenset()) -> None:
        self.templates = templates
        self._hashes: dict[tuple[str, str], dict[bytes, tuple[bytes, bytes]]] = {}

    def hashes(self, algorithm: str, bank: str) -> dict[bytes, tuple[bytes, bytes]]:
        """Return what is remembered: template data → its hash by ``algorithm`` and in ``bank``."""
        return self._hashes.setdefault((algorithm, bank), {})


def wrong_template(entries: Sequence[ImaEntry], algorithm: str = "sha1") -> int | None:
    """Return the index of the first record whose hash is not that of its data, None if all are."""
    function = hash_function(algorithm)
    violation = bytes(ALGORITHMS[algorithm].size)
    for index, (_, expected, _, data) in enumerate(entries):
        if function(data).digest() != expected and expected != violation:
            return index
    return None


def replay_ima(
    entries: Sequence[ImaEntry],
    bank: str,
    *,
    start: bytes | None = None,
    padded: bool = False,
    pcr: int = IMA_PCR,
) -> bytes:
    """Return the PCR's value after all ``entries``; see ``match`` for the arguments."""
    value = start if start is not None else bytes(ALGORITHMS[bank].size)
    return _walk(entries, bank, value, None, padded=padded, pcr=pcr)[1]


def match(
    entries: Sequence[ImaEntry],
    quoted: Mapping[str, bytes],
    *,
    start: ImaState | None = None,
    algorithm: str = "sha1",
    padded: bool = False,
    pcr: int = IMA_PCR,
    known: KnownData | None = None,
) -> Matched:
    """Find after how many of ``entries`` all banks have their quoted values.

    Args:
        entries: the records that follow ``start``.
        quoted: bank → value of the PCR; at least one.
        start: what was proven before; a later state is returned.
        algorithm: of the template hashes, which are checked on the way.
        padded: the kernel is older than 5.8: SHA-1 padded with zeros in every bank.
        pcr: the PCR that IMA extends; records of another one are stepped over.
        known: remembers hashes from one list to the next.
    """
    known = known or KnownData()
    before = start or ImaState()
    count: int | None = None
    wrong: int | None = None
    for bank, wanted in quoted.items():
        value = before.values.get(bank) or bytes(ALGORITHMS[bank].size)
        if count is None and not padded:
            count, value, wrong = _checked_walk(
                *(entries, bank, value, wanted, algorithm, pcr, known)
            )
        elif count is None:
            count, value = _walk(entries, bank, value, wanted, padded=True, pcr=pcr)
            wrong = wrong_template(entries[:count], algorithm)
        else:
            value = _walk(entries[:count], bank, value, None, padded=padded, pcr=pcr)[1]
        if value != wanted:
            return Matched(None, wrong)
    if count is None:
        return Matched(None)
    return Matched(ImaState(before.count + count, dict(quoted)), wrong)


def _walk(
    entries: Sequence[ImaEntry],
    bank: str,
    value: bytes,
    wanted: bytes | None,
    *,
    padded: bool,
    pcr: int,
) -> tuple[int, bytes]:
    """Extend ``value`` until it is the wanted one; return how many records that took."""
    function, size = hash_function(bank), ALGORITHMS[bank].size
    ones = b"\xff" * size
    violation = bytes(len(entries[0].template_hash)) if entries else b""
    if value == wanted:
        return 0, value
    for index, (where, template_hash, _, data) in enumerate(entries, 1):
        if where != pcr:
            continue
        if template_hash == violation:
            value = function(value + ones).digest()
        elif padded:
            value = function(value + template_hash.ljust(size, b"\0")).digest()
        else:
            value = function(value + function(data).digest()).digest()
        if value == wanted:
            return index, value
    return len(entries), value


def _checked_walk(
    entries: Sequence[ImaEntry],
    bank: str,
    value: bytes,
    wanted: bytes,
    algorithm: str,
    pcr: int,
    known: KnownData,
) -> tuple[int, bytes, int | None]:
    """Do what ``_walk`` and ``wrong_template`` do, in one pass over a long list."""
    function, check = hash_function(bank), hash_function(algorithm)
    ones = b"\xff" * ALGORITHMS[bank].size
    violation = bytes(ALGORITHMS[algorithm].size)
    hashes, templates = known.hashes(algorithm, bank), known.templates
    remembered = hashes.get
    wrong: int | None = None
    if value == wanted:
        return 0, value, None
    for index, (where, template_hash, _, data) in enumerate(entries, 1):
        both = remembered(data)
        if both is None:
            both = check(data).digest(), function(data).digest()
            if data in templates:
                hashes[data] = both
        expected, extended = both
        if expected != template_hash:
            if template_hash == violation:
                extended = ones
            elif wrong is None:
                wrong = index - 1
        if where == pcr:
            value = function(value + extended).digest()
            if value == wanted:
                return index, value, wrong
    return len(entries), value, wrong


def boot_aggregates(pcrs: Mapping[int, bytes], bank: str) -> dict[str, bytes]:
    """Return what the boot aggregate may be, by kernel class, from a bank's quoted PCRs.

    ``current``: over PCR 0-9 (0-7 in the SHA-1 bank); ``old``: over PCR 0-7, of a kernel before
    5.8. A class is left out where one of its PCRs was not quoted.
    """
    result: dict[str, bytes] = {}
    for kernel, last in (
        ("current", OLD_AGGREGATE_LAST if bank == "sha1" else AGGREGATE_LAST),
        ("old", OLD_AGGREGATE_LAST),
    ):
        wanted = range(last + 1)
        if all(pcr in pcrs for pcr in wanted):
            result[kernel] = digest(bank, b"".join(pcrs[pcr] for pcr in wanted))
    return result
