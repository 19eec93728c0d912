"""Virtual disks apart from VMs: made, copied, moved, extended and removed on datastores."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from casemate.calls import files as c
from casemate.calls.messages import TaskReply
from casemate.errors import ArgumentError, FileError, FilePresentError, NotSupportedError
from casemate.formats import streamvmdk, vmdk
from casemate.kernel.accounts import Session
from casemate.kernel.cells import disks, layers
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.datastores import Datastores, Handler
from casemate.kernel.foreigndisks import ForeignDisk, ForeignDisks
from casemate.kernel.sys.files import copy_data, lock, write_all
from casemate.kernel.tasks import Job
from casemate.kernel.volume import Volume
from casemate.machine.facts import DiskSpec
from casemate.machine.planstorage import DiskSource

_SUFFIX: Final = ".vmdk"
_UUID: Final = "ddb.uuid"
_MANAGER: Final = "VirtualDiskManager"
_PIECE: Final = 1 << 20
"""Bytes of a disk that is copied through its layers at once."""
_THIN: Final = "ddb.thinProvisioned"


class VirtualDisks:
    """Handlers of the requests about disks."""

    def __init__(self, datastores: Datastores, foreign: ForeignDisks) -> None:
        self._datastores = datastores
        self._foreign = foreign

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers by request."""
        return {
            c.CreateDisk: self._create,
            c.DeleteDisk: self._delete,
            c.CopyDisk: self._copy,
            c.MoveDisk: self._move,
            c.ExtendDisk: self._extend,
            c.DiskUuid: self._uuid,
            c.DiskInfo: self._info,
        }

    async def _create(self, request: c.CreateDisk, session: Session) -> TaskReply:
        await self._demand_free(request.datastore, request.path)

        def work(_job: Job) -> str:
            spec = _spec("", request.capacity, request.adapter)
            with (
                self._kept(request.datastore, request.path),
                self._datastores.open(request.datastore) as volume,
            ):
                _make(volume, request.path, spec, thin=request.thin)
                return volume.shown(request.path)

        operation = f"{_MANAGER}.createVirtualDisk"
        return self._datastores.start(request.datastore, operation, session, work)

    async def _delete(self, request: c.DeleteDisk, session: Session) -> TaskReply:
        await self._demand_free(request.datastore, request.path)

        def work(_job: Job) -> None:
            with self._datastores.open(request.datastore) as volume:
                self._remove(volume, request.datastore, request.path)

        operation = f"{_MANAGER}.deleteVirtualDisk"
        return self._datastores.start(request.datastore, operation, session, work)

    async def _copy(self, request: c.CopyDisk, session: Session) -> TaskReply:
        foreign = self._foreign.reads(request.path)
        if not foreign and not request.path.lower().endswith(_SUFFIX):
            name = request.path.rpartition("/")[2]
            reason = f"{name[:80]!r} is neither a .vmdk file nor read by a loaded storage plug-in"
            raise ArgumentError(reason, argument="name")
        if not foreign:
            _split(request.path)
        await self._demand_free(request.to_datastore, request.to_path)
        await self._datastores.demand_target(request, session)

        def work(job: Job) -> str:
            if foreign:
                return self._convert(request, job)
            with (
                self._kept(request.to_datastore, request.to_path),
                self._datastores.open(request.datastore) as volume,
                self._datastores.open(request.to_datastore) as target,
                _found(volume, request.path, deltas=True) as (directory, source),
            ):
                thin = _is_thin(directory, source) if request.thin is None else request.thin
                self._clear(_inodes(volume, request.path), target, request)
                _make(target, request.to_path, replace(source.disk, file_name=""), thin=thin)
                try:
                    _fill(directory, source, target, request.to_path, job)
                except BaseException:
                    self._remove(target, request.to_datastore, request.to_path, kept=True)
                    raise
                return target.shown(request.to_path)

        operation = f"{_MANAGER}.copyVirtualDisk"
        return self._datastores.start(request.datastore, operation, session, work, cancellable=True)

    def _convert(self, request: c.CopyDisk, job: Job) -> str:
        """Make a flat disk of a file that a storage plug-in reads."""
        with (
            self._kept(request.to_datastore, request.to_path),
            self._datastores.open(request.datastore) as volume,
            self._datastores.open(request.to_datastore) as target,
            contextlib.ExitStack() as opened,
        ):
            source = volume.open_read(request.path)
            opened.callback(os.close, source)
            disk = opened.enter_context(self._foreign.open(request.path, source))
            status = os.fstat(source)
            self._clear({(status.st_dev, status.st_ino)}, target, request)
            spec = _spec("", disk.capacity, "")
            _make(target, request.to_path, spec, thin=request.thin is not False)
            try:
                _fill_from(disk, target, request.to_path, job)
            except BaseException:
                self._remove(target, request.to_datastore, request.to_path, kept=True)
                raise
            return target.shown(request.to_path)

    async def _move(self, request: c.MoveDisk, session: Session) -> TaskReply:
        await self._demand_free(request.datastore, request.path)
        await self._demand_free(request.to_datastore, request.to_path)
        await self._datastores.demand_target(request, session)

        def work(_job: Job) -> str:
            ends = (
                (request.datastore, request.path),
                (request.to_datastore, request.to_path),
                (request.to_datastore, _extent(request.to_path)),
            )
            with (
                self._datastores.held(*ends),
                self._datastores.open(request.datastore) as volume,
                self._datastores.open(request.to_datastore) as target,
            ):
                self._clear(_inodes(volume, request.path), target, request)
                self._relocate(volume, target, request)
                return target.shown(request.to_path)

        operation = f"{_MANAGER}.moveVirtualDisk"
        return self._datastores.start(request.datastore, operation, session, work)

    async def _extend(self, request: c.ExtendDisk, session: Session) -> TaskReply:
        await self._demand_free(request.datastore, request.path)

        def work(_job: Job) -> None:
            with (
                self._datastores.open(request.datastore) as volume,
                _found(volume, request.path) as (directory, source),
            ):
                grown = request.capacity - source.disk.capacity
                if not _is_thin(directory, source):
                    volume.demand_space(grown, volume.shown(request.path))
                extent = f"{_split(request.path)[0]}/{source.file_name}".strip("/")
                with (
                    # Anybody may write a descriptor: what it names may be a VM's.
                    self._datastores.held((request.datastore, extent)),
                    volume.faults(volume.shown(request.path)),
                ):
                    directory.extend(source.disk, request.capacity)

        operation = f"{_MANAGER}.extendVirtualDisk"
        return self._datastores.start(request.datastore, operation, session, work)

    async def _uuid(self, request: c.DiskUuid, _: Session) -> c.UuidReply:
        def look() -> c.UuidReply:
            folder, name = _split(request.path)
            with (
                self._datastores.open(request.datastore) as volume,
                volume.folder(folder) as directory,
                volume.faults(volume.shown(request.path)),
            ):
                told = dict(disks.describe(directory, name).ddb)
                if _UUID not in told:
                    raise FileError("this disk has no UUID", file=volume.shown(request.path))
                return c.UuidReply(told[_UUID])

        return await asyncio.to_thread(look)

    async def _info(self, request: c.DiskInfo, _: Session) -> c.LayersReply:
        def look() -> c.LayersReply:
            folder, name = _split(request.path)
            with (
                self._datastores.open(request.datastore) as volume,
                volume.folder(folder) as directory,
                volume.faults(volume.shown(request.path)),
            ):
                top = disks.resolve(directory, (_spec(name, 0, ""),))[0]
                layers = tuple(
                    c.DiskLayer(
                        volume.shown(f"{folder}/{layer.disk.file_name}".lstrip("/")),
                        "delta" if layer.backing else _kind(layer),
                    )
                    for layer in top.layers
                )
            return c.LayersReply(layers)

        return await asyncio.to_thread(look)

    async def _demand_free(self, datastore: str, path: str) -> None:
        """Raise unless the path may be a disk's, and neither it nor its extent are a VM's."""
        _split(path)
        await self._datastores.demand_free(datastore, path)
        await self._datastores.demand_free(datastore, _extent(path))

    def _kept(self, datastore: str, path: str) -> contextlib.AbstractContextManager[None]:
        """Keep a disk from becoming a VM's till it is whole. Raises FileLockedError: it is."""
        return self._datastores.held((datastore, path), (datastore, _extent(path)))

    def _clear(
        self, source: set[tuple[int, int]], target: Volume, request: c.CopyDisk | c.MoveDisk
    ) -> None:
        """Make room for a disk, where told to replace one of other files than the source's."""
        if not target.exists(request.to_path):
            return
        shown = target.shown(request.to_path)
        # Paths may be written in many ways: files are the same when Linux says so.
        if not request.force or source & _inodes(target, request.to_path):
            raise FilePresentError(f"{shown} exists already", file=shown)
        self._remove(target, request.to_datastore, request.to_path, kept=True)

    def _remove(self, volume: Volume, datastore: str, path: str, *, kept: bool = False) -> None:
        """Remove a disk's files, the extent first: a descriptor without one tells what it was.

        Where it is ``kept``, only the extents of other names are held besides.
        """
        folder, name = _split(path)
        with volume.folder(folder) as directory:
            files = directory.files_of(name)
        below = {part: f"{folder}/{part}".strip("/") for part in files}
        mine = {path.strip("/"), _extent(path)} if kept else set()
        with self._datastores.held(*((datastore, p) for p in below.values() if p not in mine)):
            for part in reversed(files):
                if part == name or volume.exists(below[part]):
                    volume.remove(below[part])

    def _relocate(self, volume: Volume, target: Volume, request: c.MoveDisk) -> None:
        """Move a disk: its extent, then a descriptor that names it, then the old one goes."""
        path, to_path = request.path, request.to_path
        (folder, name), (to_folder, to_name) = _split(path), _split(to_path)
        with volume.folder(folder) as directory, volume.faults(volume.shown(path)):
            described = disks.describe(directory, name)
        if described.parts:
            raise NotSupportedError(
                f"{path} is a disk in several files, which is copied and not moved",
                component=path,
                remedy="Copy it with CopyVirtualDisk_Task: the copy is one flat file.",
            )
        if not described.extent:
            volume.move(path, target, to_path, force=False)
            return
        if described.parent:
            raise NotSupportedError(f"{path} is the delta of a snapshot", component=path)
        extent = _extent(to_path)
        old = f"{folder}/{described.extent}".strip("/")
        # Anybody may write a descriptor: what it names may be a VM's.
        with self._datastores.held((request.datastore, old)):
            volume.move(old, target, extent, force=False)
            moved = replace(described, extent=extent.rpartition("/")[2])
            try:
                with target.folder(to_folder) as goal, target.faults(target.shown(to_path)):
                    goal.make(to_name, [(0, vmdk.write(moved))])
            except BaseException:
                target.move(extent, volume, old, force=False)
                raise
            volume.remove(path)


