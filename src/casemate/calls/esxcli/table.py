"""All commands together."""

from __future__ import annotations

import argparse

from casemate.calls.esxcli import hardware, network, settings, software, system, vm


def add_namespaces(parser: argparse.ArgumentParser) -> None:
    """Add every namespace to a parser."""
    namespaces = parser.add_subparsers(metavar="NAMESPACE", required=True)
    for module in (hardware, network, software, system, vm):
        module.register(namespaces)
    settings.register_storage(namespaces)
