"""esxcli vm: the processes of running virtual machines."""

from __future__ import annotations

import argparse

from casemate.calls.messages import Snapshot, SnapshotReply
from casemate.cli.calls import Calls
from casemate.cli.esxcli_output import Answer, Row
from casemate.cli.esxcli_tree import Group, command, namespace
from casemate.machine.facts import PowerState, VmFact


def register(namespaces: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace."""
    process = namespace(namespace(namespaces, "vm", "VMs"), "process", "running VMs")
    command(process, "list", "List the running virtual machines.", _list)


def _list(calls: Calls, _options: argparse.Namespace) -> Answer:
    facts = calls.ask(Snapshot(), SnapshotReply).facts
    running = [
        fact for fact in facts if isinstance(fact, VmFact) and fact.power is PowerState.POWERED_ON
    ]
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
