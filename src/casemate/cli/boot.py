"""``casemate boot``: what was measured in this boot, and going back to the image before."""

from __future__ import annotations

import argparse
import json

from casemate.calls.messages import Empty
from casemate.calls.software import BootRollback
from casemate.cli import eventlog
from casemate.cli.calls import Calls
from casemate.errors import NotFoundError
from casemate.kernel.boot import running
from casemate.kernel.boot.bank import read_banks, write_states
from casemate.kernel.home import find_home
from casemate.policy.banks import plan_boot, plan_rollback


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    boot = commands.add_parser("boot", help="this boot: its event log, its image")
    actions = boot.add_subparsers(dest="action", required=True, metavar="ACTION")
    log = actions.add_parser("log", help="the event log of this boot, event by event")
    log.add_argument("--json", action="store_true", help="print as JSON")
    log.set_defaults(func=_log)
    rollback = actions.add_parser("rollback", help="boot the image of the other bank next")
    rollback.add_argument("--json", action="store_true", help="print as JSON")
    rollback.set_defaults(func=_rollback)


def _log(options: argparse.Namespace) -> int:
    path = find_home(options.home).boot_record / "eventlog.bin"
    if not path.exists():
        raise NotFoundError(
            "there is no event log: the host has not been booted",
            component=str(path),
            remedy="Start it with casemate up.",
        )
    return eventlog.show(path, json=options.json)


def _rollback(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    if running.find(home) is not None:
        with Calls(home.calls_socket) as calls:
            calls.ask(BootRollback(), Empty)
    else:
        banks = read_banks(home)
        write_states(home, plan_rollback(banks, plan_boot(banks).bank.name).states)
    config = plan_boot(read_banks(home)).bank.config
    build = config.build if config is not None else ""
    if options.json:
        print(json.dumps({"next": build}))
    else:
        print(f"The image {build} boots next. Restart the host: casemate down, then casemate up.")
    return 0
