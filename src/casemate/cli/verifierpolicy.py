"""The part of ``casemate verifier`` that is about policies: sign, add, try out, assign."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from rich.table import Table
from rich.text import Text

from casemate.cli.eventlog import read_log
from casemate.cli.terminal import PlainConsole
from casemate.errors import ArgumentError, NotFoundError
from casemate.formats.cms import sign_detached
from casemate.formats.corim import CONTENT_TYPE, write_corim
from casemate.formats.cose import sign1
from casemate.formats.eventlog import parse
from casemate.formats.manifest import parse_manifest, write_body, write_manifest
from casemate.formats.rim import parse_rim, support_log
from casemate.formats.text import escape
from casemate.formats.xmldsig import verify_enveloped
from casemate.policy.exchange import corim_from_manifest
from casemate.policy.language import parse_policy
from casemate.policy.rimreference import (
    RimReference,
    blank,
    inspected,
    write_rim_reference,
)
from casemate.policy.signedtext import join_signed
from casemate.policy.trust import subject_of

ACTIONS = (
    *("list", "show", "sign", "add", "runtime", "corim"),
    *("reference", "export-corim", "check", "assign", "approve-values"),
)


class Session(Protocol):
    """The handlers of the REST interface."""

    def ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        query: dict[str, str] | None = None,
        raw: bytes = b"",
    ) -> Any:  # noqa: ANN401 (JSON)
        """Call an endpoint below ``/api/v1``."""
        ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``policy`` takes."""
    parser.add_argument("change", nargs="?", choices=ACTIONS, default="list")
    parser.add_argument("what", nargs="?", help="a file; a host for assign and approve-values")
    parser.add_argument("name", nargs="?", help="name of the policy, or of the reference")
    parser.add_argument("--key", type=Path, help="sign, export-corim: PEM private key")
    parser.add_argument("--cert", type=Path, help="its PEM certificate, with its issuers")
    parser.add_argument("--rim", type=Path, help="reference: the RIM (swidtag) that lists the log")
    parser.add_argument("--rim-signer", type=Path, help="reference: PEM certificate of its signer")
    parser.add_argument("--out", type=Path, help="where to write (default: beside FILE)")
    parser.add_argument("--all-hosts", action="store_true", help="check: every host of the fleet")
    parser.add_argument("--round", type=int, help="approve-values: the round that was looked at")
    parser.add_argument("--why", default="", help="reason, for the audit log")


def sign(options: argparse.Namespace) -> int:
    """Sign a policy or a runtime policy; needs no verifier."""
    source = Path(_needed(options.what, "a file"))
    body = read(source)
    if not body.endswith(b"\n"):
        body += b"\n"
    if not body.lstrip().startswith(b"{"):
        parse_policy(body)
    key, chain = _signer(options)
    signature = sign_detached(body, chain[0], key, chain[1:], signing_time=datetime.now(UTC))
    return _written(
        options, source.with_name(source.name + ".signed"), join_signed(body, signature)
    )


def _signer(
    options: argparse.Namespace,
) -> tuple[RSAPrivateKey | EllipticCurvePrivateKey, list[x509.Certificate]]:
    if options.key is None or options.cert is None:
        raise ArgumentError("name --key and --cert", argument="key")
    try:
        key = serialization.load_pem_private_key(read(options.key), None)
        chain = x509.load_pem_x509_certificates(read(options.cert))
    except ValueError as error:
        raise ArgumentError(f"key or certificate: {error}", argument="key") from error
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
        raise ArgumentError("the key is neither RSA nor on an elliptic curve", argument="key")
    return key, chain


def export_corim(options: argparse.Namespace) -> int:
    """Write a reference as a CoRIM, signed anew; needs no verifier."""
    source = Path(_needed(options.what, "a reference"))
    key, chain = _signer(options)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ArgumentError("a CoRIM is signed with a key on an elliptic curve", argument="key")
    manifest = parse_manifest(read(source)).manifest
    ders = tuple(one.public_bytes(serialization.Encoding.DER) for one in chain)
    payload = write_corim(corim_from_manifest(manifest))
    data = sign1(payload, key, content_type=CONTENT_TYPE, chain=ders)
    return _written(options, source.with_suffix(".corim"), data)


def make_reference(options: argparse.Namespace) -> int:
    """Write a signed reference from the log of a machine that was inspected, or of a TCG RIM.

    A RIM says by its hashes whether the log is the one that its maker means. A signature in it must
    be right; whether its signer is the maker, unless named with ``--rim-signer``, is for who signs
    the reference to find out.
    """
    source = Path(_needed(options.what, "an event log"))
    data, now = read_log(source), datetime.now(UTC).replace(microsecond=0)
    vendor, build, signer = "", f"{now:%Y%m%d}", ""
    if options.rim:
        manifest = read(options.rim)
        rim = parse_rim(manifest)
        signer = _rim_signer(manifest, options.rim_signer, signed=rim.has_xmldsig)
        log = support_log(rim, source.name, data)
        vendor, build = ", ".join(rim.creators)[:256], rim.version or build
    else:
        log = parse(data)
    made = inspected(log, blank(_needed(options.name, "the reference"), vendor, build, now))
    body = write_body(made)
    key, chain = _signer(options)
    signature = sign_detached(body, chain[0], key, chain[1:], signing_time=now)
    file = write_manifest(body, signature)
    parse_manifest(file)
    if signer and not options.json:
        print(f"RIM signed by: {escape(signer)}")
    return _written(options, source.with_name(source.name + ".reference.json"), file)


