"""VMs come, change and go: configuration, suspend, snapshots."""

from __future__ import annotations

from casemate.calls import pools, vms
from casemate.calls.messages import Empty, TaskReply
from casemate.hostd.objects import vmsettings
from casemate.hostd.objects.snapshots import number_of, snapshot_vm
from casemate.hostd.objects.vm import HARDWARE_VERSION
from casemate.hostd.registry import Context, Handler, Served
from casemate.hostd.selection import text
from casemate.hostd.vmchange import Change, unsupported
from casemate.hostd.vmspec import changed, created
from casemate.hostd.wellknown import ROOT_POOL
from casemate.machine.facts import FaultFact, PowerState, VmFact
from casemate.machine.vmconfig import TEMPLATE, is_template
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Obj, Value

WHY = "vSphere API"


def task(reply: TaskReply) -> MoRef:
    """Return the reference of a task."""
    return MoRef("Task", reply.task)


def _spec(context: Context, name: str) -> Obj:
    spec = context.arguments.get(name)
    if not isinstance(spec, Obj):
        raise faults.invalid_argument(name, "A specification is needed.")
    return spec


def _vm(context: Context) -> VmFact:
    return context.replica.world.vms[context.this.value]


async def _create_in(context: Context, pool: MoRef) -> Value:
    change = created(_spec(context, "config"), context.replica.world.port_groups)
    _allow_elsewhere(context, change)
    request = vms.CreateVm(context.who.handle, change.config, why=WHY, into=pool.value)
    return task(await context.link.ask(request, TaskReply))


def _allow_elsewhere(context: Context, change: Change) -> None:
    """Raise FaultError unless the session may use the files outside of the VM's directory."""
    for name, privilege in sorted(change.elsewhere):
        found = [f for f in context.replica.world.datastores.values() if f.name == name]
        if not found:
            raise FaultError(Obj("InvalidDatastore", name=name), f"There is no datastore {name}.")
        context.reader.allow(MoRef("Datastore", found[0].datastore), privilege)


async def _create(context: Context) -> Value:
    pool = context.arguments.get("pool")
    return await _create_in(context, pool if isinstance(pool, MoRef) else ROOT_POOL)


async def _create_child(context: Context) -> Value:
    return await _create_in(context, context.this)


async def _reconfigure_as(context: Context, change: Change) -> Value:
    # Of a spec that changes nothing the kernel is asked as well.
    for privilege in sorted({*change.privileges, vms.ReconfigureVm.privilege}):
        context.reader.allow(context.this, privilege)
    _allow_elsewhere(context, change)
    request = vms.ReconfigureVm(
        context.who.handle,
        context.this.value,
        _vm(context).config,
        change.config,
        tuple(change.destroy),
        why=WHY,
        unplug=tuple(change.unplug),
    )
    return task(await context.link.ask(request, TaskReply))


async def _reconfigure(context: Context) -> Value:
    spec, networks = _spec(context, "spec"), context.replica.world.port_groups
    return await _reconfigure_as(context, changed(spec, _vm(context).config, networks))


async def _rename(context: Context) -> Value:
    name = text(context.arguments.get("newName"))
    if context.this.type == "ResourcePool":
        context.reader.allow(context.this, pools.UpdatePool.privilege)
        request = pools.UpdatePool(context.who.handle, context.this.value, name, why=WHY)
        await context.link.ask(request, Empty)
        return context.replica.finished(context.this, "rename", context.who.user)
    if context.this.type != "VirtualMachine":
        raise unsupported("Only VMs and resource pools have names to change.")
    spec = Obj("VirtualMachineConfigSpec", name=name)
    return await _reconfigure_as(context, changed(spec, _vm(context).config, ()))


async def _mark(context: Context, value: str) -> Value:
    """Make a VM a template or a VM again, and answer when it is: no task is made of it."""
    fact = _vm(context)
    if is_template(fact.config) == bool(value):
        raise unsupported("It is a template already." if value else "It is no template.")
    if fact.power is not PowerState.POWERED_OFF:
        raise FaultError(
            Obj("InvalidPowerState", requestedState="poweredOff", existingState=fact.power.value),
            "Only a VM that is powered off becomes a template.",
        )
    config = vmsettings.with_entry(fact.config, TEMPLATE, value)
    request = vms.ReconfigureVm(
        context.who.handle, context.this.value, fact.config, config, (), thin=True, why=WHY
    )
    key = (await context.link.ask(request, TaskReply)).task
    tasks = context.replica.world.tasks
    await context.replica.until(lambda: key in tasks and tasks[key].completed is not None)
    error = tasks[key].error if key in tasks else None
    if error is not None:
        raise faults.from_details(error.fault, error.reason, dict(error.details), context.this)
    return None


