"""PropertyCollector, PropertyFilter, ViewManager, views and SearchIndex."""

from __future__ import annotations

import asyncio

from casemate.errors import LimitError
from casemate.hostd.filters import (
    CANCELLED,
    PAGE_LIMIT,
    WEIGHT_LIMIT,
    Collector,
    Filter,
    contents,
    retrieve,
)
from casemate.hostd.reader import ANONYMOUS, Reader
from casemate.hostd.registry import Context, Served
from casemate.hostd.selection import objs, refs, text, texts
from casemate.hostd.session import Session
from casemate.hostd.views import LIST_LIMIT, ContainerView, ListView
from casemate.hostd.wellknown import PROPERTY_COLLECTOR
from casemate.vim25 import faults, types
from casemate.vim25.faults import FaultError
from casemate.vim25.shapes import Kind
from casemate.vim25.values import MoRef, Obj, Raw, Value

WAIT_LIMIT = 1800.0
"""Seconds that one call may wait when the client names none: the idle time of a session."""


def _collector(context: Context) -> Collector:
    """Return the collector the call is on; the well-known one exists once per session."""
    session = context.who
    own = session.own.get(context.this)
    if own is None and context.this == PROPERTY_COLLECTOR:
        own = Collector(PROPERTY_COLLECTOR)
        session.add(own)
    if not isinstance(own, Collector):
        raise faults.not_found(context.this)
    return own


def _number(options: Value, name: str) -> int | None:
    value = options.get(name) if isinstance(options, Obj) else None
    return value if isinstance(value, int) else None


async def _retrieve_ex(context: Context) -> Value:
    reader = context.reader
    limit = _number(context.arguments.get("options"), "maxObjects")
    if limit is not None and limit <= 0:
        raise faults.invalid_argument("options.maxObjects", "maxObjects has to be positive.")
    found = retrieve(objs(context.arguments.get("specSet")), reader)
    items = [(ref, wanted) for (_, ref), wanted in found.items()]
    collector = Collector(PROPERTY_COLLECTOR) if context.session is None else _collector(context)
    return await collector.page(items, min(limit or PAGE_LIMIT, PAGE_LIMIT), reader)


async def _continue(context: Context) -> Value:
    items = _collector(context).pending.pop(text(context.arguments.get("token")), None)
    if items is None:
        raise faults.invalid_argument("token", "There is no such retrieval, or it was finished.")
    return await _collector(context).page(items, PAGE_LIMIT, context.reader)


async def _cancel_retrieve(context: Context) -> Value:
    if _collector(context).pending.pop(text(context.arguments.get("token")), None) is None:
        raise faults.invalid_argument("token", "There is no such retrieval, or it was finished.")
    return None


async def _retrieve(context: Context) -> Value:
    reader = context.reader
    found = retrieve(objs(context.arguments.get("specSet")), reader)
    items = ((ref, wanted) for (_, ref), wanted in found.items())
    return Raw("", tuple(await contents("returnval", items, reader)))


async def _create_collector(context: Context) -> Value:
    ref = MoRef("PropertyCollector", context.who.new_id())
    context.who.add(Collector(ref))
    return ref


async def _destroy_collector(context: Context) -> Value:
    collector = _collector(context)
    for ref in tuple(collector.filters):
        context.who.drop(ref)
    context.who.drop(collector.ref)
    return None


async def _create_filter(context: Context) -> Value:
    collector = _collector(context)
    spec = context.arguments.get("spec")
    if not isinstance(spec, Obj):
        raise faults.invalid_argument("spec", "A filter needs a spec.")
    session, version = context.who, context.version

    def make() -> Reader:
        return Reader(context.replica, context.sessions, session, version)

    ref = MoRef("PropertyFilter", session.new_id())
    partial = context.arguments.get("partialUpdates") is True
    one = Filter(ref, spec, partial=partial, make=make)
    held = sum(own.weight for own in session.own.values() if isinstance(own, Filter))
    if held + one.weight > WEIGHT_LIMIT:
        one.close()
        raise LimitError(
            f"the filters of a session remember up to {WEIGHT_LIMIT} properties of objects",
            remedy="Destroy filters that are no longer needed, or ask for fewer properties.",
        )
    collector.add(one)
    session.add(one)
    return ref


async def _destroy_filter(context: Context) -> Value:
    for own in context.who.own.values():
        if isinstance(own, Collector):
            own.remove(context.this)
    context.who.drop(context.this)
    return None


def _check_version(collector: Collector, version: str) -> None:
    if not version:
        for one in collector.filters.values():
            one.reset()
    elif version != str(collector.version):
        raise FaultError(
            Obj("InvalidCollectorVersion"), f"The version {version:.40} is not the last one sent."
        )


