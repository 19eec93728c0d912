"""Writing a boot bank as one transaction: cut anywhere, the host boots the old image or the new.

The bank that is written is never the one that runs. First it loses its boot.cfg, and with it the
right to boot; then files come and go; last, and in one step, it gets its new boot.cfg, with the
highest serial number and the state UPGRADING. Until then the running bank boots, from then on the
new one. Every file is written beside its place, synchronised, and only then renamed.

All changes of the disk go through ``Disk``, so that a test can end the world between any two.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from casemate.errors import DigestError, HostError, StateError
from casemate.formats.bootcfg import BootCfg, BootState, write_bootcfg
from casemate.formats.imgdb import ImageDb, write_imgdb
from casemate.formats.statekey import FILE as STATE_KEY
from casemate.policy.newimage import DATABASE

CONFIGURATION: Final = "boot.cfg"
SCRATCH_SUFFIX: Final = ".new"
_CHUNK: Final = 1 << 20
_MARGIN: Final = 8 << 20
"""Bytes left free on the bank's disk: for boot.cfg, database and the file system itself."""


class Disk:
    """The operations that change a bank; each is durable when it returns."""

    def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
        """Write a new file and synchronise it."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        """Put a file in the place of another."""
        source.replace(target)
        self.settle(target.parent)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)
        self.settle(path.parent)

    def settle(self, directory: Path) -> None:
        """Synchronise a directory."""
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@dataclass(frozen=True, slots=True)
class BankFile:
    """A file of the new bank: its content, and the SHA-256 it must have.

    ``source`` is the bytes themselves, or files to look for them in, in order.
    """

    name: str
    sha256: bytes
    size: int
    source: bytes | memoryview | tuple[Path, ...]


def write_bank(
    disk: Disk,
    bank: Path,
    config: BootCfg,
    database: ImageDb,
    files: Sequence[BankFile],
    *,
    serial: int,
) -> None:
    """Write a bank.

    Args:
        disk: What changes it.
        bank: Its directory, which must not be the running bank's.
        config: Its boot.cfg; state and serial number are set here.
        database: Its image database.
        files: All other files.
        serial: The number that makes it the newest.

    Raises:
        DigestError: A file is not what its VIB says (``payload-changed``).
        StateError: There is not enough room (``no-space``).
        HostError: The disk fails.
    """
    with _failing(bank):
        bank.mkdir(exist_ok=True)
        present = {one.name for one in files if _is(bank / one.name, one)}
        _check_room(bank, [one for one in files if one.name not in present])
        disk.remove(bank / CONFIGURATION)
        wanted = {one.name for one in files}
        for stale in sorted(bank.iterdir()):
            if stale.name not in wanted and stale.name != STATE_KEY and stale.is_file():
                disk.remove(stale)
        for one in files:
            if one.name not in present:
                _put(disk, bank / one.name, _checked(one))
        _put(disk, bank / DATABASE, [write_imgdb(database)])
        final = replace(config, bootstate=BootState.UPGRADING, updated=serial)
        _put(disk, bank / CONFIGURATION, [write_bootcfg(final)])


def _put(disk: Disk, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    scratch = path.with_name(f"{path.name}{SCRATCH_SUFFIX}")
    disk.write(scratch, chunks)
    disk.rename(scratch, path)


def _checked(one: BankFile) -> Iterator[bytes | memoryview]:
    """Yield the content; raise at its end unless it was the right one."""
    digest = hashlib.sha256()
    for chunk in _chunks(one):
        digest.update(chunk)
        yield chunk
    if digest.digest() != one.sha256:
        raise DigestError(
            f"The file {one.name} of the running image is not what was signed.",
            code="payload-changed",
            component=one.name,
            remedy="Install the VIB that brings it again: esxcli software vib install --force.",
        )


def _chunks(one: BankFile) -> Iterator[bytes | memoryview]:
    if not isinstance(one.source, tuple):
        view = memoryview(one.source)
        for start in range(0, len(view), _CHUNK):
            yield view[start : start + _CHUNK]
        return
    for source in one.source:
        if source.is_file() and not source.is_symlink():
            with source.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
            return
    raise DigestError(
        f"The file {one.name} of the running image is missing.",
        code="component-missing",
        component=one.name,
    )


def _is(path: Path, one: BankFile) -> bool:
    """Tell whether a file is there already, byte for byte."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != one.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest() == one.sha256


def _check_room(bank: Path, files: Iterable[BankFile]) -> None:
    facts = os.statvfs(bank)
    free = facts.f_bavail * facts.f_frsize
    needed = sum(one.size for one in files) + _MARGIN
    if free < needed:
        raise StateError(
            f"The bank {bank.name} has {free >> 20} MiB free; the new image needs "
            f"{needed >> 20} MiB.",
            code="no-space",
            component=bank.name,
            remedy="Make room on its disk, or remove VIBs first.",
        )


@contextmanager
def _failing(bank: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            f"The boot bank {bank.name} cannot be written: {error.strerror}.",
            code="bank-write",
            component=bank.name,
            remedy="Look after the disk; the running image is untouched and boots again.",
        ) from error
