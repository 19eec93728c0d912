"""The life of VMs and pools in FakeKernel: facts change, no files exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from casemate.calls import pools as p
from casemate.calls import vms as v
from casemate.calls.messages import Empty, TaskReply
from casemate.hostd.kernelclient import RefusedError
from casemate.machine.facts import (
    Allocation,
    Fact,
    FaultFact,
    PoolFact,
    PowerState,
    SnapshotSpec,
    VmConfig,
    VmFact,
)

_NOTHING = FaultFact("ManagedObjectNotFound", "not-found", "There is no such thing.", "none")
_CHANGED = FaultFact("ConcurrentAccess", "changed", "The VM was changed meanwhile.", "again")


class States(Protocol):
    """What the fake VMs need of the fake kernel."""

    def state(self, *facts: Fact) -> None:
        """State facts."""

    def retract(self, kind: type, key: str) -> None:
        """State that an object is gone."""

    def find(self, kind: type, key: str) -> Fact | None:
        """Return a fact."""

    def run(
        self, session: str, entity: str, kind: str, operation: str, finish: Callable[[], str]
    ) -> TaskReply:
        """Run a task."""

    def fresh(self) -> VmFact:
        """Return a VM with a new id."""


class FakeVms:
    """Answers the requests of ``calls.vms`` and ``calls.pools``."""

    def __init__(self, kernel: States) -> None:
        self._kernel = kernel
        self._pools = 0

    def answers(self) -> dict[type, Callable[[object], object]]:
        """Return the answer to each request."""
        return {
            v.CreateVm: self._create,
            v.ReconfigureVm: self._reconfigure,
            v.DestroyVm: self._destroy,
            v.SuspendVm: self._suspend,
            v.CreateSnapshot: self._snapshot,
            v.RevertToSnapshot: self._revert,
            v.RemoveSnapshot: self._remove_snapshot,
            v.RenameSnapshot: self._rename_snapshot,
            v.ConsolidateDisks: self._consolidate,
            p.CreatePool: self._create_pool,
            p.UpdatePool: self._update_pool,
            p.RemovePool: self._remove_pool,
            p.MovePool: self._move_pool,
            p.AssignVm: self._assign,
            p.ReconfigureResources: self._resources,
        }

    def _vm(self, key: str) -> VmFact:
        fact = self._kernel.find(VmFact, key)
        if not isinstance(fact, VmFact):
            raise RefusedError(_NOTHING)
        return fact

    def _pool(self, key: str) -> PoolFact:
        fact = self._kernel.find(PoolFact, key)
        if not isinstance(fact, PoolFact):
            raise RefusedError(_NOTHING)
        return fact

    def _change(
        self,
        session: str,
        vm: VmFact,
        operation: str,
        change: Callable[[], VmFact],
        result: str = "",
    ) -> TaskReply:
        def finish() -> str:
            self._kernel.state(change())
            return result

        return self._kernel.run(session, vm.vm, "VirtualMachine", operation, finish)

    def _create(self, request: object) -> TaskReply:
        assert isinstance(request, v.CreateVm)
        made = self._kernel.fresh()
        name = request.config.name
        path = f"{request.config.vmx_path.strip()} {name}/{name}.vmx"
        config = replace(request.config, vmx_path=path, uuid=made.config.uuid)

        def finish() -> str:
            pool = request.into or made.pool
            self._kernel.state(replace(made, config=_named(config), pool=pool))
            return made.vm

        return self._kernel.run(request.session, "ha-folder-vm", "Folder", "createVm", finish)

    def _reconfigure(self, request: object) -> TaskReply:
        assert isinstance(request, v.ReconfigureVm)
        vm = self._vm(request.vm)
        if vm.config != request.before:
            raise RefusedError(_CHANGED)
        fresh = replace(vm, config=_named(request.config))
        return self._change(request.session, vm, "reconfigure", lambda: fresh)

    def _destroy(self, request: object) -> TaskReply:
        assert isinstance(request, v.DestroyVm)
        vm = self._vm(request.vm)

        def finish() -> str:
            self._kernel.retract(VmFact, vm.vm)
            return ""

        return self._kernel.run(request.session, vm.vm, "VirtualMachine", "destroy", finish)

    def _suspend(self, request: object) -> TaskReply:
        assert isinstance(request, v.SuspendVm)
        vm = self._vm(request.vm)
        fresh = replace(vm, power=PowerState.SUSPENDED)
        return self._change(request.session, vm, "suspend", lambda: fresh)

    def _snapshot(self, request: object) -> TaskReply:
        assert isinstance(request, v.CreateSnapshot)
        vm = self._vm(request.vm)
        number = 1 + max((one.number for one in vm.snapshots), default=0)
        one = SnapshotSpec(
            number,
            vm.current_snapshot,
            request.name,
            request.description,
            1_700_000_000.0,
            memory=request.memory,
            quiesced=request.quiesce,
        )
        fresh = replace(vm, snapshots=(*vm.snapshots, one), current_snapshot=number)
        return self._change(request.session, vm, "createSnapshot", lambda: fresh, str(number))

    def _revert(self, request: object) -> TaskReply:
        assert isinstance(request, v.RevertToSnapshot)
        vm = self._vm(request.vm)
        fresh = replace(vm, current_snapshot=request.snapshot or vm.current_snapshot)
        return self._change(request.session, vm, "revertToSnapshot", lambda: fresh)

    def _remove_snapshot(self, request: object) -> TaskReply:
        assert isinstance(request, v.RemoveSnapshot)
        vm = self._vm(request.vm)
        kept = tuple(s for s in vm.snapshots if request.snapshot and s.number != request.snapshot)
        current = kept[-1].number if kept else 0
        fresh = replace(vm, snapshots=kept, current_snapshot=current)
        return self._change(request.session, vm, "removeSnapshot", lambda: fresh)

    def _rename_snapshot(self, request: object) -> Empty:
        assert isinstance(request, v.RenameSnapshot)
        vm = self._vm(request.vm)
        renamed = tuple(
            replace(one, name=request.name, description=request.description)
            if one.number == request.snapshot
            else one
            for one in vm.snapshots
        )
        self._kernel.state(replace(vm, snapshots=renamed))
        return Empty()

    def _consolidate(self, request: object) -> TaskReply:
        assert isinstance(request, v.ConsolidateDisks)
        vm = self._vm(request.vm)
        return self._change(request.session, vm, "consolidateDisks", lambda: vm)

    def _create_pool(self, request: object) -> p.PoolReply:
        assert isinstance(request, p.CreatePool)
        self._pool(request.parent)
        self._pools += 1
        key = f"pool{self._pools}"
        self._kernel.state(PoolFact(key, request.name, request.parent, request.cpu, request.memory))
        return p.PoolReply(key)

    def _update_pool(self, request: object) -> Empty:
        assert isinstance(request, p.UpdatePool)
        pool = self._pool(request.pool)
        cpu: Allocation = request.cpu or pool.cpu
        memory: Allocation = request.memory or pool.memory
        self._kernel.state(replace(pool, name=request.name or pool.name, cpu=cpu, memory=memory))
        return Empty()

    def _remove_pool(self, request: object) -> Empty:
        assert isinstance(request, p.RemovePool)
        self._pool(request.pool)
        self._kernel.retract(PoolFact, request.pool)
        return Empty()

    def _move_pool(self, request: object) -> Empty:
        assert isinstance(request, p.MovePool)
        self._kernel.state(replace(self._pool(request.pool), parent=request.parent))
        return Empty()

    def _assign(self, request: object) -> Empty:
        assert isinstance(request, p.AssignVm)
        self._kernel.state(replace(self._vm(request.vm), pool=request.pool))
        return Empty()

    def _resources(self, request: object) -> Empty:
        assert isinstance(request, p.ReconfigureResources)
        vm = self._vm(request.vm)
        config = replace(
            vm.config,
            cpu_allocation=request.cpu or vm.config.cpu_allocation,
            memory_allocation=request.memory or vm.config.memory_allocation,
        )
        self._kernel.state(replace(vm, config=config))
        return Empty()


def _named(config: VmConfig) -> VmConfig:
    """Give names to new disks and addresses to new cards, as the kernel does."""
    disks = tuple(
        disk if disk.file_name else replace(disk, file_name=f"{config.name}_{number}.vmdk")
        for number, disk in enumerate(config.disks)
    )
    nics = tuple(
        nic if nic.mac else replace(nic, mac=f"00:0c:29:00:00:{number:02x}")
        for number, nic in enumerate(config.nics)
    )
    return replace(config, disks=disks, nics=nics)
