"""Tasks."""

from __future__ import annotations

from casemate.hostd.objects.base import Getters, Scope, moment
from casemate.hostd.objects.snapshots import snapshot_ref
from casemate.machine.facts import TaskFact, TaskState
from casemate.vim25 import faults, types
from casemate.vim25.values import MoRef, Obj, Value


def _result(fact: TaskFact) -> Value:
    if not fact.result:
        return None
    if fact.entity_kind == "Folder":
        return MoRef("VirtualMachine", fact.result)
    if fact.operation == "createSnapshot" and fact.result.isdecimal():
        return snapshot_ref(fact.entity, int(fact.result))
    if fact.operation == "clone":
        return MoRef("VirtualMachine", fact.result)
    return fact.result


def _error(fact: TaskFact) -> Obj | None:
    if fact.error is None:
        return None
    this = MoRef(fact.entity_kind, fact.entity)
    details = dict(fact.error.details)
    return faults.from_details(fact.error.fault, fact.error.reason, details, this).localized()


def info(scope: Scope, key: str) -> Obj:
    """Return the TaskInfo of a task."""
    fact = scope.world.tasks[key]
    entity = MoRef(fact.entity_kind, fact.entity)
    # The work of a manager is told as a task on the entity that it is about.
    manager, _, operation = fact.operation.rpartition(".")
    owner = manager or fact.entity_kind
    method = types.method_named(owner, operation)
    return Obj(
        "TaskInfo",
        key=fact.task,
        task=MoRef("Task", fact.task),
        name=method,
        descriptionId=f"{owner}.{operation}",
        entity=entity,
        entityName=scope.world.entity_name(entity),
        state=fact.state.value,
        cancelled=fact.cancelled,
        cancelable=fact.cancellable,
        error=_error(fact),
        result=_result(fact),
        progress=fact.progress if fact.state is TaskState.RUNNING else None,
        reason=Obj("TaskReasonUser", userName=fact.user) if fact.user else Obj("TaskReasonSystem"),
        queueTime=moment(fact.queued),
        startTime=None if fact.started is None else moment(fact.started),
        completeTime=None if fact.completed is None else moment(fact.completed),
        eventChainId=0,
    )


TASK_GETTERS: Getters = {"info": info}
