"""Bad inputs, malformed and foreign logs: entries BI-065 to BI-083 of the catalogue."""

from __future__ import annotations

import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest

from casemate.errors import (
    LimitError,
)
from casemate.formats import eventtypes as ev
from casemate.formats import uefi
from casemate.formats.algorithms import ALGORITHMS, Algorithm, digest
from casemate.formats.eventdata import describe
from casemate.formats.eventlog import (
    EventLog,
    parse,
    replay,
    write,
    write_event,
    write_header,
)
from casemate.formats.eventreview import review
from casemate.formats.sipa import parse_sipa
from casemate.formats.txtheap import heap_event_log
from casemate.policy.appraise import Verdict, appraise
from casemate.policy.drtm import appraise_drtm
from casemate.policy.firmware import FirmwareRules, appraise_firmware, compare_quoted
from casemate.policy.reportcheck import Report, ReportEvent, ReportPcr, check_report
from casemate.policy.tpmidentity import check_identity
from casemate.testing.expect import codes, refused
from casemate.testing.firmwarelogs import GLOBAL_GUID, event, machine, variable
from casemate.testing.pki import NOW
from casemate.testing.smallhost import SmallHost, SmallImage, ek_maker

NONCE = b"\x11" * 32
AT_ONCE = 30.0
"""Seconds of the processor, of a slow one: what is made of claimed sizes takes far longer."""


def firmware(log: EventLog, rules: FirmwareRules | None = None) -> set[str]:
    return codes(appraise_firmware(log, rules).findings)


@pytest.mark.parametrize("pcr", [24, 25, 0x7FFFFFFF, 0xFFFFFFFF])
def test_bi_064_extending_a_pcr_that_does_not_exist(pcr: int) -> None:
    log = parse(write(machine(event(pcr, ev.EV_IPL, b"x"))))
    assert refused(lambda: replay(log)) == "pcr-index"


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x80000000, 1000])
def test_bi_065_event_longer_than_the_log(size: int) -> None:
    raw = write_header(("sha256",)) + write_event(event(4, ev.EV_IPL, b""))[:-4]
    begin = time.process_time()
    assert refused(lambda: parse(raw + size.to_bytes(4, "little") + b"x")) == "malformed"
    assert time.process_time() - begin < AT_ONCE


def test_bi_066_impossible_digest_counts() -> None:
    head = write_header(("sha256",)) + struct.pack("<II", 4, ev.EV_IPL)
    one = b"\x0b\0" + bytes(32)
    for body in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\2\0\0\0" + one + one):
        raw = head + body + one + b"\0\0\0\0"
        assert refused(lambda data=raw: parse(data)) == "malformed"


def test_bi_067_impossible_algorithms() -> None:
    tail = write_event(event(4, ev.EV_IPL, b"x"))
    for algorithms in (
        [Algorithm(0x0B, 20)],
        [Algorithm(0x100 + n, 32) for n in range(17)],
        [],
    ):
        raw = write_header(algorithms) + tail
        assert refused(lambda data=raw: parse(data)) == "malformed"
    unknown = [ALGORITHMS["sha256"], Algorithm(0x7777, 5)]
    stated = event(4, ev.EV_IPL, b"x")
    stated = stated._replace(digests=(*stated.digests, (0x7777, bytes(5))))
    assert parse(write_header(unknown) + write_event(stated)).events == (stated,)


def test_bi_068_digest_of_an_announced_bank_missing() -> None:
    both = (ALGORITHMS["sha1"], ALGORITHMS["sha256"])
    log = parse(write(replace(machine(), algorithms=both)))
    assert "bank-incomplete" in codes(review(log))
    values = {"sha1": {4: bytes(20)}, "sha256": replay(log)["sha256"]}
    found = compare_quoted(log, values, replay(log))
    assert codes(found) == {"log-bank"}


def test_bi_069_lying_variable_lengths() -> None:
    for name, data in ((1 << 63, 0), (1, (1 << 64) - 1), (1 << 31, 1 << 31), (3, 1)):
        raw = GLOBAL_GUID + struct.pack("<QQ", name, data) + b"ab"
        log = machine(event(7, ev.EV_EFI_VARIABLE_DRIVER_CONFIG, raw))
        assert "event-data" in firmware(log)


