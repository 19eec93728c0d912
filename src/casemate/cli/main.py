"""The command casemate: one parser, one place where errors become words and exit statuses.

Exit status: 0 good, 1 a verdict that is not good, 2 could not be decided or bad usage.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from casemate import __version__
from casemate.cli.terminal import PlainConsole, styled
from casemate.errors import CasemateError
from casemate.formats.text import escape

_ROOMS = {
    "up": "up",
    "down": "host",
    "status": "host",
    "console": "console",
    "boot": "boot",
    "vm": "vm",
    "pool": "pool",
    "top": "top",
    "hardware": "hardware",
    "network": "network",
    "attest": "attest",
    "verifier": "verifier",
    "agent": "agent",
    "image": "image",
    "trust": "trust",
    "vib": "vib",
    "eventlog": "eventlog",
    "hardening": "hardening",
    "api": "api",
}
"""Command to the module that has it: only the one that is asked for is loaded."""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the command line: the part of one command, or the whole."""
    parser = argparse.ArgumentParser(
        prog="casemate",
        description="A hardened, attested hypervisor host that speaks the vSphere API.",
    )
    parser.add_argument("--version", action="version", version=f"casemate {__version__}")
    parser.add_argument(
        "--home", default=None, help="where the host keeps its things (default: /var/lib/casemate)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = [_ROOMS[command]] if command in _ROOMS else dict.fromkeys(_ROOMS.values())
    for room in wanted:
        importlib.import_module(f"casemate.cli.{room}").add_parser(commands)
    return parser


def _command(arguments: Sequence[str]) -> str | None:
    words = iter(arguments)
    for word in words:
        if word == "--home":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    options = build_parser(_command(words)).parse_args(words)
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
    console = PlainConsole(stderr=True)
    about = f" ({escape(error.component)})" if error.component else ""
    console.print(styled(("error", "bold red"), f": {escape(error.reason)}{about}"), soft_wrap=True)
    console.print(styled(("remedy", "bold"), f": {escape(error.remedy)}"), soft_wrap=True)
    return 2
