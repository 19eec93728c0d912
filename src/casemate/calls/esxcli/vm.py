"""esxcli vm: the processes of running virtual machines."""

from __future__ import annotations

import argparse

from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.hardware import facts_of
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.calls.messages import PowerOff, TaskReply
from casemate.errors import NotFoundError
from casemate.machine.facts import PowerState, VmFact

TYPES = ("soft", "hard", "force")
"""ESXi's three ways; the last two are for processes that ignore the first, as none can here."""


def register(namespaces: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace."""
    process = namespace(namespace(namespaces, "vm", "VMs"), "process", "running VMs")
    command(process, "list", "List the running virtual machines.", _list)
    killed = command(process, "kill", "Power a virtual machine off at once.", _kill)
    killed.add_argument("-t", "--type", required=True, choices=TYPES, help="all end its QEMU")
    killed.add_argument("-w", "--world-id", required=True, type=int, help="as list shows it")


def _list(_options: argparse.Namespace) -> Run:
    facts = yield from facts_of(VmFact)
    running = [fact for fact in facts if fact.power is PowerState.POWERED_ON]
    rows: list[Row] = [
        {
            "World ID": fact.pid or 0,
            "Process ID": fact.pid or 0,
            "VMX Cartel ID": fact.uid or 0,
            "UUID": fact.config.uuid,
            "Display Name": fact.config.name,
            "Config File": fact.config.vmx_path,
        }
        for fact in running
    ]
    return Answer(rows, headers=[fact.config.name for fact in running], structure="VirtualMachine")


def _kill(options: argparse.Namespace) -> Run:
    facts = yield from facts_of(VmFact)
    world = options.world_id
    found = next((one for one in facts if one.pid == world and world), None)
    if found is None:
        raise NotFoundError(
            f"No running virtual machine has the world ID {world}.",
            component=str(world),
            remedy="List them: esxcli vm process list.",
        )
    yield from ask(PowerOff("", found.vm, "esxcli"), TaskReply)
    return Answer((), "text")
