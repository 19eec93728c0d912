"""``casemate attest``: ask a host for proof, judge it, and say what was found."""

from __future__ import annotations

import argparse
import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from casemate.calls.verdict import appraisal_json
from casemate.cli import attestesxi
from casemate.cli.host import own_address
from casemate.cli.terminal import PlainConsole, styled
from casemate.cli.trust import add_common
from casemate.errors import ArgumentError, CasemateError, Finding
from casemate.formats.text import escape
from casemate.kernel.home import find_home
from casemate.policy.appraise import Appraisal, PcrStatus, Verdict
from casemate.policy.explain import GOOD, ComponentResult
from casemate.verifier import client
from casemate.verifier.client import Attestation, HostClient, Trusted, load_trusted

DEFAULT_PORT = 443
WIDE = 100
"""Columns from which on the digests are shown too."""

HIGHEST_PORT = 0xFFFF
STATUS = {Verdict.TRUSTED: 0, Verdict.UNTRUSTED: 1, Verdict.UNDECIDED: 2}
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_COLOURS = {Verdict.TRUSTED: "green", Verdict.UNTRUSTED: "red", Verdict.UNDECIDED: "yellow"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``attest``."""
    parser = commands.add_parser(
        "attest", help="verify what a host runs: TPM identity, quote, log, every component"
    )
    parser.add_argument(
        "host",
        metavar="HOST[:PORT]",
        nargs="?",
        default="",
        help="the host, port 443 unless given (default: the host of this home)",
    )
    parser.add_argument(
        "--reference", type=Path, help="signed reference values (default: <home>/reference.json)"
    )
    parser.add_argument(
        "--ek-roots", type=Path, help="CA certificates of TPM makers (default: <home>/trust/ek)"
    )
    parser.add_argument(
        "--trust", type=Path, help="anchors that vouch for the reference (default: <home>/trust)"
    )
    attestesxi.add_arguments(parser)
    parser.set_defaults(func=_attest)
    add_common(parser)


def attest_once(
    host: str,
    port: int,
    reference: Path,
    ek_roots: Path,
    now: float,
    *,
    trust: Path | None = None,
) -> Appraisal:
    """Attest a host once. Raises what ``load_trusted`` and ``attest`` raise.

    Args:
        host: name or address.
        port: of its API.
        reference: the signed reference manifest.
        ek_roots: directory of EK issuers' certificates.
        now: Unix seconds.
        trust: anchors that vouch for the reference; the directory above ``ek_roots`` if None.
    """
    moment = datetime.fromtimestamp(now, UTC)
    trusted = load_trusted(reference, ek_roots, trust or ek_roots.parent, moment)
    return client.attest_once(host, port, trusted, moment).appraisal


def as_json(
    host: str, attestation: Attestation, trusted: Trusted | None = None
) -> dict[str, object]:
    """Return the shape that ``casemate attest --json`` prints."""
    identity = attestation.identity
    value: dict[str, object] = {"host": host, **appraisal_json(attestation.appraisal)}
    if identity is not None:
        value["tpm"] = {"ek": identity.fingerprint, "issuer": identity.issuer}
    if trusted is not None:
        value["reference"] = {
            "profile": trusted.reference.profile_name,
            "build": trusted.reference.build,
            "serial": trusted.reference.serial,
            "signer": trusted.signer,
        }
    return value


def _attest(options: argparse.Namespace) -> int:
    if options.esxi:
        return attestesxi.run(options, *split_address(options.host))
    home = find_home(options.home)
    name = options.host or "localhost"
    trusted: Trusted | None = None
    began = time.monotonic()
    try:
        name = options.host or own_address(home)
        host, port = split_address(name)
        now = datetime.now(UTC)
        trusted = load_trusted(
            options.reference or home.reference,
            options.ek_roots or home.trust / "ek",
            options.trust or home.trust,
            now,
        )
        connection = HostClient(host, port)
        try:
            attestation = client.attest(connection, trusted, now)
        finally:
            connection.close()
    except CasemateError as error:
        attestation = Attestation(Appraisal(Verdict.UNDECIDED, (error.finding(),)))
    if options.json:
        print(json.dumps(as_json(name, attestation, trusted)))
    else:
        print_verdict(PlainConsole(), name, attestation, time.monotonic() - began)
    return STATUS[attestation.appraisal.verdict]


def split_address(text: str) -> tuple[str, int]:
    """Split ``HOST[:PORT]``; IPv6 addresses stand in brackets. Raises ArgumentError."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        separator, port = rest[:1], rest[1:]
        good = bool(closed) and separator in {"", ":"}
    else:
        host, separator, port = text.partition(":")
        good = True
    number = int(port) if _PORT.fullmatch(port) else 0
    if not good or not host or (separator and not 0 < number <= HIGHEST_PORT):
        raise ArgumentError(f"{text!r} is not HOST or HOST:PORT", argument="host", component="host")
    return host, number or DEFAULT_PORT


def print_verdict(console: Console, host: str, attestation: Attestation, seconds: float) -> None:
    """Print one line a component, the PCRs in short, each finding, and the verdict."""
    appraisal = attestation.appraisal
    if appraisal.components:
        wide = console.width >= WIDE
        console.print(_component_table(appraisal.components, wide=wide))
        console.print()
    for bank, rows in (appraisal.pcrs or {}).items():
        by_status: dict[PcrStatus, list[int]] = {}
        for pcr, result in rows.items():
            by_status.setdefault(result.status, []).append(pcr)
        words = "; ".join(
            f"{status.value}: {', '.join(map(str, pcrs))}" for status, pcrs in by_status.items()
        )
        console.print(f"PCRs {bank}: {words}")
    if attestation.identity is not None:
        console.print(
            f"TPM {attestation.identity.fingerprint[:16]}, vouched for by "
            f"{escape(attestation.identity.issuer)}",
        )
    for finding in appraisal.findings:
        _print_finding(console, finding, "bold red")
    for finding in appraisal.warnings:
        _print_finding(console, finding, "yellow")
    colour = _COLOURS[appraisal.verdict]
    console.print(styled((appraisal.verdict.value, f"bold {colour}")), end=" ")
    console.print(f"{escape(host)} ({seconds * 1000:.0f} ms)")


def _component_table(rows: tuple[ComponentResult, ...], *, wide: bool) -> Table:
    titles = ["component", "VIB", "version", "level", "PCRs", "verdict"]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in (*titles, "digest") if wide else titles:
        table.add_column(title, no_wrap=True)
    for row in rows:
        ref = row.component
        pcrs = " ".join(map(str, sorted(row.pcrs)))
        cells = [
            *map(Text, (ref.file_name, ref.vib_name, ref.vib_version, ref.level, pcrs)),
            Text(row.status, style="green" if row.status == GOOD else "bold red"),
        ]
        digest = (row.found or row.expected or b"").hex()
        table.add_row(*cells, *([Text(digest[:16])] if wide else []))
    return table


def _print_finding(console: Console, finding: Finding, style: str) -> None:
    console.print(Text(finding.code, style=style), end=" ")
    console.print(f"{escape(finding.component)}: {escape(finding.reason)}", soft_wrap=True)
    console.print(f"  {escape(finding.remedy)}", soft_wrap=True)
