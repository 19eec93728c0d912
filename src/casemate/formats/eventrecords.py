"""The records of a TCG event log, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from casemate.formats.algorithms import Algorithm


class Event(NamedTuple):
    """One record of a log.

    Attributes:
        pcr: PCR index (measurement register in a CCEL), u32.
        type: event type, u32; see ``eventtypes``.
        digests: (algorithm, digest) pairs in log order; the algorithm is a name, or the bare
            TPM_ALG_ID where the log announces one that we do not know.
        data: the event's data, unverified.
    """

    pcr: int
    type: int
    digests: tuple[tuple[str | int, bytes], ...]
    data: bytes

    def digest(self, algorithm: str | int) -> bytes | None:
        """Return the digest for one bank, or None."""
        for name, value in self.digests:
            if name == algorithm:
                return value
        return None


@dataclass(frozen=True, slots=True)
class SpecId:
    """What a crypto-agile log's first event says beside the algorithms.

    ``vendor_info`` is None where its size byte is missing, and ``vendor_outside`` is true where it
    lies behind the event that announces it: both are found in the field, and written back so.
    """

    pcr: int = 0
    digest: bytes = bytes(20)
    platform_class: int = 0
    version_minor: int = 0
    version_major: int = 2
    errata: int = 105
    uintn_size: int = 2
    vendor_info: bytes | None = b""
    vendor_outside: bool = False


@dataclass(frozen=True, slots=True)
class EventLog:
    """A parsed log.

    Attributes:
        algorithms: the announced banks, in order; SHA-1 alone in a legacy log.
        events: all events after the Spec ID event.
        spec_id: the first event of a crypto-agile log; None: a legacy log.
        padding: (byte, count) that fills the area behind the last event.
        kind: the form of a canonical event log, empty for logs in TCG form.
    """

    algorithms: tuple[Algorithm, ...]
    events: tuple[Event, ...]
    spec_id: SpecId | None = SpecId()
    padding: tuple[int, int] = (0, 0)
    kind: str = ""

    @property
    def format(self) -> str:
        """``crypto-agile``, ``tcg12``, ``cel-json``, ``cel-cbor`` or ``cel-tlv``."""
        if self.kind:
            return self.kind
        return "tcg12" if self.spec_id is None else "crypto-agile"

    @property
    def count(self) -> int:
        """Number of records, the Spec ID event included."""
        return len(self.events) + (self.spec_id is not None)

    @property
    def banks(self) -> tuple[str, ...]:
        """Names of the announced banks that we know."""
        return tuple(name for a in self.algorithms if isinstance(name := a.name, str))
