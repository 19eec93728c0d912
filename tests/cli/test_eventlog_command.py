"""``casemate eventlog``: exit statuses, the JSON that scripts lean on, and safe output."""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from casemate.cli import eventlog
from casemate.errors import ArgumentError, LimitError
from casemate.formats.algorithms import ALGORITHMS, Algorithm, digest
from casemate.formats.eventlog import Event, EventLog, SpecId, write
from casemate.formats.eventtypes import (
    EV_EFI_ACTION,
    EV_IPL,
    EV_NO_ACTION,
    EV_SEPARATOR,
    TXT_HASH_START,
    TXT_MLE_HASH,
)
from casemate.formats.ima import write_ima
from casemate.testing.firmwarelogs import event as firmware_event
from casemate.testing.firmwarelogs import machine
from casemate.testing.imalists import record

SHA256 = (ALGORITHMS["sha256"],)


def event(data: bytes, pcr: int = 4, event_type: int = EV_IPL) -> Event:
    return Event(pcr, event_type, (("sha256", hashlib.sha256(data).digest()),), data)


def save(path: Path, *entries: Event) -> str:
    path.write_bytes(write(EventLog(SHA256, entries)))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    eventlog.add_parser(parser.add_subparsers())
    options = parser.parse_args(["eventlog", *arguments])
    status = options.func(options)
    return status, capsys.readouterr().out


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    status, out = run(capsys, *arguments, "--json")
    return status, json.loads(out)


def test_replay_of_every_public_log_as_json(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for entry in json.loads((corpus / "evlogs" / "INDEX.json").read_text()):
        path = str(corpus / "evlogs" / entry["file"])
        status, report = run_json(capsys, "replay", path)
        assert status == eventlog.GOOD, entry["file"]
        assert set(report) == {"format", "events", "banks", "findings"}
        assert report["banks"] == entry["replayed"], entry["file"]
        assert (report["format"], report["events"]) == (entry["format"], entry["events"])


def test_base64_is_taken_as_well_as_binary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = save(tmp_path / "log", event(b"x"))
    text = tmp_path / "log.b64"
    text.write_bytes(base64.encodebytes(Path(binary).read_bytes()))
    assert run_json(capsys, "replay", binary) == run_json(capsys, "replay", str(text))
    text.write_text(Path(binary).read_bytes().hex(" ", 16) + "\n")
    assert run_json(capsys, "replay", binary) == run_json(capsys, "replay", str(text))


def test_text_that_is_no_base64_is_taken_as_it_is() -> None:
    for data in (b"AAA", b"not base64!", b"", b"\0AAAA"):
        assert eventlog.decode_text_or_binary(data) == data


@pytest.mark.parametrize(
    ("entries", "tail", "code"),
    [
        ([event(b"x", pcr=99)], b"", "pcr-index"),
        ([event(b"x")], bytes(64) + b"garbage", "trailing-data"),
        ([event(b"x")], b"garbage", "malformed"),
        ([event(b"\1\0\0\0", event_type=EV_SEPARATOR)], b"", "firmware-error"),
        ([event(b"x", event_type=EV_EFI_ACTION)._replace(data=b"y")], b"", "event-data"),
    ],
)
def test_replay_names_what_is_wrong(
    entries: list[Event],
    tail: bytes,
    code: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = Path(save(tmp_path / "log", *entries))
    path.write_bytes(path.read_bytes() + tail)
    status, report = run_json(capsys, "replay", str(path))
    assert status == eventlog.BAD
    assert code in {finding["code"] for finding in report["findings"]}
    assert all(finding["reason"] and finding["remedy"] for finding in report["findings"])
    status, out = run(capsys, "replay", str(path))
    assert (status, code in out) == (eventlog.BAD, True)


def test_replay_and_show_print_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "log", event(b"grub_cmd: boot"))
    status, out = run(capsys, "replay", path)
    assert status == eventlog.GOOD
    extended = hashlib.sha256(bytes(32) + hashlib.sha256(b"grub_cmd: boot").digest())
    assert extended.hexdigest() in out
    status, out = run(capsys, "show", path)
    assert (status, "EV_IPL" in out, "proven" in out) == (eventlog.GOOD, True, True)


def test_nothing_out_of_a_log_reaches_the_terminal_raw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nasty = event("[red]\x1b]0;owned\x07\u202e\n[/red]".encode())
    one, other = save(tmp_path / "a", nasty), save(tmp_path / "b", event(b"x"))
    for arguments in (("show", one), ("replay", one), ("diff", one, other)):
        _, out = run(capsys, *arguments)
        assert not any(c in out for c in "\x1b\x07\u202e")
    _, out = run(capsys, "show", one)
    assert "[red]\\x1b]0;owned\\x07\\u202e\\x0a[/red]" in out


def test_show_as_json_holds_every_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "log", event(b"a"), event(b"b"))
    status, report = run_json(capsys, "show", path)
    assert status == eventlog.GOOD
    assert [e["data"] for e in report["events"]] == ["61", "62"]
    assert [e["index"] for e in report["events"]] == [1, 2]