def test_bi_070_lying_signature_lists() -> None:
    kind = bytes.fromhex("2616c4c14c509240aca941f936934328")
    for list_size, header, size in (
        (28, 0, 0),
        (44, 0, 15),
        (76, 0, 100),
        (76, 60, 48),
        (5, 0, 48),
    ):
        raw = kind + struct.pack("<III", list_size, header, size) + bytes(48)
        data = variable("db", raw)
        early = event(7, ev.EV_EFI_VARIABLE_DRIVER_CONFIG, data)
        log = machine()
        assert "event-data" in firmware(replace(log, events=(early, *log.events)))


def test_bi_071_lying_partition_tables() -> None:
    header = bytearray(92)
    for size, count in ((128, 1 << 40), (0, 1), (0, 1 << 40), (1 << 31, 1)):
        header[84:88] = struct.pack("<I", size)
        raw = bytes(header) + struct.pack("<Q", count) + bytes(64)
        assert "event-data" in firmware(machine(event(5, ev.EV_EFI_GPT_EVENT, raw)))


def test_bi_072_lying_device_paths() -> None:
    for path in (b"\4\4\0\0" * 3, b"\4\4\xff\xff", b"\4\4\3\0x", b"\4"):
        raw = struct.pack("<QQQQ", 0, 0, 0, len(path)) + path
        log = machine(event(4, ev.EV_EFI_BOOT_SERVICES_APPLICATION, raw, b"x"))
        assert "event-data" in firmware(log)
    beyond = struct.pack("<QQQQ", 0, 0, 0, 1 << 62)
    assert refused(lambda: uefi.parse_image_load(beyond)) == "event-data"


def test_bi_073_windows_events_nested_without_end() -> None:
    depth = 2_000_000
    raw = b"".join(
        struct.pack("<II", 0x40010002, 8 * (depth - level - 1)) for level in range(depth)
    )
    begin = time.process_time()
    assert refused(lambda: parse_sipa(raw)) == "depth-limit"
    assert time.process_time() - begin < AT_ONCE
    nested = b""
    for _ in range(12):
        nested = struct.pack("<II", 0x40010001, len(nested)) + nested
    assert codes(review(machine(event(12, ev.EV_EVENT_TAG, nested)))) == {"depth-limit"}
    good = struct.pack("<II", 0x40010001, 12) + struct.pack("<IIi", 0x00050004, 4, 1)
    assert [(e.depth, e.type) for e in parse_sipa(good)] == [(0, 0x40010001), (1, 0x00050004)]


def test_bi_074_text_that_acts_on_a_terminal_or_page() -> None:
    text = "grub_cmd: \x1b[2J<script>alert(1)</script>\u202e\0"
    line = describe(event(8, ev.EV_IPL, text.encode()))
    assert line.isprintable()
    assert "\\x1b" in line
    assert "\\u202e" in line


def test_bi_075_sha1_log_with_a_sha256_quote(corpus: Path) -> None:
    log = parse((corpus / "evlogs" / "google+go-tpm-tools--debian-10.bin").read_bytes())
    assert log.banks == ("sha1",)
    values = {"sha256": {pcr: bytes(32) for pcr in range(8)}}
    assert codes(compare_quoted(log, values, replay(log))) == {"log-bank"}


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_bi_076_padding(fill: bytes) -> None:
    for size in (1, 1 << 16, 1 << 20):
        padded = parse(write(machine()) + fill * size)
        assert replay(padded) == replay(machine())
        assert firmware(padded) == set()


def test_bi_077_garbage_behind_the_padding() -> None:
    raw = write(machine()) + b"\xff" * 1000 + b"garbage"
    assert refused(lambda: parse(raw)) == "trailing-data"


def test_bi_078_huge_logs() -> None:
    begin = time.process_time()
    one = write_event(event(4, ev.EV_IPL, b""))
    many = write_header(("sha256",)) + one * 1_000_000
    for raw in (bytes(64 << 20), many, write_header(("sha256",)) + one * 100_000):
        with pytest.raises(LimitError):
            parse(raw)
    assert time.process_time() - begin < AT_ONCE


