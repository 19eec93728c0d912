"""Canonical Event Logs (TCG CEL 1.0): one list for firmware, boot loader, systemd and IMA.

Two encodings are read: TLV (u8 type, u32 length, value; big-endian), and JSON as an array, or as
a sequence of objects (RFC 7464), as systemd writes ``/run/log/systemd/tpm2-measure.log``. What a
record extends is in its digests; its content is a claim. Content of PC Client events keeps its
type, so that replay knows what never extends; all other content is of the type ``CEL_CONTENT``.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from casemate.errors import FormatError, LimitError
from casemate.formats.algorithms import ALGORITHMS, NAME_BY_ID, Algorithm
from casemate.formats.eventlog import DEFAULT_LIMITS, Limits
from casemate.formats.eventrecords import Event, EventLog
from casemate.formats.eventtypes import CEL_CONTENT, EV_NO_ACTION, EVENT_NAMES
from casemate.formats.reader import Reader

JSON: Final = "cel-json"
TLV: Final = "cel-tlv"
NOWHERE: Final = 0xFFFFFFFF
"""The PCR of a record that extends an NV index: none."""
NUMBER_SIZE: Final = 8
_RECNUM, _PCR, _NV, _DIGESTS, _CEL, _PCCLIENT, _CCMR = 0, 1, 2, 3, 4, 5, 108
_INDEXES: Final = frozenset({_PCR, _NV, _CCMR})
_HEAD: Final = b"\0\0\0\0\x08"
_START: Final = 18
"""Bytes of a record number, and of the head of what follows it."""
_SEPARATOR: Final = b"\x1e"
_TYPES: Final = {name: value for value, name in EVENT_NAMES.items()}


def looks_like_cel(data: bytes) -> bool:
    """Tell a CEL from the other logs.

    A legacy log may begin with the same five bytes; then a digest stands where a CEL has a small
    number and the type of an index.
    """
    if data[:200].lstrip(b" \t\r\n\x1e\xef\xbb\xbf")[:1] in {b"[", b"{"}:
        return True
    small = data[len(_HEAD) : len(_HEAD) + 4] == bytes(4)
    sized = len(data) >= _START and 1 <= int.from_bytes(data[14:_START], "big") <= len(_HEAD) + 3
    return data.startswith(_HEAD) and small and sized and data[13] in _INDEXES


def parse_cel(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> EventLog:
    """Read a log in either encoding; ``EventLog.format`` tells which.

    Raises:
        FormatError: ``malformed``.
        LimitError: larger or longer than ``limits``.
    """
    if len(data) > limits.size:
        raise LimitError(f"CEL of {len(data)} bytes, at most {limits.size} are allowed")
    kind = TLV if data.startswith(_HEAD) else JSON
    events: list[Event] = []
    last = -1
    for number, event in _tlv_records(data) if kind == TLV else _json_records(data):
        if number is not None and number <= last:
            raise FormatError(f"CEL: record {number} follows record {last}")
        last = last + 1 if number is None else number
        if len(events) >= limits.events:
            raise LimitError(f"CEL: more than {limits.events} records")
        events.append(event)
    if not events:
        raise FormatError("CEL: it holds no record")
    names = dict.fromkeys(name for event in events for name, _ in event.digests)
    algorithms = tuple(
        ALGORITHMS[name] if isinstance(name, str) else Algorithm(name, _size(events, name))
        for name in names
    )
    return EventLog(algorithms, tuple(events), None, kind=kind)


def _size(events: list[Event], name: int) -> int:
    return next(len(value) for event in events if (value := event.digest(name)) is not None)


def _digest(name: str | int, value: bytes) -> tuple[str | int, bytes]:
    if isinstance(name, str) and ALGORITHMS[name].size != len(value):
        raise FormatError(f"CEL: a {name} digest of {len(value)} bytes")
    return name, value


def _unique(digests: list[tuple[str | int, bytes]]) -> tuple[tuple[str | int, bytes], ...]:
    if not digests or len(dict(digests)) != len(digests):
        raise FormatError("CEL: a record without a digest, or with two of one algorithm")
    return tuple(digests)


def _tlv_records(data: bytes) -> Iterator[tuple[int | None, Event]]:
    reader = Reader(data, "CEL")
    while reader.left:
        number = _number(reader, frozenset({_RECNUM}))[1]
        index, pcr = _number(reader, _INDEXES)
        pcr = NOWHERE if index == _NV else pcr
        nested = Reader(_field(reader, frozenset({_DIGESTS}))[1], "CEL digests")
        digests = []
        while nested.left:
            algorithm, digest = _field(nested, None)
            digests.append(_digest(NAME_BY_ID.get(algorithm, algorithm), digest))
        kind, content = _field(reader, None)
        event_type = CEL_CONTENT
        if kind == _PCCLIENT:
            event_type, content = _pcclient(content)
        elif kind == _CEL or index == _NV:
            event_type = EV_NO_ACTION
        yield number, Event(pcr, event_type, _unique(digests), content)


def _pcclient(content: bytes) -> tuple[int, bytes]:
    """Return type and data of PC Client content: two TLVs, type (0) and data (1)."""
    reader = Reader(content, "CEL PC Client content")
    event_type = _number(reader, frozenset({0}))[1]
    data = _field(reader, frozenset({1}))[1]
    reader.end()
    return event_type, data


def _number(reader: Reader, kinds: frozenset[int]) -> tuple[int, int]:
    kind, value = _field(reader, kinds)
    if not 1 <= len(value) <= NUMBER_SIZE:
        raise reader.error(f"a number of {len(value)} bytes")
    return kind, int.from_bytes(value, "big")


def _field(reader: Reader, kinds: frozenset[int] | None) -> tuple[int, bytes]:
    kind = reader.u8()
    if kinds is not None and kind not in kinds:
        raise reader.error(f"a field of type {kind} where {sorted(kinds)} belongs")
    return kind, reader.take(reader.u32be())


def _json_records(data: bytes) -> Iterator[tuple[int | None, Event]]:
    try:
        values = list(_objects(data))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"CEL: not JSON: {type(error).__name__}") from error
    for value in values:
        try:
            yield _json_record(value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"CEL: a record without {error}") from error


def _objects(data: bytes) -> Iterator[Any]:
    if _SEPARATOR in data:
        for part in data.split(_SEPARATOR):
            if part.strip():
                yield json.loads(part)
        return
    value = json.loads(data)
    yield from value if isinstance(value, list) else [value]


def _json_record(value: Mapping[str, Any]) -> tuple[int | None, Event]:
    number = value.get("recnum")
    if number is not None and type(number) is not int:
        raise FormatError("CEL: a record number that is no number")
    pcr = value.get("pcr", NOWHERE)
    if type(pcr) is not int or not 0 <= pcr <= NOWHERE:
        raise FormatError("CEL: a PCR that is no number")
    digests = [_json_digest(one) for one in value["digests"]]
    content = value.get("content", {})
    kind = value.get("content_type")
    if kind == "pcclient_std":
        named = content["event_type"]
        event_type = _TYPES[named] if isinstance(named, str) else named
        if type(event_type) is not int or not 0 <= event_type <= NOWHERE:
            raise FormatError("CEL: an event type that is no number")
        return number, Event(pcr, event_type, _unique(digests), _bytes(content["event_data"]))
    text = json.dumps({"content_type": kind, "content": content}, sort_keys=True).encode()
    never = kind == "cel" or pcr == NOWHERE
    return number, Event(pcr, EV_NO_ACTION if never else CEL_CONTENT, _unique(digests), text)


def _json_digest(value: Mapping[str, Any]) -> tuple[str | int, bytes]:
    name = str(value["hashAlg"]).lower().replace("-", "_")
    name = {"sm3": "sm3_256", "sm3256": "sm3_256"}.get(name, name)
    if name not in ALGORITHMS:
        raise FormatError(f"CEL: a digest of the unknown algorithm {name[:32]!r}")
    return _digest(name, bytes.fromhex(value["digest"]))


def _bytes(text: str) -> bytes:
    """Read hexadecimal, or else base64."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return binascii.a2b_base64(text, strict_mode=True)
