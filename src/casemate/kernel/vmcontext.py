"""What all operations on VMs share: finding the VM, its directory, its files, and its task."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from casemate.calls.messages import TaskReply
from casemate.formats import vmx
from casemate.formats.datastorepath import beside, full
from casemate.kernel.accounts import Session
from casemate.kernel.cells import blocks
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.cells.manager import Cells, CellState
from casemate.kernel.inventory import VMX_LIMIT, Inventory
from casemate.kernel.store import Store
from casemate.kernel.tasks import Job, Tasks
from casemate.machine.facts import NicSpec, PowerState, VmConfig, VmFact
from casemate.machine.hotnotes import card_numbers
from casemate.machine.plancards import netdev
from casemate.machine.power import Operation, next_state
from casemate.machine.vmconfig import INSTANCE_UUID, saved_memory, saved_scratch, with_saved_memory
from casemate.machine.vmxwrite import generated_mac, vmx_of

SUSPENDED: Final = ".vmss"
"""Suffix of the memory of a suspended VM."""


class Network(Protocol):
    """What the cards of running VMs are connected to."""

    def live(self, config: VmConfig) -> tuple[bool, ...]:
        """Tell which cards are connected when the VM runs."""

    async def changed(self, vm: str, config: VmConfig) -> None:
        """Connect the cards of a running VM as its configuration says. Raises HostError."""

    def more(
        self, _vm: str, _config: VmConfig, /
    ) -> AbstractAsyncContextManager[Mapping[int, int]]:
        """Give open interfaces of the cards that come to a running VM, by number."""


class NoNetwork:
    """A host without networks."""

    def live(self, config: VmConfig) -> tuple[bool, ...]:
        """See ``Network``."""
        return tuple(False for _ in config.nics)

    async def changed(self, vm: str, config: VmConfig) -> None:
        """See ``Network``."""

    @contextlib.asynccontextmanager
    async def more(self, _vm: str, _config: VmConfig) -> AsyncIterator[Mapping[int, int]]:
        """See ``Network``."""
        yield {}


@dataclass(frozen=True, slots=True)
class VmContext:
    """The rooms of the kernel that operations on VMs need. ``clock`` gives Unix seconds.

    ``admit`` refuses, by raising, a configuration whose resources the host cannot give.
    """

    inventory: Inventory
    cells: Cells
    tasks: Tasks
    store: Store
    clock: Callable[[], float]
    admit: Callable[[VmFact, VmConfig], None]
    network: Network = field(default_factory=NoNetwork)

    def demand(self, vm: str, operation: Operation) -> VmFact:
        """Return a VM on which ``operation`` is possible now.

        Raises:
            NotFoundError, PowerStateError: It is not.
        """
        fact = self.inventory.vm(vm)
        next_state(operation, fact.power, component=fact.config.name)
        return fact

    def start(
        self,
        fact: VmFact,
        operation: str,
        session: Session,
        work: Callable[[VmFact], Awaitable[str]],
    ) -> TaskReply:
        """Start a task on a VM; ``work`` gets the VM as it is when the task has it for itself."""

        async def body(_: Job) -> str:
            return await work(self.inventory.vm(fact.vm))

        task = self.tasks.start(fact.vm, "VirtualMachine", operation, session.user, body)
        return TaskReply(task)

    def start_long(
        self,
        fact: VmFact,
        operation: str,
        session: Session,
        work: Callable[[VmFact, Job], Awaitable[str]],
        *,
        cancellable: bool = True,
    ) -> TaskReply:
        """Start a task that tells its progress, and may be cancelled; else as ``start``."""

        async def body(job: Job) -> str:
            return await work(self.inventory.vm(fact.vm), job)

        task = self.tasks.start(
            *(fact.vm, "VirtualMachine", operation, session.user, body),
            cancellable=cancellable,
        )
        return TaskReply(task)

    def open(self, fact: VmFact) -> VmDirectory:
        """Open a VM's directory; to be closed by ``with``."""
        return VmDirectory(self.inventory.directory(fact), volumes=self.inventory.volumes)

    def neighbours(self, fact: VmFact) -> tuple[VmFact, ...]:
        """Return the other VMs that have files in the folders where a VM has some.

        One whose files could not be read may have some anywhere.
        """
        place, places = self.inventory.directory(fact), folders(fact)
        return tuple(
            other
            for other in self.inventory.vms()
            if other.vm != fact.vm
            and (
                other.unread or self.inventory.directory(other) == place or places & folders(other)
            )
        )

    def read_vmx(self, directory: VmDirectory, fact: VmFact) -> vmx.Vmx:
        """Return a VM's file as it is."""
        return vmx.parse(directory.read(file_name(fact.config), VMX_LIMIT))

    def rewrite(self, directory: VmDirectory, fact: VmFact, config: VmConfig) -> VmFact:
        """Write a VM's file anew, publish the VM and return it.

        Raises:
            CasemateError: ``config`` cannot be, or the file not be written; nothing changed then.
        """
        made = vmx_of(config, self.read_vmx(directory, fact))
        directory.write(file_name(config), vmx.write(made))
        return self.inventory.reread(fact.vm)

    async def plug(self, vm: str, config: VmConfig, before: VmConfig | None = None) -> None:
        """Connect a running VM's cards, and show its guest which cables are in.

        Args:
            vm: Its id.
            config: What it is made of from now on.
            before: What it was made of; None: it was just started.

        Raises:
            CasemateError: The host, or QEMU, refuses.
        """
        if before is not None:
            await self.network.changed(vm, config)
        else:
            await self.throttle(vm, config)
        links = self.network.live(config)
        known = self.network.live(before) if before else (True,) * len(links)
        for card, link, was in zip(card_numbers(config), links, known, strict=False):
            if link != was:
                qmp = await self.cells.control(vm, Operation.RESET)
                await qmp.execute("set_link", name=netdev(card), up=link)

    async def show_links(self, vm: str) -> None:
        """Show the guest of a running VM which cables are in. Raises CasemateError."""
        config = self.inventory.vm(vm).config
        for card, link in zip(card_numbers(config), self.network.live(config), strict=True):
            qmp = await self.cells.control(vm, Operation.RESET)
            await qmp.execute("set_link", name=netdev(card), up=link)

    async def throttle(self, vm: str, config: VmConfig, before: VmConfig | None = None) -> None:
        """Let a running VM's disks take what they may, where it differs from ``before``.

        Raises:
            CasemateError: QEMU refuses.
        """
        slots = before.disks if before else ()
        known = {(disk.controller, disk.unit): (disk.iops, disk.bps) for disk in slots}
        for disk in config.disks:
            limits = known.get((disk.controller, disk.unit), (-1, -1))
            if disk.kind == "disk" and (disk.iops, disk.bps) != limits:
                await blocks.throttle(await self.cells.control(vm, Operation.RESET), disk)

    def adopt(self, state: CellState) -> None:
        """Take down that a VM has run on since a former kernel.

        Raises:
            NotFoundError: There is no such VM.
            CasemateError: Its file still names memory that it has woken up from, and stays so.
        """
        fact = running(self.inventory.vm(state.vm), state)
        self.inventory.update(fact)
        if saved_memory(fact.config):
            with self.open(fact) as directory:
                self.forget_memory(directory, fact)

    def forget_memory(self, directory: VmDirectory, fact: VmFact) -> VmFact:
        """Take a VM's saved memory from its file, and remove what only a suspended VM has."""
        saved, written = saved_memory(fact.config), saved_scratch(fact.config)
        fact = self.rewrite(directory, fact, with_saved_memory(fact.config, ""))
        for name in written.values():
            directory.remove(name)
        if saved.endswith(SUSPENDED):
            directory.remove(saved)
        return fact

    def now_running(self, fact: VmFact, state: CellState) -> None:
        """Take down that a VM runs."""
        self.store.set_running(int(fact.vm), running=True)
        self.inventory.update(running(self.inventory.vm(fact.vm), state))


