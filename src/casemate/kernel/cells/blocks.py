"""Disks of a running cell: grow, put a delta on top, merge a delta into what lies below."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from casemate.errors import CancelledError, HostError
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.cells.qmp import Qmp
from casemate.kernel.sys.files import lock
from casemate.machine.facts import DiskSpec
from casemate.machine.planstorage import DiskSource, device_id, node_name

# Seconds between looks at a job, and without any progress until it is given up.
_PAUSE: Final = 0.05
_STALL: Final = 60.0
UNCERTAIN: Final = "disk-uncertain"
_DONE: Final = frozenset({"concluded", "null"})


async def grow(qmp: Qmp, source: DiskSource, capacity: int) -> None:
    """Let the guest see that a disk has ``capacity`` bytes; its file has them already.

    Raises:
        HostError: QEMU refuses.
    """
    arguments = {"node-name": node_name(source.file_name), "size": capacity}
    await qmp.execute("block_resize", **arguments)


async def throttle(qmp: Qmp, disk: DiskSpec) -> None:
    """Let a disk take so many requests and bytes a second as it may. Raises HostError."""
    free = dict.fromkeys(("bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
    limit = {"id": device_id(disk), "iops": max(disk.iops, 0), "bps": max(disk.bps, 0)}
    await qmp.execute("block_set_io_throttle", **free, **limit)


async def put_on_top(
    qmp: Qmp, directory: VmDirectory, pairs: Sequence[tuple[DiskSource, DiskSource]]
) -> None:
    """Put deltas on top of disks, of all of them at one moment.

    Args:
        qmp: The cell's control connection.
        directory: The VM's directory.
        pairs: What the guest writes now, and the empty delta that it writes from then on.

    Raises:
        HostError: QEMU refuses; the guest goes on with the disks as they are. ``disk-uncertain``:
            nobody knows whether it has the deltas.
    """
    added: list[str] = []
    try:
        for _, delta in pairs:
            added.append(await _add_delta(qmp, directory, delta))
        actions = [
            {
                "type": "blockdev-snapshot",
                "data": {"node": node_name(below.file_name), "overlay": overlay},
            }
            for (below, _), overlay in zip(pairs, added, strict=True)
        ]
        await qmp.execute("transaction", actions=actions)
    except BaseException:
        try:
            for overlay in added:
                # QEMU refuses for one that a guest writes to.
                await qmp.execute("blockdev-del", **{"node-name": overlay})
        except HostError as error:
            raise HostError(
                f"it is not known whether the disks were frozen: {error.reason}",
                code=UNCERTAIN,
                remedy="Power the VM off and consolidate its disks.",
            ) from error
        raise


async def merge(
    qmp: Qmp,
    directory: VmDirectory,
    chain: Sequence[DiskSource],
    at: int,
    report: Callable[[int, int], None] = lambda _, __: None,
) -> None:
    """Merge layer ``at`` of a chain (0: what the guest writes) into the one below it.

    ``report`` is told how much of how much is done; what it raises ends the merging.

    Raises:
        HostError: ``disk-merge``: QEMU gave up; the chain is as it was.
        CancelledError: ``report`` raised it; the chain is as it was.
    """
    top, below = chain[at], chain[at + 1]
    await _make_writable(qmp, directory, below)
    job = f"merge-{node_name(top.file_name)}"
    await qmp.execute(
        "block-commit",
        **{
            "job-id": job,
            "device": node_name(chain[0].file_name),
            "top-node": node_name(top.file_name),
            "base-node": node_name(below.file_name),
            "auto-dismiss": False,
        },
    )
    await _finish(qmp, job, report)
    # What was merged must be on the disk before the delta goes.
    await asyncio.to_thread(directory.sync, below.file_name)
    await _forget(qmp, top)


async def _add_delta(qmp: Qmp, directory: VmDirectory, delta: DiskSource) -> str:
    name = node_name(delta.file_name)
    number = await _pass(qmp, directory, delta.file_name, exclusive=True)
    node = {
        "driver": "qcow2",
        "node-name": name,
        "file": {
            "driver": "file",
            "filename": f"/dev/fdset/{number}",
            "discard": "unmap",
            "locking": "off",
        },
        "backing": None,
    }
    await qmp.execute("blockdev-add", **node)
    return name


async def _pass(
    qmp: Qmp, directory: VmDirectory, file_name: str, *, exclusive: bool, **place: int
) -> int:
    """Hand a writable file over to QEMU and return the number of its fd set."""
    handle = directory.open_file(file_name, os.O_RDWR)
    try:
        if exclusive:
            lock(handle, file_name, exclusive=True)
        return await hand_over(qmp, handle, file_name, **place)
    finally:
        os.close(handle)


async def hand_over(qmp: Qmp, handle: int, file_name: str, **place: int) -> int:
    """Hand an open file over to QEMU and return the number of its fd set.

    Raises:
        HostError: QEMU does not take it.
    """
    answer = await qmp.execute_with(handle, "add-fd", opaque=node_name(file_name), **place)
    number = answer.get("fdset-id") if isinstance(answer, dict) else None
    if not isinstance(number, int):
        raise HostError("QEMU does not take a file", code="qmp", component=file_name)
    return number


async def descriptor_of(qmp: Qmp, file_name: str) -> int | None:
    """Return QEMU's descriptor of a file that it was started with; None: it tells of none."""
    answer = await qmp.execute("query-fdsets")
    for fdset in answer if isinstance(answer, list) else []:
        fds = fdset.get("fds") if isinstance(fdset, dict) else None
        for one in fds if isinstance(fds, list) else []:
            if isinstance(one, dict) and one.get("opaque") == node_name(file_name):
                return number if isinstance(number := one.get("fd"), int) else None
    return None