async def _to_template(context: Context) -> Value:
    return await _mark(context, "TRUE")


async def _to_machine(context: Context) -> Value:
    pool = context.arguments.get("pool")
    if pool != ROOT_POOL and pool != MoRef("ResourcePool", _vm(context).pool):
        raise faults.invalid_argument("pool", "A VM comes back into the pool that it was in.")
    return await _mark(context, "")


async def _destroy(context: Context) -> Value:
    if context.this.type == "ResourcePool":
        context.reader.allow(context.this, pools.RemovePool.privilege)
        if context.this == ROOT_POOL:
            raise unsupported("The root pool is the host itself.")
        request = pools.RemovePool(context.who.handle, context.this.value, WHY)
        await context.link.ask(request, Empty)
        await context.replica.until(lambda: not context.reader.exists(context.this))
        return context.replica.finished(context.this, "destroy", context.who.user)
    if context.this.type != "VirtualMachine":
        raise unsupported("Only VMs and resource pools can be destroyed.")
    context.reader.allow(context.this, vms.DestroyVm.privilege)
    destroy = vms.DestroyVm(context.who.handle, context.this.value, WHY)
    return task(await context.link.ask(destroy, TaskReply))


async def _suspend(context: Context) -> Value:
    request = vms.SuspendVm(context.who.handle, context.this.value, WHY)
    return task(await context.link.ask(request, TaskReply))


async def _snapshot(context: Context) -> Value:
    still = context.arguments.get("quiesceSpec")
    if isinstance(still, Obj) and still.type != "VirtualMachineGuestQuiesceSpec":
        raise unsupported("The agent of a guest takes no further words on how to keep still.")
    vm = _vm(context)
    # As vSphere says: a VM that is off, or whose guest has no agent, is not quiesced.
    able = vm.guest.agent and vm.power is PowerState.POWERED_ON
    quiesce = context.arguments.get("quiesce") is True or isinstance(still, Obj)
    request = vms.CreateSnapshot(
        context.who.handle,
        context.this.value,
        text(context.arguments.get("name")),
        text(context.arguments.get("description")),
        context.arguments.get("memory") is True,
        WHY,
        quiesce=quiesce and able,
    )
    return task(await context.link.ask(request, TaskReply))


def _revert(*, current: bool) -> Handler:
    async def handler(context: Context) -> Value:
        number = 0 if current else number_of(context.this)
        vm = context.this.value if current else snapshot_vm(context.this)
        fact = context.replica.world.vms[vm]
        wanted = number or fact.current_snapshot
        running = any(one.number == wanted and one.memory for one in fact.snapshots)
        if running and context.arguments.get("suppressPowerOn") is True:
            raise unsupported("A snapshot with memory runs again at once.")
        request = vms.RevertToSnapshot(context.who.handle, vm, number, WHY)
        return task(await context.link.ask(request, TaskReply))

    return handler


async def _remove_snapshot(context: Context) -> Value:
    request = vms.RemoveSnapshot(
        context.who.handle,
        snapshot_vm(context.this),
        number_of(context.this),
        context.arguments.get("removeChildren") is True,
        WHY,
    )
    return task(await context.link.ask(request, TaskReply))


async def _remove_all(context: Context) -> Value:
    request = vms.RemoveSnapshot(context.who.handle, context.this.value, 0, children=True, why=WHY)
    return task(await context.link.ask(request, TaskReply))


async def _rename_snapshot(context: Context) -> Value:
    number = number_of(context.this)
    vm = context.replica.world.vms[snapshot_vm(context.this)]
    present = next(one for one in vm.snapshots if one.number == number)
    name = text(context.arguments.get("name")) or present.name
    about = context.arguments.get("description")
    wanted = present.description if about is None else text(about)
    request = vms.RenameSnapshot(context.who.handle, vm.vm, number, name, wanted, WHY)
    await context.link.ask(request, Empty)
    return None


