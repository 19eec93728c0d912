"""``casemate down`` and ``status``: the end of a host, and how it is."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from casemate.calls.messages import Snapshot, SnapshotReply, Status, StatusReply
from casemate.cli.calls import Calls
from casemate.cli.terminal import PlainConsole, styled
from casemate.errors import HostError, StateError
from casemate.kernel.boot import running
from casemate.kernel.home import Home, find_home
from casemate.machine.facts import ComponentFact, HostFact, VmFact

STOP_SECONDS = 40.0
"""For guests to shut down before the host ends by force; init gives the kernel 30 of them."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    down = commands.add_parser("down", help="stop the host: guests first, then everything")
    down.add_argument("--force", action="store_true", help="do not wait for guests")
    down.add_argument("--json", action="store_true", help="print the result as JSON")
    down.set_defaults(func=_down)
    status = commands.add_parser("status", help="how the host is")
    status.add_argument("--json", action="store_true", help="print as JSON")
    status.set_defaults(func=_status)


def need_root(what: str) -> None:
    """Raise HostError unless this is root."""
    if os.geteuid() != 0:
        raise HostError(
            f"{what} needs root: it makes namespaces, mounts and cgroups",
            code="not-root",
            remedy="Run the same command as root, or with sudo.",
        )


def wait_for_kernel(home: Home, seconds: float = 20.0) -> None:
    """Wait until the kernel answers. Raises HostError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with Calls(home.calls_socket) as calls:
                calls.ask(Status(), StatusReply)
        except HostError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _down(options: argparse.Namespace) -> int:
    need_root("casemate down")
    home = find_home(options.home)
    home.create()
    with running.changing(home):
        was_running = running.end(home, 0.0 if options.force else STOP_SECONDS)
    if options.json:
        print(json.dumps({"state": "down", "home": str(home.path), "was_running": was_running}))
    else:
        print("The host is down." if was_running else "No host was running here.")
    return 0


def _status(options: argparse.Namespace) -> int:
    return print_status(find_home(options.home), as_json=options.json)


def own_address(home: Home) -> str:
    """Return host and port of the API of a home's host. Raises StateError when it is down."""
    found = running.find(home)
    if found is None:
        raise StateError(
            f"The host of {home.path} is down.",
            component=str(home.path),
            remedy="Start it with: casemate up. Or name the host that you mean.",
        )
    return f"localhost:{found.port}"


def print_status(home: Home, *, as_json: bool) -> int:
    """Print how the host of a home is, and return the exit status."""
    found = running.find(home)
    if found is None:
        if as_json:
            print(
                json.dumps(
                    {
                        "state": "down",
                        "home": str(home.path),
                        "api": None,
                        "vms": [],
                        "attestation": "down",
                    }
                )
            )
        else:
            print(f"The host of {home.path} is down. Start it with: casemate up")
        return 1
    with Calls(home.calls_socket) as calls:
        status = calls.ask(Status(), StatusReply)
        facts = calls.ask(Snapshot(), SnapshotReply).facts
    pids = running.outside(found)
    vms = [replace(fact, pid=pids.get(fact.pid or 0)) for fact in facts if isinstance(fact, VmFact)]
    attestation = status.tpm if status.tpm != "ok" else "provable"
    if as_json:
        print(
            json.dumps(
                {
                    "state": status.state,
                    "home": str(home.path),
                    "api": status.api,
                    "version": status.version,
                    "bank": status.boot_bank,
                    "boot_time": status.boot_time,
                    "vms": [
                        {
                            "id": fact.vm,
                            "name": fact.config.name,
                            "power": fact.power.value,
                            "pid": fact.pid,
                            "accelerator": fact.accelerator,
                        }
                        for fact in vms
                    ],
                    "components": [
                        fact.file_name for fact in facts if isinstance(fact, ComponentFact)
                    ],
                    "attestation": attestation,
                    "findings": [
                        dict(zip(("code", "component", "reason", "remedy"), f, strict=True))
                        for f in status.findings
                    ],
                }
            )
        )
        return 0
    _draw(PlainConsole(), home, status, facts, vms)
    return 0


def _draw(
    console: Console, home: Home, status: StatusReply, facts: tuple[object, ...], vms: list[VmFact]
) -> None:
    host = next((fact for fact in facts if isinstance(fact, HostFact)), None)
    table = Table.grid(padding=(0, 3))
    table.add_row("state", Text(status.state, "bold green"))
    table.add_row("API", status.api)
    table.add_row("home", str(home.path))
    table.add_row("bank", status.boot_bank)
    table.add_row("TPM", status.tpm)
    if host is not None:
        table.add_row("image", f"{host.image_profile} ({host.acceptance_level})")
        table.add_row("accelerator", f"{host.accelerator}: {host.accelerator_reason}")
        for taint in host.taints:
            table.add_row(Text("tainted", "bold red"), taint)
    console.print(table)
    rows = Table(box=None, pad_edge=False, padding=(0, 2))
    for title in ("id", "VM", "power", "pid", "uid", "domain", "accelerator"):
        rows.add_column(title)
    for fact in vms:
        rows.add_row(
            fact.vm,
            fact.config.name,
            fact.power.value,
            str(fact.pid or ""),
            str(fact.uid or ""),
            fact.domain,
            fact.accelerator,
        )
    console.print()
    console.print(rows if vms else "No VM is registered.")
    for _, component, reason, remedy in status.findings:
        console.print()
        console.print(styled((component, "bold yellow"), f": {reason} {remedy}"))
