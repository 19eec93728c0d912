"""``casemate vib``: look into a VIB, and judge whether it may be used.

Exit status: 0 good, 1 bad, 2 could not be decided. All text out of a VIB is escaped before it is
printed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from casemate.cli import vibmake
from casemate.cli.terminal import PlainConsole
from casemate.cli.trust import add_common, load_revocations
from casemate.errors import CasemateError, Finding, HostError, LimitError, NotFoundError
from casemate.formats.cms import verify_detached
from casemate.formats.compressed import content_digest
from casemate.formats.depot import parse_depot, read_vib
from casemate.formats.text import escape
from casemate.formats.vib import Vib, parse_vib
from casemate.image.reference import read_waivers
from casemate.image.vibcheck import examine
from casemate.kernel.home import find_home
from casemate.policy.acceptance import VibVerdict, verify_payload, verify_vib
from casemate.policy.revocation import Revocations
from casemate.policy.trust import CLOCKS, Level, TrustStore, subject_of, trust_from_files
from casemate.policy.vibcontent import unpacked_limit

_ZIP: Final = b"PK\x03\x04"
GOOD: Final = 0
BAD: Final = 1
MAX_VIB: Final = 4 << 30
"""Bytes of a VIB; it is read into memory."""
MAX_ANCHOR: Final = 1 << 20
"""Bytes of one file with trust anchors."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``vib`` with its commands."""
    parser = commands.add_parser("vib", help="look into VIBs and verify them")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspected = actions.add_parser("inspect", help="show what a VIB says about itself")
    inspected.set_defaults(func=_inspect)
    verified = actions.add_parser("verify", help="check signature, signer, level and payloads")
    verified.add_argument(
        "--trust", type=Path, default=None, help="directory of trust anchors (default: the home's)"
    )
    verified.add_argument(
        "--level",
        type=Level,
        default=Level.PARTNER,
        choices=list(Level),
        help="acceptance level of the host that is to use it (default: partner)",
    )
    verified.set_defaults(func=_verify)
    for action in (inspected, verified):
        what = "the VIB, or an offline bundle" if action is verified else "the VIB"
        action.add_argument("file", type=Path, help=what)
        add_common(action)
    vibmake.register(actions)


def load_trust(directory: Path) -> TrustStore:
    """Read a directory of trust anchors: ``<level>/*.pem``.

    Raises:
        HostError: It cannot be read.
        FormatError: A file in it holds no usable certificate.
    """
    return trust_from_files(
        (
            (level, _read(path, MAX_ANCHOR))
            for level in Level
            for path in sorted((directory / level).glob("*.pem"))
        ),
        (_read(path, MAX_ANCHOR) for path in sorted((directory / CLOCKS).glob("*.pem"))),
    )


def _inspect(options: argparse.Namespace) -> int:
    try:
        vib = parse_vib(_read(options.file, MAX_VIB), component=options.file.name)
    except HostError:
        raise
    except CasemateError as error:
        return _refuse([error.finding()], {"id": ""}, as_json=options.json)
    report = _describe(vib)
    if options.json:
        print(json.dumps(report))
        return GOOD
    console = _console()
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for title, value in report.items():
        if not isinstance(value, list):
            facts.add_row(title.replace("_", " "), Text(_shown(value)))
    console.print(facts)
    table = _table("Payload", "Type", "Bytes", "Checksums")
    for payload in report["payloads"]:
        checksums = ", ".join(
            f"{one['type']}{' of content' if one['process'] else ''}"
            for one in payload["checksums"]
        )
        table.add_row(payload["name"], payload["type"], str(payload["size"]), checksums)
    console.print(table)
    return GOOD


@dataclass(frozen=True, slots=True)
class _Trust:
    """Everything that a VIB is judged by."""

    directory: Path
    store: TrustStore
    revoked: Revocations
    level: Level
    now: datetime


@dataclass(slots=True)
class _Judged:
    """What was found of one VIB."""

    report: dict[str, Any]
    findings: list[Finding]
    warnings: list[Finding]

    def as_json(self) -> dict[str, Any]:
        """Return it as it is printed."""
        return {
            "verdict": "bad" if self.findings else "good",
            **self.report,
            "findings": [asdict(one) for one in self.findings],
            "warnings": [asdict(one) for one in self.warnings],
        }


