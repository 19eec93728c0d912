"""The command casemate: one parser, one place where errors become words and exit statuses.

Exit status: 0 good, 1 a verdict that is not good, 2 could not be decided or bad usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from casemate import __version__
from casemate.cli import (
    agent,
    api,
    attest,
    boot,
    eventlog,
    hardening,
    hardware,
    host,
    image,
    pool,
    top,
    trust,
    verifier,
    vib,
    vm,
)
from casemate.errors import CasemateError

_ROOMS: tuple[Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None], ...] = (
    host.add_parser,
    boot.add_parser,
    vm.add_parser,
    pool.add_parser,
    top.add_parser,
    hardware.add_parser,
    attest.add_parser,
    verifier.add_parser,
    agent.add_parser,
    image.add_parser,
    trust.add_parser,
    vib.add_parser,
    eventlog.add_parser,
    hardening.add_parser,
    api.add_parser,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    parser = argparse.ArgumentParser(
        prog="casemate",
        description="A hardened, attested hypervisor host that speaks the vSphere API.",
    )
    parser.add_argument("--version", action="version", version=f"casemate {__version__}")
    parser.add_argument(
        "--home", default=None, help="where the host keeps its things (default: /var/lib/casemate)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in _ROOMS:
        add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.func(options))
    except CasemateError as error:
        return say_error(error, as_json=getattr(options, "json", False))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 2


def say_error(error: CasemateError, *, as_json: bool) -> int:
    """Print an error with its reason and remedy; the exit status says "could not be decided"."""
    if as_json:
        finding = error.finding()
        print(
            json.dumps(
                {
                    "error": {
                        "code": finding.code,
                        "component": finding.component,
                        "reason": finding.reason,
                        "remedy": finding.remedy,
                    }
                }
            )
        )
        return 2
    console = Console(stderr=True, highlight=False)
    about = f" ({error.component})" if error.component else ""
    console.print(f"[bold red]error[/]: {error.reason}{about}", markup=True, soft_wrap=True)
    console.print(f"[bold]remedy[/]: {error.remedy}", soft_wrap=True)
    return 2
