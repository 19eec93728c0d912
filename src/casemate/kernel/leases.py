"""Leases: VMs that are brought in or out disk by disk, each held by one task meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from casemate.calls import leases as c
from casemate.calls.files import WriteReply
from casemate.calls.messages import Empty
from casemate.errors import (
    ArgumentError,
    CancelledError,
    FormatError,
    NotFoundError,
    StateError,
)
from casemate.formats import streamvmdk, vmdk
from casemate.kernel.accounts import Session
from casemate.kernel.cells import disks
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.feed import Feed
from casemate.kernel.host import Handler
from casemate.kernel.ova import packed
from casemate.kernel.server import Transfer
from casemate.kernel.sys.files import write_all
from casemate.kernel.sys.libc import from_os_error
from casemate.kernel.tasks import Job
from casemate.kernel.transfers import AT_ONCE, receive_piece, send_piece
from casemate.kernel.vmcontext import VmContext
from casemate.kernel.vms import Vms
from casemate.machine.facts import DiskSpec, VmFact
from casemate.machine.planstorage import DiskSource
from casemate.machine.power import Operation

LEASE_SECONDS: Final = 300
"""How long nothing may be heard of a lease: ESXi's own limit."""
LEASE_LIMIT: Final = 16
"""Leases at once: each holds a VM, and an import its space."""
_LOOK_SECONDS: Final = 0.25
_LOOK_EVERY: Final = 64 << 20

T = TypeVar("T")