def _spec(name: str, capacity: int, adapter: str) -> DiskSpec:
    return DiskSpec(name, "disk", "vmdk", capacity, "ide0" if adapter == "ide" else "scsi0", 0)


def _split(path: str) -> tuple[str, str]:
    """Return folder and name of a disk. Raises ArgumentError if it cannot be one."""
    folder, _, name = path.strip("/").rpartition("/")
    if not name.lower().endswith(_SUFFIX) or name.lower() == _SUFFIX:
        raise ArgumentError(f"{name[:80]!r} is not the name of a .vmdk file", argument="name")
    return folder, name


def _extent(path: str) -> str:
    return f"{path.strip('/')[: -len(_SUFFIX)]}-flat{_SUFFIX}"


def _inodes(volume: Volume, path: str) -> set[tuple[int, int]]:
    """Return what tells a disk's files from all others."""
    folder, name = _split(path)
    found: set[tuple[int, int]] = set()
    with volume.folder(folder) as directory:
        for part in directory.files_of(name):
            with contextlib.suppress(OSError):
                entry = os.stat(part, dir_fd=directory.fd, follow_symlinks=False)
                found.add((entry.st_dev, entry.st_ino))
    return found


def _make(volume: Volume, path: str, spec: DiskSpec, *, thin: bool) -> None:
    folder, name = _split(path)
    shown = volume.shown(path)
    volume.demand_space(0 if thin else spec.capacity, shown)
    with volume.folder(folder) as directory, volume.faults(shown):
        directory.make_disk(name, spec, thin=thin)


