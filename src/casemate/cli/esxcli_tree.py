"""The tree of esxcli's namespaces and commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from casemate.cli.calls import Calls
from casemate.cli.esxcli_output import Answer

Group = argparse._SubParsersAction  # noqa: SLF001 (argparse gives the class no public name)
Command = Callable[[Calls, argparse.Namespace], Answer]

SECONDS = 60.0
"""For one answer; changes of software take as long as writing a bank does."""


def namespace(
    parent: Group[argparse.ArgumentParser], name: str, what: str
) -> Group[argparse.ArgumentParser]:
    """Add a namespace and return where its commands go."""
    parser = parent.add_parser(name, help=what)
    return parser.add_subparsers(metavar="COMMAND", required=True)


def command(
    parent: Group[argparse.ArgumentParser],
    name: str,
    what: str,
    run: Command,
    *,
    seconds: float = SECONDS,
) -> argparse.ArgumentParser:
    """Add a command and return its parser for options."""
    parser = parent.add_parser(name, help=what, description=what)
    parser.set_defaults(run=run, seconds=seconds)
    return parser
