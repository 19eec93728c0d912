"""Resource pools: the tree and what its members have of the host."""

from __future__ import annotations

from functools import partial

from casemate.calls import pools as c
from casemate.calls.messages import Empty
from casemate.hostd.registry import Context, Served
from casemate.hostd.selection import objs, refs, text
from casemate.hostd.vmchange import unsupported
from casemate.hostd.vmspec import allocation
from casemate.machine.facts import Allocation
from casemate.vim25 import faults
from casemate.vim25.values import MoRef, Obj, Value

WHY = "vSphere API"
POOL_CPU_SHARES, POOL_MEMORY_SHARES = 4000, 163840
"""Shares of a pool at the normal level, as vSphere counts them."""


def _allocations(spec: Obj, cpu: Allocation, memory: Allocation) -> tuple[Allocation, Allocation]:
    return (
        allocation(spec.get("cpuAllocation"), cpu, 1, POOL_CPU_SHARES),
        allocation(spec.get("memoryAllocation"), memory, 1, POOL_MEMORY_SHARES),
    )


def _scaled(spec: Obj) -> bool | None:
    value = spec.get("scaleDescendantsShares")
    return None if value is None else value == "scaleCpuAndMemoryShares"


async def _create(context: Context) -> Value:
    spec = context.arguments.get("spec")
    if not isinstance(spec, Obj):
        raise faults.invalid_argument("spec", "A pool needs allocations.")
    cpu, memory = _allocations(
        spec,
        Allocation(0, -1, "normal", POOL_CPU_SHARES, expandable=True),
        Allocation(0, -1, "normal", POOL_MEMORY_SHARES, expandable=True),
    )
    request = c.CreatePool(
        context.who.handle,
        context.this.value,
        text(context.arguments.get("name")),
        cpu,
        memory,
        _scaled(spec) is True,
        WHY,
    )
    pool = (await context.link.ask(request, c.PoolReply)).pool
    await context.replica.until(lambda: pool in context.replica.world.pools)
    return MoRef("ResourcePool", pool)


async def _update_pool(context: Context, ref: MoRef, spec: Obj | None, name: str | None) -> None:
    context.reader.require(ref)
    context.reader.allow(ref, c.UpdatePool.privilege)
    pool = context.replica.world.pools.get(ref.value)
    if pool is None:
        raise faults.not_found(ref)
    cpu: Allocation | None = None
    memory: Allocation | None = None
    if spec is not None:
        cpu, memory = _allocations(spec, pool.cpu, pool.memory)
        cpu = None if cpu == pool.cpu else cpu
        memory = None if memory == pool.memory else memory
    scaled = _scaled(spec) if spec else None
    request = c.UpdatePool(context.who.handle, ref.value, name, cpu, memory, scaled, WHY)
    await context.link.ask(request, Empty)
    if (name or pool.name) != pool.name or cpu or memory:
        pools = context.replica.world.pools
        await context.replica.until(lambda: pools.get(ref.value) is not pool)


async def _update(context: Context) -> Value:
    spec = context.arguments.get("config")
    name = context.arguments.get("name")
    wanted = text(name) if name is not None else None
    await _update_pool(context, context.this, spec if isinstance(spec, Obj) else None, wanted)
    return None


async def _update_children(context: Context) -> Value:
    world = context.replica.world
    for spec in objs(context.arguments.get("spec")):
        ref = spec.get("entity")
        if not isinstance(ref, MoRef) or _above(context, ref) != context.this:
            raise faults.invalid_argument("spec.entity", "The pool has no such child.")
        if ref.type == "ResourcePool":
            await _update_pool(context, ref, spec, None)
            continue
        context.reader.allow(ref, c.ReconfigureResources.privilege)
        config = world.vms[ref.value].config
        cpu = allocation(spec.get("cpuAllocation"), config.cpu_allocation, config.cpus, 1000)
        memory = allocation(
            spec.get("memoryAllocation"), config.memory_allocation, config.memory_mib, 10
        )
        request = c.ReconfigureResources(context.who.handle, ref.value, cpu, memory, WHY)
        await context.link.ask(request, Empty)
    return None


def _above(context: Context, ref: MoRef) -> MoRef | None:
    world = context.replica.world
    if ref.type not in {"VirtualMachine", "ResourcePool"}:
        return None
    above = world.pool_of(ref.type, ref.value)
    return MoRef("ResourcePool", above) if above else None


def _stands_in(context: Context, ref: MoRef) -> bool:
    return _above(context, ref) == context.this


async def _move_into(context: Context) -> Value:
    target = context.this.value
    for ref in refs(context.arguments.get("list")):
        context.reader.require(ref)
        context.reader.allow(context.this, c.AssignVm.privilege)
        request: object
        if ref.type == "VirtualMachine":
            context.reader.allow(ref, c.AssignVm.privilege)
            request = c.AssignVm(context.who.handle, ref.value, target, WHY)
        elif ref.type == "ResourcePool":
            context.reader.allow(ref, c.MovePool.privilege)
            request = c.MovePool(context.who.handle, ref.value, target, WHY)
        else:
            raise unsupported("Only VMs and resource pools stand in pools.")
        await context.link.ask(request, Empty)
        await context.replica.until(partial(_stands_in, context, ref))
    return None


async def _destroy_children(context: Context) -> Value:
    world = context.replica.world
    below = [p.pool for p in world.pools.values() if p.parent == context.this.value]
    for pool in below:
        context.reader.allow(MoRef("ResourcePool", pool), c.RemovePool.privilege)
    # A removed pool gives its own children to its parent: they go as well.
    while below:
        for pool in below:
            await context.link.ask(c.RemovePool(context.who.handle, pool, WHY), Empty)
        gone = frozenset(below)
        await context.replica.until(partial(gone.isdisjoint, world.pools.keys()))
        below = [
            p.pool
            for p in world.pools.values()
            if p.parent == context.this.value and p.pool not in gone
        ]
    return None


_POOL = "ResourcePool"

POOL_METHODS = (
    Served(_POOL, "CreateResourcePool", c.CreatePool.privilege, _create, (c.CreatePool,)),
    Served(
        _POOL,
        "UpdateConfig",
        "System.View",
        _update,
        (c.UpdatePool,),
        rule=c.UpdatePool.privilege,
    ),
    Served(
        _POOL,
        "UpdateChildResourceConfiguration",
        "System.View",
        _update_children,
        (c.UpdatePool, c.ReconfigureResources),
        rule=f"pool: {c.UpdatePool.privilege}; VM: {c.ReconfigureResources.privilege}",
    ),
    Served(
        _POOL,
        "MoveIntoResourcePool",
        "System.View",
        _move_into,
        (c.AssignVm, c.MovePool),
        rule=f"{c.AssignVm.privilege} on both; pool: {c.MovePool.privilege}",
    ),
    Served(
        _POOL,
        "DestroyChildren",
        "System.View",
        _destroy_children,
        (c.RemovePool,),
        rule=f"{c.RemovePool.privilege} on each child",
    ),
)
