"""Canonical event logs, as systemd and others write them, replay like the logs they tell of."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError, LimitError
from casemate.formats.algorithms import ALGORITHMS
from casemate.formats.cel import looks_like_cel, parse_cel
from casemate.formats.eventlog import EventLog, Limits, parse, replay, write
from casemate.formats.eventrecords import Event
from casemate.formats.eventreview import review
from casemate.formats.eventtypes import CEL_CONTENT, EV_NO_ACTION, EV_S_CRTM_VERSION

SYSTEMD = b"".join(
    b"\x1e" + json.dumps(one).encode() + b"\n"
    for one in (
        {
            "pcr": 11,
            "digests": [
                {"hashAlg": name, "digest": hashlib.new(name, word).hexdigest()}
                for name in ("sha256", "sha1")
            ],
            "content_type": "systemd",
            "content": {"string": word.decode(), "bootId": "5", "eventType": "phase"},
        }
        for word in (b"enter-initrd", b"leave-initrd")
    )
)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BI", kind, len(value)) + value


def as_tlv(log: EventLog) -> bytes:
    return b"".join(
        tlv(0, struct.pack(">Q", number))
        + tlv(1, bytes((event.pcr & 0xFF,)))
        + tlv(3, b"".join(tlv(ALGORITHMS[str(n)].id, value) for n, value in event.digests))
        + tlv(5, tlv(0, struct.pack(">I", event.type)) + tlv(1, event.data))
        for number, event in enumerate(log.events)
    )


def as_json(log: EventLog) -> bytes:
    rows = [
        {
            "recnum": number,
            "pcr": event.pcr,
            "digests": [{"hashAlg": n, "digest": value.hex()} for n, value in event.digests],
            "content_type": "pcclient_std",
            "content": {"event_type": event.type, "event_data": event.data.hex()},
        }
        for number, event in enumerate(log.events)
    ]
    return json.dumps(rows).encode()


def as_lines(log: EventLog) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in json.loads(as_json(log)))


def as_cbor(log: EventLog) -> tuple[bytes, bytes]:
    """Return an array with names, and a sequence with numbers."""
    named, numbered = [], []
    for number, event in enumerate(log.events):
        digests = {ALGORITHMS[str(n)].id: value for n, value in event.digests}
        content = {"event_type": event.type, "event_data": event.data}
        row = {"recnum": number, "pcr": event.pcr, "content_type": "pcclient_std"}
        pairs = [{"hashAlg": n, "digest": value} for n, value in event.digests]
        named.append({**row, "digests": pairs, "content": content})
        row_by_number = {0: number, 1: event.pcr, 3: digests, 5: {0: event.type, 1: event.data}}
        numbered.append(cbor2.dumps(row_by_number))
    return cbor2.dumps(named), b"".join(numbered)


def test_what_systemd_measured_is_replayed() -> None:
    log = parse_cel(SYSTEMD)
    value = bytes(32)
    for word in (b"enter-initrd", b"leave-initrd"):
        value = hashlib.sha256(value + hashlib.sha256(word).digest()).digest()
    assert replay(log)["sha256"] == {11: value}
    assert (log.format, log.count, log.banks) == ("cel-json", 2, ("sha256", "sha1"))
    assert review(log) == ()


def test_public_logs_told_in_both_forms_lead_to_the_same_pcrs(corpus: Path) -> None:
    for entry in json.loads((corpus / "evlogs" / "INDEX.json").read_text()):
        data = (corpus / "evlogs" / entry["file"]).read_bytes()
        if entry["file"].endswith("b64"):
            continue
        assert not looks_like_cel(data), entry["file"]
        log = parse(data)
        if not log.events or any(not event.digests for event in log.events):
            continue
        for told in (as_tlv(log), as_json(log), as_lines(log), *as_cbor(log)):
            assert looks_like_cel(told)
            found = parse_cel(told)
            assert found.events == log.events or told.startswith(b"\0")
            assert {b: v for b, v in replay(found).items() if v} == {
                b: v for b, v in replay(log).items() if v
            }


def test_a_legacy_log_that_begins_alike_is_no_cel() -> None:
    for digest in (b"\1" * 20, bytes(20), bytes(5) + b"\1\0\0\0\1" + bytes(10)):
        event = Event(0, EV_S_CRTM_VERSION, (("sha1", digest),), b"x")
        raw = write(EventLog((ALGORITHMS["sha1"],), (event,), None))
        assert not looks_like_cel(raw) or digest[5:6] == b"\1"


def test_an_nv_index_and_management_records_extend_no_pcr() -> None:
    digests = tlv(3, tlv(0x0B, b"\1" * 32))
    raw = tlv(0, bytes(8)) + tlv(2, struct.pack(">I", 0x1C10110)) + digests + tlv(7, b"x")
    raw += tlv(0, struct.pack(">Q", 1)) + tlv(1, b"\4") + digests + tlv(4, b"x")
    log = parse_cel(raw)
    assert {event.type for event in log.events} == {EV_NO_ACTION}
    assert replay(log) == {"sha256": {}}


def test_a_management_record_needs_no_digest_and_any_other_does() -> None:
    first = {"recnum": 0, "digests": [], "content_type": "cel", "content": {"type": "cel_version"}}
    second = {
        "recnum": 1,
        "pcr": 4,
        "digests": {"sha256": "AA" * 32},
        "content_type": "ima_template",
    }
    log = parse_cel(json.dumps([first, second]).encode())
    assert [event.type for event in log.events] == [EV_NO_ACTION, CEL_CONTENT]
    assert set(replay(log)["sha256"]) == {4}
    with pytest.raises(FormatError):
        parse_cel(json.dumps([first, {**second, "digests": []}]).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{}",
        b"[1]",
        b"[" * 100_000,
        b"{",
        SYSTEMD.replace(b"sha256", b"md5"),
        SYSTEMD.replace(b'"pcr": 11', b'"pcr": -1'),
        SYSTEMD.replace(b'"pcr": 11', b'"pcr": "11"'),
        SYSTEMD.replace(b"systemd", b"pcclient_std"),
        SYSTEMD.replace(b'"digest": "', b'"digest": "00'),
        b'[{"recnum": 2, "pcr": 1, "digests": []}]',
    ],
    ids=range(11),
)
def test_what_is_no_canonical_log_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_cel(data)


def test_records_out_of_order_cut_or_too_many_are_refused() -> None:
    event = Event(4, 4, (("sha256", bytes(32)),), bytes(4))
    raw = as_tlv(EventLog((), (event, event), None))
    one = len(raw) // 2
    assert len(parse_cel(raw).events) == 2
    for wrong in (raw[one:] + raw[:one], raw[:-1], raw + b"\0", raw[:one] * 2):
        with pytest.raises(FormatError):
            parse_cel(wrong)
    with pytest.raises(LimitError):
        parse_cel(raw, limits=Limits(events=1))
    with pytest.raises(LimitError):
        parse_cel(raw, limits=Limits(size=10))


@given(st.binary(max_size=200), st.booleans())
def test_whatever_the_bytes_only_our_error(data: bytes, headed: bool) -> None:
    raw = (b"\0\0\0\0\x08" + bytes(8) + b"\1\0\0\0\1" if headed else b"") + data
    _only_our_error(raw)


_ITEMS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=33),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.integers(0, 9)
            | st.sampled_from(
                ("recnum", "pcr", "digests", "hashAlg", "digest", "content", "content_type", "sha1")
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.lists(_ITEMS, max_size=3))
def test_whatever_the_items_only_our_error(items: list[object]) -> None:
    _only_our_error(cbor2.dumps(items))
    _only_our_error(b"".join(map(cbor2.dumps, items)))


def _only_our_error(raw: bytes) -> None:
    looks_like_cel(raw)
    try:
        replay(parse_cel(raw))
    except CasemateError:
        return