def _verify(options: argparse.Namespace) -> int:
    directory = options.trust or find_home(options.home).trust
    store = load_trust(directory)
    now = datetime.now(UTC)
    revoked = load_revocations(directory, store, now)
    trust = _Trust(directory, store, revoked, options.level, now)
    data = _read(options.file, MAX_VIB)
    if data.startswith(_ZIP):
        return _verify_bundle(data, options.file.name, trust, as_json=options.json)
    judged = _judge(data, options.file.name, trust)
    if options.json:
        print(json.dumps(judged.as_json()))
    else:
        _print_verdict(judged)
    return BAD if judged.findings else GOOD


def _verify_bundle(data: bytes, name: str, trust: _Trust, *, as_json: bool) -> int:
    """Judge every VIB of an offline bundle, and whether it is the one that is announced."""
    judged: list[_Judged] = []
    findings: list[Finding] = []
    profiles: list[str] = []
    try:
        depot = parse_depot(io.BytesIO(data), component=name)
        profiles = [one.name for one in depot.profiles]
        for entry in depot.vibs:
            content = read_vib(io.BytesIO(data), entry, component=name)
            one = _judge(content, entry.path, trust)
            if one.report["id"] not in {"", entry.descriptor.vib_id}:
                one.findings.append(
                    Finding(
                        "depot-changed",
                        entry.path,
                        f"It is not {entry.descriptor.vib_id}, which the bundle announces.",
                        "Get the bundle again from its source.",
                    )
                )
            judged.append(one)
    except CasemateError as error:
        findings.append(error.finding())
    bad = bool(findings) or any(one.findings for one in judged)
    if as_json:
        told = {
            "verdict": "bad" if bad else "good",
            "bundle": name,
            "profiles": profiles,
            "vibs": [one.as_json() for one in judged],
            "findings": [asdict(finding) for finding in findings],
        }
        print(json.dumps(told))
    else:
        for one in judged:
            _print_verdict(one)
        if findings:
            _print_findings({"id": name}, findings)
    return BAD if bad else GOOD


def _judge(data: bytes, name: str, trust: _Trust) -> _Judged:
    """Judge one VIB. Raises NotFoundError where there is nobody to trust at all."""
    judged = _Judged({"id": "", "level": "", "signer": ""}, [], [])
    try:
        vib = parse_vib(data, component=name)
        judged.report |= {"id": vib.descriptor.vib_id, "level": vib.descriptor.acceptance_level}
        judged.findings += _payload_findings(vib)
        looked = examine(vib, read_waivers(trust.directory, trust.store, trust.now))
        known = {one.code for one in judged.findings}
        judged.findings += [one for one in looked.findings if one.code not in known]
        judged.warnings += looked.warnings
        verdict = verify_vib(
            *(vib.descriptor_bytes, vib.signature, trust.store, trust.level, trust.now),
            trust.revoked,
        )
        judged.report |= _verdict_json(verdict)
    except CasemateError as error:
        if error.code == "signer-untrusted" and not trust.store.anchors:
            raise NotFoundError(
                f"There is no trust anchor in {trust.directory}, so no signer can be judged.",
                code="no-anchors",
                component=str(trust.directory),
                remedy="Run casemate trust init, or name a directory with --trust.",
            ) from error
        judged.findings.insert(0, error.finding())
    return judged


def _print_verdict(judged: _Judged) -> None:
    report = judged.report
    if judged.findings:
        _print_findings(report, judged.findings)
        return
    signer = escape(report["signer"]) or "nobody (community VIBs need no signature)"
    console = _console()
    console.print(Text.assemble(("good", "bold green"), f"  {report['id']}"))
    console.print(Text(f"level  {report['level']}\nsigner {signer}\nanchor {report['anchor']}"))
    for warning in judged.warnings:
        console.print(Text.assemble(("warning: ", "bold yellow"), escape(warning.reason)))


