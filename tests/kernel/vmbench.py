"""A kernel's rooms for VMs on this machine's own root, driven by requests as the socket would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from casemate.calls import vms as c
from casemate.calls.messages import Empty, TaskReply
from casemate.errors import CasemateError
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.cells.cell import CellExit
from casemate.kernel.cells.cgroups import detect
from casemate.kernel.cells.manager import Cells, CellState
from casemate.kernel.cells.probe import Accelerator
from casemate.kernel.datastores import Datastores
from casemate.kernel.foreigndisks import ForeignDisks
from casemate.kernel.guests import Guests
from casemate.kernel.inventory import Inventory
from casemate.kernel.leasing import Leasing
from casemate.kernel.natting import Natting
from casemate.kernel.ova import Ova
from casemate.kernel.snapshots import Snapshots
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.switching import Switching
from casemate.kernel.tasks import Tasks
from casemate.kernel.virtualdisks import VirtualDisks
from casemate.kernel.vmcontext import Network, VmContext
from casemate.kernel.vmpower import VmPower
from casemate.kernel.vms import Vms
from casemate.kernel.wires import Wires
from casemate.machine.facts import DiskSpec, FaultFact, TaskFact, TaskState, VmConfig, VmFact
from casemate.machine.vmconfig import resting_state
from casemate.testing.fakefiles import NoPlugins

from .registering import allowed

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
MIB = 1 << 20
# Real mode: print "ok" on the first serial port, then halt with interrupts on, again and again.
BOOT_CODE = bytes.fromhex("ba f8 03 b0 6f ee b0 6b ee b0 0a ee fb f4 eb fc")
# Real mode: add one to the first byte of the disk's second sector, print it as a digit, halt.
COUNTING_CODE = bytes.fromhex(
    "31c0 8ec0 8ed8 bb0080 b80102 b90200 30f6 cd13 fe060080 b80103 bb0080 b90200 30f6 cd13"
    "a00080 0430 baf803 ee b00a ee fb f4 ebfc"
)
COUNTING_SECTOR = COUNTING_CODE.ljust(510, b"\0") + b"\x55\xaa"
BOOT_SECTOR = BOOT_CODE.ljust(510, b"\0") + b"\x55\xaa"


class RefusedTaskError(Exception):
    """A task ended in a fault."""

    def __init__(self, fact: TaskFact) -> None:
        assert fact.error is not None
        super().__init__(f"{fact.error.code}: {fact.error.reason}")
        self.fault = fact.error


class Host:
    """A host of VMs without boot, TPM and sockets."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.volumes = place / "volumes"
        self.datastore = self.volumes / "datastore1"
        self.datastore.mkdir(parents=True)
        self.stream = FactStream()
        self.home_id = uuid4().hex[:8]
        self.on_exit: Callable[[str], None] = lambda _: None
        self.cgroups = detect(self.home_id)

    @asynccontextmanager
    async def up(self, *, keep: bool = False) -> AsyncIterator[Host]:
        """Live as a kernel does; with ``keep`` the VMs run on at its end."""
        self.stream = FactStream()
        self.store = Store(self.place / "casemate.db")
        self.inventory = Inventory(self.store, self.stream, self.volumes, UUID)
        self.inventory.publish_all(1000, 1000)
        self.cells = Cells(
            self.place / "run",
            lambda: Path("/"),
            self.cgroups,
            Accelerator("tcg", "test"),
            self._exited,
            volumes=self.volumes,
        )
        self.tasks = Tasks(self.stream, time.time)
        self.handle(
            VmContext(self.inventory, self.cells, self.tasks, self.store, time.time, allowed)
        )
        try:
            yield self
        finally:
            await self.tasks.drain()
            await self.cells.close(stop=not keep)
            self.store.close()

    def rewire(self, network: Network) -> None:
        """Have the cards of running VMs connected by this from now on."""
        self.handle(replace(self.context, network=network))

    def switching(self, wires: Wires) -> Switching:
        """Return the switches of this host, on real wires."""
        natting = Natting(self.store, Leasing(wires.open_listener), "00000000", tuple)
        made = Switching(self.store, self.stream, self.inventory, wires, frozenset, natting)
        self.cells.wire(made.connect)
        self.on_exit = made.ended
        self.rewire(made)
        return made

    def handle(self, context: VmContext) -> None:
        """Answer requests out of these rooms."""
        self.context = context
        self.power = VmPower(context)
        self.vms = vms = Vms(context, lambda *_: None)
        datastores = Datastores(self.inventory, self.tasks, lambda *_: None)
        self.guests = Guests(context)
        self.handlers: dict[type, Any] = {
            **self.guests.handlers(),
            **self.power.handlers(),
            **vms.handlers(),
            **Ova(context, vms, lambda *_: None).handlers(),
            **Snapshots(context, self.power, self.guests, lambda *_: None).handlers(),
            **datastores.handlers(),
            **VirtualDisks(datastores, ForeignDisks(NoPlugins())).handlers(),
        }

    async def ask(self, request: Any) -> str:
        """Send a request and wait for its task; returns the task's result."""
        reply = await self.handlers[type(request)](request, LOCAL_ROOT)
        if isinstance(reply, Empty):
            return ""
        assert isinstance(reply, TaskReply)
        return await self.ended(reply.task)

    async def cancelled(self, request: Any) -> FaultFact:
        """Send a request, cancel its task at once and return the fault that it ends in."""
        reply = await self.handlers[type(request)](request, LOCAL_ROOT)
        self.tasks.cancel(reply.task)
        assert self.tasks.find(reply.task).cancelled
        with pytest.raises(RefusedTaskError) as raised:
            await self.ended(reply.task)
        return raised.value.fault

    async def ended(self, task: str) -> str:
        """Wait for a task and return its result."""
        while True:
            (fact,) = [
                fact
                for fact in self.stream.facts()
                if isinstance(fact, TaskFact) and fact.task == task
            ]
            if fact.state is TaskState.SUCCESS:
                return fact.result
            if fact.state is TaskState.ERROR:
                raise RefusedTaskError(fact)
            await asyncio.sleep(0.01)

    def adopted(self, state: CellState) -> None:
        """Take note of a VM that a former kernel started."""
        self.context.adopt(state)

    def vm(self, vm: str) -> VmFact:
        return self.inventory.vm(vm)

    def files(self, name: str) -> list[str]:
        place = self.datastore / name
        return sorted(entry.name for entry in place.iterdir()) if place.exists() else []

    def console(self, vm: str) -> bytes:
        log = self.cells.console_log(vm)
        return log.read_bytes() if log.exists() else b""

    def left_behind(self) -> list[str]:
        cells = self.place / "run" / "cells"
        found = [str(path) for path in cells.iterdir()] if cells.exists() else []
        found += sorted(self.cgroups.names())
        mounts = Path("/proc/self/mountinfo").read_text()
        return found + [line for line in mounts.splitlines() if str(self.place) in line]

    def _exited(self, info: CellExit) -> None:
        self.on_exit(info.vm)
        try:
            fact = self.inventory.vm(info.vm)
        except CasemateError:
            return
        self.inventory.update(
            VmFact(
                vm=fact.vm,
                config=fact.config,
                power=resting_state(fact.config),
                pool=fact.pool,
                datastore=fact.datastore,
                snapshots=fact.snapshots,
                current_snapshot=fact.current_snapshot,
            )
        )


