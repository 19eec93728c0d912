"""Event logs: real ones replay to their stated PCRs, hostile ones are refused by name."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError, LimitError, NotSupportedError
from casemate.formats import eventreplay
from casemate.formats.algorithms import ALGORITHMS, Algorithm, digest
from casemate.formats.eventlog import (
    Event,
    EventLog,
    Limits,
    SpecId,
    incomplete_banks,
    parse,
    replay,
    write,
    write_event,
    write_header,
)
from casemate.formats.eventtypes import (
    EV_EFI_HCRTM_EVENT,
    EV_NO_ACTION,
    EV_SEPARATOR,
    SLAUNCH_END,
    SLAUNCH_EVENT,
    SLAUNCH_START,
    TXT_HASH_START,
    TXT_PCR_MAPPING,
)
from casemate.testing import eventlogs
from casemate.testing.faketpm import FakeTpm

D = hashlib.sha256(b"x").digest()


def _entry(
    pcr: int = 4, event_type: int = EV_SEPARATOR, data: bytes = b"x", digest: bytes = D
) -> Event:
    return Event(pcr, event_type, (("sha256", digest),), data)


def _agile(*entries: Event, tail: bytes = b"") -> bytes:
    return write_header(("sha256",)) + b"".join(map(write_event, entries)) + tail


def _index(corpus: Path) -> list[dict[str, Any]]:
    index: list[dict[str, Any]] = json.loads((corpus / "evlogs" / "INDEX.json").read_text())
    return index


def _real(corpus: Path, name: str) -> bytes:
    data = (corpus / "evlogs" / name).read_bytes()
    return base64.b64decode(data) if name.endswith(".b64") else data


def _hex(banks: dict[str, dict[int, bytes]]) -> dict[str, dict[str, str]]:
    return {bank: {str(p): v.hex() for p, v in values.items()} for bank, values in banks.items()}


def test_every_public_log_replays_to_its_stated_pcrs_in_every_bank(corpus: Path) -> None:
    for entry in _index(corpus):
        log = parse(_real(corpus, entry["file"]))
        assert _hex(replay(log)) == entry["replayed"], entry["file"]
        assert (log.format, log.count) == (entry["format"], entry["events"]), entry["file"]
        assert list(log.banks) == entry["banks"], entry["file"]


def test_upstream_stated_pcrs_agree(corpus: Path) -> None:
    compared = 0
    for entry in _index(corpus):
        banks = _hex(replay(parse(_real(corpus, entry["file"]))))
        for bank, values in (entry["upstream_expected"] or {}).items():
            for pcr, value in values.items():
                if pcr in banks.get(bank, {}):
                    assert banks[bank][pcr] == value.lower().removeprefix("0x"), entry["file"]
                    compared += 1
    assert compared


def test_every_public_log_is_written_back_byte_for_byte(corpus: Path) -> None:
    for entry in _index(corpus):
        raw = _real(corpus, entry["file"])
        assert write(parse(raw)) == raw, entry["file"]


def test_a_real_log_changed_anywhere_is_refused_or_read_but_nothing_else(corpus: Path) -> None:
    raw = bytearray(_real(corpus, "google+go-tpm-tools--glinux-alex.bin")[:4000])
    for position in range(0, len(raw), 3):
        for value in (0x00, 0x7F, 0xFF):
            old, raw[position] = raw[position], value
            try:
                replay(parse(raw))
            except FormatError as error:
                assert error.reason  # noqa: PT017
            raw[position] = old


def test_a_real_log_cut_anywhere_is_refused_except_between_events(corpus: Path) -> None:
    raw = _real(corpus, "google+go-attestation--crypto_agile_eventlog")
    whole = parse(raw)
    edges = {len(write(EventLog(whole.algorithms, whole.events[:n], whole.spec_id)))
             for n in range(len(whole.events) + 1)}  # fmt: skip
    for size in range(0, len(raw), 7):
        if size in edges:
            continue
        try:
            log = parse(raw[:size])
        except FormatError:
            continue
        # What is left over is a single fill byte, as zeros of a digest's head can be.
        assert log.padding[1]


@given(eventlogs.event_logs())
def test_what_is_written_is_read_back(log: EventLog) -> None:
    assert parse(write(log)) == log


@given(st.binary(max_size=400))
def test_whatever_the_bytes_only_our_error(data: bytes) -> None:
    try:
        replay(parse(data))
    except CasemateError:
        return


@given(st.binary(max_size=300), st.booleans())
def test_whatever_follows_the_header_only_our_error(data: bytes, vendor: bool) -> None:
    spec_id = SpecId(vendor_info=b"" if vendor else None)
    try:
        log = parse(write_header(("sha1", "sha256"), spec_id) + data)
        replay(log)
        incomplete_banks(log)
    except CasemateError:
        return


@st.composite
def _boots(draw: st.DrawFn) -> tuple[tuple[str, ...], int, list[Event]]:
    banks = draw(eventlogs.bank_sets())
    extending = draw(st.lists(eventlogs.extending_events(banks), max_size=20))
    return banks, draw(st.sampled_from((0, 3))), extending


@given(_boots())
def test_replay_of_what_was_measured_gives_the_tpm_its_pcrs(
    boot: tuple[tuple[str, ...], int, list[Event]],
) -> None:
    banks, locality, extending = boot
    tpm = FakeTpm(banks, locality=locality)
    for event in extending:
        tpm.extend(event.pcr, {str(name): value for name, value in event.digests})
    first = eventlogs.locality_event(banks, locality)
    log = EventLog(tuple(ALGORITHMS[b] for b in banks), (first, *extending))
    values = tpm.values()
    for bank, pcrs in replay(parse(write(log))).items():
        assert pcrs == {pcr: values[bank][pcr] for pcr in pcrs}
        assert set(pcrs) == {event.pcr for event in extending}


def test_a_drtm_launch_replays_from_zero() -> None:
    tpm = FakeTpm(("sha256", "sha384"))
    tpm.hash_launch(b"mle")
    digests = tuple((bank, hashlib.new(bank, b"mle").digest()) for bank in tpm.banks)
    extra = tuple((bank, hashlib.new(bank, b"k").digest()) for bank in tpm.banks)
    tpm.extend(19, dict(extra), locality=2)
    algorithms = tuple(ALGORITHMS[bank] for bank in tpm.banks)
    log = EventLog(algorithms, (Event(17, TXT_HASH_START, digests, b""), Event(19, 6, extra, b"")))
    for bank, values in replay(log).items():
        assert values == {17: tpm.values()[bank][17], 19: tpm.values()[bank][19]}


def test_a_txt_event_that_extends_nothing_is_stepped_over() -> None:
    mapping = Event(0xFF, TXT_PCR_MAPPING, (("sha256", bytes(32)),), b"\1\0\0\0")
    assert eventreplay.replay_events([mapping], ["sha256"]) == {"sha256": {}}
    for wrong in (mapping._replace(pcr=24), mapping._replace(type=TXT_PCR_MAPPING + 1)):
        with pytest.raises(FormatError):
            eventreplay.replay_events([wrong], ["sha256"])
    assert eventreplay.replay_events([mapping._replace(pcr=17)], ["sha256"])["sha256"][17] != bytes(
        32
    )


def test_an_hcrtm_event_starts_pcr_0_at_4() -> None:
    tpm = FakeTpm(("sha256",), hcrtm=b"crtm")
    event = _entry(0, EV_EFI_HCRTM_EVENT, b"HCRTM", hashlib.sha256(b"crtm").digest())
    assert replay(parse(_agile(event)))["sha256"][0] == tpm.values()["sha256"][0]


def test_no_action_is_never_extended_wherever_it_stands_and_whatever_its_digest() -> None:
    informative = [_entry(pcr, EV_NO_ACTION, b"SP800-155 Event2\0...") for pcr in (0, 7, 2**32 - 1)]
    assert replay(parse(_agile(*informative))) == {"sha256": {}}


@pytest.mark.parametrize("pcr", [24, 255, 2**31, 2**32 - 1])
def test_an_extend_of_a_pcr_that_does_not_exist(pcr: int) -> None:
    with pytest.raises(FormatError) as caught:
        replay(parse(_agile(_entry(pcr))))
    assert caught.value.code == "pcr-index"


@pytest.mark.parametrize("value", [b"", b"\1", b"\2", b"\5", b"\xff", b"\3\0"])
def test_an_impossible_startup_locality(value: bytes) -> None:
    _refused_locality(_entry(0, EV_NO_ACTION, b"StartupLocality\0" + value))


def test_a_startup_locality_that_comes_twice_late_or_elsewhere() -> None:
    good = _entry(0, EV_NO_ACTION, b"StartupLocality\0\3")
    _refused_locality(good, good)
    _refused_locality(_entry(0), good)
    _refused_locality(good._replace(pcr=1))
    replay(parse(_agile(_entry(1), good)))


def _refused_locality(*entries: Event) -> None:
    with pytest.raises(FormatError) as caught:
        replay(parse(_agile(*entries)))
    assert caught.value.code == "malformed-locality"


@pytest.mark.parametrize("size", [2, 2**31, 2**32 - 1])
def test_an_event_longer_than_the_log(size: int) -> None:
    raw = _agile(_entry(data=b"x"))
    for data in (raw[:-5] + struct.pack("<I", size) + b"x", _legacy(size)):
        with pytest.raises(FormatError):
            parse(data)


def _legacy(size: int) -> bytes:
    return struct.pack("<II20sI", 0, 8, bytes(20), size) + b"x"


@pytest.mark.parametrize("count", [0, 17, 2**32 - 1])
def test_a_digest_count_that_cannot_be(count: int) -> None:
    head = struct.pack("<III", 4, EV_SEPARATOR, count)
    with pytest.raises(FormatError):
        parse(_agile() + head + b"\x0b\0" + bytes(60))


def test_two_digests_of_one_algorithm() -> None:
    event = Event(4, EV_SEPARATOR, (("sha256", D), ("sha256", D)), b"")
    with pytest.raises(FormatError):
        parse(_agile(event))


def test_a_digest_of_an_algorithm_that_was_never_announced() -> None:
    with pytest.raises(FormatError):
        parse(_agile() + struct.pack("<IIIH", 4, 4, 1, 0x7777) + bytes(100))


@pytest.mark.parametrize(
    "algorithms",
    [
        [],
        [Algorithm(0x0B, 20)],
        [Algorithm(0x7777, 0)],
        [Algorithm(0x7777, 60_000)],
        [Algorithm(0x0B, 32)] * 2,
        [Algorithm(0x7000 + n, 32) for n in range(17)],
    ],
)
def test_a_spec_id_that_announces_nonsense(algorithms: list[Algorithm]) -> None:
    with pytest.raises(FormatError):
        parse(write_header(algorithms))


def test_an_unknown_algorithm_is_stepped_over_by_its_announced_size() -> None:
    stranger = Algorithm(0x7777, 11)
    algorithms = (stranger, ALGORITHMS["sha256"])
    event = Event(4, EV_SEPARATOR, ((0x7777, bytes(11)), ("sha256", D)), b"x")
    log = parse(write(EventLog(algorithms, (event,))))
    assert log.events == (event,)
    assert replay(log) == replay(parse(_agile(_entry())))


def test_a_missing_digest_marks_the_bank_incomplete_and_spares_the_others() -> None:
    both = Event(17, 0x402, (("sha1", bytes(20)), ("sha256", D)), b"")
    one = Event(17, 0x501, (("sha256", D),), b"")
    log = parse(write(EventLog((ALGORITHMS["sha1"], ALGORITHMS["sha256"]), (both, one))))
    assert incomplete_banks(log) == {"sha1"}


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
@pytest.mark.parametrize("size", [1, 11, 12, 31, 65536, 1 << 20])
def test_padding_is_no_part_of_the_log(fill: bytes, size: int) -> None:
    raw = _agile(_entry())
    assert replay(parse(raw + fill * size)) == replay(parse(raw))


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_garbage_after_the_padding(fill: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        parse(_agile(_entry(), tail=fill * 4096 + b"garbage"))
    assert caught.value.code == "trailing-data"


def test_garbage_without_padding() -> None:
    with pytest.raises(FormatError):
        parse(_agile(_entry(), tail=b"garbage"))


def test_a_log_of_a_million_events_or_64_mebibytes_is_refused_at_once() -> None:
    started = time.process_time()
    tiny = write_header(("sha1",)) + struct.pack("<IIIH20sI", 4, 4, 1, 4, bytes(20), 0) * 400_000
    for raw in (tiny, _agile(tail=bytes(64 << 20))):
        with pytest.raises(LimitError):
            parse(raw)
    assert time.process_time() - started < 1


def test_limits_can_be_narrowed() -> None:
    raw = _agile(_entry(), _entry())
    with pytest.raises(LimitError):
        parse(raw, limits=Limits(events=1))
    with pytest.raises(LimitError):
        parse(raw, limits=Limits(size=len(raw) - 1))


def test_an_event_swapped_removed_or_added_changes_the_pcr() -> None:
    first, second = _entry(digest=D), _entry(digest=bytes(32))
    good = replay(parse(_agile(first, second)))
    for events in ((second, first), (first,), (first, second, second)):
        assert replay(parse(_agile(*events))) != good


def test_a_digest_of_the_wrong_size_cannot_be_written_or_replayed() -> None:
    bad = Event(4, 4, (("sha256", bytes(31)),), b"")
    with pytest.raises(FormatError):
        write_event(bad)
    with pytest.raises(FormatError):
        replay(EventLog((ALGORITHMS["sha256"],), (bad,)))
    with pytest.raises(FormatError):
        write(EventLog((ALGORITHMS["sha1"],), (_entry(),), None))


def test_a_legacy_log_cut_inside_an_event_or_too_long() -> None:
    one = struct.pack("<II20sI", 0, 8, bytes(20), 0)
    with pytest.raises(FormatError):
        parse(one + b"\1" * 12)
    with pytest.raises(LimitError):
        parse(one * 3, limits=Limits(events=2))
    with pytest.raises(FormatError):
        parse(bytes(64))


def test_every_bank_that_a_log_can_name_is_computed_or_refused_by_name() -> None:
    expected = bytes.fromhex("66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0")
    try:
        assert digest("sm3_256", b"abc") == expected
    except NotSupportedError as error:
        assert error.component == "sm3_256"  # noqa: PT017
    for name, algorithm in ALGORITHMS.items():
        if name != "sm3_256":
            assert len(digest(name, b"")) == algorithm.size
    with pytest.raises(NotSupportedError):
        digest("md0", b"")


def test_the_marks_of_secure_launch_extend_nothing_unless_they_carry_a_digest() -> None:
    start, end = (_entry(17, mark, b"", bytes(32)) for mark in (SLAUNCH_START, SLAUNCH_END))
    measured = _entry(17, SLAUNCH_EVENT)
    value = hashlib.sha256(bytes(32) + D).digest()
    assert replay(parse(_agile(start, measured, end)))["sha256"] == {17: value}
    more = hashlib.sha256(value + D).digest()
    assert replay(parse(_agile(start, measured, _entry(17, SLAUNCH_END))))["sha256"] == {17: more}
