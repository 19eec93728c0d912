"""``casemate vm snapshot``: freeze a VM, list the tree, go back, forget."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime

from rich.text import Text
from rich.tree import Tree

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.cli.calls import Calls
from casemate.cli.terminal import PlainConsole
from casemate.cli.vmtasks import find_vm, run, say
from casemate.errors import ArgumentError, NotFoundError
from casemate.kernel.home import find_home
from casemate.machine.facts import SnapshotSpec, VmFact

_WHY = "command line"


def add_parsers(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    snapshot = actions.add_parser("snapshot", help="freeze a VM, go back, forget")
    verbs = snapshot.add_subparsers(dest="verb", required=True, metavar="VERB")
    words = {
        "list": "the tree of snapshots",
        "create": "freeze the disks, and the memory if told",
        "revert": "go back; what was written since is lost",
        "remove": "forget one and merge its disks",
        "rename": "change name and description",
    }
    for verb, text in words.items():
        parser = verbs.add_parser(verb, help=text)
        parser.add_argument("vm", help="name or id")
        if verb in ("revert", "remove", "rename"):
            parser.add_argument("snapshot", nargs="?", help="name or number (default: current)")
        if verb in ("create", "rename"):
            parser.add_argument("name")
            parser.add_argument("--description", default="")
        if verb == "create":
            parser.add_argument("--memory", action="store_true", help="of a running VM too")
            parser.add_argument(
                "--quiesce", action="store_true", help="the guest's agent keeps its disks still"
            )
        if verb == "remove":
            parser.add_argument("--children", action="store_true", help="its descendants too")
            parser.add_argument("--all", action="store_true", help="every snapshot")
        parser.add_argument("--json", action="store_true", help="print as JSON")
        parser.set_defaults(func=_verb)


def _verb(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    fact = find_vm(home, options.vm)
    told: dict[str, object] = {"vm": fact.vm}
    match options.verb:
        case "list":
            return _list(fact, as_json=options.json)
        case "create":
            request = c.CreateSnapshot(
                *("", fact.vm, options.name, options.description, options.memory, _WHY),
                quiesce=options.quiesce,
            )
            told["snapshot"] = int(run(home, request))
            say(options, f"{fact.config.name} has the snapshot {options.name}", told)
        case "revert":
            number = _number(fact, options.snapshot)
            run(home, c.RevertToSnapshot("", fact.vm, number, _WHY))
            say(options, f"{fact.config.name} is as it was", told)
        case "remove":
            if not (options.all or options.snapshot):
                raise ArgumentError("name a snapshot, or say --all", argument="snapshot")
            number = 0 if options.all else _number(fact, options.snapshot)
            run(home, c.RemoveSnapshot("", fact.vm, number, options.children, _WHY))
            say(options, f"{fact.config.name} forgot it", told)
        case _:
            number = _number(fact, options.snapshot)
            request_ = c.RenameSnapshot(
                "", fact.vm, number, options.name, options.description, _WHY
            )
            with Calls(home.calls_socket) as calls:
                calls.ask(request_, m.Empty)
            say(options, f"the snapshot is called {options.name}", told)
    return 0


def _number(fact: VmFact, wanted: str | None) -> int:
    """Return the number of a snapshot by name or number; of the current one by default."""
    if not wanted:
        return fact.current_snapshot
    for snapshot in fact.snapshots:
        if wanted in (str(snapshot.number), snapshot.name):
            return snapshot.number
    raise NotFoundError(
        f"{fact.config.name} has no snapshot {wanted!r}",
        component=wanted,
        remedy="casemate vm snapshot list shows them.",
    )


def _list(fact: VmFact, *, as_json: bool) -> int:
    if as_json:
        shown = [asdict(snapshot) for snapshot in fact.snapshots]
        print(json.dumps({"current": fact.current_snapshot, "snapshots": shown}))
        return 0
    tree = Tree(fact.config.name)
    nodes = {0: tree}
    for snapshot in fact.snapshots:
        nodes[snapshot.number] = nodes[snapshot.parent].add(_line(snapshot))
    nodes[fact.current_snapshot].add(Text("you are here", "bold"))
    PlainConsole().print(tree)
    return 0


def _line(snapshot: SnapshotSpec) -> str:
    when = datetime.fromtimestamp(snapshot.created, UTC).strftime("%Y-%m-%d %H:%M:%S")
    memory = ", with memory" if snapshot.memory else ""
    return f"{snapshot.number}  {snapshot.name}  ({when}{memory})"
