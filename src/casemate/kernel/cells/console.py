"""A guest's serial ports: the console, kept in a log of bounded size, and those to files.

The guest decides how much it writes: log and files keep the last one to two limits' worth, and
reading is paced, so that a guest that floods a port slows down only itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from casemate.errors import HostError, LimitError
from casemate.kernel.cells.channels import connect
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.sys.libc import from_os_error
from casemate.machine.serialports import OLDER

# Bytes: kept twice, as the present log and the one before (``.1``).
LOG_LIMIT: Final = 1 << 20
FILE_LIMIT: Final = 16 << 20
"""Bytes of the file that a serial port writes to, kept twice as a log is."""
VIEWERS: Final = 4
"""Viewers of one serial port."""
# Pieces that wait for a slow viewer: at most 1 MiB.
_BACKLOG: Final = 16
# At most this many bytes in this many seconds: 2 MB/s, far above any real console.
_CHUNK: Final = 65536
_PAUSE: Final = 0.03
# Seconds for what is left after the end of the cell.
_DRAIN_TIMEOUT: Final = 0.5

Keep = Callable[[bytes], None]
"""Puts what a guest wrote to where it is kept. Raises HostError."""


class SerialPort:
    """The host's end of a guest's serial port: what arrives goes to ``kept`` and to viewers."""

    def __init__(self, path: Path, kept: tuple[Keep, ...]) -> None:
        self._kept = kept
        self._viewers: set[asyncio.Queue[bytes]] = set()
        self._writing = asyncio.Lock()
        self._channel = connect(path)
        self._task = asyncio.create_task(self._copy())

    async def close(self) -> None:
        """Let go of it; the guest goes on."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._channel.close()

    async def drain(self) -> None:
        """Copy what is left once the other end is gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                await asyncio.shield(self._task)

    @contextlib.contextmanager
    def viewed(self) -> Iterator[asyncio.Queue[bytes]]:
        """Yield a queue of what the guest says from now on; empty bytes are the end.

        A viewer that does not keep up misses some of it, and makes nobody wait.

        Raises:
            LimitError: There are ``VIEWERS`` already.
        """
        if len(self._viewers) >= VIEWERS:
            raise LimitError(f"{VIEWERS} viewers look at this serial port")
        queue: asyncio.Queue[bytes] = asyncio.Queue(_BACKLOG)
        self._viewers.add(queue)
        if self._task.done():
            queue.put_nowait(b"")
        try:
            yield queue
        finally:
            self._viewers.discard(queue)

    async def type(self, data: bytes) -> None:
        """Send to the guest; waits until it reads. Raises HostError when the port is gone."""
        async with self._writing:
            try:
                await asyncio.get_running_loop().sock_sendall(self._channel, data)
            except OSError as error:
                raise from_os_error("the serial port is gone", error) from error

    async def _copy(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(OSError):
                while data := await loop.sock_recv(self._channel, _CHUNK):
                    self._spread(data)
                    await asyncio.sleep(_PAUSE)
        finally:
            self._spread(b"")

    def _spread(self, data: bytes) -> None:
        for keep in self._kept if data else ():
            # A disk that is full keeps nothing, and stops neither the guest nor its viewers.
            with contextlib.suppress(OSError, HostError):
                keep(data)
        for viewer in self._viewers:
            if not data and viewer.full():
                viewer.get_nowait()
            with contextlib.suppress(asyncio.QueueFull):
                viewer.put_nowait(data)


def log_keeper(log: Path) -> Keep:
    """Return what keeps the end of what it is given in a log."""
    return lambda data: append_bounded(log, data, LOG_LIMIT)


def file_keeper(directory: Path, name: str) -> Keep:
    """Return what appends to a file of a VM's directory; a full one becomes ``name.1``."""

    def keep(data: bytes) -> None:
        with VmDirectory(directory) as opened:
            if opened.append(name, data) > FILE_LIMIT:
                opened.rename(name, name + OLDER)

    return keep


def append_bounded(log: Path, data: bytes, limit: int) -> None:
    """Append to a log; over ``limit`` bytes the log becomes ``.1`` and a new one begins."""
    with log.open("ab") as stream:
        stream.write(data)
        size = stream.tell()
    if size > limit:
        log.replace(log.with_name(log.name + ".1"))


def trim(log: Path, limit: int) -> None:
    """Empty a log that others append to, once it is over ``limit`` bytes."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > limit:
            with log.open("r+b") as stream:
                stream.truncate(0)


def last_line(log: Path, limit: int = 4096) -> str:
    """Return the last line that says something, for an error's sentence."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - limit))
            lines = stream.read(limit).decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    spoken = [line.strip() for line in lines if line.strip()]
    return "".join(c if c.isprintable() else " " for c in spoken[-1])[:300] if spoken else ""
