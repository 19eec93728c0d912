"""The command esxcli: what administrators type on an ESXi host, answered by this one.

A command is a path of words (``software vib list``) and options; each lives in a module of its
namespace and returns values. How they are printed is decided here alone, by ``--formatter``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from casemate import __version__
from casemate.calls.esxcli.answer import Answer
from casemate.calls.esxcli.table import add_namespaces
from casemate.calls.esxcli.tree import FILES, Run, Running
from casemate.cli.calls import Calls
from casemate.cli.esxcli_output import FORMATTERS, render
from casemate.cli.esxclifiles import placed
from casemate.cli.terminal import escape_lines
from casemate.errors import CasemateError
from casemate.kernel.home import find_home

BRACKETS = {
    "level-too-low": "AcceptanceConfigError",
    "level-not-backed": "AcceptanceConfigError",
    "signature-missing": "InstallationError",
    "signer-untrusted": "InstallationError",
    "no-match": "NoMatchError",
    "dependency": "DependencyError",
    "conflict": "DependencyError",
    "maintenance-mode": "MaintenanceModeError",
}
"""ESXi's name of an error by our code."""
_OF_VIBS = (
    *("ar-", "descriptor-", "file-not-listed", "file-missing", "hardening-", "level-lowered"),
    *("path-not-allowed", "payload-", "signature-", "signer-", "tar-", "vib-", "vmtar-", "xml-"),
    *("bomb", "clock-wrong", "signing-time", "timestamp-invalid", "weak-algorithm"),
)
"""How the codes of what is wrong with a VIB begin: installation errors."""


def build_parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    parser = argparse.ArgumentParser(prog="esxcli", description="Manage this host.")
    parser.add_argument("--version", action="version", version=f"Casemate {__version__}")
    parser.add_argument("--home", default=None, help="the host's home directory")
    parser.add_argument("--formatter", choices=FORMATTERS, default="", help="how to print")
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    add_namespaces(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 1 refused or bad usage."""
    options = build_parser().parse_args(arguments)
    home = find_home(options.home)
    try:
        with Calls(home.calls_socket, timeout=options.seconds) as calls, ExitStack() as stack:
            for name in FILES:
                files = [
                    stack.enter_context(placed(one, options.home)) for one in _files(options, name)
                ]
                setattr(options, name, files)
            options.now = time.time()
            answer = drive(options.run(options), calls)
    except CasemateError as error:
        say(error)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    sys.stdout.write(render(answer, options.formatter))
    return answer.status


def _files(options: argparse.Namespace, name: str) -> list[str]:
    return list(getattr(options, name, None) or ())


def drive(run: Run, calls: Calls) -> Answer:
    """Carry out a command: ask the kernel what it asks, in turn. Raises CasemateError."""
    command = Running(run)
    while command.answer is None:
        try:
            reply: object = calls.ask(command.request, command.reply_kind)
        except CasemateError as error:
            command.fail(error)
        else:
            command.reply(reply)
    return command.answer


def say(error: CasemateError) -> None:
    """Print an error as ESXi does: its name in brackets, what it is about, and what to do."""
    name = BRACKETS.get(error.code)
    if name is None and error.code.startswith(_OF_VIBS):
        name = "InstallationError"
    reason = escape_lines(error.reason)
    if name and not reason.startswith("["):
        print(f" [{name}]", file=sys.stderr)
    print(f" {reason}", file=sys.stderr)
    if error.component and error.component not in reason:
        print(f" vibs = {escape_lines(error.component)}", file=sys.stderr)
    print(f" {escape_lines(error.remedy)}", file=sys.stderr)
    if name:
        print(" Please refer to the log file for more details.", file=sys.stderr)
