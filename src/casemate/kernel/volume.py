"""The files of one datastore: every path is looked up from its directory, and no link is followed.

A datastore holds folders and regular files. Whatever else somebody put there (links, devices) is
neither shown nor opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from casemate.calls.files import FileEntry
from casemate.errors import (
    FileError,
    FileMissingError,
    FilePresentError,
    HostError,
    SpaceError,
)
from casemate.formats import datastorepath
from casemate.formats.datastorepath import RESERVED
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.sys.files import copy_data, lock, open_beneath, open_directory, rename
from casemate.kernel.sys.libc import from_os_error, is_errno
from casemate.kernel.sys.space import demand_space

_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o755


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder to be: the open folder above it, its name there, its datastore path."""

    folder: int
    name: str
    shown: str


class Volume:
    """An open datastore; a context manager. All its errors are FileError."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self._fd = open_directory(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def shown(self, path: str) -> str:
        """Return the datastore path of a path."""
        return datastorepath.show(self.name, path)

    @contextlib.contextmanager
    def place(self, path: str) -> Iterator[Place]:
        """Open the folder above a path."""
        names = datastorepath.parts(path, self.shown(path))
        shown = self.shown("/".join(names))
        if not names:
            raise FileError("the datastore itself stays as it is", file=shown)
        with self.faults(shown):
            above = self._open_folder(names[:-1])
        try:
            yield Place(above, names[-1], shown)
        finally:
            os.close(above)

    def entry(self, path: str) -> FileEntry:
        """Return what is at a path."""
        names = datastorepath.parts(path, self.shown(path))
        if not names:
            return _entry(self.name, os.fstat(self._fd))
        with self.place(path) as place:
            return self._look(place)

    @contextlib.contextmanager
    def folder(self, path: str) -> Iterator[VmDirectory]:
        """Open a folder for work on the disks in it."""
        names = datastorepath.parts(path, self.shown(path))
        with self.faults(self.shown(path)):
            handle = self._open_folder(names)
        with VmDirectory(Path(self.path, *names), handle) as directory:
            yield directory

    def exists(self, path: str) -> bool:
        """Tell whether there is anything at a path."""
        try:
            self.entry(path)
        except FileMissingError:
            return False
        return True

    def entries(self, path: str) -> Iterator[tuple[FileEntry, int]]:
        """Yield what is in a folder, by name, each with the descriptor of the folder."""
        names = datastorepath.parts(path, self.shown(path))
        with self.faults(self.shown(path)):
            handle = self._open_folder(names)
        try:
            for name in sorted(os.listdir(handle)):  # noqa: PTH208  (a descriptor, not a path)
                # What has no name that can be asked for is not shown.
                with contextlib.suppress(OSError, FileError):
                    datastorepath.parts(name)
                    found = os.stat(name, dir_fd=handle, follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode):
                        yield _entry(name, found), handle
        finally:
            os.close(handle)

    def open_read(self, path: str) -> int:
        """Return a descriptor of a regular file that nobody is writing to."""
        with self.place(path) as place, self.faults(place.shown):
            handle = open_beneath(place.folder, place.name, os.O_RDONLY | os.O_NONBLOCK)
            try:
                _regular(handle, place.shown)
                lock(handle, place.shown, exclusive=False)
            except BaseException:
                os.close(handle)
                raise
            return handle

    def make_folder(self, path: str, *, parents: bool) -> None:
        """Make a folder, and those above it if told."""
        names = datastorepath.parts(path, self.shown(path))
        for depth in range(1 if parents else len(names), len(names)):
            with contextlib.suppress(FilePresentError):
                self._make_folder("/".join(names[:depth]))
        self._make_folder("/".join(names))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it."""
        with self.place(path) as place, self.faults(place.shown):
            if self._look(place).folder:
                shutil.rmtree(place.name, dir_fd=place.folder)
            else:
                _unused(place)
                os.unlink(place.name, dir_fd=place.folder)

    def move(self, path: str, target: Volume, to_path: str, *, force: bool) -> None:
        """Move a file or folder; ``force`` replaces a file."""
        with self.place(path) as source, target.place(to_path) as goal:
            if not self._look(source).folder:
                with self.faults(source.shown):
                    _unused(source)
            with target.faults(goal.shown):
                try:
                    _rename(source.folder, source.name, goal, force=force)
                except HostError as error:
                    if not is_errno(error, errno.EXDEV):
                        raise
                else:
                    return
        # Another file system: the copy stands before the original goes.
        self.copy(path, target, to_path, force=force)
        self.remove(path)

    def copy(
        self,
        path: str,
        target: Volume,
        to_path: str,
        *,
        force: bool,
        step: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Copy a file or folder; ``force`` replaces a file. ``step`` gets the bytes done."""
        if not path.strip("/"):
            raise FileError("a datastore is not copied as a whole", file=self.shown(path))
        if not self.entry(path).folder:
            self._copy_file(path, target, to_path, force=force, step=step)
            return
        inside = target.path == self.path and f"{to_path.strip('/')}/".startswith(
            f"{path.strip('/')}/"
        )
        if inside:
            raise FileError("a folder is not copied into itself", file=self.shown(path))
        target.make_folder(to_path, parents=False)
        for entry, _ in tuple(self.entries(path)):
            below, goal = f"{path.strip('/')}/{entry.name}", f"{to_path.strip('/')}/{entry.name}"
            self.copy(below, target, goal, force=False, step=step)

    def size(self, path: str) -> int:
        """Return the bytes of a file, or of all files in a folder and below."""
        entry = self.entry(path)
        if not entry.folder:
            return entry.size
        return sum(
            self.size(f"{path.strip('/')}/{one.name}".strip("/"))
            for one, _ in tuple(self.entries(path))
        )

    def sweep(self) -> None:
        """Remove the files of uploads that were never completed."""
        for _, _, names, folder in os.fwalk(".", dir_fd=self._fd):
            for name in names:
                if name.startswith(RESERVED):
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=folder)

    @contextlib.contextmanager
    def writing(self, path: str, *, force: bool) -> Iterator[int]:
        """Give a new file to write to; when the block ends well it takes its place, else it goes.

        ``force`` replaces a file that is there. A reader sees the old file or the new, never part.
        """
        with self.place(path) as place, self.faults(place.shown):
            if not force:
                self._absent(place)
            scratch = f"{RESERVED}{uuid.uuid4().hex}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            handle = open_beneath(place.folder, scratch, flags, mode=_FILE_MODE)
            try:
                yield handle
                os.fsync(handle)
                _rename(place.folder, scratch, place, force=force)
                os.fsync(place.folder)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(scratch, dir_fd=place.folder)
                raise
            finally:
                os.close(handle)

    def _absent(self, place: Place) -> None:
        """Raise FilePresentError if there is anything at the place."""
        with contextlib.suppress(FileNotFoundError):
            os.stat(place.name, dir_fd=place.folder, follow_symlinks=False)
            raise FilePresentError(f"{place.shown} exists already", file=place.shown)

    def demand_space(self, size: int, shown: str) -> None:
        """Raise SpaceError unless so many bytes may be written."""
        demand_space(self._fd, size, file=shown, datastore=self.name)

    def watched(self, step: Callable[[int], None], shown: str) -> Callable[[int], None]:
        """Return what counts bytes and stops before the datastore is full."""

        def watch(amount: int) -> None:
            step(amount)
            self.demand_space(0, shown)

        return watch

    @contextlib.contextmanager
    def faults(self, shown: str) -> Iterator[None]:
        """Turn what the system says into an error about the file."""
        try:
            yield
        except OSError as error:
            raise self._fault(from_os_error("it cannot be", error), shown) from error
        except HostError as error:
            raise self._fault(error, shown) from error

    def _fault(self, error: HostError, shown: str) -> FileError:
        if is_errno(error, errno.ENOENT) or is_errno(error, errno.ENOTDIR):
            return FileMissingError(f"{shown} was not found", file=shown)
        if is_errno(error, errno.EEXIST) or is_errno(error, errno.ENOTEMPTY):
            return FilePresentError(f"{shown} exists already", file=shown)
        if is_errno(error, errno.ENOSPC) or is_errno(error, errno.EDQUOT):
            return SpaceError("the datastore is full", file=shown, datastore=self.name)
        return FileError(f"{shown}: {error.reason}", file=shown)

    def _open_folder(self, names: tuple[str, ...]) -> int:
        return open_beneath(self._fd, "/".join(names) or ".", os.O_RDONLY | os.O_DIRECTORY)

    def _look(self, place: Place) -> FileEntry:
        with self.faults(place.shown):
            found = os.stat(place.name, dir_fd=place.folder, follow_symlinks=False)
        if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
            raise FileError(f"{place.shown} is neither file nor folder", file=place.shown)
        return _entry(place.name, found)

    def _make_folder(self, path: str) -> None:
        with self.place(path) as place, self.faults(place.shown):
            os.mkdir(place.name, mode=_FOLDER_MODE, dir_fd=place.folder)

    def _copy_file(
        self,
        path: str,
        target: Volume,
        to_path: str,
        *,
        force: bool,
        step: Callable[[int], None],
    ) -> None:
        source = self.open_read(path)
        try:
            with target.writing(to_path, force=force) as handle:
                copy_data(source, handle, target.watched(step, target.shown(to_path)))
        finally:
            os.close(source)


def _rename(folder: int, name: str, goal: Place, *, force: bool) -> None:
    """Rename in one step; without ``force`` nothing is replaced, and no folder ever is."""
    if force:
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(goal.name, dir_fd=goal.folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise FilePresentError(f"{goal.shown} is a folder", file=goal.shown)
            _unused(goal)
    rename(folder, name, goal.folder, goal.name, replace=force)


def _unused(place: Place) -> None:
    """Raise FileLockedError when a running VM has the file."""
    handle = open_beneath(place.folder, place.name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        lock(handle, place.shown, exclusive=True)
    finally:
        os.close(handle)


def _regular(handle: int, shown: str) -> None:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise FileError(f"{shown} is not a file", file=shown)


def _entry(name: str, found: os.stat_result) -> FileEntry:
    folder = stat.S_ISDIR(found.st_mode)
    return FileEntry(name, folder, found.st_size, found.st_mtime, _owner(found.st_uid))


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
