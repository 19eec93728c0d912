"""Canonical Event Logs (TCG CEL 1.0): one list for firmware, boot loader, systemd and IMA.

Three encodings are read: TLV (u8 type, u32 length, value; big-endian); JSON as an array, one object
a line, or a sequence of objects (RFC 7464), as systemd writes ``tpm2-measure.log``;
CBOR with JSON's names or TLV's numbers, as an array or a sequence (RFC 8742). What a record extends
is in its digests; its content is a claim. Content of PC Client events keeps its type, so that
replay knows what never extends; all other content is of the type ``CEL_CONTENT``.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from casemate.errors import FormatError, LimitError
from casemate.formats.algorithms import ALGORITHMS, NAME_BY_ID, Algorithm
from casemate.formats.cbor import decode_cbor_sequence
from casemate.formats.eventlog import DEFAULT_LIMITS, Limits
from casemate.formats.eventrecords import Event, EventLog
from casemate.formats.eventtypes import CEL_CONTENT, EV_NO_ACTION, EVENT_NAMES
from casemate.formats.reader import Reader

JSON: Final = "cel-json"
TLV: Final = "cel-tlv"
CBOR: Final = "cel-cbor"
NOWHERE: Final = 0xFFFFFFFF
"""The PCR of a record that extends an NV index: none."""
NUMBER_SIZE: Final = 8
_RECNUM, _PCR, _NV, _DIGESTS, _CEL, _PCCLIENT, _CCMR = 0, 1, 2, 3, 4, 5, 108
_INDEXES: Final = frozenset({_PCR, _NV, _CCMR})
_HEAD: Final = b"\0\0\0\0\x08"
_START: Final = 18
"""Bytes of a record number, and of the head of what follows it."""
_CBOR_FIRST: Final = range(0x80, 0xDC)
"""First bytes of an array, a map or a tag; no PCR of any other log has such a number."""
_SEPARATOR: Final = b"\x1e"
_TYPES: Final = {name: value for value, name in EVENT_NAMES.items()}


def looks_like_cel(data: bytes) -> bool:
    """Tell a CEL from the other logs.

    A legacy log may begin with the same five bytes; then a digest stands where a CEL has a small
    number and the type of an index.
    """
    if _is_cbor(data) or data[:200].lstrip(b" \t\r\n\x1e\xef\xbb\xbf")[:1] in {b"[", b"{"}:
        return True
    small = data[len(_HEAD) : len(_HEAD) + 4] == bytes(4)
    sized = len(data) >= _START and 1 <= int.from_bytes(data[14:_START], "big") <= len(_HEAD) + 3
    return data.startswith(_HEAD) and small and sized and data[13] in _INDEXES


def _is_cbor(data: bytes) -> bool:
    return bool(data) and data[0] in _CBOR_FIRST


def parse_cel(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> EventLog:
    """Read a log in any encoding; ``EventLog.format`` tells which.

    Raises:
        FormatError: ``malformed``.
        LimitError: larger or longer than ``limits``.
    """
    if len(data) > limits.size:
        raise LimitError(f"CEL of {len(data)} bytes, at most {limits.size} are allowed")
    kind = TLV if data.startswith(_HEAD) else CBOR if _is_cbor(data) else JSON
    records = {TLV: _tlv_records, CBOR: _cbor_records, JSON: _json_records}[kind]
    events: list[Event] = []
    last = -1
    for number, event in records(data):
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


def _unique(
    digests: list[tuple[str | int, bytes]], event_type: int
) -> tuple[tuple[str | int, bytes], ...]:
    missing = not digests and event_type != EV_NO_ACTION
    if missing or len(dict(digests)) != len(digests):
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
        yield number, Event(pcr, event_type, _unique(digests, event_type), content)


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
    return _records(values)


def _cbor_records(data: bytes) -> Iterator[tuple[int | None, Event]]:
    values = decode_cbor_sequence(data, what="CEL")
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    return _records([_named(value) for value in values])


_NAMES: Final = {
    _RECNUM: "recnum",
    _PCR: "pcr",
    _NV: "nv_index",
    _DIGESTS: "digests",
    _CEL: "cel",
    _PCCLIENT: "pcclient_std",
}


def _named(value: Any) -> Any:  # noqa: ANN401  # any CBOR value
    """Give a record with numbers for names the names that JSON has."""
    if not isinstance(value, dict) or any(type(key) is not int for key in value):
        return value
    named: dict[str, Any] = {}
    for key, content in value.items():
        if key in {_RECNUM, _PCR, _NV, _DIGESTS}:
            named[_NAMES[key]] = content
        else:
            named |= {"content_type": _NAMES.get(key, str(key)), "content": content}
    return named


def _records(values: list[Any]) -> Iterator[tuple[int | None, Event]]:
    for value in values:
        try:
            yield _record(value)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise FormatError(f"CEL: a record without {error}") from error


def _objects(data: bytes) -> Iterator[Any]:
    if _SEPARATOR in data:
        for part in data.split(_SEPARATOR):
            if part.strip():
                yield json.loads(part)
        return
    text = data.decode("utf-8-sig")
    decoder, position = json.JSONDecoder(), 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        value, position = decoder.raw_decode(text, position)
        yield from value if isinstance(value, list) else [value]


def _record(value: Mapping[str, Any]) -> tuple[int | None, Event]:
    number = value.get("recnum")
    if number is not None and type(number) is not int:
        raise FormatError("CEL: a record number that is no number")
    pcr = value.get("pcr", NOWHERE)
    if type(pcr) is not int or not 0 <= pcr <= NOWHERE:
        raise FormatError("CEL: a PCR that is no number")
    digests = _digests(value["digests"])
    content = value.get("content", {})
    kind = value.get("content_type")
    if kind == "pcclient_std":
        event_type, payload = _firmware_content(content)
        return number, Event(pcr, event_type, _unique(digests, event_type), payload)
    event_type = EV_NO_ACTION if kind == "cel" or pcr == NOWHERE else CEL_CONTENT
    told = {"content_type": kind, "content": content}
    text = json.dumps(told, sort_keys=True, default=_shown).encode()
    return number, Event(pcr, event_type, _unique(digests, event_type), text)


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else type(value).__name__


def _firmware_content(content: Mapping[Any, Any]) -> tuple[int, bytes]:
    """Return type and data of PC Client content, by name or by number."""
    named = content["event_type"] if "event_type" in content else content[0]
    event_type = _TYPES[named] if isinstance(named, str) else named
    if type(event_type) is not int or not 0 <= event_type <= NOWHERE:
        raise FormatError("CEL: an event type that is no number")
    return event_type, _bytes(content["event_data"] if "event_data" in content else content[1])


def _digests(value: Any) -> list[tuple[str | int, bytes]]:  # noqa: ANN401  # from JSON or CBOR
    """Read a list of objects or pairs, or a map: algorithm → digest."""
    if isinstance(value, dict):
        return [_one_digest(name, digest) for name, digest in value.items()]
    return [
        _one_digest(*one) if isinstance(one, list) else _one_digest(one["hashAlg"], one["digest"])
        for one in value
    ]


def _one_digest(algorithm: str | int, value: str | bytes) -> tuple[str | int, bytes]:
    if type(algorithm) is int:
        return _digest(NAME_BY_ID.get(algorithm, algorithm), _bytes(value))
    name = str(algorithm).lower().replace("-", "_").removeprefix("tpm_alg_")
    name = {"sm3": "sm3_256", "sm3256": "sm3_256"}.get(name, name)
    if name not in ALGORITHMS:
        raise FormatError(f"CEL: a digest of the unknown algorithm {name[:32]!r}")
    return _digest(name, _bytes(value))


def _bytes(text: str | bytes) -> bytes:
    """Take bytes as they are; read hexadecimal, or else base64."""
    if isinstance(text, bytes):
        return text
    try:
        return bytes.fromhex(text)
    except ValueError:
        return binascii.a2b_base64(text, strict_mode=True)
