"""``casemate trust``: the development PKI, the anchors a host trusts, and what is revoked."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.x509 import Certificate
from rich.table import Table

from casemate.cli.progress import steps
from casemate.cli.terminal import PlainConsole
from casemate.errors import ArgumentError, HostError
from casemate.formats.cms import sign_detached
from casemate.formats.vib import parse_vib
from casemate.image.modulekeys import keys_of, trust_keys
from casemate.image.pki import (
    AnchorFile,
    add_anchor,
    initialise,
    list_anchors,
    load_certificate,
    load_signer,
)
from casemate.kernel.files import write_file
from casemate.kernel.home import find_home
from casemate.policy.levels import Level
from casemate.policy.references import REFERENCE_LEVEL
from casemate.policy.revocation import (
    COMPONENT,
    NOTHING_REVOKED,
    PLACE,
    Revocations,
    verify_revocations,
    write_revocations,
)
from casemate.policy.signedtext import check_newer, join_signed
from casemate.policy.trust import TrustStore, trust_from_files


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``trust`` with its commands."""
    parser = commands.add_parser("trust", help="trust anchors and the development PKI")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    init = actions.add_parser("init", help="make the development PKI (does nothing when there)")
    init.set_defaults(func=_init)
    show = actions.add_parser("list", help="list the trust anchors by acceptance level")
    show.set_defaults(func=_list)
    add = actions.add_parser("add", help="trust a CA certificate for acceptance levels")
    add.add_argument("file", type=Path, help="CA certificate, PEM or DER; its name is kept")
    add.add_argument(
        "--level",
        action="append",
        required=True,
        choices=[str(level) for level in Level],
        help="a level that its signers may give (may be repeated)",
    )
    add.set_defaults(func=_add)
    revoke = actions.add_parser(
        "revoke", help="revoke VIBs or certificates, or take over a signed revocation list"
    )
    revoke.add_argument("--vib", type=Path, action="append", default=[], help="a VIB to revoke")
    revoke.add_argument(
        "--certificate", type=Path, action="append", default=[], help="a certificate to revoke"
    )
    revoke.add_argument("--reason", default="revoked", help="why, in a few words")
    revoke.add_argument("--list", type=Path, help="a signed list to take over as it is")
    revoke.set_defaults(func=_revoke)
    keys = actions.add_parser(
        "module-keys", help="trust the keys that a Linux kernel was built with, for its modules"
    )
    keys.add_argument("file", type=Path, help="kernel image (/boot/vmlinuz-...), or a certificate")
    keys.set_defaults(func=_module_keys)
    for action in (init, show, add, revoke, keys):
        add_common(action)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has."""
    parser.add_argument("--home", default=argparse.SUPPRESS, help="the host's home directory")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _init(options: argparse.Namespace) -> int:
    home = find_home(options.home).path
    with steps("Making the development PKI", quiet=options.json) as progress:
        made = initialise(home, now=datetime.now(UTC), progress=progress)
    if not options.json:
        print(f"{'Made' if made else 'Already there'}: {home / 'pki'}")
    return _print(list_anchors(home), as_json=options.json, made=made)


def _list(options: argparse.Namespace) -> int:
    return _print(list_anchors(find_home(options.home).path), as_json=options.json)


def _add(options: argparse.Namespace) -> int:
    levels = [Level(level) for level in options.level]
    added = add_anchor(find_home(options.home).path, options.file, levels)
    return _print(added, as_json=options.json)


def _module_keys(options: argparse.Namespace) -> int:
    """Write the certificates of an image, or one that is given, to ``trust/modules``."""
    try:
        data = options.file.read_bytes()
    except OSError as error:
        raise HostError(
            f"{options.file} cannot be read: {error.strerror}.",
            code="unreadable",
            component=str(options.file),
        ) from error
    if data.startswith(b"-----BEGIN CERTIFICATE"):
        found: tuple[Certificate, ...] = (load_certificate(options.file),)
    else:
        with steps("Unpacking the kernel", quiet=options.json):
            found = keys_of(data, options.file.name)
    trust_keys(find_home(options.home).trust, found)
    rows = [
        {"subject": one.subject.rfc4514_string(), "sha256": one.fingerprint(hashes.SHA256()).hex()}
        for one in found
    ]
    if options.json:
        print(json.dumps({"keys": rows}))
    else:
        for row in rows:
            print(f"{row['sha256'][:16]}  {row['subject']}")
    return 0


def load_revocations(trust: Path, store: TrustStore, now: datetime) -> Revocations:
    """Read and verify the revocation list of a trust directory; without one nothing is revoked.

    Raises:
        SignatureError: Not signed by somebody who may revoke.
        FormatError: Not a revocation list.
        HostError: It cannot be read.
    """
    path = trust.joinpath(*PLACE)
    try:
        return verify_revocations(path.read_bytes(), store, now)
    except FileNotFoundError:
        return NOTHING_REVOKED
    except OSError as error:
        raise HostError(
            f"The revocation list cannot be read: {error.strerror}.",
            code="unreadable",
            component=str(path),
        ) from error


def _revoke(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    now = datetime.now(UTC)
    store = trust_from_files(
        (anchor.level, anchor.path.read_bytes()) for anchor in list_anchors(home.path)
    )
    present = load_revocations(home.trust, store, now)
    if options.list is not None:
        signed = options.list.read_bytes()
        revoked = verify_revocations(signed, store, now)
        check_newer(present.number, revoked.number, component=COMPONENT)
    else:
        revoked = _extended(present, options, now)
        body = write_revocations(revoked)
        signer = load_signer(home.path, REFERENCE_LEVEL)
        signature = sign_detached(
            body, signer.certificate, signer.key, signer.chain, signing_time=now
        )
        signed = join_signed(body, signature)
    path = home.trust.joinpath(*PLACE)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, signed)
    facts = {
        "number": revoked.number,
        "certificates": {key.hex(): why for key, why in revoked.certificates.items()},
        "vibs": {key.hex(): why for key, why in revoked.vibs.items()},
    }
    if options.json:
        print(json.dumps(facts))
    else:
        counts = f"{len(revoked.certificates)} certificates and {len(revoked.vibs)} VIBs"
        print(f"Revocation list {revoked.number} in force: {counts}.")
    return 0


def _extended(present: Revocations, options: argparse.Namespace, now: datetime) -> Revocations:
    """Return the present list with what the options name, under the next number."""
    if not (options.vib or options.certificate):
        raise ArgumentError("Name what to revoke: --vib or --certificate.", argument="vib")
    reason = " ".join(options.reason.split())[:200]
    vibs = dict(present.vibs)
    for path in options.vib:
        vib = parse_vib(path.read_bytes(), component=path.name)
        vibs[hashlib.sha256(vib.descriptor_bytes).digest()] = reason
    certificates = dict(present.certificates)
    for path in options.certificate:
        certificates[load_certificate(path).fingerprint(hashes.SHA256())] = reason
    return Revocations(present.number + 1, now, certificates, vibs)


def _print(anchors: Iterable[AnchorFile], *, as_json: bool, made: bool | None = None) -> int:
    rows = [
        {
            "level": str(anchor.level),
            "name": anchor.path.stem,
            "subject": anchor.certificate.subject.rfc4514_string(),
            "not_after": anchor.certificate.not_valid_after_utc.isoformat(),
            "sha256": anchor.fingerprint,
        }
        for anchor in anchors
    ]
    if as_json:
        print(json.dumps({"anchors": rows} | ({} if made is None else {"made": made})))
        return 0
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("Level", "Name", "Valid until", "SHA-256", "Subject"):
        table.add_column(title, no_wrap=title != "Subject")
    for row in rows:
        until = row["not_after"].partition("T")[0]
        subject = row["subject"].partition(",")[0].removeprefix("CN=")
        table.add_row(row["level"], row["name"], until, row["sha256"][:16], subject)
    PlainConsole().print(table)
    return 0
