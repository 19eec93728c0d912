"""The part of ``casemate attest`` that asks an ESXi host or a vCenter (``--esxi``)."""

from __future__ import annotations

import argparse
import getpass
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.table import Table
from rich.text import Text

from casemate.calls.verdict import finding_json
from casemate.cli.terminal import PlainConsole
from casemate.errors import ArgumentError, Finding, NotFoundError
from casemate.formats.text import escape
from casemate.policy.reportcheck import ReportEvent, report_from
from casemate.verifier.esxi import (
    Account,
    EsxiReport,
    appraise_report,
    as_json,
    events_from,
    fetch,
)
from casemate.vim25.decode import returned

PASSWORD: Final = "CASEMATE_ESXI_PASSWORD"  # noqa: S105 (the name of a variable)
MAX_SAVED: Final = 16 << 20
"""Bytes of a saved report."""
UNSIGNED: Final = (
    "the report is neither signed nor fresh: nothing speaks against the host, and nothing proves it"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``--esxi`` takes."""
    parser.add_argument(
        "--esxi", action="store_true", help="an ESXi host or vCenter: judge its attestation report"
    )
    parser.add_argument("--user", default="root", help="with --esxi: account; password from "
                        f"${PASSWORD} or asked")  # fmt: skip
    parser.add_argument("--name", default="", help="with --esxi: the host's name in the vCenter")
    parser.add_argument("--ca", type=Path, help="with --esxi: certificate that vouches for it")
    parser.add_argument("--report", type=Path, help="with --esxi: a saved SOAP answer, instead of "
                        "asking the host")  # fmt: skip
    parser.add_argument("--save", type=Path, help="with --esxi: keep the report in this file")
    parser.add_argument("--against", type=Path, help="with --esxi: compare with a kept report")


def run(options: argparse.Namespace, host: str, port: int) -> int:
    """Fetch, judge and print; 1 where something is wrong, else 2: it cannot be proven good."""
    before = _before(options.against)
    found = _saved(options.report, host) if options.report else _asked(options, host, port)
    findings = appraise_report(found.report, before)
    if options.save:
        options.save.write_text(json.dumps(as_json(found), indent=1) + "\n")
    if options.json:
        value = {
            **as_json(found),
            "verdict": "untrusted" if findings else "undecided",
            "findings": [finding_json(one) for one in findings],
        }
        print(json.dumps(value))
    else:
        _print(found, findings)
    return 1 if findings else 2


def _asked(options: argparse.Namespace, host: str, port: int) -> EsxiReport:
    password = os.environ.get(PASSWORD) or getpass.getpass(f"Password of {options.user}: ")
    return fetch(host, port, Account(options.user, password, options.ca), options.name)


def _saved(path: Path, host: str) -> EsxiReport:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SAVED)
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}") from error
    return EsxiReport(host, report_from(returned(data, "HostTpmAttestationReport")), "", "")


def _before(path: Path | None) -> Sequence[ReportEvent] | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return events_from(json.loads(file.read(MAX_SAVED)))
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ArgumentError("that is no saved report", argument="against") from error


def _print(found: EsxiReport, findings: tuple[Finding, ...]) -> None:
    console = PlainConsole()
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in ("PCR", "measured", "VIB", "digest"):
        table.add_column(title, no_wrap=title != "measured", overflow="fold")
    for event in found.report.events:
        cells = (str(event.pcr), event.name, event.vib, event.digest.hex()[:16])
        table.add_row(*map(Text, cells))
    console.print(table)
    if found.status:
        words = f"vSphere says: {escape(found.status)} {found.message}".rstrip()
        console.print(words, soft_wrap=True)
    for one in findings:
        console.print(Text(one.code, style="bold red"), end=" ")
        console.print(f"{one.component}: {one.reason}", soft_wrap=True)
        console.print(f"  {one.remedy}", soft_wrap=True)
    word, style = ("untrusted", "bold red") if findings else ("undecided", "bold yellow")
    console.print(Text(word, style=style), end=" ")
    console.print(found.host if findings else f"{found.host}: {UNSIGNED}")
