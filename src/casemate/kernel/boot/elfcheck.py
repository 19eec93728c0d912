"""Every program and library of a mounted layer, judged before the layer joins the visor root.

The layer is read-only, its bytes are sealed, and nothing sees it yet but the loader. Linux itself
unpacks the files, so what is judged is what would be mapped. Only headers and symbol tables are
touched; the rest of a program is not even unpacked. The name or mode of a file says nothing about
whether it can be mapped as code, so the first bytes of every file count. Where the image itself
shows its files and how they begin (``formats.erofs``), the mount is not asked: looking at every
file through it would take as long as all the hashing. The other files are read from the mount.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from casemate.formats.erofs import ErofsImage
from casemate.kernel.sys.libc import from_os_error
from casemate.kernel.sys.views import view_of
from casemate.policy.hardening import Report, Waiver
from casemate.policy.levels import Level
from casemate.policy.payloads import MAGIC, enforce_file

READERS: Final = 2
"""Files read at once: reading waits for Linux to unpack, but judging shares one interpreter."""

BATCH: Final = 16
"""Files that a thread judges at a time: handing one over costs as much as judging it."""


class LayerJudge:
    """Judges layers beside the boot; ``conclude`` must be called before any of them is used."""

    def __init__(self, waivers: Iterable[Waiver]) -> None:
        self._waivers = tuple(waivers)
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="elf")
        self._work: list[Future[list[Report]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(
        self, layer: Path, level: Level, component: str, image: ErofsImage | None = None
    ) -> None:
        """Begin to judge every file below ``layer`` as what it will be below ``/``.

        Args:
            layer: where the payload is mounted.
            level: acceptance level of its VIB.
            component: the payload's file name, for errors.
            image: the bytes that are mounted there, where they are an EROFS image.

        Raises:
            HostError: a directory cannot be read.
        """
        top = str(layer).rstrip("/")

        def judge(paths: list[str]) -> list[Report]:
            reports = (
                enforce_file(path[len(top) :], view, level, self._waivers, component=component)
                for path in paths
                if (view := program(path)) is not None
            )
            return [report for report in reports if report is not None]

        named = None if image is None else image.files()
        present: Iterable[tuple[str, int, int]]
        if named is None:
            present = files(top)
        else:
            present = ((top + path, node, size) for path, node, size in named)
        chosen = [
            path
            for path, node, size in sorted(present)
            if image is None or image.may_begin(node, size, MAGIC)
        ]
        self._work += [
            self._pool.submit(judge, chosen[start : start + BATCH])
            for start in range(0, len(chosen), BATCH)
        ]

    def conclude(self) -> tuple[Report, ...]:
        """Wait for all verdicts.

        Raises:
            VerificationError: a file breaks a required rule, or is ELF that cannot be read.
            HostError: a file cannot be read.
        """
        return tuple(report for work in self._work for report in work.result())


def files(top: str) -> Iterator[tuple[str, int, int]]:
    """Yield path, inode number and size of every regular file below, on one file system alone.

    What a directory says about the type of its entries is not believed: an image may lie there.

    Raises:
        HostError: a directory cannot be read.
    """
    try:
        device = os.lstat(top or "/").st_dev
        waiting = [f"{top}/"]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode):
                        yield entry.path, found.st_ino, found.st_size
                    elif stat.S_ISDIR(found.st_mode) and found.st_dev == device:
                        waiting.append(entry.path)
    except OSError as error:
        raise from_os_error(f"cannot read {top}", error, component=top) from error


def program(path: str) -> memoryview | None:
    """Return the content of a file that is ELF; None for others.

    Raises:
        HostError: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if os.pread(descriptor, len(MAGIC), 0) != MAGIC:
                return None
            return view_of(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise from_os_error(f"cannot read {path}", error, component=path) from error