async def _upgrade(context: Context) -> Value:
    config = _vm(context).config
    present = text(vmsettings.value_of(config, "version"))
    wanted = text(context.arguments.get("version")) or HARDWARE_VERSION
    spec = Obj("VirtualMachineConfigSpec", version=wanted)
    newer, _ = vmsettings.taken(spec, config)
    if wanted > present and _vm(context).power is PowerState.POWERED_OFF:
        return await _reconfigure_as(context, Change(newer))
    if wanted > present:
        error = FaultFact(
            "InvalidPowerState",
            "power-state",
            "Virtual hardware is upgraded while the VM is powered off.",
            "Power it off first.",
            (("requestedState", "poweredOff"), ("existingState", _vm(context).power.value)),
        )
    else:
        error = FaultFact(
            "AlreadyUpgraded",
            "already-upgraded",
            f"The virtual hardware is up to date: {present}.",
            "There is nothing to do.",
        )
    return context.replica.finished(context.this, "upgradeVirtualHardware", context.who.user, error)


async def _consolidate(context: Context) -> Value:
    request = vms.ConsolidateDisks(context.who.handle, context.this.value, WHY)
    return task(await context.link.ask(request, TaskReply))


_VM = "VirtualMachine"
_SNAPSHOT = "VirtualMachineSnapshot"
_CREATE = vms.CreateVm.privilege
_TAKE = vms.CreateSnapshot.privilege
_BACK = vms.RevertToSnapshot.privilege
_DROP = vms.RemoveSnapshot.privilege

_SPACE = "Datastore.AllocateSpace on the datastore"
_SETTINGS = f"and {vms.ReconfigureVm.privilege}"

MACHINE_METHODS = (
    Served(
        _VM,
        "MarkAsTemplate",
        "VirtualMachine.Provisioning.MarkAsTemplate",
        _to_template,
        (vms.ReconfigureVm,),
        rule=_SETTINGS,
    ),
    Served(
        _VM,
        "MarkAsVirtualMachine",
        "VirtualMachine.Provisioning.MarkAsVM",
        _to_machine,
        (vms.ReconfigureVm,),
        rule=_SETTINGS,
    ),
    Served(
        "VirtualMachine",
        "UpgradeVM_Task",
        "VirtualMachine.Config.UpgradeVirtualHardware",
        _upgrade,
        (vms.ReconfigureVm,),
        rule=_SETTINGS,
    ),
    Served("Folder", "CreateVM_Task", _CREATE, _create, (vms.CreateVm,), rule=_SPACE),
    Served(
        "ResourcePool", "CreateChildVM_Task", _CREATE, _create_child, (vms.CreateVm,), rule=_SPACE
    ),
    Served(
        _VM,
        "ReconfigVM_Task",
        "System.View",
        _reconfigure,
        (vms.ReconfigureVm,),
        rule="VirtualMachine.Config.Settings, and a VirtualMachine.Config privilege per change; "
        "Datastore.AllocateSpace where a disk is made or grows; on the datastore of a file outside "
        "of its directory: Datastore.Browse, and for a disk Datastore.FileManagement",
    ),
    Served(
        "ManagedEntity",
        "Rename_Task",
        "System.View",
        _rename,
        (vms.ReconfigureVm, pools.UpdatePool),
        rule="VM: VirtualMachine.Config.Rename, VirtualMachine.Config.Settings; "
        "pool: Resource.EditPool",
    ),
    Served(
        "ManagedEntity",
        "Destroy_Task",
        "System.View",
        _destroy,
        (vms.DestroyVm, pools.RemovePool),
        rule="VM: VirtualMachine.Inventory.Delete; pool: Resource.DeletePool",
    ),
    Served(_VM, "SuspendVM_Task", vms.SuspendVm.privilege, _suspend, (vms.SuspendVm,)),
    Served(_VM, "CreateSnapshot_Task", _TAKE, _snapshot, (vms.CreateSnapshot,)),
    Served(_VM, "CreateSnapshotEx_Task", _TAKE, _snapshot, (vms.CreateSnapshot,)),
    Served(
        _VM,
        "RevertToCurrentSnapshot_Task",
        _BACK,
        _revert(current=True),
        (vms.RevertToSnapshot,),
    ),
    Served(_VM, "RemoveAllSnapshots_Task", _DROP, _remove_all, (vms.RemoveSnapshot,)),
    Served(_VM, "ConsolidateVMDisks_Task", _DROP, _consolidate, (vms.ConsolidateDisks,)),
    Served(
        _SNAPSHOT, "RevertToSnapshot_Task", _BACK, _revert(current=False), (vms.RevertToSnapshot,)
    ),
    Served(_SNAPSHOT, "RemoveSnapshot_Task", _DROP, _remove_snapshot, (vms.RemoveSnapshot,)),
    Served(
        _SNAPSHOT,
        "RenameSnapshot",
        vms.RenameSnapshot.privilege,
        _rename_snapshot,
        (vms.RenameSnapshot,),
    ),
)