@dataclass(slots=True)
class _Lease:
    """One lease; ``closed`` says how it ended: complete or not."""

    owner: str
    importing: bool
    until: float
    disks: dict[str, DiskSpec]
    closed: bool | None = None
    running: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    percent: int = 0
    told: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Leases:
    """Handlers of the requests about leases.

    ``ticks`` gives seconds that only grow, ``alive`` tells whether a session is open by its key.
    """

    def __init__(
        self,
        context: VmContext,
        vms: Vms,
        ticks: Callable[[], float],
        alive: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._context = context
        self._vms = vms
        self._ticks = ticks
        self._alive = alive
        self._leases: dict[str, _Lease] = {}
        self._opening = 0
        self.workers = ThreadPoolExecutor(AT_ONCE, "disk")

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers by request."""
        return {
            c.OpenImport: self._open_import,
            c.OpenExport: self._open_export,
            c.KeepLease: self._keep,
            c.CloseLease: self._close,
            c.ImportDisk: self._import_disk,
            c.ExportDisk: self._export_disk,
        }

    async def _open_import(self, request: c.OpenImport, session: Session) -> c.LeaseReply:
        with self._room():
            pool = self._vms.demand_pool(session, request.into)
            self._vms.demand_space(session, request.config.vmx_path)
            if any(disk.kind == "disk" and disk.file_name for disk in request.config.disks):
                # An import that ends early takes all its disks with it.
                raise ArgumentError("an imported VM has new disks", argument="importSpec")
            self._vms.demand_files(session, request.config)
            vm = await self._vms.create(request.config, thin=request.thin, pool=pool)
            fact = self._context.inventory.vm(vm)
            try:
                return self._start(fact, session, "importVApp", importing=True)
            except BaseException:
                await self._vms.remove(fact)
                raise

    async def _open_export(self, request: c.OpenExport, session: Session) -> c.LeaseReply:
        with self._room():
            fact = self._context.demand(request.vm, Operation.EXPORT)
            return self._start(fact, session, Operation.EXPORT, importing=False)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Hold a place for a lease that is being opened."""
        if len(self._leases) + self._opening >= LEASE_LIMIT:
            raise StateError(f"{LEASE_LIMIT} VMs are brought in or out already", code="leases")
        self._opening += 1
        try:
            yield
        finally:
            self._opening -= 1

    def _start(
        self, fact: VmFact, session: Session, operation: str, *, importing: bool
    ) -> c.LeaseReply:
        held = {disk.file_name: disk for disk in fact.config.disks if disk.kind == "disk"}
        lease = _Lease(session.key, importing, self._ticks() + LEASE_SECONDS, held)

        async def work(fact: VmFact, job: Job) -> str:
            try:
                return await self._hold(fact, lease, job)
            finally:
                # However it ended: disks that are on their way end with it.
                lease.closed = bool(lease.closed)
                del self._leases[fact.vm]
                if lease.importing and not lease.closed:
                    with suppress(NotFoundError):
                        await self._vms.remove(self._context.inventory.vm(fact.vm))
                lease.ended.set()

        reply = self._context.start_long(fact, operation, session, work)
        self._leases[fact.vm] = lease
        told = tuple(
            c.LeaseDisk(d.file_name, d.controller, d.unit, d.capacity) for d in held.values()
        )
        return c.LeaseReply(fact.vm, reply.task, told, LEASE_SECONDS)

    async def _hold(self, fact: VmFact, lease: _Lease, job: Job) -> str:
        """Wait for the end of the lease."""
        while lease.closed is None:
            job.report(lease.percent, 100)
            if not self._alive(lease.owner):
                raise CancelledError("The session of the lease has ended.")
            if not lease.running and self._ticks() > lease.until:
                raise StateError(
                    f"nothing was heard of the lease for {LEASE_SECONDS} seconds", code="lease-over"
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await lease.told.wait()
        if not lease.closed:
            raise CancelledError("The lease was aborted.")
        return fact.vm

    async def _keep(self, request: c.KeepLease, session: Session) -> Empty:
        lease = self.find(request.vm, session)
        lease.percent = max(lease.percent, min(100, request.percent))
        return Empty()

    async def _close(self, request: c.CloseLease, session: Session) -> Empty:
        lease = self.find(request.vm, session)
        if lease.running and request.complete:
            raise StateError("a disk is still on its way", code="lease-busy")
        lease.closed = request.complete
        lease.told.set()
        await lease.ended.wait()
        return Empty()

    async def _import_disk(self, request: c.ImportDisk, session: Session) -> Transfer:
        lease = self.find(request.vm, session)
        return _Importing(self, request, lease, self._disk(lease, request.disk, importing=True))

    async def _export_disk(self, request: c.ExportDisk, session: Session) -> Transfer:
        lease = self.find(request.vm, session)
        return _Exporting(self, request, lease, self._disk(lease, request.disk, importing=False))

    def find(self, vm: str, session: Session) -> _Lease:
        """Return the session's own lease of a VM and note that it is in use."""
        lease = self._leases.get(vm)
        if lease is None or lease.owner != session.key or lease.closed is not None:
            raise NotFoundError("There is no such lease.", component=vm)
        lease.until = self._ticks() + LEASE_SECONDS
        return lease

    def _disk(self, lease: _Lease, name: str, *, importing: bool) -> DiskSpec:
        if lease.importing is not importing or name not in lease.disks:
            raise NotFoundError("The lease has no such disk.", component=name[:80])
        return lease.disks[name]

    @contextmanager
    def opened(
        self, vm: str, lease: _Lease, disk: DiskSpec
    ) -> Iterator[tuple[VmDirectory, DiskSource]]:
        """Give a disk of a lease for one transfer."""
        if disk.file_name in lease.running:
            raise StateError("this disk is on its way already", code="lease-busy")
        lease.running.add(disk.file_name)
        try:
            with self._context.open(self._context.inventory.vm(vm)) as directory:
                yield directory, disks.resolve(directory, (disk,))[0]
        finally:
            lease.running.discard(disk.file_name)
            lease.until = self._ticks() + LEASE_SECONDS


class _Importing(Transfer):
    """Takes a streamOptimized disk."""

    def __init__(
        self, leases: Leases, request: c.ImportDisk, lease: _Lease, disk: DiskSpec
    ) -> None:
        self._leases = leases
        self._request = request
        self._lease = lease
        self._disk = disk

    async def run(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        reply: Callable[..., None],
    ) -> None:
        """See ``Transfer.run``."""
        name = self._disk.file_name
        with (
            self._leases.opened(self._request.vm, self._lease, self._disk) as (directory, source),
            ExitStack() as opened,
        ):
            handle = directory.open_file(source.file_name, os.O_RDWR)
            opened.callback(os.close, handle)
            again = name in self._lease.written
            self._lease.written.add(name)
            reply(WriteReply(replaces=again))
            await writer.drain()
            feed = Feed()
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(
                self._leases.workers,
                partial(
                    _unpack,
                    feed,
                    handle,
                    source.size,
                    again=again,
                    demand_space=partial(directory.demand_space, 0, name),
                ),
            )
            work.add_done_callback(lambda _: feed.let_go())
            whole = False
            try:
                while piece := await receive_piece(reader):
                    if self._lease.closed is not None:
                        raise CancelledError("The lease was closed.")
                    if work.done():
                        # Refused, or only what follows a disk's end is still coming.
                        work.result()
                    else:
                        await feed.put(piece)
                whole = True
            finally:
                feed.end(whole=whole)
                if not whole:
                    await _settled(work)
            await _outlasting(work)
            reply(Empty())


async def _settled(work: asyncio.Future[T]) -> None:
    """Wait for a thread to be done: what it works on is closed only then, whoever hangs up."""
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait((work,))


async def _outlasting(work: asyncio.Future[T]) -> T:
    """Return what a thread returns; who cancels waits for the thread as well."""
    try:
        return await asyncio.shield(work)
    finally:
        await _settled(work)


def _unpack(
    feed: Feed,
    handle: int,
    capacity: int,
    *,
    again: bool,
    demand_space: Callable[[], None],
) -> None:
    """Write a disk as it comes in. Raises our errors."""
    if vmdk.parse(feed.read(0, vmdk.SIZE_LIMIT)).capacity != capacity:
        raise FormatError("the disk is not as large as the descriptor says", code="ovf-malformed")
    try:
        if again:
            os.ftruncate(handle, 0)
            os.ftruncate(handle, capacity)
        looked = 0
        for offset, data in streamvmdk.grains(feed.read):
            write_all(handle, data, offset)
            looked += len(data)
            if looked >= _LOOK_EVERY:
                looked = 0
                demand_space()
        os.fsync(handle)
    except OSError as error:
        raise from_os_error("cannot write the disk", error) from error


class _Exporting(Transfer):
    """Sends a disk as streamOptimized."""

    def __init__(
        self, leases: Leases, request: c.ExportDisk, lease: _Lease, disk: DiskSpec
    ) -> None:
        self._leases = leases
        self._request = request
        self._lease = lease
        self._disk = disk

    async def run(
        self,
        _reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        reply: Callable[..., None],
    ) -> None:
        """See ``Transfer.run``."""
        opened = self._leases.opened(self._request.vm, self._lease, self._disk)
        with opened as (directory, source):
            name = self._disk.file_name.rpartition("/")[2]
            pieces = packed(directory, source, name, lambda _: None)
            loop = asyncio.get_running_loop()
            piece = await _outlasting(loop.run_in_executor(self._leases.workers, next, pieces, b""))
            reply(Empty())
            self.silent = True
            try:
                while piece:
                    if self._lease.closed is not None:
                        raise CancelledError("The lease was closed.")
                    for start in range(0, len(piece), 1 << 20):
                        await send_piece(writer, piece[start : start + (1 << 20)])
                    piece = await _outlasting(
                        loop.run_in_executor(self._leases.workers, next, pieces, b"")
                    )
                await send_piece(writer, b"")
            finally:
                pieces.close()
