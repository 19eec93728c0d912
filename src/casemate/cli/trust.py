"""``casemate trust``: the development PKI and the anchors a host trusts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from casemate.cli.progress import steps
from casemate.image.pki import AnchorFile, add_anchor, initialise, list_anchors
from casemate.kernel.home import find_home
from casemate.policy.levels import Level


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
    for action in (init, show, add):
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
    Console().print(table)
    return 0
