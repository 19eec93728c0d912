"""``casemate eventlog``: show, replay and compare TCG event logs and IMA lists in files.

Exit status: 0 good, 1 the log is refused or something in it is wrong (``diff``: they differ),
2 could not be decided. All text out of a log is escaped before it is printed.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json as jsonlib
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from casemate.cli import imalist
from casemate.cli.terminal import PlainConsole
from casemate.errors import ArgumentError, CasemateError, Finding, FormatError, LimitError
from casemate.formats.cel import looks_like_cel, parse_cel
from casemate.formats.eventdata import describe, judge
from casemate.formats.eventlog import MAX_LOG_SIZE, Event, EventLog, parse
from casemate.formats.eventlog import replay as replay_log
from casemate.formats.eventreview import WARNINGS, review
from casemate.formats.eventtypes import EV_NO_ACTION, event_name
from casemate.formats.ima import MAX_SIZE as MAX_IMA_SIZE
from casemate.formats.ima import ImaList
from casemate.formats.text import escape
from casemate.formats.txtheap import heap_event_log
from casemate.kernel.txt import read_launch
from casemate.policy.drtm import appraise_drtm
from casemate.policy.firmware import appraise_firmware

GOOD: Final = 0
BAD: Final = 1
UNDECIDED: Final = 2
MAX_FILE_SIZE: Final = max(MAX_IMA_SIZE, 2 * MAX_LOG_SIZE + 4096)
"""Bytes; hexadecimal needs twice the log's size and a little."""
PIPE_WIDTH: Final = 200
"""Columns of a table that is not printed to a terminal."""
_HEXADECIMAL: Final = re.compile(rb"[0-9A-Fa-f\s]+")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/\s]+={0,2}\s*")