def _payload_findings(vib: Vib) -> list[Finding]:
    """Compare every payload with its checksums; all that differ are told, not only the first."""
    findings = []
    for name, data in vib.payloads.items():
        try:
            verify_payload(
                vib.descriptor,
                name,
                size=len(data),
                sha256=hashlib.sha256(data).digest(),
                uncompressed_sha256=content_digest(
                    data,
                    "sha256",
                    unpacked_limit(vib.descriptor, name),
                    component=f"{vib.descriptor.vib_id} {name}",
                ),
            )
        except CasemateError as error:
            findings.append(error.finding())
    return findings


def _describe(vib: Vib) -> dict[str, Any]:
    descriptor = vib.descriptor
    return {
        "id": descriptor.vib_id,
        "name": descriptor.name,
        "version": descriptor.version,
        "vendor": descriptor.vendor,
        "type": descriptor.type.value,
        "level": descriptor.acceptance_level,
        "summary": descriptor.summary,
        "description": descriptor.description,
        "release_date": descriptor.release_date.isoformat(),
        "live_install": descriptor.live_install_allowed,
        "live_remove": descriptor.live_remove_allowed,
        "stateless_ready": descriptor.stateless_ready,
        "overlay": descriptor.overlay,
        "install_needs_maintenance": descriptor.install_needs_maintenance,
        "remove_needs_maintenance": descriptor.remove_needs_maintenance,
        **_signature_json(vib),
        "depends": [str(one) for one in descriptor.depends],
        "conflicts": [str(one) for one in descriptor.conflicts],
        "replaces": [str(one) for one in descriptor.replaces],
        "provides": [str(one) for one in descriptor.provides],
        "tags": list(descriptor.tags),
        "files": list(descriptor.files),
        "payloads": [
            {
                "name": payload.name,
                "type": payload.type,
                "size": payload.size,
                "checksums": [
                    {"type": one.type, "process": one.process, "value": one.value.hex()}
                    for one in payload.checksums
                ],
            }
            for payload in descriptor.payloads
        ],
    }


def _signature_json(vib: Vib) -> dict[str, Any]:
    """Say who signed, without judging whether to trust them."""
    report: dict[str, Any] = {"signature": "absent", "claimed_signer": "", "signing_time": None}
    if not vib.signature:
        return report
    try:
        signed = verify_detached(vib.signature, vib.descriptor_bytes)
    except CasemateError as error:
        return report | {"signature": f"{error.code}: {error.reason}"}
    return {
        "signature": "fits the descriptor",
        "claimed_signer": subject_of(signed.certificate),
        "signing_time": signed.signing_time.isoformat() if signed.signing_time else None,
    }


def _verdict_json(verdict: VibVerdict) -> dict[str, Any]:
    return {
        "signer": verdict.signer,
        "anchor": verdict.anchor,
        "signing_time": verdict.signing_time.isoformat() if verdict.signing_time else None,
    }


def _refuse(findings: list[Finding], report: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        rows = [asdict(finding) for finding in findings]
        print(json.dumps({"verdict": "bad", **report, "findings": rows}))
    else:
        _print_findings(report, findings)
    return BAD


def _print_findings(report: dict[str, Any], findings: list[Finding]) -> None:
    console = _console()
    console.print(Text.assemble(("bad", "bold red"), f"  {report['id']}"))
    for finding in findings:
        about = f" ({finding.component})" if finding.component not in {"", report["id"]} else ""
        console.print(
            Text.assemble(
                (f"{finding.code}: ", "bold"),
                escape(finding.reason + about),
                ("\n    remedy: ", "bold"),
                escape(finding.remedy),
            )
        )


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case _:
            return escape(str(value))


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise HostError(
            f"{path.name} cannot be read: {error.strerror}.",
            code="unreadable",
            component=str(path),
            remedy="Check the file's name and its permissions.",
        ) from error
    if len(data) > limit:
        raise LimitError(f"It has more than {limit} bytes.", component=str(path))
    return data


def _console() -> Console:
    return PlainConsole()


def _table(*titles: str) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
