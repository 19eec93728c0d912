"""A VM's files: in its directory or elsewhere on datastores, and no link to them is followed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from casemate.errors import ArgumentError, CasemateError, HostError
from casemate.formats import qcow2, vmdk
from casemate.formats.datastorepath import beside, in_volume, show
from casemate.formats.vmdk import CreateType, Vmdk, is_plain_name
from casemate.kernel.cells import disks
from casemate.kernel.sys.files import copy_data, lock, open_beneath, open_directory
from casemate.kernel.sys.libc import from_os_error, is_errno
from casemate.kernel.sys.space import demand_space
from casemate.machine.facts import DiskSpec
from casemate.machine.planstorage import DiskSource, check_offered

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_FILE_MODE: Final = 0o600
_NAMES: Final = 1000
_PIECE: Final = 16 << 20
"""Bytes that a disk takes at once: of the spare, where many are made, each takes no more."""


class VmDirectory:
    """An open directory of a VM; a context manager. ``fd`` is its descriptor if it is open.

    Names are plain ones. Where ``volumes``, which holds the datastores, is told, a disk may be
    named in full too: ``/vmfs/volumes/datastore1/shared/data.vmdk``.
    """

    def __init__(self, path: Path, fd: int | None = None, *, volumes: Path | None = None) -> None:
        self.path = path
        self.volumes = volumes
        self.fd = open_directory(path) if fd is None else fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def exists(self, name: str) -> bool:
        """Tell whether there is anything of this name."""
        try:
            with self._at(name) as (folder, plain):
                os.stat(plain, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except HostError as error:
            if not is_errno(error, errno.ENOENT):
                raise
            return False
        return True

    def names(self) -> tuple[str, ...]:
        """Return what is in the directory. Raises HostError."""
        try:
            return tuple(sorted(entry.name for entry in self.path.iterdir()))
        except OSError as error:
            raise from_os_error(f"cannot read {self.path.name}", error) from error

    def names_beside(self, name: str) -> tuple[str, ...]:
        """Return what is in the folder of a file, named as that one is. Raises HostError."""
        with self._at(name) as (folder, _):
            handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
            try:
                return tuple(beside(name, one) for one in sorted(os.listdir(handle)))  # noqa: PTH208  (a descriptor, not a path)
            finally:
                os.close(handle)

    def read(self, name: str, limit: int) -> bytes:
        """Return a regular file's content, at most ``limit`` bytes and one more.

        Raises:
            HostError: It is missing, a link, or no regular file.
        """
        with os.fdopen(self._open(name, os.O_RDONLY), "rb") as stream:
            return stream.read(limit + 1)

    def write(self, name: str, content: bytes) -> None:
        """Replace a file: after a crash it is the old or the new one.

        Raises:
            HostError: It cannot be written.
        """
        try:
            with self._at(name) as (folder, plain):
                scratch = f".{plain}.new"
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(scratch, dir_fd=folder)
                handle = open_beneath(folder, scratch, _NEW, mode=_FILE_MODE)
                with os.fdopen(handle, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.rename(scratch, plain, src_dir_fd=folder, dst_dir_fd=folder)
                _sync_names(folder)
        except OSError as error:
            raise from_os_error(f"cannot write {name}", error, component=name) from error

    def make(self, name: str, pieces: Iterable[tuple[int, bytes]], *, size: int = 0) -> None:
        """Make a new file of these pieces (offset, bytes), and at least ``size`` bytes long.

        Raises:
            HostError: It exists, or there is no space; then nothing of it stays.
        """
        with self._at(name) as (folder, plain):
            handle = open_beneath(folder, plain, _NEW, mode=_FILE_MODE)
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.truncate(size)
                    for offset, data in pieces:
                        stream.seek(offset)
                        stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                _sync_names(folder)
            except OSError as error:
                os.unlink(plain, dir_fd=folder)
                raise from_os_error(f"cannot make {name}", error, component=name) from error

    def open_new(self, name: str) -> int:
        """Return a descriptor of a new empty file, for reading and writing."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        return open_beneath(self.fd, _plain(name), flags, mode=_FILE_MODE)

    def open_file(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Return a descriptor of a regular file."""
        return self._open(name, flags)

    def append(self, name: str, data: bytes) -> int:
        """Write to the end of a regular file, made where there is none; returns its size.

        Raises:
            HostError: It is something else, or there is no space.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        handle = open_beneath(self.fd, _plain(name), flags, mode=_FILE_MODE)
        with os.fdopen(handle, "ab") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise HostError(f"{name} is not a regular file", code="disk-kind", component=name)
            try:
                stream.write(data)
                stream.flush()
            except OSError as error:
                raise from_os_error(f"cannot write {name}", error, component=name) from error
            return stream.tell()

    def rename(self, name: str, new_name: str) -> None:
        """Give a file another name, which none or an older file has. Raises HostError."""
        try:
            os.rename(_plain(name), _plain(new_name), src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError as error:
            raise from_os_error(f"cannot rename {name}", error, component=name) from error

    def remove(self, name: str) -> None:
        """Remove a file or link; nothing to do where there is none."""
        try:
            with self._at(name) as (folder, plain):
                os.unlink(plain, dir_fd=folder)
        except FileNotFoundError:
            return
        except HostError as error:
            if not is_errno(error, errno.ENOENT):
                raise

    def size(self, name: str) -> int:
        """Return a regular file's size."""
        handle = self._open(name, os.O_RDONLY)
        try:
            return os.fstat(handle).st_size
        finally:
            os.close(handle)

    def copy(
        self,
        name: str,
        target: VmDirectory,
        new_name: str,
        step: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Copy a file, its holes left out where the file system tells of them.

        ``step`` is told of every further bytes; what it raises ends the copying.

        Raises:
            HostError: It cannot be read or written; then nothing of the copy stays.
            SpaceError: It would fill the datastore, likewise.
        """
        with contextlib.ExitStack() as opened:
            source = self._open(name, os.O_RDONLY)
            opened.callback(os.close, source)
            handle = target.open_new(new_name)
            opened.callback(os.close, handle)
            try:
                os.fchmod(handle, os.fstat(source).st_mode & 0o666)
                copy_data(source, handle, target.watched(step, new_name))
                os.fsync(handle)
            except OSError as error:
                target.remove(new_name)
                raise from_os_error(f"cannot copy {name}", error, component=name) from error
            except BaseException:
                target.remove(new_name)
                raise

    def demand_space(self, size: int, name: str) -> None:
        """Raise SpaceError unless a file may take so many bytes more on its datastore."""
        datastore, file = self._shown(name)
        with self._at(name) as (folder, _):
            demand_space(folder, size, file=file, datastore=datastore)

    def watched(self, step: Callable[[int], None], name: str) -> Callable[[int], None]:
        """Return what counts bytes of a file and stops before its datastore is full."""

        def watch(amount: int) -> None:
            step(amount)
            self.demand_space(0, name)

        return watch

    def demand_unused(self, name: str) -> None:
        """Raise FileLockedError if a running VM writes to a file."""
        handle = self._open(name, os.O_RDONLY)
        try:
            lock(handle, name, exclusive=False)
        finally:
            os.close(handle)

    def sync(self, name: str) -> None:
        """Return once a regular file's content is on the disk. Raises HostError."""
        handle = self._open(name, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            raise from_os_error(f"cannot write {name}", error, component=name) from error
        finally:
            os.close(handle)

    def free_name(self, stem: str, suffix: str) -> str:
        """Return a name that is not taken: ``stem-000001suffix`` and so on, as VMware counts.

        Raises:
            HostError: All are taken.
        """
        for number in range(1, _NAMES):
            name = f"{stem}-{number:06}{suffix}"
            if not self.exists(name) and not self.exists(f"{stem}-{number:06}-delta.qcow2"):
                return name
        raise HostError(f"no free name for {stem}{suffix}", code="disk-names", component=stem)

    # Disks

    def make_disk(self, name: str, disk: DiskSpec, *, thin: bool) -> None:
        """Make an empty disk: a flat .vmdk with its descriptor, or a QCOW2 file.

        Raises:
            CasemateError: It exists, is too large, or there is no space; nothing of it stays.
        """
        if not disk.capacity or disk.capacity % vmdk.SECTOR:
            raise ArgumentError(
                f"{disk.capacity} bytes are no whole sectors", argument="capacity", component=name
            )
        if disk.format == "qcow2":
            self.make(name, qcow2.empty(disk.capacity))
            return
        extent = f"{name.removesuffix('.vmdk')}-flat.vmdk"
        described = Vmdk(
            CreateType.MONOLITHIC_FLAT,
            extent.rpartition("/")[2],
            disk.capacity // vmdk.SECTOR,
            adapter="ide" if disk.controller.startswith("ide") else "lsilogic",
            ddb=(
                ("ddb.virtualHWVersion", "21"),
                ("ddb.uuid", new_uuid()),
                *([("ddb.thinProvisioned", "1")] if thin else []),
            ),
        )
        if described.sectors > vmdk.CAPACITY_LIMIT:
            raise ArgumentError("a disk has at most 62 TiB", argument="capacity", component=name)
        if self.exists(name):
            raise HostError(f"{name} exists already", code="host-eexist", component=name)
        self.make(extent, (), size=disk.capacity)
        try:
            if not thin:
                self._allocate(extent, disk.capacity)
            self.make(name, [(0, vmdk.write(described))])
        except BaseException:
            self.remove(extent)
            raise

    def make_delta(self, disk: DiskSpec, *, spare: bool = True) -> str:
        """Make an empty delta above a disk, beside it, and return the name of its descriptor.

        ``spare``: it takes nothing of what no file may take.

        Raises:
            CasemateError: The disk below is not in order, or there is no space.
        """
        if spare:
            self.demand_space(0, disk.file_name)
        source = disks.resolve(self, (disk,))[0]
        check_offered(source)
        name = self.free_name(delta_stem(disk.file_name), ".vmdk")
        described = self.delta_of(source, name)
        extent = beside(name, described.extent)
        self.make(extent, qcow2.empty(described.capacity))
        try:
            self.make(name, [(0, vmdk.write(described))])
        except BaseException:
            self.remove(extent)
            raise
        return name

    def delta_of(self, source: DiskSource, name: str) -> Vmdk:
        """Return the descriptor of a new delta above a disk. Raises CasemateError."""
        below = source.disk.file_name
        cid = "fffffffe"
        if source.disk.format == "vmdk":
            cid = disks.describe(self, below).cid
        return Vmdk(
            CreateType.DELTA,
            f"{name.rpartition('/')[2].removesuffix('.vmdk')}-delta.qcow2",
            source.disk.capacity // vmdk.SECTOR,
            parent=below.rpartition("/")[2],
            parent_cid=cid,
        )

    def extend(self, disk: DiskSpec, capacity: int) -> DiskSource:
        """Make a disk larger on its file system and return it as it was.

        Raises:
            CasemateError: It has deltas or is sparse, shall become smaller, or space lacks.
        """
        source = disks.resolve(self, (disk,))[0]
        if capacity < source.disk.capacity or capacity % vmdk.SECTOR:
            raise ArgumentError(
                f"a disk of {source.disk.capacity} bytes cannot get {capacity}",
                argument="capacityInBytes",
                component=disk.file_name,
            )
        if not source.whole or source.format != "raw":
            raise ArgumentError(
                f"{disk.file_name} is a delta or sparse and cannot be extended",
                argument="capacityInBytes",
                component=disk.file_name,
            )
        handle = self._open(source.file_name, os.O_RDWR)
        try:
            os.ftruncate(handle, capacity)
        except OSError as error:
            raise from_os_error(f"cannot extend {source.file_name}", error) from error
        finally:
            os.close(handle)
        if disk.format == "vmdk":
            described = disks.describe(self, disk.file_name)
            larger = replace(described, sectors=capacity // vmdk.SECTOR)
            self.write(disk.file_name, vmdk.write(larger))
        return source

    def files_of(self, name: str) -> tuple[str, ...]:
        """Return the files of one disk, without those below it; only its name if it is broken."""
        if not name.lower().endswith(".vmdk"):
            return (name,)
        try:
            described = disks.describe(self, name)
        except CasemateError:
            return (name,)
        return (name, *(beside(name, extent) for extent in described.extents))

    def parent_of(self, name: str) -> str:
        """Return the disk below a delta, or nothing."""
        if not name.lower().endswith(".vmdk"):
            return ""
        parent = disks.describe(self, name).parent
        return beside(name, parent) if parent else ""

    def chain(self, name: str) -> Iterator[str]:
        """Yield a disk and all that lies below it.

        Raises:
            CasemateError: That cannot be told: a descriptor is missing or broken, or the disks go
                in a circle.
        """
        seen: set[str] = set()
        while name:
            if name in seen or len(seen) > disks.CHAIN_LIMIT:
                raise disks.endless(name)
            seen.add(name)
            yield name
            name = self.parent_of(name)

    def known_chain(self, name: str) -> Iterator[str]:
        """Yield a disk and what lies below it, as far as it is in order."""
        with contextlib.suppress(CasemateError):
            yield from self.chain(name)

    def _shown(self, name: str) -> tuple[str, str]:
        """Return datastore and datastore path of a file."""
        found = in_volume(name)
        if found is None and self.volumes and self.path.is_relative_to(self.volumes):
            datastore, *parts = (self.path / name).relative_to(self.volumes).parts
            found = datastore, "/".join(parts)
        return (found[0], show(*found)) if found else ("", name)

    def _allocate(self, name: str, size: int) -> None:
        self.demand_space(size, name)
        datastore, file = self._shown(name)
        handle = self._open(name, os.O_RDWR)
        try:
            for offset in range(0, size, _PIECE):
                # Others may take what there was.
                piece = min(_PIECE, size - offset)
                demand_space(handle, piece, file=file, datastore=datastore)
                os.posix_fallocate(handle, offset, piece)
        except OSError as error:
            raise from_os_error(f"cannot reserve {size} bytes", error, component=name) from error
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _at(self, name: str) -> Iterator[tuple[int, str]]:
        """Open the folder that a file is in, if it is another; gives the file's plain name too."""
        found = in_volume(name)
        if self.volumes is None or found is None:
            yield self.fd, _plain(name)
            return
        folder, _, plain = "/".join(found).rpartition("/")
        volumes = open_directory(self.volumes)
        try:
            handle = open_beneath(volumes, folder, os.O_RDONLY | os.O_DIRECTORY)
        finally:
            os.close(volumes)
        try:
            yield handle, plain
        finally:
            os.close(handle)

    def _open(self, name: str, flags: int) -> int:
        with self._at(name) as (folder, plain):
            handle = open_beneath(folder, plain, flags | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
        raise HostError(f"{name} is not a regular file", code="disk-kind", component=name)


def _sync_names(folder: int) -> None:
    """Return once what was made or renamed in a folder is on the disk. Raises OSError."""
    handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def new_uuid() -> str:
    """Return a random UUID of a disk, which begins and is written as VMware's do."""
    digits = f"6000c29{uuid.uuid4().hex[7:]}"
    pairs = [digits[place : place + 2] for place in range(0, 32, 2)]
    return f"{' '.join(pairs[:8])}-{' '.join(pairs[8:])}"


def delta_stem(name: str) -> str:
    """Return how the names of deltas above a disk begin; a delta's own number is no part of it."""
    stem = name.rpartition(".")[0]
    head, _, number = stem.rpartition("-")
    return head if number.isdigit() and head else stem


def make_directory(path: Path) -> None:
    """Make a VM's directory.

    Raises:
        HostError: ``host-eexist`` or another errno's.
    """
    try:
        path.mkdir(mode=0o755)
    except OSError as error:
        raise from_os_error(f"cannot make {path.name}", error, component=path.name) from error


def exists_already(error: HostError) -> bool:
    """Tell whether something could not be made because it is there."""
    return is_errno(error, errno.EEXIST)


def _plain(name: str) -> str:
    if not is_plain_name(name):
        raise ArgumentError(
            f"{name[:80]!r} is not a file of the VM's own directory", argument="fileName"
        )
    return name