async def _wait(context: Context, seconds: float, limit: int | None) -> Value:
    """Return the next changes; None when none came in time. Only one call waits at a time."""
    collector = _collector(context)
    _check_version(collector, text(context.arguments.get("version")))
    collector.cancel()
    stop = collector.waiting = asyncio.Event()
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        while True:
            collector.changed.clear()
            if (result := await collector.changes(limit, stop)) is not None:
                return result
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return None
            events = [stop, collector.changed, *(f.event for f in collector.filters.values())]
            await _first(events, left)
            if stop.is_set():
                raise FaultError(Obj("RequestCanceled"), CANCELLED)
    finally:
        if collector.waiting is stop:
            collector.waiting = None


async def _first(events: list[asyncio.Event], seconds: float) -> None:
    """Wait until one of the events is set or the time is over."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _wait_ex(context: Context) -> Value:
    options = context.arguments.get("options")
    seconds, limit = _number(options, "maxWaitSeconds"), _number(options, "maxObjectUpdates")
    if seconds is not None and seconds < 0:
        raise faults.invalid_argument("options.maxWaitSeconds", "A wait cannot be negative.")
    if limit is not None and limit <= 0:
        raise faults.invalid_argument("options.maxObjectUpdates", "It has to be positive.")
    return await _wait(context, WAIT_LIMIT if seconds is None else min(seconds, WAIT_LIMIT), limit)


async def _wait_forever(context: Context) -> Value:
    result = await _wait(context, WAIT_LIMIT, None)
    if result is None:
        raise FaultError(Obj("RequestCanceled"), "Nothing changed for as long as a session lasts.")
    return result


async def _check(context: Context) -> Value:
    return await _wait(context, 0, None)


async def _cancel_wait(context: Context) -> Value:
    _collector(context).cancel()
    return None


async def _container_view(context: Context) -> Value:
    reader = context.reader
    container = context.arguments.get("container")
    if not isinstance(container, MoRef):
        raise faults.invalid_argument("container", "A view needs a container.")
    reader.require(container)
    wanted = texts(context.arguments.get("type"))
    for name in wanted:
        if types.kind_of(name) is not Kind.MOREF:
            raise faults.invalid_argument("type", f"There is no managed object type {name:.80}.")
    ref = MoRef("ContainerView", context.who.new_id())
    recursive = context.arguments.get("recursive") is True
    view = ContainerView(ref, context.replica.world, container, wanted, recursive=recursive)
    context.who.add(view)
    return ref


async def _list_view(context: Context) -> Value:
    members = refs(context.arguments.get("obj"))
    for member in members[:LIST_LIMIT]:
        context.reader.require(member)
    ref = MoRef("ListView", context.who.new_id())
    context.who.add(ListView(ref, members[:LIST_LIMIT]))
    return ref


def _own_list(context: Context, session: Session) -> ListView:
    own = session.own.get(context.this)
    if not isinstance(own, ListView):
        raise faults.not_found(context.this)
    return own


async def _modify_list(context: Context) -> Value:
    view = _own_list(context, context.who)
    add, remove = refs(context.arguments.get("add")), refs(context.arguments.get("remove"))
    unknown = view.change(add, remove, context.reader)
    context.replica.touch({context.this})
    return unknown or None


async def _reset_list(context: Context) -> Value:
    view = _own_list(context, context.who)
    view.members = {}
    unknown = view.change(refs(context.arguments.get("obj")), (), context.reader)
    context.replica.touch({context.this})
    return unknown or None


async def _destroy_view(context: Context) -> Value:
    context.who.drop(context.this)
    return None


COLLECTOR_METHODS = (
    Served("PropertyCollector", "RetrievePropertiesEx", ANONYMOUS, _retrieve_ex),
    Served("PropertyCollector", "RetrieveProperties", ANONYMOUS, _retrieve),
    Served("PropertyCollector", "ContinueRetrievePropertiesEx", "System.View", _continue),
    Served("PropertyCollector", "CancelRetrievePropertiesEx", "System.View", _cancel_retrieve),
    Served("PropertyCollector", "CreatePropertyCollector", "System.View", _create_collector),
    Served("PropertyCollector", "DestroyPropertyCollector", "System.View", _destroy_collector),
    Served("PropertyCollector", "CreateFilter", "System.View", _create_filter),
    Served("PropertyFilter", "DestroyPropertyFilter", "System.View", _destroy_filter),
    Served("PropertyCollector", "WaitForUpdatesEx", "System.View", _wait_ex, waits=True),
    Served("PropertyCollector", "WaitForUpdates", "System.View", _wait_forever, waits=True),
    Served("PropertyCollector", "CheckForUpdates", "System.View", _check),
    Served("PropertyCollector", "CancelWaitForUpdates", "System.View", _cancel_wait),
    Served("ViewManager", "CreateContainerView", "System.View", _container_view),
    Served("ViewManager", "CreateListView", "System.View", _list_view),
    Served("ListView", "ModifyListView", "System.View", _modify_list),
    Served("ListView", "ResetListView", "System.View", _reset_list),
    Served("View", "DestroyView", "System.View", _destroy_view),
)
