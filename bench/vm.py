"""What the life of a VM costs, beside plain QEMU with the same machine, and libvirt if installed.

One run, the same machine: from the request to the guest's CPU running, suspend and resume,
snapshots of a running VM, and the memory of the managing process with 1 and with 50 VMs.

    sudo .venv/bin/python bench/vm.py [rounds]
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from cell_launch import plain
from libvirtd import Libvirt, domain, libvirtd

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.cells.cell import CellExit
from casemate.kernel.cells.cgroups import detect
from casemate.kernel.cells.manager import Cells
from casemate.kernel.cells.probe import Accelerator
from casemate.kernel.guests import Guests
from casemate.kernel.inventory import Inventory
from casemate.kernel.snapshots import Snapshots
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import Tasks
from casemate.kernel.vmcontext import VmContext
from casemate.kernel.vmpower import VmPower
from casemate.kernel.vms import Vms
from casemate.machine.facts import DiskSpec, TaskFact, TaskState, VmConfig
from casemate.machine.vmconfig import resting_state

MANY = 50
UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


class Host:
    """The kernel's rooms for VMs, without boot and sockets."""

    def __init__(self, place: Path) -> None:
        (place / "volumes" / "datastore1").mkdir(parents=True)
        self.stream = FactStream()
        store = Store(place / "casemate.db")
        self.inventory = Inventory(store, self.stream, place / "volumes", UUID)
        self.inventory.publish_all(1000, 1000)
        self.cells = Cells(
            place / "run",
            lambda: Path("/"),
            detect("benchvm"),
            Accelerator("tcg", ""),
            self.exited,
        )
        tasks = Tasks(self.stream, time.time)
        context = VmContext(self.inventory, self.cells, tasks, store, time.time, lambda *_: None)
        power = VmPower(context)
        self.handlers = {
            **power.handlers(),
            **Vms(context, lambda *_: None).handlers(),
            **Snapshots(context, power, Guests(context), lambda *_: None).handlers(),
        }

    def exited(self, info: CellExit) -> None:
        """Take note that a VM is off or suspended."""
        fact = self.inventory.vm(info.vm)
        self.inventory.update(replace(fact, power=resting_state(fact.config), pid=None))

    async def ask(self, request: object) -> str:
        """Send a request and follow the event stream until its task has ended."""
        subscription = self.stream.subscribe()
        reply = await self.handlers[type(request)](request, LOCAL_ROOT)
        try:
            while True:
                told = await subscription.queue.get()
                fact = told.fact if told else None
                if isinstance(fact, TaskFact) and fact.task == reply.task:
                    if fact.state is TaskState.ERROR:
                        raise SystemExit(str(fact.error))
                    if fact.state is TaskState.SUCCESS:
                        return fact.result
        finally:
            self.stream.unsubscribe(subscription)


def config(name: str) -> VmConfig:
    disk = DiskSpec("", "disk", "vmdk", 1 << 30, "sata0", 0)
    return VmConfig(name, "", "[datastore1]", "other", 1, 64, "bios", disks=(disk,))


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    begin = time.perf_counter()
    await work()
    return time.perf_counter() - begin


def own_memory() -> float:
    """Return the proportional set size of this process in MiB."""
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    (pss,) = [line for line in lines if line.startswith("Pss:")]
    return int(pss.split()[1]) / 1024


def say(what: str, times: list[float]) -> None:
    ordered = sorted(times)
    print(
        f"{what:34} ms: min {ordered[0] * 1e3:6.0f}  median "
        f"{statistics.median(ordered) * 1e3:6.0f}  max {ordered[-1] * 1e3:6.0f}"
    )


async def rounds_of(host: Host, other: Libvirt | None, place: Path, rounds: int) -> None:
    vm = await host.ask(c.CreateVm("", config("bench")))
    times: dict[str, list[float]] = {}

    async def step(what: str, request: object) -> None:
        times.setdefault(what, []).append(await timed(lambda: host.ask(request)))

    for _ in range(rounds):
        times.setdefault("plain QEMU: start to running", []).append(plain(place))
        if other is not None:
            elapsed = other.create(place, "bench", domain("bench", 64))
            times.setdefault("libvirt: virsh create", []).append(elapsed)
            other.say("destroy", "bench")
            times.setdefault("of which virsh itself", []).append(other.client())
        await step("PowerOn: request to running", m.PowerOn("", vm))
        await step("SuspendVm (64 MiB)", c.SuspendVm("", vm))
        await step("PowerOn of a suspended VM", m.PowerOn("", vm))
        await step("CreateSnapshot, running", c.CreateSnapshot("", vm, "s"))
        await step("RemoveSnapshot, running", c.RemoveSnapshot("", vm, 0))
        await step("CreateSnapshot with memory", c.CreateSnapshot("", vm, "m", memory=True))
        await step("RevertToSnapshot with memory", c.RevertToSnapshot("", vm))
        await host.ask(m.PowerOff("", vm))
        await step("RemoveSnapshot, off", c.RemoveSnapshot("", vm, 0))
    for what, values in times.items():
        say(what, values)
    medians = {what: statistics.median(values) * 1e3 for what, values in times.items()}
    extra = medians["PowerOn: request to running"] - medians["plain QEMU: start to running"]
    print(f"a power-on costs {extra:.0f} ms more than QEMU alone (goal: at most 50)")
    await host.ask(c.DestroyVm("", vm))


def memory_of_libvirt(other: Libvirt, place: Path) -> None:
    empty = other.memory()
    for number in range(MANY):
        other.create(place, f"vm{number}", domain(f"vm{number}", 64))
        if not number:
            one = other.memory()
    many = other.memory()
    print(f"libvirtd: {empty:.0f} MiB without VMs, {one:.0f} with 1, {many:.0f} with {MANY}")


async def memory_of(host: Host) -> None:
    empty = own_memory()
    vms = [await host.ask(c.CreateVm("", config(f"vm{number}"))) for number in range(MANY)]
    await host.ask(m.PowerOn("", vms[0]))
    one = own_memory()
    begin = time.perf_counter()
    await asyncio.gather(*(host.ask(m.PowerOn("", vm)) for vm in vms[1:]))
    elapsed = time.perf_counter() - begin
    many = own_memory()
    print(f"{MANY - 1} VMs powered on at once: {elapsed:.2f} s")
    print(
        f"managing process: {empty:.0f} MiB without VMs, {one:.0f} with 1, {many:.0f} with {MANY}"
    )


async def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name, libvirtd() as other:
        host = Host(Path(name))
        try:
            await rounds_of(host, other, Path(name), rounds)
            await memory_of(host)
        finally:
            await host.cells.close(stop=True)
        if other is not None:
            memory_of_libvirt(other, Path(name))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
