"""``casemate up``: a host from nothing."""

from __future__ import annotations

import argparse
import json
import os
import time

from rich.console import Console

from casemate.cli import bringup
from casemate.cli.bringup import BringUp, Result
from casemate.cli.host import need_root, print_status, wait_for_kernel
from casemate.cli.terminal import PlainConsole
from casemate.kernel.boot import running
from casemate.kernel.home import Home, find_home


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    up = commands.add_parser("up", help="build if needed, boot measured, start everything")
    up.add_argument("--port", type=int, default=443, help="port of the API (0: any free one)")
    up.add_argument("--name", default=None, help="host name (default: this machine's)")
    up.add_argument(
        "--rebuild", action="store_true", help="build the image anew, from the present sources"
    )
    up.add_argument("--no-demo", action="store_true", help="register no demo VM")
    up.add_argument("--json", action="store_true", help="print the result as JSON")
    up.set_defaults(func=_up)


def _up(options: argparse.Namespace) -> int:
    need_root("casemate up")
    home = find_home(options.home)
    console = PlainConsole(stderr=options.json)
    began = time.monotonic()
    home.create()
    with running.changing(home):
        found = running.find(home)
        result = _bring_up(options, home, console) if found is None else None
    if result is None:
        wait_for_kernel(home)
        console.print(f"Casemate is up already (home {home.path}).")
        return print_status(home, as_json=options.json)
    if options.json:
        print(json.dumps(result.as_json(time.monotonic() - began)))
    else:
        bringup.print_summary(console, result, time.monotonic() - began)
    return 0 if result.verdict == "trusted" else 1


def _bring_up(options: argparse.Namespace, home: Home, console: Console) -> Result:
    name = options.name or os.uname().nodename
    work = BringUp(home, console, port=options.port, host_name=name, rebuild=options.rebuild)
    return work.run(demo=not options.no_demo)
