"""Events and tasks: collectors, queries, cancelling."""

from __future__ import annotations

from collections.abc import Sequence

from casemate.calls.messages import CancelTask, Empty
from casemate.hostd.history import HistoryCollector, Inside, check_filter, event_filter, task_filter
from casemate.hostd.objects import task
from casemate.hostd.registry import Context, Served
from casemate.hostd.selection import text
from casemate.hostd.wellknown import HOST
from casemate.hostd.world import World
from casemate.policy.rights import lineages
from casemate.vim25 import faults
from casemate.vim25.values import MoRef, Obj, Value

LOG_EVENT = "Global.LogEvent"
MESSAGE_LIMIT = 1024
"""Characters that a user may say: a thousand events of them are a MiB."""


def _inside(world: World) -> Inside:
    def inside(ref: MoRef, above: MoRef) -> bool:
        lines = lineages(world.place(ref), world.pool_of)
        return any(tuple(above) in line for line in lines)

    return inside


def _filter(context: Context) -> Obj:
    spec = context.arguments.get("filter")
    if not isinstance(spec, Obj):
        raise faults.invalid_argument("filter", "A filter is needed.")
    check_filter(spec)
    entity = spec.get("entity")
    if isinstance(entity, Obj) and isinstance(ref := entity.get("entity"), MoRef):
        context.reader.require(ref)
        context.reader.allow(ref, "System.View")
    return spec


def _may_see(context: Context, about: Value, user: Value) -> bool:
    """Tell whether what a user did to an object, or to the host, is shown to this session."""
    if user == context.who.user:
        return True
    if isinstance(about, MoRef) and about.type == "VirtualMachine":
        return context.reader.sees(about)
    return context.reader.may(about if isinstance(about, MoRef) else HOST, "System.Read")


def _events(context: Context, spec: Obj) -> Sequence[Obj]:
    fits = event_filter(spec, _inside(context.replica.world))
    found = [event for event in context.replica.events.events if fits(event)]
    shown = [e for e in found if _may_see(context, _vm_of(e), e.get("userName"))]
    most = spec.get("maxCount")
    return shown[-most:] if isinstance(most, int) and most > 0 else shown


def _vm_of(event: Obj) -> Value:
    part = event.get("vm")
    return part.get("vm") if isinstance(part, Obj) else None


def _tasks(context: Context, spec: Obj) -> Sequence[Obj]:
    scope, fits = context.reader.scope, task_filter(spec, _inside(context.replica.world))
    infos = (task.info(scope, key) for key in tuple(context.replica.world.tasks))
    return [
        info
        for info in infos
        if fits(info) and _may_see(context, info.get("entity"), _user_of(info))
    ]


def _user_of(info: Obj) -> Value:
    reason = info.get("reason")
    return reason.get("userName") if isinstance(reason, Obj) else None


def _collect(context: Context, kind: str) -> MoRef:
    spec = _filter(context)
    ref = MoRef(kind, context.who.new_id())
    source = _events if kind == "EventHistoryCollector" else _tasks
    history = context.replica.history
    history.add(ref)
    context.who.add(
        HistoryCollector(ref, spec, lambda: source(context, spec), lambda: history.discard(ref))
    )
    return ref


async def _collect_events(context: Context) -> Value:
    return _collect(context, "EventHistoryCollector")


async def _collect_tasks(context: Context) -> Value:
    return _collect(context, "TaskHistoryCollector")


async def _query_events(context: Context) -> Value:
    return tuple(_events(context, _filter(context)))


async def _log_user(context: Context) -> Value:
    entity, message = context.arguments["entity"], text(context.arguments.get("msg"))
    if not isinstance(entity, MoRef):
        raise faults.invalid_argument("entity", "An object is needed.")
    context.reader.require(entity)
    context.reader.allow(entity, LOG_EVENT)
    if len(message) > MESSAGE_LIMIT:
        raise faults.invalid_argument("msg", f"A message has up to {MESSAGE_LIMIT} characters.")
    name = text(context.reader.value(entity, "name"))
    context.replica.said(entity, name, message, context.who.user)
    return None


def _collector(context: Context) -> HistoryCollector:
    own = context.who.own.get(context.this)
    if not isinstance(own, HistoryCollector):
        raise faults.not_found(context.this)
    return own


def _count(context: Context) -> int:
    count = context.arguments.get("maxCount")
    if not isinstance(count, int) or count <= 0:
        raise faults.invalid_argument("maxCount", "It has to be positive.")
    return count


async def _next(context: Context) -> Value:
    return _collector(context).next(_count(context))


async def _previous(context: Context) -> Value:
    return _collector(context).previous(_count(context))


async def _page_size(context: Context) -> Value:
    _collector(context).set_page_size(_count(context))
    context.replica.touch({context.this})
    return None


async def _rewind(context: Context) -> Value:
    _collector(context).rewind()
    return None


async def _reset(context: Context) -> Value:
    _collector(context).reset()
    return None


async def _destroy(context: Context) -> Value:
    context.who.drop(_collector(context).ref)
    return None


async def _cancel(context: Context) -> Value:
    fact = context.replica.world.tasks[context.this.value]
    if fact.user != context.who.user:
        context.reader.allow(context.this, "Global.CancelTask")
    vm = fact.entity if fact.entity_kind == "VirtualMachine" else ""
    await context.link.ask(CancelTask(context.who.handle, fact.task, vm, "vSphere API"), Empty)
    return None


_OWN = "the session that made it"

HISTORY_METHODS = (
    Served("EventManager", "CreateCollectorForEvents", "System.View", _collect_events),
    Served("EventManager", "QueryEvents", "System.View", _query_events),
    Served(
        "EventManager",
        "LogUserEvent",
        "System.View",
        _log_user,
        rule=f"{LOG_EVENT} on the object",
    ),
    Served("EventHistoryCollector", "ReadNextEvents", "System.View", _next, rule=_OWN),
    Served("EventHistoryCollector", "ReadPreviousEvents", "System.View", _previous, rule=_OWN),
    Served("TaskManager", "CreateCollectorForTasks", "System.View", _collect_tasks),
    Served("TaskHistoryCollector", "ReadNextTasks", "System.View", _next, rule=_OWN),
    Served("TaskHistoryCollector", "ReadPreviousTasks", "System.View", _previous, rule=_OWN),
    Served("HistoryCollector", "SetCollectorPageSize", "System.View", _page_size, rule=_OWN),
    Served("HistoryCollector", "RewindCollector", "System.View", _rewind, rule=_OWN),
    Served("HistoryCollector", "ResetCollector", "System.View", _reset, rule=_OWN),
    Served("HistoryCollector", "DestroyCollector", "System.View", _destroy, rule=_OWN),
    Served(
        "Task",
        "CancelTask",
        "System.View",
        _cancel,
        (CancelTask,),
        rule="Global.CancelTask for the task of another user",
    ),
)