def test_show_refuses_what_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"#!/bin/sh\nexit 1\n" * 9)
    status, report = run_json(capsys, "show", str(path))
    assert (status, report["events"]) == (eventlog.BAD, [])


def test_equal_logs_do_not_differ_and_order_between_pcrs_is_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = event(b"a", 4), event(b"b", 5)
    one, other = save(tmp_path / "a", a, b), save(tmp_path / "b", b, a)
    assert run_json(capsys, "diff", one, other) == (
        eventlog.GOOD,
        {"same": True, "pcrs": [], "findings": []},
    )
    status, out = run(capsys, "diff", one, other)
    assert (status, "same" in out) == (eventlog.GOOD, True)


def test_diff_names_missing_unexpected_and_reordered_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = event(b"a"), event(b"b"), event(b"c", 5)
    one = save(tmp_path / "one", a, b, c)
    other = save(tmp_path / "other", a, a)
    status, report = run_json(capsys, "diff", one, other)
    assert status == eventlog.BAD
    rows = {row["pcr"]: row for row in report["pcrs"]}
    assert [e["text"] for e in rows[4]["missing"]] == ["b"]
    assert [e["text"] for e in rows[4]["unexpected"]] == ["a"]
    assert rows[5]["banks"]["sha256"][1] is None
    status, report = run_json(capsys, "diff", one, save(tmp_path / "swapped", b, a, c))
    assert (status, [row["reordered"] for row in report["pcrs"]]) == (eventlog.BAD, [True])
    assert "another order" in run(capsys, "diff", one, str(tmp_path / "swapped"))[1]


def test_diff_sees_data_forged_under_an_unchanged_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = save(tmp_path / "one", event(b"a"))
    other = save(tmp_path / "other", event(b"a")._replace(data=b"z"))
    assert run(capsys, "diff", one, other)[0] == eventlog.BAD


def test_logs_that_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = save(tmp_path / "one", event(b"a"))
    other = tmp_path / "other"
    other.write_bytes(write(EventLog((ALGORITHMS["sha1"],), ())))
    status, report = run_json(capsys, "diff", one, str(other))
    assert (status, report["findings"][0]["code"]) == (eventlog.UNDECIDED, "no-common-bank")


def test_a_file_that_is_not_there_or_without_end(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError):
        eventlog.replay(tmp_path / "absent", json=True)
    with pytest.raises(LimitError):
        eventlog.read_log("/dev/zero")


