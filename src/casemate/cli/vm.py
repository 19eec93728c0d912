"""``casemate vm``: the virtual machines of the host on this machine."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.table import Table

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.calls.vmconsole import TakeScreenshot
from casemate.cli import vmedit, vmsnapshot
from casemate.cli.calls import Calls
from casemate.cli.serial import attach
from casemate.cli.terminal import PlainConsole
from casemate.cli.vmtasks import find_vm, run, say, vms_of, wait
from casemate.errors import NotFoundError
from casemate.kernel.home import Home, find_home
from casemate.machine.facts import VmFact

_TASKS = {
    "on": m.PowerOn,
    "off": m.PowerOff,
    "reset": m.Reset,
    "suspend": c.SuspendVm,
    "destroy": c.DestroyVm,
    "consolidate": c.ConsolidateDisks,
}
_DONE = {
    "on": "is on",
    "off": "is off",
    "reset": "was reset",
    "suspend": "is suspended",
    "destroy": "is destroyed",
    "consolidate": "has the disks that its snapshots need, and no more",
    "shutdown": "was asked to shut down",
    "unregister": "is forgotten; its files stay",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    vm = commands.add_parser("vm", help="list, power, register virtual machines")
    actions = vm.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="all registered VMs")
    listing.set_defaults(func=_list)
    for name, words in (
        ("on", "power on"),
        ("off", "power off at once"),
        ("reset", "reset"),
        ("shutdown", "ask the guest to shut down"),
        ("unregister", "forget a VM; its files stay"),
        ("suspend", "save the memory to disk and stop; on resumes"),
        ("destroy", "forget a VM and remove its files"),
        ("consolidate", "merge what no snapshot needs into the disks below"),
        ("console", "what the guest wrote to its serial port"),
        ("screenshot", "a picture of the guest's screen, in the VM's directory"),
    ):
        parser = actions.add_parser(name, help=words)
        parser.add_argument("vm", help="name or id")
        parser.set_defaults(func=_one, action=name)
    actions.choices["console"].add_argument(
        "--serial", type=int, metavar="N", help="a terminal on serial port N (0: the first)"
    )
    vmedit.add_parsers(actions)
    vmsnapshot.add_parsers(actions)
    register = actions.add_parser("register", help="register a .vmx file")
    register.add_argument("path", help="datastore path, e.g. '[datastore1] demo/demo.vmx'")
    register.set_defaults(func=_register)
    for parser in actions.choices.values():
        parser.add_argument("--json", action="store_true", help="print as JSON")


def _list(options: argparse.Namespace) -> int:
    vms = vms_of(find_home(options.home))
    if options.json:
        print(json.dumps([asdict(fact) for fact in vms]))
        return 0
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for title in ("id", "name", "power", "vCPUs", "memory", "file"):
        number = title in ("vCPUs", "memory")
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for fact in vms:
        table.add_row(
            fact.vm,
            fact.config.name,
            fact.power.value,
            str(fact.config.cpus),
            f"{fact.config.memory_mib} MiB",
            fact.config.vmx_path,
        )
    PlainConsole().print(table if vms else "No VM is registered.")
    return 0


def _one(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    fact = find_vm(home, options.vm)
    if options.action == "console" and options.serial is not None:
        attach(home, fact.vm, options.serial)
        return 0
    if options.action == "console":
        return _console(home, fact, as_json=options.json)
    if options.action == "screenshot":
        path = run(home, TakeScreenshot("", fact.vm, "command line"))
        say(options, f"{fact.config.name} shows {path}", {"vm": fact.vm, "path": path})
        return 0
    with Calls(home.calls_socket) as calls:
        if options.action in _TASKS:
            request = _TASKS[options.action](session="", vm=fact.vm, why="command line")
            reply = calls.ask(request, m.TaskReply)
        else:
            kind = m.ShutdownGuest if options.action == "shutdown" else m.UnregisterVm
            calls.ask(kind(session="", vm=fact.vm, why="command line"), m.Empty)
            reply = None
    if reply is not None:
        wait(home, reply.task)
    say(options, f"{fact.config.name} {_DONE[options.action]}", {"vm": fact.vm})
    return 0


def _register(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    with Calls(home.calls_socket) as calls:
        reply = calls.ask(m.RegisterVm("", options.path, "command line"), m.TaskReply)
    vm = wait(home, reply.task)
    say(options, f"registered as {vm}", {"vm": vm})
    return 0


def _console(home: Home, fact: VmFact, *, as_json: bool) -> int:
    path = home.log / f"vm-{fact.vm}-console.log"
    try:
        text = path.read_text(errors="backslashreplace")
    except OSError as error:
        raise NotFoundError(
            f"{fact.config.name} has written nothing to its serial port: {error.strerror}",
            component=fact.config.name,
            remedy="Power it on; its guest needs a console on ttyS0.",
        ) from error
    shown = "".join(c if c.isprintable() or c == "\n" else "" for c in text)
    print(json.dumps({"vm": fact.vm, "serial": shown}) if as_json else shown)
    return 0