def test_bi_079_no_dynamic_launch() -> None:
    start = event(17, ev.TXT_HASH_START, b"", b"sinit")
    more = event(17, ev.TXT_MLE_HASH, b"", b"mle")
    empty = EventLog((ALGORITHMS["sha256"],), ())
    good = replace(empty, events=(start, more))
    values = replay(good)
    values["sha256"][18] = digest("sha256", b"x")
    assert appraise_drtm(good, values, required=True) == ()
    headless = replace(empty, events=(more, start))
    assert codes(appraise_drtm(headless, values, required=True)) == {"drtm-missing"}
    ones = {"sha256": {17: b"\xff" * 32, 18: b"\xff" * 32}}
    assert codes(appraise_drtm(good, ones, required=False)) == {"drtm-missing"}
    assert codes(appraise_drtm(empty, ones, required=True)) == {"drtm-missing"}
    assert appraise_drtm(empty, ones, required=False) == ()
    assert codes(appraise_drtm(good, {"sha256": {}}, required=True)) == {"missing-pcr"}


def _heap(address: int, allocated: int, first: int, end: int, log: bytes, kind: int = 8) -> bytes:
    element = struct.pack("<IIQIII", kind, 28, address, allocated, first, end)
    sinit = struct.pack("<I", 7) + bytes(88) + element + struct.pack("<II", 0, 8)
    blocks = [bytes(16), bytes(24), sinit, bytes(8)]
    packed = b"".join(struct.pack("<Q", len(block) + 8) + block for block in blocks)
    return packed + log


def test_bi_080_heap_pointers_outside_the_heap() -> None:
    log = write(machine())
    base = 0x7B00_0000
    place = base + len(_heap(0, 0, 0, 0, b""))
    size = len(log)
    assert heap_event_log(_heap(place, size, 0, size, log), base).events == machine().events
    for wrong in (
        _heap(base - 1, size, 0, size, log),
        _heap(place + 1, size, 0, size, log),
        _heap((1 << 64) - 1, size, 0, size, log),
        _heap(place, 0xFFFFFFFF, 0, size, log),
        _heap(place, size, size + 1, size, log),
        _heap(place, size, 0, size + 1, log),
        _heap(place, size, 0, 0, log),
        _heap(place, size, 0, size, log[:32] + b"X" + log[33:]),
        _heap(place, size, 0, size, log, kind=7),
        _heap(place, size, 0, size, log)[:100],
        b"\xff" * 64,
        bytes(64),
    ):
        assert refused(lambda heap=wrong: heap_event_log(heap, base)) == "malformed"


def _report(count: int = 3) -> Report:
    events = [
        ReportEvent(20, "SHA256", digest("sha256", bytes((n % 256,))), f"m{n}")
        for n in range(count)
    ]
    value = bytes(32)
    for one in events:
        value = digest("sha256", value + one.digest)
    return Report((ReportPcr(20, "SHA256", value),), tuple(events), reliable=True)


def test_bi_081_report_that_does_not_replay() -> None:
    report = _report()
    assert check_report(report) == ()
    fewer = replace(report, events=report.events[:2])
    weak = replace(report, events=(*report.events, ReportEvent(20, "SHA1", bytes(20))))
    for wrong in (fewer, weak):
        found = check_report(wrong)
        assert {(f.code, f.component) for f in found} == {("replay-mismatch", "PCR 20")}


def test_bi_082_report_that_is_not_complete() -> None:
    assert codes(check_report(replace(_report(), reliable=False))) == {"log-unreliable"}
    assert codes(check_report(_report(1000))) == {"log-unreliable"}
    assert check_report(_report(999)) == ()


def test_bi_083_component_unknown_older_or_of_another_vendor() -> None:
    reference = SmallImage().reference()
    host = SmallHost(SmallImage(versions={"nic-driver": "1.9-1"}))
    who = check_identity(host.claim(), [ek_maker().certificate], NOW)
    result = appraise(host.evidence(NONCE), reference, who, NONCE)
    assert result.verdict is Verdict.UNTRUSTED
    (finding,) = result.findings
    assert "nic" in finding.component
    expected = next(
        e.event.digests[0][1].hex()
        for e in reference.events
        if e.component and e.component.vib_name == "nic-driver"
    )
    assert expected in finding.reason
    assert "2.0-1" in finding.reason
