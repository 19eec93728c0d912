"""The guest's serial console, kept in a log of bounded size.

The guest decides how much it writes: the log keeps the last one to two limits' worth, and
reading is paced, so that a guest that floods its console slows down only itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.kernel.cells.channels import connect

# Bytes: kept twice, as the present log and the one before (``.1``).
LOG_LIMIT: Final = 1 << 20
# At most this many bytes in this many seconds: 2 MB/s, far above any real console.
_CHUNK: Final = 65536
_PAUSE: Final = 0.03
# Seconds for what is left after the end of the cell.
_DRAIN_TIMEOUT: Final = 0.5


class ConsoleLog:
    """Copies what arrives on the console's socket to ``log`` until closed."""

    def __init__(self, path: Path, log: Path) -> None:
        self._log = log
        self._channel = connect(path)
        self._task = asyncio.create_task(self._copy())

    async def close(self) -> None:
        """Stop copying; the guest goes on."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._channel.close()

    async def drain(self) -> None:
        """Copy what is left once the other end is gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                await asyncio.shield(self._task)

    async def _copy(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, HostError):
            while data := await loop.sock_recv(self._channel, _CHUNK):
                append_bounded(self._log, data, LOG_LIMIT)
                await asyncio.sleep(_PAUSE)


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
