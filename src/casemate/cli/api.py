"""``casemate api list``: what the host's interface offers, to whom, and what it may ask for."""

from __future__ import annotations

import argparse
import json

from casemate.hostd.coverage import cells, names
from casemate.hostd.methods.table import REGISTRY
from casemate.hostd.registry import VCENTER_ONLY, Ring, Served

BOOT_OPTION = "apiCompatibility=TRUE"
"""What switches ring C on."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    api = commands.add_parser("api", help="the vSphere API: what is served, with which privilege")
    actions = api.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="every declared method, or every method there is")
    listing.add_argument("--all", action="store_true", help="list the refused methods as well")
    listing.add_argument("--json", action="store_true", help="print as JSON")
    listing.set_defaults(func=_list)


def _list(options: argparse.Namespace) -> int:
    declared = sorted(REGISTRY, key=lambda one: (one.ring, one.owner, one.name))
    others = [name for name in names() if REGISTRY.get(name) is None] if options.all else []
    if options.json:
        refused = [{"method": name, "fault": _fault(name)} for name in others]
        print(json.dumps({"declared": list(map(_plain, declared)), "refused": refused}))
        return 0
    for one in declared:
        owner, name, privilege, calls, lacking = cells(one)
        print(f"{one.ring}  {owner}.{name}  [{privilege}]", f"-> {calls}" if calls else "")
        if lacking:
            print(f"   not offered: {lacking}")
        elif one.ring is Ring.COMPATIBILITY:
            print(f"   off unless the host is booted with {BOOT_OPTION}")
    for name in others:
        print(f"-  {name}: {_fault(name)}")
    return 0


def _fault(name: str) -> str:
    return "NotSupported" if name in VCENTER_ONLY else "MethodNotFound"


def _plain(one: Served) -> dict[str, object]:
    owner, name, _, _, lacking = cells(one)
    return {
        "ring": one.ring.value,
        "object": owner,
        "method": name,
        "privilege": one.privilege,
        "rule": one.rule,
        "calls": [call.__name__ for call in one.calls],
        "offered": not lacking,
        "boot_option": BOOT_OPTION if one.ring is Ring.COMPATIBILITY else "",
        "reason": lacking,
    }