async def take_back(qmp: Qmp, file_name: str) -> None:
    """Let QEMU close a file of which no node is left. Raises HostError."""
    if (number := await _fd_set(qmp, file_name)) is not None:
        await qmp.execute("remove-fd", **{"fdset-id": number})


async def _make_writable(qmp: Qmp, directory: VmDirectory, layer: DiskSource) -> None:
    """Add a writable descriptor to the fd set of a layer that was opened for reading."""
    number = await _fd_set(qmp, layer.file_name)
    if number is None:
        raise HostError("QEMU does not know the disk below", code="disk-merge")
    await _pass(qmp, directory, layer.file_name, exclusive=False, **{"fdset-id": number})


async def _forget(qmp: Qmp, layer: DiskSource) -> None:
    """Let QEMU close a merged delta; one that it took in by its parent is gone already."""
    with contextlib.suppress(HostError):
        await qmp.execute("blockdev-del", **{"node-name": node_name(layer.file_name)})
    await take_back(qmp, layer.file_name)


async def _fd_set(qmp: Qmp, file_name: str) -> int | None:
    """Return the number of the fd set of a file."""
    answer = await qmp.execute("query-fdsets")
    for fdset in answer if isinstance(answer, list) else []:
        if not isinstance(fdset, dict) or not isinstance(number := fdset.get("fdset-id"), int):
            continue
        fds = fdset.get("fds")
        names = [fd.get("opaque") for fd in fds if isinstance(fd, dict)] if fds else []
        if node_name(file_name) in names:
            return number
    return None


async def _finish(qmp: Qmp, job: str, report: Callable[[int, int], None]) -> None:
    """Drive a job to its end."""
    progress: object = None
    since = time.monotonic()
    given_up: CancelledError | None = None
    while True:
        told = await _job(qmp, job)
        status = told.get("status")
        if status in _DONE:
            break
        if given_up is None and (given_up := _refusal(told, report)) is not None:
            await qmp.execute("job-cancel", id=job)
        elif status == "ready" and given_up is None:
            await qmp.execute("job-complete", id=job)
        now = (status, told.get("current-progress"))
        if now != progress:
            progress, since = now, time.monotonic()
        elif time.monotonic() - since > _STALL:
            await qmp.execute("job-cancel", id=job)
            raise HostError("the merging of a disk is stuck", code="disk-merge")
        await asyncio.sleep(_PAUSE)
    if status == "concluded":
        await qmp.execute("job-dismiss", id=job)
    if given_up is not None:
        raise given_up
    if error := told.get("error"):
        raise HostError(
            f"the disk could not be merged: {str(error)[:200]}",
            code="disk-merge",
            remedy="Make room on the datastore, then consolidate again.",
        )


def _refusal(
    told: Mapping[str, object], report: Callable[[int, int], None]
) -> CancelledError | None:
    """Report a job's progress; returns what ``report`` raises to end it."""
    done, total = told.get("current-progress"), told.get("total-progress")
    if isinstance(done, int) and isinstance(total, int):
        try:
            report(done, total)
        except CancelledError as error:
            return error
    return None


async def _job(qmp: Qmp, job: str) -> dict[str, object]:
    answer = await qmp.execute("query-jobs")
    for told in answer if isinstance(answer, list) else []:
        if isinstance(told, dict) and told.get("id") == job:
            return told
    return {"status": "null"}
