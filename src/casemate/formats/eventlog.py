"""TCG event logs: crypto-agile and legacy SHA-1, read and written byte for byte, and replayed.

TCG PC Client Platform Firmware Profile 1.06, section 10: a crypto-agile log begins with one event
in the legacy form whose data is the Spec ID structure (the announced algorithms); then follow
TCG_PCR_EVENT2 records. All integers are little-endian. CCEL (Intel TDX) and the Intel TXT log use
the same form. Whatever stands in the log is a claim: only digests that replay to quoted PCR values
prove anything, and event types and data never do by themselves (see ``eventdata``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError, LimitError
from casemate.formats.algorithms import ALGORITHMS, NAME_BY_ID, Algorithm
from casemate.formats.eventrecords import Event, EventLog, SpecId
from casemate.formats.eventreplay import (
    PCR_COUNT,
    STARTUP_LOCALITY_SIGNATURE,
    incomplete_banks,
    replay,
    replay_events,
)
from casemate.formats.eventtypes import EV_NO_ACTION
from casemate.formats.reader import Reader

__all__ = [
    "DEFAULT_LIMITS",
    "MAX_LOG_SIZE",
    "PCR_COUNT",
    "SPEC_ID_SIGNATURE",
    "STARTUP_LOCALITY_SIGNATURE",
    "Event",
    "EventLog",
    "Limits",
    "SpecId",
    "incomplete_banks",
    "parse",
    "replay",
    "replay_events",
    "write",
    "write_event",
    "write_header",
    "write_legacy_event",
]

MAX_LOG_SIZE: Final = 16 << 20
"""Bytes; the largest areas in the field are 1 MiB (CCEL)."""
MAX_EVENTS: Final = 32_768
"""Events; the longest public logs have 213, ESXi's kernel records at most 1,000."""
MAX_ALGORITHMS: Final = 16
"""Banks of one log; the TPM library has no more than 16 in a selection."""
MAX_DIGEST_SIZE: Final = 128
"""Bytes of a digest of an algorithm unknown to us; known ones end at 64."""
SPEC_ID_SIGNATURE: Final = b"Spec ID Event03\0"
_LEGACY = struct.Struct("<II20sI")
_AGILE = struct.Struct("<III")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a log is taken in: bytes and events."""

    size: int = MAX_LOG_SIZE
    events: int = MAX_EVENTS


DEFAULT_LIMITS: Final = Limits()


def parse(data: bytes | bytearray | memoryview, *, limits: Limits = DEFAULT_LIMITS) -> EventLog:
    """Read a whole log; padding of one repeated byte, 00 or FF, may follow it.

    Raises:
        FormatError: ``malformed``, or ``trailing-data`` where something follows the padding.
        LimitError: larger or longer than ``limits``.
    """
    size = memoryview(data).nbytes
    if size > limits.size:
        raise LimitError(f"event log of {size} bytes, at most {limits.size} are allowed")
    raw = bytes(data)
    if len(raw) < _LEGACY.size:
        raise FormatError(f"event log: {len(raw)} bytes are too few for one event")
    pcr, event_type, digest, body = _LEGACY.unpack_from(raw)
    start, end = _LEGACY.size, _LEGACY.size + body
    if event_type != EV_NO_ACTION or not raw.startswith(SPEC_ID_SIGNATURE, start):
        events, position = _legacy_events(raw, limits)
        legacy = (ALGORITHMS["sha1"],)
        return EventLog(legacy, events, None, _padding(raw, position))
    if end > len(raw):
        raise FormatError("event log: the Spec ID event ends behind the end of the log")
    algorithms, spec_id, outside = _parse_spec_id(raw, start, end, pcr, digest)
    events, position = _agile_events(raw, end + outside, algorithms, limits)
    return EventLog(algorithms, events, spec_id, _padding(raw, position))


def _parse_spec_id(
    raw: bytes, start: int, end: int, pcr: int, digest: bytes
) -> tuple[tuple[Algorithm, ...], SpecId, int]:
    reader = Reader(memoryview(raw)[start:end], "Spec ID event")
    reader.skip(len(SPEC_ID_SIGNATURE))
    platform_class = reader.u32le()
    minor, major, errata, uintn_size = reader.u8(), reader.u8(), reader.u8(), reader.u8()
    count = reader.u32le()
    if not 1 <= count <= MAX_ALGORITHMS:
        raise reader.error(f"{count} algorithms, 1 to {MAX_ALGORITHMS} are allowed")
    algorithms = tuple(Algorithm(reader.u16le(), reader.u16le()) for _ in range(count))
    for algorithm in algorithms:
        known = ALGORITHMS.get(NAME_BY_ID.get(algorithm.id, ""))
        if known not in {None, algorithm} or not 1 <= algorithm.size <= MAX_DIGEST_SIZE:
            raise reader.error(f"algorithm {algorithm.name} with {algorithm.size} bytes")
    if len({algorithm.id for algorithm in algorithms}) != count:
        raise reader.error("an algorithm is announced twice")
    vendor_info: bytes | None = None
    outside = 0
    if reader.left:
        vendor_size = reader.u8()
        if vendor_size and not reader.left and end + vendor_size <= len(raw):
            outside = vendor_size
            vendor_info = raw[end : end + outside]
        else:
            vendor_info = reader.take(vendor_size)
        reader.end()
    spec_id = SpecId(
        pcr,
        digest,
        platform_class,
        minor,
        major,
        errata,
        uintn_size,
        vendor_info,
        vendor_outside=bool(outside),
    )
    return algorithms, spec_id, outside


def _agile_events(
    raw: bytes, position: int, algorithms: tuple[Algorithm, ...], limits: Limits
) -> tuple[tuple[Event, ...], int]:
    """Read TCG_PCR_EVENT2 records up to the padding or the end."""
    # Nearly every event carries the announced digests in order: one unpack reads all of it.
    usual = struct.Struct("<III" + "".join(f"H{a.size}s" for a in algorithms) + "I")
    ids = tuple(a.id for a in algorithms)
    names = tuple(a.name for a in algorithms)
    count = len(ids)
    sizes = {a.id: a.size for a in (*ALGORITHMS.values(), *algorithms)}
    unpack, width, total = usual.unpack_from, usual.size, len(raw)
    last_usual = total - width
    events: list[Event] = []
    while position < total:
        if len(events) >= limits.events:
            raise LimitError(f"event log: more than {limits.events} events")
        fields = unpack(raw, position) if position <= last_usual else None
        if fields is not None and fields[2] == count and fields[3:-1:2] == ids:
            pcr, event_type = fields[:2]
            digests = tuple(zip(names, fields[4:-1:2], strict=True))
            start, size = position + width, fields[-1]
        elif _is_padding(raw, position, _AGILE.size):
            break
        else:
            pcr, event_type, digests, start, size = _unusual_event(raw, position, sizes)
        position = start + size
        if position > total:
            raise FormatError(
                f"event log: event {len(events) + 1} of {size} bytes ends behind the end of the log"
            )
        events.append(Event(pcr, event_type, digests, raw[start:position]))
    return tuple(events), position


def _unusual_event(
    raw: bytes, position: int, sizes: dict[int, int]
) -> tuple[int, int, tuple[tuple[str | int, bytes], ...], int, int]:
    """Read the head of an event whose digests are not the announced ones in order."""
    reader = Reader(memoryview(raw)[position:], f"event at offset {position}")
    pcr, event_type, count = reader.u32le(), reader.u32le(), reader.u32le()
    if not 1 <= count <= MAX_ALGORITHMS:
        raise reader.error(f"{count} digests, 1 to {MAX_ALGORITHMS} are allowed")
    digests: dict[str | int, bytes] = {}
    for _ in range(count):
        identifier = reader.u16le()
        size = sizes.get(identifier)
        if size is None:
            raise reader.error(f"a digest of algorithm 0x{identifier:04x}, never announced")
        name = NAME_BY_ID.get(identifier, identifier)
        if name in digests:
            raise reader.error(f"two digests of {name}")
        digests[name] = reader.take(size)
    size = reader.u32le()
    return pcr, event_type, tuple(digests.items()), position + reader.position, size


def _legacy_events(raw: bytes, limits: Limits) -> tuple[tuple[Event, ...], int]:
    """Read TCG_PCClientPCREvent records up to the padding or the end."""
    events: list[Event] = []
    position, total, width = 0, len(raw), _LEGACY.size
    while position < total:
        if _is_padding(raw, position, width):
            break
        if len(events) >= limits.events:
            raise LimitError(f"event log: more than {limits.events} events")
        if position + width > total:
            raise FormatError(f"event log: it ends inside the event at offset {position}")
        pcr, event_type, digest, size = _LEGACY.unpack_from(raw, position)
        start = position + width
        position = start + size
        if position > total:
            raise FormatError(
                f"event log: event {len(events)} of {size} bytes ends behind the end of the log"
            )
        events.append(Event(pcr, event_type, (("sha1", digest),), raw[start:position]))
    if not events:
        raise FormatError("event log: it holds no event")
    return tuple(events), position


def _is_padding(raw: bytes, position: int, head_size: int) -> bool:
    """Tell whether what stands here can only be padding: no event begins with such a head."""
    head = raw[position : position + head_size]
    return not head.strip(b"\0") or not head.strip(b"\xff")


def _padding(raw: bytes, position: int) -> tuple[int, int]:
    count = len(raw) - position
    if not count:
        return (0, 0)
    fill = raw[position]
    if raw.count(fill, position) != count:
        raise FormatError(
            f"event log: something follows the padding that begins at offset {position}",
            code="trailing-data",
        )
    return (fill, count)


def write(log: EventLog) -> bytes:
    """Return the log's bytes; ``write(parse(x)) == x`` and ``parse(write(log)) == log``.

    Raises:
        FormatError: a digest whose size is not its algorithm's, or a legacy event without SHA-1.
    """
    fill, count = log.padding
    tail = bytes((fill,)) * count
    if log.spec_id is None:
        return b"".join(map(write_legacy_event, log.events)) + tail
    sizes = {a.id: a.size for a in log.algorithms}
    body = b"".join(_encode(event, sizes) for event in log.events)
    return write_header(log.algorithms, log.spec_id) + body + tail


def write_header(algorithms: Iterable[Algorithm | str], spec_id: SpecId | None = None) -> bytes:
    """Return the Spec ID event that begins a crypto-agile log."""
    spec_id = spec_id or SpecId()
    chosen = [ALGORITHMS[a] if isinstance(a, str) else a for a in algorithms]
    data = SPEC_ID_SIGNATURE + struct.pack(
        "<IBBBBI",
        spec_id.platform_class,
        spec_id.version_minor,
        spec_id.version_major,
        spec_id.errata,
        spec_id.uintn_size,
        len(chosen),
    )
    data += b"".join(struct.pack("<HH", a.id, a.size) for a in chosen)
    outside = b""
    if spec_id.vendor_info is not None:
        data += bytes((len(spec_id.vendor_info),))
        if spec_id.vendor_outside:
            outside = spec_id.vendor_info
        else:
            data += spec_id.vendor_info
    head = _LEGACY.pack(spec_id.pcr, EV_NO_ACTION, spec_id.digest, len(data))
    return head + data + outside


def write_event(event: Event) -> bytes:
    """Return the event as a TCG_PCR_EVENT2."""
    return _encode(event, {})


def _encode(event: Event, sizes: dict[int, int]) -> bytes:
    parts = [_AGILE.pack(event.pcr, event.type, len(event.digests))]
    for name, digest in event.digests:
        known = ALGORITHMS[name] if isinstance(name, str) else Algorithm(name, sizes.get(name, 0))
        if known.size not in {0, len(digest)}:
            raise FormatError(f"a digest of {len(digest)} bytes given for {name}")
        parts += (known.id.to_bytes(2, "little"), digest)
    parts += (len(event.data).to_bytes(4, "little"), event.data)
    return b"".join(parts)


def write_legacy_event(event: Event) -> bytes:
    """Return the event as a TCG_PCClientPCREvent, with its SHA-1 digest."""
    digest = event.digest("sha1")
    if digest is None or len(digest) != ALGORITHMS["sha1"].size:
        raise FormatError("an event without a SHA-1 digest does not fit into a legacy log")
    return _LEGACY.pack(event.pcr, event.type, digest, len(event.data)) + event.data
