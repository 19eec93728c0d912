"""What the commands about VMs share: finding a VM, waiting for a task, saying what was done."""

from __future__ import annotations

import argparse
import json

from casemate.calls import messages as m
from casemate.cli.calls import Calls
from casemate.cli.progress import percent
from casemate.errors import ArgumentError, CasemateError, NotFoundError
from casemate.kernel.home import Home
from casemate.machine.facts import TaskFact, TaskState, VmFact

TASK_SECONDS = 3600.0
"""Longest wait for a task: a power-on takes tenths of a second, copying a disk minutes."""

_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}


def vms_of(home: Home) -> list[VmFact]:
    """Return the VMs of the running host."""
    with Calls(home.calls_socket) as calls:
        facts = calls.ask(m.Snapshot(), m.SnapshotReply).facts
    return [fact for fact in facts if isinstance(fact, VmFact)]


def wait(home: Home, task: str) -> str:
    """Wait for a task and return its result; an interrupt cancels it where that is possible.

    Raises:
        CasemateError: What it failed with.
    """
    try:
        fact = _finished(home, task)
    except KeyboardInterrupt:
        with Calls(home.calls_socket) as calls:
            vm = next((one.vm for one in vms_of(home) if f"haTask-{one.vm}-" in task), "")
            calls.ask(m.CancelTask("", task, vm, "interrupted"), m.Empty)
        fact = _finished(home, task)
    if fact.state is TaskState.ERROR and fact.error is not None:
        raise CasemateError(fact.error.reason, code=fact.error.code, remedy=fact.error.remedy)
    return fact.result


def _finished(home: Home, task: str) -> TaskFact:
    """Follow a task to its end, with a bar on a terminal."""
    title = task.rpartition(".")[2].rpartition("-")[0]
    with Calls(home.calls_socket) as calls, percent(title) as report:
        return calls.finished(task, TASK_SECONDS, report)


def find_vm(home: Home, wanted: str) -> VmFact:
    """Return the VM of this id or name. Raises NotFoundError."""
    for fact in vms_of(home):
        if wanted in (fact.vm, fact.config.name):
            return fact
    raise NotFoundError(
        f"there is no VM {wanted!r}", component=wanted, remedy="casemate vm list shows them."
    )


def run(home: Home, request: object) -> str:
    """Send a request that starts a task, wait for it and return its result."""
    with Calls(home.calls_socket) as calls:
        reply = calls.ask(request, m.TaskReply)
    return wait(home, reply.task)


def size(text: str) -> int:
    """Return the bytes of a size such as ``16G`` or ``512M``. Raises ArgumentError."""
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "")
    if not (number.isascii() and number.isdigit()) or (unit and unit not in _UNITS):
        raise ArgumentError(f"{text!r} is not a size like 16G", argument="size")
    return int(number) << _UNITS.get(unit, 0)


def say(options: argparse.Namespace, words: str, values: dict[str, object]) -> None:
    """Print what was done."""
    print(json.dumps({"done": options.action, **values}) if options.json else words)