async def printed(host: Host, vm: str, text: bytes = b"ok\n") -> None:
    """Wait until the guest has printed ``text``."""
    for _ in range(3000):
        if text in host.console(vm):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{host.console(vm)!r} does not hold {text!r}")


async def make(host: Host, name: str = "one", code: bytes = BOOT_SECTOR, **changes: Any) -> str:
    """Make a VM whose first disk boots ``code``."""
    vm = await host.ask(c.CreateVm("", config(name, **changes)))
    fact = host.vm(vm)
    if fact.config.disks:
        stem = fact.config.disks[0].file_name.removesuffix(".vmdk")
        with (host.inventory.directory(fact) / f"{stem}-flat.vmdk").open("r+b") as stream:
            stream.write(code)
    return vm


def disk(capacity: int = 8 * MIB, controller: str = "ide0", unit: int = 0, **more: Any) -> DiskSpec:
    fields = {"file_name": "", "kind": "disk", "format": "vmdk", **more}
    return DiskSpec(capacity=capacity, controller=controller, unit=unit, **fields)


def config(name: str = "one", **changes: Any) -> VmConfig:
    fields: dict[str, Any] = {
        "name": name,
        "uuid": "",
        "vmx_path": "[datastore1]",
        "guest_id": "otherguest",
        "cpus": 1,
        "memory_mib": 16,
        "firmware": "bios",
        "disks": (disk(),),
    }
    return VmConfig(**{**fields, **changes})
