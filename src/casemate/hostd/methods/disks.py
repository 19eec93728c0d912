"""Virtual disks apart from VMs."""

from __future__ import annotations

from itertools import zip_longest
from typing import Final

from casemate.calls import files as c
from casemate.calls.messages import TaskReply
from casemate.hostd.kernelclient import RefusedError
from casemate.hostd.methods.files import CHANGE, WHY, place
from casemate.hostd.owntask import ended
from casemate.hostd.registry import Context, Handler, Served
from casemate.hostd.soap import fault_of
from casemate.hostd.vmchange import unsupported
from casemate.vim25 import faults, hidden
from casemate.vim25.values import MoRef, Obj, Typed, Value

_KIB: Final = 1024
_TYPES: Final = {
    "thin": True,
    "preallocated": False,
    "thick": False,
    "eagerZeroedThick": False,
}
"""Kinds of disks: whether their space is taken when it is written."""
_ADAPTERS: Final = frozenset({"ide", "busLogic", "lsiLogic", "pvscsi"})


def _thin(spec: Value, argument: str) -> bool:
    kind = spec.get("diskType") if isinstance(spec, Obj) else None
    if not isinstance(kind, str) or kind not in _TYPES:
        raise unsupported(f"{argument}: disks are thin, preallocated or eagerZeroedThick.")
    return _TYPES[kind]


async def _create(context: Context) -> Value:
    fact, path = place(context, "name", CHANGE)
    spec = context.arguments.get("spec")
    thin = _thin(spec, "spec")
    size = spec.get("capacityKb") if isinstance(spec, Obj) else None
    if not isinstance(spec, Obj) or not isinstance(size, int):
        raise unsupported("A disk is made in a file.")
    adapter = spec.get("adapterType")
    if adapter not in _ADAPTERS or size <= 0:
        raise faults.invalid_argument("spec", "A disk has a size and a known adapter.")
    shown = "ide" if adapter == "ide" else "lsilogic"
    request = c.CreateDisk(context.who.handle, fact.datastore, path, size * _KIB, thin, shown, WHY)
    return MoRef("Task", (await context.link.ask(request, TaskReply)).task)


async def _delete(context: Context) -> Value:
    fact, path = place(context, "name", CHANGE)
    request = c.DeleteDisk(context.who.handle, fact.datastore, path, WHY)
    return MoRef("Task", (await context.link.ask(request, TaskReply)).task)


async def _copy(context: Context) -> Value:
    fact, path = place(context, "sourceName", CHANGE)
    goal, to_path = place(context, "destName", CHANGE)
    spec = context.arguments.get("destSpec")
    request = c.CopyDisk(
        context.who.handle,
        fact.datastore,
        path,
        goal.datastore,
        to_path,
        None if spec is None else _thin(spec, "destSpec"),
        context.arguments.get("force") is True,
        WHY,
    )
    return MoRef("Task", (await context.link.ask(request, TaskReply)).task)


async def _move(context: Context) -> Value:
    fact, path = place(context, "sourceName", CHANGE)
    goal, to_path = place(context, "destName", CHANGE)
    force = context.arguments.get("force") is True
    request = c.MoveDisk(
        context.who.handle, fact.datastore, path, goal.datastore, to_path, force, WHY
    )
    return MoRef("Task", (await context.link.ask(request, TaskReply)).task)


async def _extend(context: Context) -> Value:
    fact, path = place(context, "name", CHANGE)
    size = context.arguments.get("newCapacityKb")
    if not isinstance(size, int) or size <= 0:
        raise faults.invalid_argument("newCapacityKb", "A disk has a size.")
    request = c.ExtendDisk(context.who.handle, fact.datastore, path, size * _KIB, WHY)
    return MoRef("Task", (await context.link.ask(request, TaskReply)).task)


async def _uuid(context: Context) -> Value:
    fact, path = place(context, "name", CHANGE)
    request = c.DiskUuid(context.who.handle, fact.datastore, path)
    return (await context.link.ask(request, c.UuidReply)).uuid


async def _info(context: Context) -> Value:
    fact, path = place(context, "name", CHANGE)
    request = c.DiskInfo(context.who.handle, fact.datastore, path)
    method, entity = "QueryVirtualDiskInfo_Task", MoRef("Datastore", fact.datastore)
    try:
        layers = (await context.link.ask(request, c.LayersReply)).layers
    except RefusedError as error:
        return ended(context, method, entity, fault_of(error, context.this))
    below = [one.path for one in layers[1:]]
    found = tuple(
        Obj(
            hidden.DISK_INFO,
            unit=Obj(hidden.DISK_UNIT, name=one.path),
            diskType=one.kind,
            parent=parent,
        )
        for one, parent in zip_longest(layers, below)
    )
    if context.arguments.get("includeParents") is not True:
        found = found[:1]
    return ended(context, method, entity, Typed(hidden.DISK_INFO, found, array=True))


def _served(name: str, handler: Handler, call: type) -> Served:
    rule = f"{CHANGE} on each datastore named"
    return Served("VirtualDiskManager", name, "System.View", handler, (call,), rule=rule)


DISK_METHODS = (
    _served("CreateVirtualDisk_Task", _create, c.CreateDisk),
    _served("DeleteVirtualDisk_Task", _delete, c.DeleteDisk),
    _served("CopyVirtualDisk_Task", _copy, c.CopyDisk),
    _served("MoveVirtualDisk_Task", _move, c.MoveDisk),
    _served("ExtendVirtualDisk_Task", _extend, c.ExtendDisk),
    _served("QueryVirtualDiskUuid", _uuid, c.DiskUuid),
    _served("QueryVirtualDiskInfo_Task", _info, c.DiskInfo),
)