@contextlib.contextmanager
def _found(
    volume: Volume, path: str, *, deltas: bool = False
) -> Iterator[tuple[VmDirectory, DiskSource]]:
    """Give a disk with the folder that it is in; ``deltas``: it may be one."""
    folder, name = _split(path)
    with volume.folder(folder) as directory:
        with volume.faults(volume.shown(path)):
            source = disks.resolve(directory, (_spec(name, 0, ""),))[0]
            if disks.describe(directory, name).adapter == "ide":
                source = replace(source, disk=replace(source.disk, controller="ide0"))
        if source.backing is not None and not deltas:
            raise NotSupportedError(f"{path} is the delta of a snapshot", component=path)
        yield directory, source


def _kind(source: DiskSource) -> str:
    return "thin" if source.format != "raw" or source.disk.thin else "preallocated"


def _is_thin(directory: VmDirectory, source: DiskSource) -> bool:
    told = dict(disks.describe(directory, source.disk.file_name).ddb)
    return source.format != "raw" or told.get(_THIN) == "1"


def _fill_from(disk: ForeignDisk, target: Volume, to_path: str, job: Job) -> None:
    """Write what a plug-in reads into the empty disk that was made for it."""
    folder, _ = _split(to_path)
    with target.folder(folder) as goal, target.faults(target.shown(to_path)):
        writing = goal.open_file(_extent(to_path).rpartition("/")[2], os.O_RDWR)
        try:
            for offset, data in disk.pieces():
                job.report(offset, disk.capacity)
                target.demand_space(0, target.shown(to_path))
                write_all(writing, data, offset)
            os.fsync(writing)
        finally:
            os.close(writing)