def add_rim_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what makes a reference of a RIM and the log it lists."""
    parser.add_argument("--rim", type=Path, help="the signed RIM (swidtag) that lists the log WHAT")
    parser.add_argument("--name", default="", help="with --rim: image profile it is for")
    parser.add_argument("--rim-signature", type=Path, help="its signature beside it, PEM")
    parser.add_argument("--rim-signer", type=Path, help="PEM certificate of who signed inside it")


def read_reference(options: argparse.Namespace) -> bytes:
    """Return a signed reference, or what makes one of a RIM and its log."""
    source = Path(_needed(options.what, "a file"))
    if options.rim is None:
        return read(source)
    beside = (options.rim_signature, options.rim_signer)
    signature, signer = (read(path) if path else b"" for path in beside)
    now = datetime.now(UTC).replace(microsecond=0)
    name = _needed(options.name, "the image profile: --name")
    rim, log = read(options.rim), read_log(source)
    return write_rim_reference(RimReference(name, now, rim, source.name, log, signature, signer))


def _rim_signer(manifest: bytes, certificate: Path | None, *, signed: bool) -> str:
    """Return who signed a RIM, empty where nobody did. Raises SignatureError, FormatError."""
    if not signed and certificate is None:
        return ""
    try:
        known = x509.load_pem_x509_certificate(read(certificate)) if certificate else None
    except ValueError as error:
        raise ArgumentError(f"the signer's certificate: {error}", argument="rim-signer") from error
    return subject_of(verify_enveloped(manifest, known)[0])


def _written(options: argparse.Namespace, usual: Path, data: bytes) -> int:
    out: Path = options.out or usual
    out.write_bytes(data)
    print(json.dumps({"file": str(out)}) if options.json else f"Wrote {out}")
    return 0


def run(options: argparse.Namespace, session: Session) -> int:
    """Do what is asked; the exit status is that of ``status_of``."""
    why = {"why": options.why}
    match options.change:
        case "list" | "show":
            told = session.ask("GET", "/policies")
        case "add":
            told = session.ask("POST", "/policies", raw=read(Path(_needed(options.what, "a file"))))
        case "runtime" | "corim":
            name = _needed(options.name, "a policy")
            raw = read(Path(_needed(options.what, "a file")))
            told = session.ask("POST", f"/policies/{name}/{options.change}", raw=raw)
        case "check":
            raw = read(Path(_needed(options.what, "a file")))
            query = {"hosts": "all"} if options.all_hosts else {}
            told = session.ask("POST", "/policy-rehearsal", query=query, raw=raw)
        case "assign":
            host = _needed(options.what, "a host")
            body = {"policy": options.name or "", **why}
            told = session.ask("PUT", f"/hosts/{host}/policy", body)
        case _:
            host = _needed(options.what, "a host")
            if options.round is None:
                reason = f"name the round that casemate verifier show {host} showed: --round N"
                raise ArgumentError(reason, argument="round")
            body = {"round": options.round, **why}
            told = session.ask("POST", f"/hosts/{host}/approve-values", body)
    if options.json:
        print(json.dumps(told))
    else:
        _print(options, told)
    return status_of(told.get("counts", {}))


def status_of(counts: dict[str, int]) -> int:
    """Return the exit status of a rehearsal: 1 where a host would fail, 2 where nobody knows."""
    if "fail" in counts:
        return 1
    return 0 if set(counts) <= {"pass"} else 2


def _print(options: argparse.Namespace, told: dict[str, Any]) -> None:
    if options.change == "show":
        for one in told["policies"]:
            if one["text"] and options.what in {None, one["name"]}:
                print("\n".join(map(escape, one["text"].splitlines())))
        return
    if "policies" in told:
        table = _table("policy", "kind", "version", "state", "hosts", "signer")
        for one in told["policies"]:
            row = (one["name"], one["kind"], str(one["version"]), one["state"])
            table.add_row(*map(Text, (*row, str(len(one["hosts"])), one["signer"])))
        PlainConsole().print(table)
    elif "hosts" in told:
        table = _table("host", "state", "would", "verdict")
        for one in told["hosts"]:
            cells = (one["host"], one["state"], one["would"], one["sentence"])
            table.add_row(*(Text(escape(cell)) for cell in cells))
        PlainConsole().print(table)
    elif "version" in told:
        print(f"{escape(told['name'])} {told['version']}: in force")
    else:
        print(f"{told['name']}: {escape(told.get('policy', 'approved')) or 'references alone'}")


def read(path: Path) -> bytes:
    """Return a file. Raises NotFoundError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"{path} cannot be read: {error.strerror}", component=str(path)
        ) from error


def _needed(value: str | None, what: str) -> str:
    if not value:
        raise ArgumentError(f"name {what}", argument="what")
    return value


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=title != "verdict")
    return table
