"""esxcli system maintenanceMode: whether VMs may start on the host."""

from __future__ import annotations

import argparse

from casemate.calls.esxcli.answer import Answer
from casemate.calls.esxcli.hardware import host_fact
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.calls.maintenance import EnterMaintenance, ExitMaintenance
from casemate.calls.messages import TaskReply


def register(system: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace to ``system``."""
    top = namespace(system, "maintenanceMode", "maintenance mode: no VM runs")
    command(top, "get", "Tell whether the host is in maintenance mode.", _get)
    setting = command(top, "set", "Begin to enter maintenance mode, or exit it.", _set)
    setting.add_argument("-e", "--enable", required=True, choices=("true", "false"))
    setting.add_argument("-t", "--timeout", type=int, default=0, help="seconds (default: for ever)")


def _get(_options: argparse.Namespace) -> Run:
    host = yield from host_fact()
    return Answer([], "text", text="Enabled" if host.in_maintenance_mode else "Disabled")


def _set(options: argparse.Namespace) -> Run:
    if options.enable == "true":
        request = EnterMaintenance("", options.timeout, "esxcli")
        yield from ask(request, TaskReply)
    else:
        yield from ask(ExitMaintenance("", "esxcli"), TaskReply)
    return Answer([], "text")