def _fill(
    directory: VmDirectory, source: DiskSource, target: Volume, to_path: str, job: Job
) -> None:
    """Write a disk's content into the empty one that was made for it."""
    folder, _ = _split(to_path)
    shown = target.shown(to_path)
    with contextlib.ExitStack() as opened:
        goal = opened.enter_context(target.folder(folder))
        opened.enter_context(target.faults(shown))
        reading = directory.open_file(source.file_name)
        opened.callback(os.close, reading)
        lock(reading, source.file_name, exclusive=False)
        writing = goal.open_file(_extent(to_path).rpartition("/")[2], os.O_RDWR)
        opened.callback(os.close, writing)
        if source.format == "raw" and source.whole:
            step = job.counter(source.size)
            copy_data(reading, writing, target.watched(step, shown))
        elif source.format == "vmdk" and source.read_only:
            size = max(1, os.fstat(reading).st_size)

            def read(offset: int, length: int) -> bytes:
                job.report(min(offset, size), size)
                return os.pread(reading, length, offset)

            for offset, data in streamvmdk.grains(read):
                target.demand_space(0, shown)
                write_all(writing, data, offset)
        else:
            step = target.watched(job.counter(source.disk.capacity), shown)
            with layers.opened(directory, source) as whole:
                for offset in range(0, source.disk.capacity, _PIECE):
                    data = whole(offset, _PIECE)
                    step(len(data))
                    if any(data):
                        write_all(writing, data, offset)
        os.fsync(writing)
