"""``casemate boot log``: what was measured in this boot."""

from __future__ import annotations

import argparse

from casemate.cli import eventlog
from casemate.errors import NotFoundError
from casemate.kernel.home import find_home


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    boot = commands.add_parser("boot", help="this boot: its event log")
    actions = boot.add_subparsers(dest="action", required=True, metavar="ACTION")
    log = actions.add_parser("log", help="the event log of this boot, event by event")
    log.add_argument("--json", action="store_true", help="print as JSON")
    log.set_defaults(func=_log)


def _log(options: argparse.Namespace) -> int:
    path = find_home(options.home).boot_record / "eventlog.bin"
    if not path.exists():
        raise NotFoundError(
            "there is no event log: the host has not been booted",
            component=str(path),
            remedy="Start it with casemate up.",
        )
    return eventlog.show(path, json=options.json)
