"""One running cell: its process, its control connection, its console, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.kernel.cells.console import (
    LOG_LIMIT,
    Keep,
    SerialPort,
    file_keeper,
    log_keeper,
    trim,
)
from casemate.kernel.cells.memory import load, resume
from casemate.kernel.cells.qmp import Qmp
from casemate.kernel.cells.runstate import RunState
from casemate.kernel.sys.spawn import kill, wait_gone
from casemate.machine.plan import CONSOLE_SOCKET, QMP_SOCKET
from casemate.machine.serialports import socket_name

# Seconds: for QEMU to flush and quit; between tries to reach it again; between looks at its log.
_QUIT_TIMEOUT: Final = 3.0
_RECONNECT_PAUSE: Final = 0.5
_LOOK_PAUSE: Final = 10.0
_KILL_TIMEOUT: Final = 10.0
# QEMU's run state before the first "cont".
_WAITING: Final = "prelaunch"
# ... and while it waits for the guest's memory.
_ASLEEP: Final = "inmigrate"
# ... while and after its memory was saved by a manager that ended before it let the guest go on.
_STOPPED: Final = frozenset({"paused", "finish-migrate", "postmigrate"})


@dataclass(frozen=True, slots=True)
class CellExit:
    """The end of a cell. ``reason`` is ``guest-shutdown``, ``host-qmp-quit``, ... or ``killed``."""

    vm: str
    reason: str


@dataclass(frozen=True, slots=True)
class CellEvent:
    """Something QEMU told: its name in QMP (``RESET``, ``GUEST_PANICKED``, ...) and data."""

    vm: str
    name: str
    data: Mapping[str, object]


class Cell:
    """A running VM. Made by ``Cells``; ``gone`` is called once, after the process has ended."""

    def __init__(
        self,
        state: RunState,
        pidfd: int,
        directory: Path,
        logs: tuple[Path, Path],
        *,
        on_event: Callable[[CellEvent], None],
    ) -> None:
        self.state = state
        self.ended = asyncio.Event()
        self.exit_reason = "killed"
        self._pidfd = pidfd
        self._directory = directory
        self._log, self._console_log = logs
        self._on_event = on_event
        self._qmp: Qmp | None = None
        self._connecting = asyncio.Lock()
        self._ports: dict[int, SerialPort] = {}
        self._keeper: asyncio.Task[None] | None = None
        asyncio.get_running_loop().add_reader(pidfd, self._process_ended)

    async def connect(self, *, memory: int | None = None, run: bool = True) -> None:
        """Reach QEMU, let a guest that waits run, and keep the connections up until the end.

        Args:
            memory: Descriptor of the memory that a suspended guest wakes up with.
            run: Whether a guest that waits is let run.

        Raises:
            HostError: QEMU ended or does not answer, or the memory does not fit; ``cell-asleep``:
                its manager ended while it woke up.
        """
        qmp = await self.qmp()
        status = await qmp.status()
        if memory is not None:
            await load(qmp, memory)
            status = _WAITING
        elif status == _ASLEEP:
            raise HostError("it was waking up", code="cell-asleep", component=self.state.vm)
        elif status in _STOPPED:
            await resume(qmp)
        if status == _WAITING and run:
            await qmp.execute("cont")
        self._keeper = asyncio.create_task(self._keep())

    async def qmp(self) -> Qmp:
        """Return the control connection, made again where it was lost.

        Raises:
            HostError: ``cell-ended``: nobody is there any more; else as for ``Qmp.open``.
        """
        async with self._connecting:
            if self.ended.is_set():
                raise HostError("it has ended", code="cell-ended", component=self.state.vm)
            if self._qmp is None or not self._qmp.connected:
                return await self._connect()
            return self._qmp

    def port(self, number: int) -> SerialPort | None:
        """Return a serial port; None where there is none, or nothing that it is connected to."""
        return self._ports.get(number)

    async def stop(self) -> None:
        """End the process: QEMU is asked to write back and quit, then killed.

        Raises:
            HostError: ``cell-stuck``: even SIGKILL did not end it in time.
        """
        with contextlib.suppress(HostError):
            await (await self.qmp()).execute("quit")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), _QUIT_TIMEOUT)
        if self.ended.is_set():
            return
        kill(self._pidfd)
        try:
            await asyncio.wait_for(self.ended.wait(), _KILL_TIMEOUT)
        except TimeoutError:
            raise HostError(
                f"the process {self.state.pid} does not end",
                code="cell-stuck",
                component=self.state.vm,
                remedy="Look for a stuck device or file system (process in state D).",
            ) from None

    def destroy(self) -> None:
        """End the process now, without asking; for undoing a start that failed."""
        kill(self._pidfd)
        wait_gone(self._pidfd, _KILL_TIMEOUT)

    async def detach(self) -> None:
        """Let go of the process, which goes on if it runs."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        # Whoever noticed the end of the connection first may be making it again.
        async with self._connecting:
            for port in self._ports.values():
                if self.ended.is_set():
                    await port.drain()
                await port.close()
            if self._qmp is not None:
                if self.ended.is_set():
                    await self._qmp.drain()
                await self._qmp.close()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)

    async def _connect(self) -> Qmp:
        if self._qmp is not None:
            await self._qmp.close()
            self._qmp = None
        self._qmp = qmp = await Qmp.open(self._directory / QMP_SOCKET, self._event)
        for port in self._ports.values():
            await port.close()
        self._ports.clear()
        files = dict(self.state.serials)
        for number in sorted({0, *files}):
            name = socket_name(number) if number else CONSOLE_SOCKET
            kept: list[Keep] = [] if number else [log_keeper(self._console_log)]
            if files.get(number):
                kept.append(file_keeper(Path(self.state.directory), files[number]))
            self._ports[number] = SerialPort(self._directory / name, tuple(kept))
        return qmp

    async def _keep(self) -> None:
        """Reconnect when the connection was lost, and keep the log bounded."""
        waited = 0.0
        while not self.ended.is_set():
            await asyncio.sleep(_RECONNECT_PAUSE)
            waited += _RECONNECT_PAUSE
            if self._qmp is None or not self._qmp.connected:
                with contextlib.suppress(HostError):
                    await self.qmp()
            if waited >= _LOOK_PAUSE:
                waited = 0.0
                trim(self._log, LOG_LIMIT)

    def _event(self, name: str, data: Mapping[str, object]) -> None:
        if name == "SHUTDOWN":
            reason = data.get("reason")
            self.exit_reason = reason if isinstance(reason, str) else "guest-shutdown"
        self._on_event(CellEvent(self.state.vm, name, data))

    def _process_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self.ended.set()
