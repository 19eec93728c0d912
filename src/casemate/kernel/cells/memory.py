"""A guest's memory and devices, saved to a file and loaded from it: QEMU's migration stream."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Final

from casemate.errors import HostError, NotSupportedError
from casemate.kernel.cells.qmp import Qmp
from casemate.kernel.sys.libc import from_os_error

_NAME: Final = "memory"
MAGIC: Final = b"QEVM"
"""How a memory that QEMU saved begins."""
# Bytes a second: as fast as the disk takes it; QEMU's own default is 128 MiB.
_BANDWIDTH: Final = 64 << 30
# Seconds between looks, and without any progress until it is given up.
_PAUSE: Final = 0.05
_STALL: Final = 30.0
_GOING: Final = frozenset({"setup", "active", "device", "cancelling"})


Report = Callable[[int, int], None]
"""Is told how many bytes of how many are done; what it raises ends the transfer."""


async def save(qmp: Qmp, descriptor: int, known: int, report: Report) -> None:
    """Stop the guest and save it; it stays stopped.

    Args:
        qmp: The cell's control connection.
        descriptor: Of the file.
        known: Modules of memory that its configuration says were added since it started.
        report: See ``Report``.

    Raises:
        NotSupportedError: Others were: it could not wake up.
        HostError: ``memory-saving``: no space, or QEMU gave up; the guest runs on then.
        CancelledError: ``report`` raised it; the guest runs on.
    """
    if await modules(qmp) != known:
        raise NotSupportedError(
            "this VM's configuration does not say what memory was added while it ran",
            remedy="Power it off and on once; then it can be.",
        )
    await qmp.execute("stop")
    try:
        await qmp.execute("migrate-set-parameters", **{"max-bandwidth": _BANDWIDTH})
        await qmp.execute_with(descriptor, "getfd", fdname=_NAME)
        await qmp.execute("migrate", uri=f"fd:{_NAME}")
        report(0, 1)
        await _wait(qmp, "memory-saving", report)
    except BaseException:
        await resume(qmp)
        raise


async def resume(qmp: Qmp) -> None:
    """Let a guest go on whose saving nobody waits for any more. Raises HostError."""
    await _give_up(qmp)
    await qmp.execute("cont")


async def modules(qmp: Qmp) -> int:
    """Return how many modules of memory were added since the guest was started."""
    answer = await qmp.execute("query-memory-devices")
    return len(answer) if isinstance(answer, list) else 0


def check(descriptor: int, name: str) -> None:
    """Refuse a saved memory that QEMU did not write, such as one of VMware's own.

    Raises:
        HostError: ``memory-foreign``: it is none, or cannot be read.
    """
    try:
        magic = os.pread(descriptor, len(MAGIC), 0)
    except OSError as error:
        raise from_os_error(f"cannot read {name}", error, component=name) from error
    if magic != MAGIC:
        raise HostError(
            f"{name} is no memory that a host like this one saved",
            code="memory-foreign",
            component=name,
            remedy="Resume and shut the VM down where it was suspended; or power it off here, "
            "which forgets its memory.",
        )


async def load(qmp: Qmp, descriptor: int) -> None:
    """Load a guest into a QEMU that waits for it; it stays stopped.

    Raises:
        HostError: ``memory-loading``: the file is damaged or of another machine.
    """
    await qmp.execute_with(descriptor, "getfd", fdname=_NAME)
    await qmp.execute("migrate-incoming", uri=f"fd:{_NAME}")
    await _wait(qmp, "memory-loading", lambda _, __: None)


async def _give_up(qmp: Qmp) -> None:
    """End a transfer that goes on, and wait until it has ended."""
    with contextlib.suppress(HostError):
        await qmp.execute("migrate_cancel")
        for _ in range(int(_STALL / _PAUSE)):
            if (await _told(qmp)).get("status") not in _GOING:
                return
            await asyncio.sleep(_PAUSE)


async def _told(qmp: Qmp) -> dict[str, object]:
    answer = await qmp.execute("query-migrate")
    return answer if isinstance(answer, dict) else {}


async def _wait(qmp: Qmp, code: str, report: Report) -> None:
    """Wait for the end of the transfer."""
    progress: object = None
    since = time.monotonic()
    while True:
        told = await _told(qmp)
        status = told.get("status")
        if status == "completed":
            return
        if status in {"failed", "cancelled"}:
            why = str(told.get("error-desc", "QEMU gave up"))[:200]
            raise HostError(
                f"the guest's memory was not transferred: {why}",
                code=code,
                remedy="Make room on the datastore, or power the VM off and on again.",
            )
        ram = told.get("ram")
        now = ram.get("transferred") if isinstance(ram, dict) else status
        total, left = (ram.get("total"), ram.get("remaining")) if isinstance(ram, dict) else (0, 0)
        if isinstance(total, int) and isinstance(left, int):
            report(total - left, total)
        if now != progress:
            progress, since = now, time.monotonic()
        elif time.monotonic() - since > _STALL:
            raise HostError("the transfer of the guest's memory is stuck", code=code)
        await asyncio.sleep(_PAUSE)
