"""esxcli vm: the processes of running virtual machines."""

from __future__ import annotations

import argparse

from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.hardware import facts_of
from casemate.calls.esxcli.tree import Group, Run, command, namespace
from casemate.machine.facts import PowerState, VmFact


def register(namespaces: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace."""
    process = namespace(namespace(namespaces, "vm", "VMs"), "process", "running VMs")
    command(process, "list", "List the running virtual machines.", _list)


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