def roomy(
    directory: VmDirectory, name: str, report: Callable[[int, int], None]
) -> Callable[[int, int], None]:
    """Return what reports how far a file is, and raises SpaceError before its datastore is full."""

    def told(done: int, total: int) -> None:
        directory.demand_space(0, name)
        report(done, total)

    return told


def folders(fact: VmFact) -> frozenset[str]:
    """Return the folders of a VM's files, each as its files' full names begin."""
    path = fact.config.vmx_path
    names = {disk.file_name for disk in fact.config.disks if disk.kind == "disk"}
    names |= {name for one in fact.snapshots for _, name in one.disks}
    return frozenset(beside(full(name, path), "") for name in {file_name(fact.config), *names})


def running(fact: VmFact, state: CellState) -> VmFact:
    """Return a VM as it is while its cell runs."""
    return replace(
        fact,
        power=PowerState.POWERED_ON,
        pid=state.pid,
        uid=state.uid,
        domain=state.domain,
        accelerator=state.accelerator,
        boot_time=state.started,
    )


def file_name(config: VmConfig) -> str:
    """Return the plain name of a VM's .vmx file."""
    return config.vmx_path.rpartition("/")[2].rpartition("] ")[2]


def stem(config: VmConfig) -> str:
    """Return the beginning of the names of a VM's files."""
    return file_name(config).removesuffix(".vmx")


def with_addresses(config: VmConfig, before: VmConfig) -> tuple[NicSpec, ...]:
    """Give every network card an address that none of the VM's has."""
    taken = {nic.mac for nic in (*config.nics, *before.nics)}
    made = []
    number = 0
    for nic in config.nics:
        mac = nic.mac
        while not mac:
            candidate = generated_mac(config.uuid or before.uuid or new_uuid(), number)
            number += 1
            mac = "" if candidate in taken else candidate
        taken.add(mac)
        made.append(replace(nic, mac=mac, manual=nic.manual and bool(nic.mac)))
    return tuple(made)


def instance_entry() -> tuple[str, str]:
    """Return a vmx entry with a random instance UUID, written as VMware does."""
    octets = bytes.fromhex("52" + uuid.uuid4().hex[2:]).hex(" ")
    return INSTANCE_UUID, f"{octets[:23]}-{octets[24:]}"


def new_uuid() -> str:
    """Return a random UUID that begins as VMware's do (``VM`` in ASCII, shifted)."""
    return "564d" + str(uuid.uuid4())[4:]
