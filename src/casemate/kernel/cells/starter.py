"""Starting one cell: what it gets, its process, and its QEMU; each step with its undo."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.kernel.cells import channels, disks, jail, runstate
from casemate.kernel.cells.cell import Cell, CellEvent
from casemate.kernel.cells.cgroups import Cgroups
from casemate.kernel.cells.console import last_line
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.cells.probe import Accelerator
from casemate.kernel.sys.spawn import Child, kill, wait_gone
from casemate.machine import serialports
from casemate.machine.cellplan import CellPlan
from casemate.machine.facts import VmConfig
from casemate.machine.plan import HostSide, plan_power_on
from casemate.machine.planvtpm import plan_vtpm

# Seconds for a killed process to be gone.
_KILL_TIMEOUT: Final = 10.0


class Starter:
    """Starts the cells of one home, and reaches those that run. See ``cells.manager.Cells``."""

    def __init__(
        self,
        cells_dir: Path,
        log_dir: Path,
        visor_root: Callable[[], Path],
        cgroups: Cgroups,
        accelerator: Accelerator,
        *,
        on_event: Callable[[CellEvent], None],
        cpu_mhz: int,
        volumes: Path | None,
    ) -> None:
        self._cells_dir = cells_dir
        self._log_dir = log_dir
        self._visor_root = visor_root
        self._cgroups = cgroups
        self._accelerator = accelerator
        self._on_event = on_event
        self._cpu_mhz = cpu_mhz
        self._volumes = volumes

    def console_log(self, vm: str) -> Path:
        """Return where the console of a VM is logged."""
        return self._log_dir / f"vm-{vm}-console.log"

    async def start(
        self,
        vm: str,
        uid: int,
        config: VmConfig,
        vm_dir: Path,
        *,
        memory: int | None,
        run: bool,
        taps: Mapping[int, int],
    ) -> Cell:
        """Carry out the power-on, each step with its undo."""
        directory = self._cells_dir / vm
        with contextlib.ExitStack() as undo:
            place = undo.enter_context(VmDirectory(vm_dir, volumes=self._volumes))
            sources = disks.resolve(place, config.disks)
            host = HostSide(
                self._accelerator.name,
                self._cpu_mhz,
                uid,
                resume=memory is not None,
                cards=frozenset(taps),
            )
            plan = plan_power_on(vm, config, sources, host)
            shutil.rmtree(directory, ignore_errors=True)
            (directory / "root").mkdir(mode=0o700, parents=True)
            with contextlib.ExitStack() as failed:
                failed.callback(shutil.rmtree, directory, ignore_errors=True)
                self._cgroups.create(vm, plan.cgroup)
                failed.callback(self._cgroups.remove, vm)
                child = self._launch(plan, config, directory, vm_dir, taps)
                failed.callback(destroy, child)
                state = runstate.RunState(
                    vm=vm,
                    pid=child.pid,
                    start_time=runstate.start_time(child.pid) or 0,
                    boot_id=runstate.boot_id(),
                    uid=uid,
                    accelerator=plan.accelerator,
                    domain=plan.domain,
                    started=time.time(),
                    directory=str(vm_dir),
                    serials=tuple(serialports.files(config)),
                    run=run,
                )
                runstate.save(directory, state)
                cell = await self.connected(state, child.pidfd, memory=memory, run=run)
                failed.pop_all()
        return cell

    def _launch(
        self,
        plan: CellPlan,
        config: VmConfig,
        directory: Path,
        vm_dir: Path,
        taps: Mapping[int, int],
    ) -> Child:
        """Open what the cell gets, start it, and close our ends."""
        with contextlib.ExitStack() as opened:
            sockets = {}
            for listener in plan.listeners:
                channel = channels.listen(directory / listener.name)
                opened.enter_context(channel)
                sockets[listener.name] = channel.fileno()
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            log = os.open(self._log_of(plan.vm), flags, 0o600)
            opened.callback(os.close, log)
            around = jail.Surroundings(
                visor_root=self._visor_root(),
                stage=directory / "root",
                vm_dir=vm_dir.absolute(),
                sockets=sockets,
                log=log,
                cgroup_directories=self._cgroups.directories(plan.vm),
                volumes=self._volumes,
                taps=taps,
            )
            for peer in plan.peers:
                ours, its = socket.socketpair()
                opened.enter_context(ours)
                with its:
                    # It ends with the VM: by its socket, or with the control group.
                    tpm = plan_vtpm(plan, config)
                    beside = replace(around, sockets={peer.name: its.fileno()})
                    os.close(jail.start(tpm, beside).pidfd)
                sockets[peer.name] = ours.fileno()
            return jail.start(plan, around)

    async def connected(
        self,
        state: runstate.RunState,
        pidfd: int,
        *,
        memory: int | None = None,
        run: bool = True,
    ) -> Cell:
        """Reach the QEMU of a cell; where that fails the cell is left to the caller's undo."""
        cell = Cell(
            state,
            os.dup(pidfd),
            self._cells_dir / state.vm,
            (self._log_of(state.vm), self.console_log(state.vm)),
            on_event=self._on_event,
        )
        try:
            await cell.connect(memory=memory, run=run)
        except HostError as error:
            said = last_line(self._log_of(state.vm))
            await cell.detach()
            raise HostError(
                f"QEMU does not work: {said}" if said else error.reason,
                code="qemu-start",
                component=state.vm,
                remedy=f"Look at {self._log_of(state.vm)}.",
            ) from error
        except BaseException:
            await cell.detach()
            raise
        os.close(pidfd)
        return cell

    def _log_of(self, vm: str) -> Path:
        return self._log_dir / f"vm-{vm}.log"


def destroy(child: Child) -> None:
    """Kill a process and let go of it."""
    kill(child.pidfd)
    wait_gone(child.pidfd, _KILL_TIMEOUT)
    os.close(child.pidfd)