def test_ima_lists_are_shown_and_replayed(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (
        ("charra-binary_runtime_measurements", 1650),
        ("rust-keylime-ascii_runtime_measurements", 826),
    ):
        path = str(corpus / "ima" / name)
        status, report = run_json(capsys, "replay", path)
        assert (status, report["format"], report["events"]) == (eventlog.GOOD, "ima", count)
        assert len(report["banks"]["sha256"]["10"]) == 64
        status, shown = run_json(capsys, "show", path)
        assert (status, len(shown["events"])) == (eventlog.GOOD, count)
        assert shown["events"][0]["text"] == "boot_aggregate"
        assert run(capsys, "show", path)[0] == eventlog.GOOD


def test_an_ima_list_that_was_changed_is_bad(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = record(b"/bin/\x1b[2J")._replace(template_hash=b"\1" * 20)
    (tmp_path / "list").write_bytes(write_ima((record(b"/bin/ls"), wrong)))
    status, report = run_json(capsys, "replay", str(tmp_path / "list"))
    assert status == eventlog.BAD
    assert [(f["code"], f["component"]) for f in report["findings"]] == [
        ("ima-template", "record 1")
    ]
    assert "\x1b" not in run(capsys, "show", str(tmp_path / "list"))[1]


def test_firmware_is_judged_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = machine(firmware_event(7, EV_SEPARATOR))
    (tmp_path / "log").write_bytes(write(twice))
    path = str(tmp_path / "log")
    assert run_json(capsys, "replay", path)[0] == eventlog.GOOD
    status, report = run_json(capsys, "replay", path, "--firmware")
    assert status == eventlog.BAD
    assert [finding["code"] for finding in report["findings"]] == ["duplicate-separator"]
    (tmp_path / "good").write_bytes(write(machine(without=(4,))))
    assert run_json(capsys, "replay", str(tmp_path / "good"), "--firmware")[0] == eventlog.GOOD


def test_an_ima_list_in_another_pcr_is_replayed_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = record(b"/a", pcr=11), record(b"/b", pcr=10)
    (tmp_path / "list").write_bytes(write_ima((one, other)))
    _, report = run_json(capsys, "replay", str(tmp_path / "list"))
    value = hashlib.sha256(bytes(32) + hashlib.sha256(one.data).digest()).hexdigest()
    assert report["banks"]["sha256"]["11"] == value
    (tmp_path / "list").write_bytes(write_ima((other, record(b"/c", pcr=99))))
    status, report = run_json(capsys, "replay", str(tmp_path / "list"))
    assert (status, report["findings"][0]["code"]) == (eventlog.BAD, "pcr-index")


def test_a_confidential_guests_log_with_sm3_an_unknown_bank_and_padding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    banks = (*(ALGORITHMS[name] for name in ("sm3_256", "sha3_384")), Algorithm(0x77, 40))
    data = b"Exit Boot Services Invocation"
    measured = tuple((name, digest(name, data)) for name in ("sm3_256", "sha3_384"))
    one = Event(2, EV_EFI_ACTION, (*measured, (0x77, b"\1" * 40)), data)
    windows = Event(0xFFFFFFFF, EV_NO_ACTION, one.digests, b"WBCL")
    spec = SpecId(vendor_info=b"maker")
    for fill in (b"\0", b"\xff"):
        log = EventLog(banks, (windows, one, windows), spec, (fill[0], 5000))
        (tmp_path / "log").write_bytes(write(log))
        status, report = run_json(capsys, "replay", str(tmp_path / "log"))
        assert (status, report["events"]) == (eventlog.GOOD, 4)
        assert {f["code"] for f in report["findings"]} == {"no-action-digest"}
        assert report["banks"] == {
            name: {"2": digest(name, bytes(len(value)) + value).hex()} for name, value in measured
        }


def launched(*first: Event) -> bytes:
    mle = event(b"mle", 17, TXT_MLE_HASH)
    return write(EventLog(SHA256, (*first, mle, event(b"authorities", 18, TXT_MLE_HASH))))


def test_a_dynamic_launch_is_judged_in_a_log_and_in_a_heap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, base = tmp_path / "log", 0x7B000000
    log = launched(event(b"sinit", 17, TXT_HASH_START))
    path.write_bytes(log)
    status, plain = run_json(capsys, "replay", str(path), "--launch")
    assert (status, plain["findings"]) == (eventlog.GOOD, [])
    pointer = struct.pack("<IIQIII", 8, 28, base + 188, len(log), 0, len(log))
    sinit = struct.pack("<I", 7) + bytes(88) + pointer + struct.pack("<II", 0, 8)
    blocks = (bytes(8), bytes(8), sinit, bytes(4))
    heap = b"".join(struct.pack("<Q", len(block) + 8) + block for block in blocks)
    assert len(heap) == 180
    path.write_bytes(heap.ljust(188, b"\0") + log)
    status, report = run_json(capsys, "replay", str(path), "--launch", "--txt-heap", hex(base))
    assert (status, report["banks"]) == (eventlog.GOOD, plain["banks"])
    status, report = run_json(capsys, "replay", str(path), "--txt-heap", "0x1000")
    assert (status, report["findings"][0]["code"]) == (eventlog.BAD, "malformed")


def test_a_log_without_its_launch_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    path.write_bytes(launched())
    assert run_json(capsys, "replay", str(path))[0] == eventlog.GOOD
    status, report = run_json(capsys, "replay", str(path), "--launch")
    assert status == eventlog.BAD
    assert [finding["code"] for finding in report["findings"]] == ["drtm-missing"]
