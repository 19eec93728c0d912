"""A guest's memory and devices, saved to a file and loaded from it: QEMU's migration stream."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from casemate.errors import HostError
from casemate.kernel.cells.qmp import Qmp

_NAME: Final = "memory"
# Bytes a second: as fast as the disk takes it; QEMU's own default is 128 MiB.
_BANDWIDTH: Final = 64 << 30
# Seconds between looks, and without any progress until it is given up.
_PAUSE: Final = 0.05
_STALL: Final = 30.0


async def save(qmp: Qmp, descriptor: int) -> None:
    """Stop the guest and save it; it stays stopped.

    Raises:
        HostError: ``memory-saving``: no space, or QEMU gave up; the guest runs on then.
    """
    await qmp.execute("stop")
    try:
        await qmp.execute("migrate-set-parameters", **{"max-bandwidth": _BANDWIDTH})
        await qmp.execute_with(descriptor, "getfd", fdname=_NAME)
        await qmp.execute("migrate", uri=f"fd:{_NAME}")
        await _wait(qmp, "memory-saving")
    except BaseException:
        await qmp.execute("cont")
        raise


async def load(qmp: Qmp, descriptor: int) -> None:
    """Load a guest into a QEMU that waits for it; it stays stopped.

    Raises:
        HostError: ``memory-loading``: the file is damaged or of another machine.
    """
    await qmp.execute_with(descriptor, "getfd", fdname=_NAME)
    await qmp.execute("migrate-incoming", uri=f"fd:{_NAME}")
    await _wait(qmp, "memory-loading")


async def _wait(qmp: Qmp, code: str) -> None:
    """Wait for the end of the transfer."""
    progress: object = None
    since = time.monotonic()
    while True:
        answer = await qmp.execute("query-migrate")
        told = answer if isinstance(answer, dict) else {}
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
        if now != progress:
            progress, since = now, time.monotonic()
        elif time.monotonic() - since > _STALL:
            raise HostError("the transfer of the guest's memory is stuck", code=code)
        await asyncio.sleep(_PAUSE)
