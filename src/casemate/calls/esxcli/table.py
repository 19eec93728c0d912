"""All commands together."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from casemate.calls.esxcli import hardware, network, settings, software, system, vm
from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.tree import Run, children, command, namespace

_COLUMNS = ("Namespace", "Command")


def add_namespaces(parser: argparse.ArgumentParser) -> None:
    """Add every namespace to a parser."""
    namespaces = parser.add_subparsers(metavar="NAMESPACE", required=True)
    for module in (hardware, network, software, system, vm):
        module.register(namespaces)
    settings.register_storage(namespaces)
    itself = namespace(namespace(namespaces, "esxcli", "esxcli itself"), "command", "its commands")

    def listing(_options: argparse.Namespace) -> Run:
        yield from ()
        rows: list[Row] = [
            {"Namespace": ".".join(path), "Command": name} for path, name in _commands(parser)
        ]
        return Answer(rows, "table", structure="Command")

    shown = ("Command", _COLUMNS)
    command(itself, "list", "List the commands there are.", listing, table=shown)


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield namespace and name of every command below a parser, ascending."""
    for name, below in sorted(children(parser).items()):
        if below.get_default("run"):
            yield (), name
        for path, last in _commands(below):
            yield (name, *path), last
