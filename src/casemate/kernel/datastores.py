"""The files of datastores: handlers of the requests that look, make, copy, move and remove."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

from casemate.calls import files as c
from casemate.calls.messages import Empty, TaskReply
from casemate.errors import CasemateError, LimitError
from casemate.formats import datastorepath, vmdk
from casemate.kernel.accounts import Session
from casemate.kernel.cells import disks
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.fileguard import FileGuard, Places
from casemate.kernel.tasks import Job, Tasks
from casemate.kernel.volume import Volume

FOUND_LIMIT: Final = 10_000
"""Files that one search answers with: a few MiB, within a frame of the calls."""
SEEN_LIMIT: Final = 200_000
"""Files that one search looks at: some seconds of work."""
COPIES_AT_ONCE: Final = 4
"""Tasks on files that run at once; more wait for their turn."""
LOOKS_AT_ONCE: Final = 2
"""Searches at once."""
PATTERN_LIMIT: Final = 32
_PATTERN_SIZE: Final = 255

_log = logging.getLogger(__name__)

Handler = Callable[..., Awaitable[object]]
Check = Callable[[Session, str, object], None]
Relocation = c.MoveFile | c.CopyFile | c.MoveDisk | c.CopyDisk


class Datastores:
    """Handlers of the requests about files. ``check`` raises where a privilege is lacking."""

    def __init__(self, places: Places, tasks: Tasks, check: Check) -> None:
        self._places = places
        self._tasks = tasks
        self._check = check
        self._guard = FileGuard(places)
        # Threads of their own: what takes long must not hold up logins and transfers.
        self._copies = ThreadPoolExecutor(COPIES_AT_ONCE, "copy")
        self._looks = ThreadPoolExecutor(LOOKS_AT_ONCE, "look")

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers by request."""
        return {
            c.SearchFiles: self._search,
            c.StatFile: self._stat,
            c.MakeDirectory: self._make,
            c.DeleteFile: self._delete,
            c.MoveFile: self._move,
            c.CopyFile: self._copy,
            c.RefreshStorage: self._refresh,
            c.CreateDatastore: self._create_datastore,
            c.RemoveDatastore: self._remove_datastore,
        }

    async def _search(self, request: c.SearchFiles, _: Session) -> c.FoldersReply:
        wanted = _pattern(request.patterns, any_case=request.any_case)

        def look() -> c.FoldersReply:
            with self.open(request.datastore) as volume:
                return c.FoldersReply(tuple(_search(volume, request, wanted)))

        return await asyncio.get_running_loop().run_in_executor(self._looks, look)

    async def _stat(self, request: c.StatFile, _: Session) -> c.FileReply:
        def look() -> c.FileReply:
            with self.open(request.datastore) as volume:
                return c.FileReply(volume.entry(request.path))

        return await asyncio.to_thread(look)

    async def _make(self, request: c.MakeDirectory, _: Session) -> Empty:
        def make() -> None:
            with self.open(request.datastore) as volume:
                volume.make_folder(request.path, parents=request.parents)

        await asyncio.to_thread(make)
        return Empty()

    async def _delete(self, request: c.DeleteFile, session: Session) -> TaskReply:
        await self.demand_free(request.datastore, request.path)

        def work(_job: Job) -> None:
            # It may have waited for its turn: a VM can have been registered there since.
            with (
                self.held((request.datastore, request.path)),
                self.open(request.datastore) as volume,
            ):
                volume.remove(request.path)

        return self.start(request.datastore, "FileManager.deleteFile", session, work)

    async def _move(self, request: c.MoveFile, session: Session) -> TaskReply:
        await self.demand_target(request, session)
        await self.demand_free(request.datastore, request.path)

        def work(_job: Job) -> None:
            with (
                self.held(
                    (request.datastore, request.path), (request.to_datastore, request.to_path)
                ),
                self.open(request.datastore) as source,
                self.open(request.to_datastore) as target,
            ):
                source.move(request.path, target, request.to_path, force=request.force)

        return self.start(request.datastore, "FileManager.moveFile", session, work)

    async def _copy(self, request: c.CopyFile, session: Session) -> TaskReply:
        await self.demand_target(request, session)

        def work(job: Job) -> None:
            with (
                self.held((request.to_datastore, request.to_path)),
                self.open(request.datastore) as source,
                self.open(request.to_datastore) as target,
            ):
                size = source.size(request.path)
                target.demand_space(size, target.shown(request.to_path))
                step = job.counter(size)
                source.copy(request.path, target, request.to_path, force=request.force, step=step)

        operation = "FileManager.copyFile"
        return self.start(request.datastore, operation, session, work, cancellable=True)

    async def _refresh(self, _request: c.RefreshStorage, _: Session) -> Empty:
        self.refresh()
        return Empty()

    async def _create_datastore(self, request: c.CreateDatastore, _: Session) -> c.DatastoreReply:
        return c.DatastoreReply(self._places.make_datastore(request.name))

    async def _remove_datastore(self, request: c.RemoveDatastore, _: Session) -> Empty:
        self._places.remove_datastore(request.datastore)
        return Empty()

    def sweep(self) -> None:
        """Remove what uploads left that a killed kernel did not end; nobody uploads yet."""
        for fact in self._places.datastores():
            try:
                with self.open(fact.datastore) as volume:
                    volume.sweep()
            except CasemateError as error:
                _log.warning("datastore %s: %s", fact.name, error.reason)

    def refresh(self) -> None:
        """Look at size and free space of the datastores again."""
        self._places.refresh_datastores()

    def open(self, datastore: str) -> Volume:
        """Open a datastore; to be closed by ``with``."""
        fact = self._places.datastore(datastore)
        return Volume(fact.name, Path(fact.path))

    async def demand_free(self, datastore: str, path: str) -> None:
        """Raise FileLockedError if the file at a path belongs to a VM.

        It may become one's right after: who changes it does so while it is ``held``.
        """
        await asyncio.to_thread(self._guard.demand_free, *self._at(datastore, path))

    def held(self, *paths: tuple[str, str]) -> AbstractContextManager[None]:
        """Keep files, by datastore and path, from becoming a VM's while they are changed.

        Reads files: not for the event loop.

        Raises:
            FileLockedError: One belongs to a VM already.
        """
        return self._guard.held([self._at(*one) for one in paths])

    def _at(self, datastore: str, path: str) -> tuple[Path, str]:
        fact = self._places.datastore(datastore)
        shown = datastorepath.show(fact.name, path)
        return Path(fact.path, *datastorepath.parts(path, shown)), shown

    def start(
        self,
        datastore: str,
        operation: str,
        session: Session,
        work: Callable[[Job], str | None],
        *,
        cancellable: bool = False,
    ) -> TaskReply:
        """Start blocking work on a datastore's files as a task, beside others."""

        async def body(job: Job) -> str:
            try:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._copies, work, job) or ""
            finally:
                self.refresh()

        task = self._tasks.start(
            datastore,
            "Datastore",
            operation,
            session.user,
            body,
            exclusive=False,
            cancellable=cancellable,
        )
        return TaskReply(task)

    async def demand_target(self, request: Relocation, session: Session) -> None:
        """Raise unless the session may change the file that something is moved or copied to."""
        target = replace(request, datastore=request.to_datastore, path=request.to_path)
        self._check(session, type(request).privilege, target)
        await self.demand_free(request.to_datastore, request.to_path)


