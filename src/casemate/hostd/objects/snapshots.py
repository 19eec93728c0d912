"""Snapshots of VMs: their tree, and each as an object of its own."""

from __future__ import annotations

from casemate.hostd.objects.base import Getters, Scope, moment
from casemate.hostd.world import World
from casemate.machine.facts import PowerState, SnapshotSpec, VmFact
from casemate.vim25.values import MoRef, Obj, Value

_BETWEEN = "-snapshot-"


def snapshot_ref(vm: str, number: int) -> MoRef:
    """Return the reference of a snapshot."""
    return MoRef("VirtualMachineSnapshot", f"{vm}{_BETWEEN}{number}")


def snapshot_vm(ref: MoRef) -> str:
    """Return the VM of a snapshot's reference."""
    return ref.value.partition(_BETWEEN)[0]


def number_of(ref: MoRef) -> int:
    """Return the number in a snapshot's reference; 0: it is none."""
    text = ref.value.partition(_BETWEEN)[2]
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0  # noqa: PLR2004  (fits into 32 bits)


def exists(world: World, ref: MoRef) -> bool:
    """Tell whether the snapshot exists."""
    vm = world.vms.get(snapshot_vm(ref))
    number = number_of(ref)
    return vm is not None and any(
        one.number == number and ref == snapshot_ref(vm.vm, number) for one in vm.snapshots
    )


def _children(vm: VmFact, parent: int) -> list[SnapshotSpec]:
    known = {one.number for one in vm.snapshots}
    return [
        one
        for one in vm.snapshots
        if one.parent == parent or (parent == 0 and one.parent not in known)
    ]


def _trees(vm: VmFact, parent: int) -> tuple[Obj, ...]:
    return tuple(
        Obj(
            "VirtualMachineSnapshotTree",
            snapshot=snapshot_ref(vm.vm, one.number),
            vm=MoRef("VirtualMachine", vm.vm),
            name=one.name,
            description=one.description,
            id=one.number,
            createTime=moment(one.created),
            state=(PowerState.POWERED_ON if one.memory else PowerState.POWERED_OFF).value,
            quiesced=one.quiesced,
            childSnapshotList=_trees(vm, one.number),
            replaySupported=False,
        )
        for one in _children(vm, parent)
    )


def snapshot_info(scope: Scope, key: str) -> Obj | None:
    """Return VirtualMachineSnapshotInfo; None: the VM has no snapshots."""
    vm = scope.world.vms[key]
    if not vm.snapshots:
        return None
    current = vm.current_snapshot
    return Obj(
        "VirtualMachineSnapshotInfo",
        currentSnapshot=snapshot_ref(key, current) if current else None,
        rootSnapshotList=_trees(vm, 0),
    )


def root_snapshots(scope: Scope, key: str) -> Value:
    """Return the snapshots without a parent."""
    vm = scope.world.vms[key]
    return tuple(snapshot_ref(key, one.number) for one in _children(vm, 0))


def children(scope: Scope, key: str) -> Value:
    """Return the snapshots below one."""
    ref = MoRef("VirtualMachineSnapshot", key)
    vm = scope.world.vms[snapshot_vm(ref)]
    return tuple(snapshot_ref(vm.vm, one.number) for one in _children(vm, number_of(ref)))


def owner(_scope: Scope, key: str) -> MoRef:
    """Return the VM of a snapshot."""
    return MoRef("VirtualMachine", snapshot_vm(MoRef("VirtualMachineSnapshot", key)))


TREE_GETTERS: Getters = {"vm": owner, "childSnapshot": children}
