"""A host's scheduling without boot, TPM and sockets: real cells, groups and balloons."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from tests.kernel.registering import come

from casemate.kernel.ballooning import Balloons
from casemate.kernel.cells.cgroups import detect
from casemate.kernel.cells.hostmemory import HostMemory
from casemate.kernel.cells.manager import Cells
from casemate.kernel.cells.probe import Accelerator
from casemate.kernel.cells.qmp import Qmp
from casemate.kernel.decisions import Decisions
from casemate.kernel.groups import Groups
from casemate.kernel.inventory import Inventory
from casemate.kernel.metering import Meter
from casemate.kernel.pools import Capacity, Pools
from casemate.kernel.scheduler import Scheduler
from casemate.kernel.statistics import Statistics
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.vmcontext import running
from casemate.machine.facts import PowerState
from casemate.machine.power import Operation

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
CORE_MHZ = 1000
GIB = 1 << 30
# Real mode: jump to itself.
SPIN = b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa"
# Real mode: halt with interrupts off.
HALT = b"\xfa\xf4".ljust(510, b"\0") + b"\x55\xaa"
PLENTY = HostMemory(64 * GIB, 60 * GIB)


class Lab:
    """One core for VMs, and as much memory as ``memory`` says."""

    def __init__(self, place: Path, cpu: int, memory: int = 64 * GIB) -> None:
        self.place = place
        self.cpu = cpu
        self.datastore = place / "volumes" / "datastore1"
        self.datastore.mkdir(parents=True)
        self.stream = FactStream()
        self.cgroups = detect(uuid4().hex[:8])
        self.capacity = Capacity(CORE_MHZ, CORE_MHZ, memory, "tcg")
        self.read_memory: Callable[[], HostMemory] = lambda: PLENTY
        self.names: dict[str, str] = {}

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Lab]:
        store = Store(self.place / "casemate.db")
        self.inventory = Inventory(store, self.stream, self.place / "volumes", UUID)
        self.pools = Pools(store, self.stream, self.inventory, self.capacity)
        self.cells = Cells(
            self.place / "run",
            lambda: Path("/"),
            self.cgroups,
            Accelerator("tcg", "test"),
            lambda _: None,
            cpu_mhz=CORE_MHZ,
            admission=self.pools.starting,
        )

        async def control(vm: str) -> Qmp:
            return await self.cells.control(vm, Operation.RESET)

        self.scheduler = Scheduler(
            self.pools,
            Groups(self.cgroups, 1),
            Meter(self.cgroups),
            Balloons(control),
            Decisions(time.time),
            time.monotonic,
            self._host_memory,
        )
        self.statistics = Statistics(
            self.inventory, self.pools, self.scheduler, control, time.time, time.time()
        )
        loops = asyncio.ensure_future(self.scheduler.run())
        try:
            yield self
        finally:
            loops.cancel()
            with suppress(asyncio.CancelledError):
                await loops
            await self.cells.close(stop=True)
            store.close()

    async def add(self, name: str, sector: bytes = SPIN, **entries: str) -> str:
        """Register a VM; its id. A sector of no bytes leaves the disk out."""
        folder = self.datastore / name
        folder.mkdir()
        lines = {
            "config.version": "8",
            "displayName": name,
            "numvcpus": "1",
            "memSize": "32",
            "uuid.bios": str(uuid4()),
        }
        if sector:
            (folder / "disk.img").write_bytes(sector + bytes(1 << 20))
            lines |= {"ide0:0.present": "TRUE", "ide0:0.fileName": "disk.img"}
        lines |= {key.replace("__", ":").replace("_", "."): v for key, v in entries.items()}
        text = "".join(f'{key} = "{value}"\n' for key, value in lines.items())
        (folder / f"{name}.vmx").write_text(text)
        vm = await come(self.inventory, f"[datastore1] {name}/{name}.vmx")
        self.names[vm] = name
        return vm

    async def start(self, vm: str) -> None:
        """Power a VM on, all its threads on the one core."""
        fact = self.inventory.vm(vm)
        state = await self.cells.power_on(vm, fact.config, self.inventory.directory(fact))
        self.inventory.update(running(fact, state))
        pin(state.pid, self.cpu)

    async def stop(self, vm: str) -> None:
        """Power a VM off."""
        await self.cells.power_off(vm)
        self.inventory.update(replace(self.inventory.vm(vm), power=PowerState.POWERED_OFF))

    def share_files(self, name: str, *files: Path) -> None:
        """Put files beside a VM."""
        for file in files:
            shutil.copy(file, self.datastore / name / file.name)

    async def measure(self, seconds: float) -> dict[str, float]:
        """Return the percent of the core that each running VM used."""
        before, begun = self._used(), time.monotonic()
        await asyncio.sleep(seconds)
        after, took = self._used(), time.monotonic() - begun
        return {
            self.names[vm]: 100 * (after[vm] - before[vm]) / took for vm in after if vm in before
        }

    def entitled(self) -> dict[str, float]:
        """Return the percent of the core that each running VM is entitled to now."""
        division = self.scheduler.view_cpu().division
        return {self.names[vm]: 100 * mhz / CORE_MHZ for vm, mhz in division.vms().items()}

    def _host_memory(self) -> HostMemory:
        return self.read_memory()

    def _used(self) -> dict[str, float]:
        return {state.vm: self.cells.usage(state.vm).cpu_seconds for state in self.cells.running()}


def pin(pid: int, cpu: int) -> None:
    """Keep all threads of a process on one processor."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {cpu})