Banks = dict[str, dict[int, bytes]]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``eventlog show|replay|diff`` to the command line."""
    room = subparsers.add_parser("eventlog", help="show, replay or compare TCG event logs")
    actions = room.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("--json", action="store_true", help="print JSON")
    shown = actions.add_parser("show", parents=[one], help="list the events of a log")
    shown.add_argument(
        "file", help="a log or IMA list, binary, text or base64; - reads standard input"
    )
    shown.set_defaults(func=lambda options: show(options.file, json=options.json))
    replayed = actions.add_parser("replay", parents=[one], help="compute the PCRs of a log")
    replayed.add_argument(
        "file", help="a log or IMA list, binary, text or base64; - reads standard input"
    )
    replayed.add_argument("--firmware", action="store_true", help="judge PCR 0-7 as well")
    replayed.add_argument("--launch", action="store_true", help="PCR 17 must begin with a launch")
    replayed.add_argument(
        "--txt-heap",
        type=lambda text: int(text, 0),
        metavar="ADDRESS",
        help="the file is a TXT heap, which lies at this physical address",
    )
    replayed.set_defaults(
        func=lambda o: replay(
            o.file, json=o.json, firmware=o.firmware, launch=o.launch, heap=o.txt_heap
        )
    )
    fetched = actions.add_parser(
        "launch", parents=[one], help="write the log of this machine's launch (TXT, Secure Launch)"
    )
    fetched.add_argument("file", type=Path, help="written: a log, or the TXT heap with it")
    fetched.set_defaults(func=lambda o: fetch_launch(o.file, json=o.json))
    compared = actions.add_parser("diff", parents=[one], help="compare two logs, PCR by PCR")
    compared.add_argument("first", help="a log, binary or base64")
    compared.add_argument("second", help="the log to compare with it")
    compared.set_defaults(func=lambda o: diff(o.first, o.second, json=o.json))


def decode_text_or_binary(data: bytes) -> bytes:
    """Return the bytes of a log that may have been given as base64 or hexadecimal text."""
    if imalist.looks_like_ima(data):
        return data
    if _HEXADECIMAL.fullmatch(data):
        digits = b"".join(data.split())
        return bytes.fromhex(digits.decode()) if len(digits) % 2 == 0 else data
    if not _BASE64.fullmatch(data):
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error:
        return data


def read_log(path: str | Path) -> bytes:
    """Read a log file, binary or base64.

    Raises:
        ArgumentError: it cannot be read.
        LimitError: it is larger than any log.
    """
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(MAX_FILE_SIZE + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        raise ArgumentError(
            f"the log cannot be read: {error.strerror}", argument="file", component=str(path)
        ) from None
    if len(data) > MAX_FILE_SIZE:
        raise LimitError(f"larger than {MAX_FILE_SIZE} bytes", component=str(path))
    return decode_text_or_binary(data)


def show(path: str | Path, *, json: bool) -> int:
    """Print the events of a log; what is wrong with it is for ``replay`` to say."""
    try:
        data = read_log(path)
        if imalist.looks_like_ima(data):
            return _show_ima(imalist.parse_ima_any(data), json=json)
        log = _parse(data)
    except FormatError as error:
        return _refuse(error, {"format": "", "algorithms": [], "events": []}, json=json)
    if json:
        _print_json(
            {
                "format": log.format,
                "algorithms": [str(algorithm.name) for algorithm in log.algorithms],
                "events": [_event_json(index, event, log) for index, event in _numbered(log)],
            }
        )
        return GOOD
    bank = _strongest(log)
    table = _table("#", "PCR", "event", bank or "digest", "data is", "data")
    for index, event in _numbered(log):
        digest = event.digest(bank or 0) or b""
        claim = "" if event.type == EV_NO_ACTION else _claim(event, bank)
        shown = f"{digest[:8].hex()}…" if any(digest) else ""
        row = (str(index), str(event.pcr), event_name(event.type), shown, claim, describe(event))
        table.add_row(*map(Text, row))
    _console().print(table)
    return GOOD


def _parse(data: bytes) -> EventLog:
    return parse_cel(data) if looks_like_cel(data) else parse(data)


def _show_ima(listed: ImaList, *, json: bool) -> int:
    if json:
        events = list(imalist.rows_of(listed))
        _print_json({"format": "ima", "algorithms": [listed.algorithm], "events": events})
        return GOOD
    table = _table("#", "PCR", "template", "digest", "data")
    for row in imalist.rows_of(listed):
        shown = "violation" if row["violation"] else f"{row['digest'][:23]}…"
        cells = (str(row["index"]), str(row["pcr"]), row["name"], shown, row["text"])
        table.add_row(*map(Text, cells))
    _console().print(table)
    return GOOD


def replay(
    path: str | Path,
    *,
    json: bool,
    firmware: bool = False,
    launch: bool = False,
    heap: int | None = None,
) -> int:
    """Print the PCR values that a log leads to, and what is wrong with it.

    Args:
        path: the log, or an IMA list.
        json: print JSON.
        firmware: judge PCR 0-7 as well, by what must hold on any machine.
        launch: a dynamic launch must have taken place.
        heap: physical address of the TXT heap that the file is; None for a log.
    """
    report: dict[str, Any] = {"format": "", "events": 0, "banks": {}}
    warnings = WARNINGS
    try:
        data = read_log(path)
        if imalist.looks_like_ima(data):
            listed = imalist.parse_ima_any(data)
            report["format"], report["events"] = "ima", len(listed.entries)
            banks, findings = imalist.banks_of(listed), imalist.review_ima(listed)
        else:
            log = _parse(data) if heap is None else heap_event_log(data, heap)
            report["format"], report["events"] = log.format, log.count
            banks, findings = replay_log(log), review(log)
            if firmware:
                judged = appraise_firmware(log)
                findings = (*judged.findings, *judged.warnings)
                warnings = WARNINGS | {warning.code for warning in judged.warnings}
            if launch:
                findings = (*findings, *appraise_drtm(log, banks, required=True))
    except FormatError as error:
        return _refuse(error, report, json=json)
    if json:
        report["banks"] = _banks_json(banks)
        _print_json(report | {"findings": [asdict(finding) for finding in findings]})
    else:
        table = _table("bank", "PCR", "value")
        for bank, values in banks.items():
            for pcr, value in sorted(values.items()):
                table.add_row(bank, str(pcr), value.hex())
        _console().print(Text(f"{report['format']} log, {report['events']} events"), table)
        _print_findings(findings)
    return BAD if any(finding.code not in warnings for finding in findings) else GOOD


def fetch_launch(path: Path, *, json: bool) -> int:
    """Write the log of the launch that this machine was started with, and say how to judge it.

    Raises HostError where there is none, or it cannot be read.
    """
    found = read_launch()
    path.write_bytes(found.data)
    where = () if found.base is None else ("--txt-heap", hex(found.base))
    if json:
        _print_json({"file": str(path), "bytes": len(found.data), "heap": found.base})
    else:
        print("casemate eventlog replay --launch", *where, path)
    return GOOD


def diff(first: str | Path, second: str | Path, *, json: bool) -> int:
    """Compare two logs event by event within each PCR; order between PCRs means nothing."""
    try:
        logs = [_parse(read_log(path)) for path in (first, second)]
        common = _common_banks(*logs)
        values = [replay_log(log) for log in logs]
    except FormatError as error:
        _refuse(error, {"same": None, "pcrs": []}, json=json)
        return UNDECIDED
    ones, others = (_by_pcr(log) for log in logs)
    rows: list[dict[str, Any]] = []
    for pcr in sorted(ones.keys() | others.keys()):
        missing, unexpected = _difference(ones.get(pcr, []), others.get(pcr, []), common)
        changed = [b for b in common if values[0][b].get(pcr) != values[1][b].get(pcr)]
        if missing or unexpected or changed:
            rows.append(
                {
                    "pcr": pcr,
                    "banks": {b: [_hex(v[b].get(pcr)) for v in values] for b in changed},
                    "missing": [_brief(event) for event in missing],
                    "unexpected": [_brief(event) for event in unexpected],
                    "reordered": bool(changed) and not missing and not unexpected,
                }
            )
    if json:
        _print_json({"same": not rows, "pcrs": rows, "findings": []})
    else:
        _print_difference(rows)
    return BAD if rows else GOOD


def _common_banks(one: EventLog, other: EventLog) -> tuple[str, ...]:
    common = tuple(bank for bank in one.banks if bank in other.banks)
    if not common:
        raise FormatError("the logs have no bank in common", code="no-common-bank")
    return common


def _difference(
    ones: Sequence[Event], others: Sequence[Event], common: Iterable[str]
) -> tuple[list[Event], list[Event]]:
    """Return the events only in ``ones``, and those only in ``others``, in log order."""
    banks = tuple(common)
    keyed = [
        [(event.type, event.data, *map(event.digest, banks)) for event in events]
        for events in (ones, others)
    ]
    surplus = [Counter(keyed[0]), Counter(keyed[1])]
    surplus[0], surplus[1] = surplus[0] - surplus[1], surplus[1] - surplus[0]
    found: tuple[list[Event], list[Event]] = ([], [])
    for events, keys, left, result in zip((ones, others), keyed, surplus, found, strict=True):
        for event, key in zip(events, keys, strict=True):
            if left[key] > 0:
                left[key] -= 1
                result.append(event)
    return found


def _by_pcr(log: EventLog) -> dict[int, list[Event]]:
    pcrs: dict[int, list[Event]] = {}
    for event in log.events:
        pcrs.setdefault(event.pcr, []).append(event)
    return pcrs


def _numbered(log: EventLog) -> Iterable[tuple[int, Event]]:
    """Number the events as the log does: the Spec ID event is number 0."""
    return enumerate(log.events, log.count - len(log.events))


def _strongest(log: EventLog) -> str:
    """Return the bank whose digests are shown."""
    for bank in ("sha256", "sha384", "sha512", *log.banks):
        if bank in log.banks:
            return bank
    return ""


def _claim(event: Event, bank: str) -> str:
    return judge(event, bank).value if bank else ""


def _event_json(index: int, event: Event, log: EventLog) -> dict[str, Any]:
    extends = event.type != EV_NO_ACTION
    return {
        "index": index,
        "pcr": event.pcr,
        "type": event.type,
        "name": event_name(event.type),
        "digests": {str(name): digest.hex() for name, digest in event.digests},
        "data": event.data.hex(),
        "data_is": _claim(event, _strongest(log)) if extends else "",
        "text": describe(event),
    }


def _brief(event: Event) -> dict[str, Any]:
    return {
        "type": event_name(event.type),
        "digests": {str(name): digest.hex() for name, digest in event.digests},
        "text": describe(event),
    }


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _banks_json(banks: Banks) -> dict[str, dict[str, str]]:
    return {
        bank: {str(pcr): value.hex() for pcr, value in sorted(values.items())}
        for bank, values in banks.items()
    }


def _refuse(error: CasemateError, report: dict[str, Any], *, json: bool) -> int:
    finding = error.finding()
    if json:
        _print_json(report | {"findings": [asdict(finding)]})
    else:
        _print_findings((finding,))
    return BAD


def _print_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        style = "yellow" if finding.code in WARNINGS else "bold red"
        about = f" {escape(finding.component)}" if finding.component else ""
        line = Text.assemble((finding.code, style), f"{about}: {escape(finding.reason)}")
        _console().print(line, soft_wrap=True)
        _console().print(Text(f"  {escape(finding.remedy)}", "dim"), soft_wrap=True)


def _print_difference(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        _console().print("the logs tell the same")
        return
    table = _table("PCR", "", "event", "data")
    for row in rows:
        if row["reordered"]:
            table.add_row(str(row["pcr"]), "↕", Text("the same events in another order"), "")
        for sign, key in (("-", "missing"), ("+", "unexpected")):
            for event in row[key]:
                table.add_row(str(row["pcr"]), sign, Text(event["type"]), Text(event["text"]))
    _console().print(table)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        number = column in {"#", "PCR"}
        table.add_column(
            column,
            justify="right" if number else "left",
            no_wrap=column != "data",
            overflow="fold",
        )
    return table


def _console() -> Console:
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return PlainConsole(width=width)


def _print_json(value: object) -> None:
    print(jsonlib.dumps(value, indent=2))
