"""All cells of a host: power operations, adoption after a restart, and cleaning up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.errors import (
    ArgumentError,
    BusyError,
    CasemateError,
    FormatError,
    HostError,
    NotFoundError,
    PowerStateError,
)
from casemate.kernel.cells import runstate
from casemate.kernel.cells.cell import Cell, CellEvent, CellExit
from casemate.kernel.cells.cgroups import Cgroups, Usage
from casemate.kernel.cells.console import SerialPort
from casemate.kernel.cells.probe import Accelerator
from casemate.kernel.cells.qmp import Qmp
from casemate.kernel.cells.starter import Starter, destroy
from casemate.kernel.sys.spawn import Child
from casemate.machine.facts import PowerState, VmConfig
from casemate.machine.plan import AGENT_SOCKET, cell_memory, cell_uid
from casemate.machine.power import Operation, next_state
from casemate.machine.vmconfig import disk_shares

_UIDS_PER_HOME: Final = 4096
_DIGITS: Final = 9
# QEMU's run state of a guest that sleeps; looks, and seconds between them, until it is awake.
_ASLEEP: Final = "suspended"
_WAKE_LOOKS: Final = 100
_WAKE_PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True)
class CellState:
    """A running cell, as others see it. ``started`` is Unix time."""

    vm: str
    pid: int
    uid: int
    accelerator: str
    domain: str
    started: float


def _everything(_vm: str, _config: VmConfig) -> AbstractContextManager[None]:
    """Admit every VM."""
    return contextlib.nullcontext()


Connect = Callable[[str, VmConfig], AbstractAsyncContextManager[Mapping[int, int]]]


@contextlib.asynccontextmanager
async def _no_network(_vm: str, _config: VmConfig) -> AsyncIterator[Mapping[int, int]]:
    """Connect no card."""
    yield {}


class Cells:
    """The cells of one home. All methods belong to one event loop.

    ``visor_root`` tells, at each start, where the layers are joined.
    ``admission`` is asked before a VM starts: it refuses by raising, and holds what the VM claims
    until it runs. ``volumes`` holds the datastores.
    """

    def __init__(  # noqa: PLR0913  (all that cells are made with)
        self,
        run_dir: Path,
        visor_root: Callable[[], Path],
        cgroups: Cgroups,
        accelerator: Accelerator,
        on_exit: Callable[[CellExit], None],
        *,
        on_event: Callable[[CellEvent], None] = lambda _: None,
        cpu_mhz: int = 1000,
        admission: Callable[[str, VmConfig], AbstractContextManager[None]] = _everything,
        volumes: Path | None = None,
    ) -> None:
        run_dir = run_dir.absolute()
        self._cells_dir = run_dir / "cells"
        self._log_dir = run_dir / "log"
        self._cgroups = cgroups
        self._on_exit = on_exit
        self._admission = admission
        self._volumes = volumes
        self._starter = Starter(
            self._cells_dir,
            self._log_dir,
            visor_root,
            cgroups,
            accelerator,
            on_event=on_event,
            cpu_mhz=cpu_mhz,
            volumes=volumes,
        )
        self._connect: Connect = _no_network
        self._slot = zlib.crc32(os.fsencode(run_dir)) & 0xFFFF
        self._cells: dict[str, Cell] = {}
        self._starting: dict[str, int] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        for place in (run_dir, self._cells_dir, self._log_dir):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)

    def wire(self, connect: Connect) -> None:
        """Ask this, from now on, for open interfaces by number of a VM's network card.

        It takes them back where the VM does not start.
        """
        self._connect = connect

    def running(self) -> tuple[CellState, ...]:
        """Return the running cells."""
        return tuple(_public(cell) for cell in self._cells.values())

    def console_log(self, vm: str) -> Path:
        """Return where the console of a VM is logged."""
        return self._starter.console_log(_checked(vm))

    async def power_on(
        self,
        vm: str,
        config: VmConfig,
        vm_dir: Path,
        *,
        memory: int | None = None,
        run: bool = True,
    ) -> CellState:
        """Start a VM; on failure nothing of it stays.

        Args:
            vm: Its id: up to nine digits.
            config: What it is made of.
            vm_dir: Its directory on the datastore.
            memory: Descriptor of the memory that it was suspended with, if it was.
            run: Whether the guest runs; otherwise it waits while its disks are worked on.

        Raises:
            PowerStateError: It runs already.
            BusyError: It is being started.
            AdmissionError: The host, or its pool, cannot reserve what it claims.
            CasemateError: Whatever planning or starting found; its log says more.
        """
        if vm in self._cells:
            next_state(Operation.POWER_ON, PowerState.POWERED_ON, component=config.name)
        if _checked(vm) in self._starting:
            raise BusyError(f"{config.name} is being powered on", component=config.name)
        self._starting[vm] = uid = self._free_uid(vm)
        try:
            with self._admission(vm, config):
                async with self._connect(vm, config) as taps:
                    cell = await self._starter.start(
                        vm, uid, config, vm_dir, memory=memory, run=run, taps=taps
                    )
        finally:
            del self._starting[vm]
        return self._admit(cell)

    async def power_off(self, vm: str) -> None:
        """Stop a VM; returns when its process is gone and cleaned up after.

        Raises:
            PowerStateError: It does not run.
        """
        cell = self._running(vm, Operation.POWER_OFF)
        watcher = self._watchers[vm]
        await cell.stop()
        await asyncio.shield(watcher)

    async def reset(self, vm: str) -> None:
        """Reset a VM as its reset button would; a panicked one runs again.

        Raises:
            PowerStateError: It does not run.
        """
        qmp = await self._running(vm, Operation.RESET).qmp()
        await qmp.execute("system_reset")
        for _ in range(_WAKE_LOOKS):
            if await qmp.status() != _ASLEEP:
                break
            # A guest that sleeps is woken by the reset, which comes a moment later.
            await asyncio.sleep(_WAKE_PAUSE)
        if await qmp.status() != "running":
            await qmp.execute("cont")

    async def shutdown_guest(self, vm: str) -> None:
        """Press the guest's power button (ACPI); returns once it is pressed.

        Raises:
            PowerStateError: It does not run.
        """
        qmp = await self._running(vm, Operation.SHUTDOWN_GUEST).qmp()
        await qmp.execute("system_powerdown")

    def set_memory(self, vm: str, config: VmConfig) -> None:
        """Let a running cell have as much memory as ``config`` takes. Raises HostError."""
        state = self._running(vm, Operation.RESET).state
        self._cgroups.set_memory(vm, cell_memory(config, state.accelerator) << 20)

    def set_disk_shares(self, vm: str, config: VmConfig) -> None:
        """Let a running cell weigh at the host's disks what ``config`` says. Raises HostError."""
        self._running(vm, Operation.RESET)
        self._cgroups.set_disk_shares(vm, disk_shares(config))

    @property
    def volumes(self) -> Path | None:
        """What holds the datastores."""
        return self._volumes

    def agent_socket(self, vm: str) -> Path:
        """Return where the agent in a running VM's guest is reached."""
        return self._cells_dir / _checked(vm) / AGENT_SOCKET

    async def control(self, vm: str, operation: Operation) -> Qmp:
        """Return the control connection of a running VM, for ``operation``.

        Raises:
            PowerStateError: It does not run.
        """
        return await self._running(vm, operation).qmp()

    def serial_port(self, vm: str, number: int) -> SerialPort:
        """Return a serial port of a running VM.

        Raises:
            PowerStateError: It does not run.
            NotFoundError: It has no such port, or that is connected to nothing.
        """
        port = self._running(vm, Operation.CONSOLE).port(number)
        if port is None:
            raise NotFoundError(f"no serial port {number} is connected", component=vm)
        return port

    async def status(self, vm: str) -> str:
        """Return QEMU's run state of a VM: ``running``, ``paused``, ``guest-panicked``, ..."""
        return await (await self._running(vm, Operation.RESET).qmp()).status()

    def usage(self, vm: str) -> Usage:
        """Return what the cell has used.

        Raises:
            NotFoundError: It does not run.
        """
        if vm not in self._cells:
            raise NotFoundError(f"VM {vm} does not run", component=vm)
        return self._cgroups.usage(vm)

    async def adopt_all(self) -> list[CellState]:
        """Take over the cells that a former kernel started, and clean up after those that ended.

        Each cell that ended meanwhile is reported to ``on_exit`` too.
        """
        adopted = []
        directories = sorted(entry for entry in self._cells_dir.iterdir() if entry.is_dir())
        for directory in directories:
            cell = await self._adopt(directory)
            if cell is not None:
                adopted.append(self._admit(cell))
        known = {directory.name for directory in directories}
        for name in sorted(self._cgroups.names() - known):
            self._cgroups.remove(name)
        return adopted

    async def close(self, *, stop: bool = False) -> None:
        """Let go of all cells, which run on; with ``stop``, end them first."""
        if stop:
            for vm in tuple(self._cells):
                with contextlib.suppress(PowerStateError):
                    await self.power_off(vm)
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        self._watchers.clear()
        for cell in self._cells.values():
            await cell.detach()
        self._cells.clear()
        self._cgroups.close()

    def _running(self, vm: str, operation: Operation) -> Cell:
        """Return a running cell, or raise what the table of power states says."""
        if vm not in self._cells:
            next_state(operation, PowerState.POWERED_OFF, component=vm)
        return self._cells[vm]

    def _free_uid(self, vm: str) -> int:
        """Return a uid that no other cell of this home has."""
        taken = {cell.state.uid for cell in self._cells.values()} | set(self._starting.values())
        for number in range(int(vm), int(vm) + _UIDS_PER_HOME):
            uid = cell_uid(self._slot, str(number))
            if uid not in taken:
                return uid
        raise HostError("all identities for cells are in use", code="cell-uids", component=vm)

    async def _adopt(self, directory: Path) -> Cell | None:
        """Take over one cell, or clean up after it."""
        try:
            state = runstate.load(directory)
        except FormatError:
            state = None
        pidfd = runstate.reopen(state) if state is not None else None
        if state is not None and pidfd is not None:
            try:
                if state.run:
                    return await self._starter.connected(state, pidfd)
            except CasemateError:
                pass
            # A cell that cannot be controlled is stopped rather than left alone; so is one that
            # was there for its disks alone, whose guest must never run.
            destroy(Child(state.pid, pidfd))
        self._clean(directory.name)
        if state is not None:
            self._on_exit(CellExit(state.vm, "killed"))
        return None

    def _admit(self, cell: Cell) -> CellState:
        """Count the cell as running and watch for its end."""
        vm = cell.state.vm
        self._cells[vm] = cell
        self._watchers[vm] = asyncio.create_task(self._watch(cell))
        return _public(cell)

    async def _watch(self, cell: Cell) -> None:
        """Wait for the end of a cell, clean up, and tell."""
        await cell.ended.wait()
        vm = cell.state.vm
        await cell.detach()
        del self._cells[vm]
        del self._watchers[vm]
        self._clean(vm)
        self._on_exit(CellExit(vm, cell.exit_reason))

    def _clean(self, vm: str) -> None:
        """Remove what a cell leaves behind, but its logs."""
        self._cgroups.remove(vm)
        shutil.rmtree(self._cells_dir / vm, ignore_errors=True)


def _checked(vm: str) -> str:
    """Return a VM's id, which names directories and groups, once it is known to be digits."""
    if not (vm.isascii() and vm.isdigit() and len(vm) <= _DIGITS):
        raise ArgumentError(f"{vm[:40]!r} is not the id of a VM", argument="vm")
    return vm


def _public(cell: Cell) -> CellState:
    state = cell.state
    return CellState(state.vm, state.pid, state.uid, state.accelerator, state.domain, state.started)