def _pattern(patterns: tuple[str, ...], *, any_case: bool) -> re.Pattern[str]:
    """Return what file names must match: one of the patterns, or anything if there is none."""
    if len(patterns) > PATTERN_LIMIT or any(len(one) > _PATTERN_SIZE for one in patterns):
        raise LimitError(f"a search has at most {PATTERN_LIMIT} short patterns")
    # Only * and ? are special in a search.
    text = "|".join(fnmatch.translate(one.replace("[", "[[]")) for one in patterns)
    return re.compile(text, re.IGNORECASE if any_case else 0)


def _search(
    volume: Volume, request: c.SearchFiles, wanted: re.Pattern[str]
) -> Iterator[c.FolderEntry]:
    seen = found = 0
    waiting = [request.path.strip("/")]
    while waiting:
        path = waiting.pop()
        files = []
        below = []
        for entry, handle in volume.entries(path):
            seen += 1
            if found >= FOUND_LIMIT or seen > SEEN_LIMIT:
                raise LimitError(
                    f"more than {FOUND_LIMIT} files were found, or {SEEN_LIMIT} looked at",
                    remedy="Search a folder further down, or with a narrower pattern.",
                )
            if entry.folder and request.recursive:
                below.append(f"{path}/{entry.name}".strip("/"))
            if wanted.pattern and not wanted.match(entry.name):
                continue
            found += 1
            folder = VmDirectory(volume.path, handle)
            files.append(_with_disk(folder, entry) if request.disks else entry)
        waiting += [one for one in reversed(below) if _not_too_deep(one)]
        yield c.FolderEntry(path, tuple(files))


def _not_too_deep(path: str) -> bool:
    return path.count("/") < datastorepath.DEPTH_LIMIT


def _with_disk(folder: VmDirectory, entry: c.FileEntry) -> c.FileEntry:
    """Add what the descriptor of a disk says; other files are as they are."""
    name = entry.name.lower()
    # What a guest writes is never taken for a descriptor.
    if entry.folder or not name.endswith(".vmdk") or name.endswith("-flat.vmdk"):
        return entry
    try:
        described = disks.describe(folder, entry.name)
        taken = sum(disks.taken(folder, extent) for extent in described.extents) or entry.size
    except CasemateError:
        return entry
    told = dict(described.ddb)
    version = told.get("ddb.virtualHWVersion", "")
    disk = c.DiskEntry(
        described.sectors * vmdk.SECTOR,
        described.create_type.value,
        described.adapter,
        int(version) if version.isdecimal() and len(version) < 4 else 0,  # noqa: PLR2004  (a small number)
        told.get("ddb.thinProvisioned") == "1",
    )
    return replace(entry, size=taken, disk=disk)
