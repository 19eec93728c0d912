"""Leases of FakeKernel: VMs in and out disk by disk, their content kept in memory."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from casemate.calls import leases as c
from casemate.calls.files import WriteReply
from casemate.calls.messages import Empty
from casemate.errors import NotFoundError, StateError
from casemate.formats import streamvmdk
from casemate.hostd.kernelclient import RefusedError
from casemate.kernel.server import Transfer
from casemate.kernel.transfers import receive_piece, send_piece
from casemate.machine.facts import Fact, FaultFact, PowerState, TaskFact, TaskState, VmFact
from casemate.testing.fakefacts import BOOT_TIME

SECONDS = 300
LIMIT = 1 << 24
"""Bytes of a disk that the fake takes."""
_PIECE = 1 << 16
_CANCELLED = FaultFact("RequestCanceled", "cancelled", "The lease was aborted.", "none")


class States(Protocol):
    """What the fake leases need of the fake kernel."""

    def state(self, *facts: Fact) -> None:
        """State facts."""

    def retract(self, kind: type, key: str) -> None:
        """State that an object is gone."""

    def find(self, kind: type, key: str) -> Fact | None:
        """Return a fact."""

    def fresh(self) -> VmFact:
        """Return a VM with a new id."""

    def user(self, session: str) -> str:
        """Return whose session it is. Raises RefusedError."""


@dataclass(slots=True)
class _Lease:
    session: str
    importing: bool
    task: TaskFact


class FakeLeases:
    """Answers the requests of ``calls.leases``; ``disks`` holds what came in, by VM and file."""

    def __init__(self, kernel: States) -> None:
        self._kernel = kernel
        self._leases: dict[str, _Lease] = {}
        self.disks: dict[tuple[str, str], bytes] = {}

    def answers(self) -> dict[type, Callable[[object], object]]:
        """Return the answer to each request that is no transfer."""
        return {
            c.OpenImport: self._open_import,
            c.OpenExport: self._open_export,
            c.KeepLease: self._keep,
            c.CloseLease: self._close,
        }

    async def transfer(self, request: object) -> Transfer:
        """Return what carries out a transfer. Raises NotFoundError, StateError."""
        assert isinstance(request, c.ImportDisk | c.ExportDisk)
        lease = self._leases.get(request.vm)
        if lease is None or lease.session != request.session:
            raise NotFoundError("There is no such lease.")
        vm = self._vm(request.vm)
        if request.disk not in {disk.file_name for disk in vm.config.disks}:
            raise NotFoundError("The lease has no such disk.")
        if lease.importing is not isinstance(request, c.ImportDisk):
            raise StateError("The lease goes the other way.")
        place = (request.vm, request.disk)
        return _Importing(self.disks, place) if lease.importing else _Exporting(self.disks, place)

    def _open_import(self, request: object) -> c.LeaseReply:
        assert isinstance(request, c.OpenImport)
        vm = replace(self._kernel.fresh(), config=request.config)
        self._kernel.state(vm)
        return self._lend(vm, request.session, "importVApp", importing=True)

    def _open_export(self, request: object) -> c.LeaseReply:
        assert isinstance(request, c.OpenExport)
        vm = self._vm(request.vm)
        if vm.power is not PowerState.POWERED_OFF:
            details = (("requestedState", "poweredOff"), ("existingState", vm.power.value))
            raise RefusedError(FaultFact("InvalidPowerState", "power-state", "On.", "", details))
        return self._lend(vm, request.session, "exportVm", importing=False)

    def _lend(self, vm: VmFact, session: str, operation: str, *, importing: bool) -> c.LeaseReply:
        if (held := self._leases.get(vm.vm)) is not None:
            details = (("task", f"Task:{held.task.task}"),)
            raise RefusedError(
                FaultFact("TaskInProgress", "fake", "The VM is held already.", "", details)
            )
        key = f"haTask-{vm.vm}-vim.VirtualMachine.{operation}-{secrets.token_hex(4)}"
        task = TaskFact(
            *(key, vm.vm, "VirtualMachine", operation, TaskState.RUNNING, 0, BOOT_TIME),
            self._kernel.user(session),
            started=BOOT_TIME,
        )
        self._kernel.state(task)
        self._leases[vm.vm] = _Lease(session, importing, task)
        disks = tuple(
            c.LeaseDisk(disk.file_name, disk.controller, disk.unit, disk.capacity)
            for disk in vm.config.disks
            if disk.kind == "disk"
        )
        return c.LeaseReply(vm.vm, key, disks, SECONDS)

    def _keep(self, request: object) -> Empty:
        assert isinstance(request, c.KeepLease)
        lease = self._own(request.vm, request.session)
        self._kernel.state(replace(lease.task, progress=request.percent))
        return Empty()

    def _close(self, request: object) -> Empty:
        assert isinstance(request, c.CloseLease)
        lease = self._own(request.vm, request.session)
        del self._leases[request.vm]
        done = replace(lease.task, progress=100, completed=BOOT_TIME + 1)
        if request.complete:
            self._kernel.state(replace(done, state=TaskState.SUCCESS, result=request.vm))
            return Empty()
        if lease.importing:
            self._kernel.retract(VmFact, request.vm)
        self._kernel.state(replace(done, state=TaskState.ERROR, error=_CANCELLED))
        return Empty()

    def _own(self, vm: str, session: str) -> _Lease:
        lease = self._leases.get(vm)
        if lease is None or lease.session != session:
            raise _refused("ManagedObjectNotFound", "There is no such lease.")
        return lease

    def _vm(self, key: str) -> VmFact:
        fact = self._kernel.find(VmFact, key)
        if not isinstance(fact, VmFact):
            raise _refused("ManagedObjectNotFound", "There is no such VM.")
        return fact


class _Importing(Transfer):
    def __init__(self, disks: dict[tuple[str, str], bytes], place: tuple[str, str]) -> None:
        self._disks = disks
        self._place = place

    async def run(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Callable[..., None]
    ) -> None:
        """See ``Transfer.run``."""
        reply(WriteReply(replaces=self._place in self._disks))
        await writer.drain()
        content = bytearray()
        while piece := await receive_piece(reader):
            content += piece
            if len(content) > LIMIT:
                raise StateError(f"The fake takes {LIMIT} bytes.")
        self._disks[self._place] = bytes(content)
        reply(Empty())


class _Exporting(Transfer):
    def __init__(self, disks: dict[tuple[str, str], bytes], place: tuple[str, str]) -> None:
        self._content = disks.get(place) or _blank(place[1])

    async def run(
        self,
        _reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        reply: Callable[..., None],
    ) -> None:
        """See ``Transfer.run``."""
        reply(Empty())
        self.silent = True
        for start in range(0, len(self._content), _PIECE):
            await send_piece(writer, self._content[start : start + _PIECE])
        await send_piece(writer, b"")


def _blank(name: str) -> bytes:
    """Return a disk of 1 MiB with nothing on it."""
    return b"".join(streamvmdk.write(1 << 20, lambda _, size: bytes(size), name=name))


def _refused(fault: str, reason: str) -> RefusedError:
    return RefusedError(FaultFact(fault, "fake", reason, "none"))
