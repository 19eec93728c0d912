"""Components, each read once: copied, sealed, hashed from the sealed copy.

From here on the bytes cannot change: what is hashed is what is verified, measured and loaded.
Reading runs ahead of the loader on two threads (copying and hashing release the interpreter's
lock), because the slow part is SHA-384 and machines have more than one core.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from casemate.errors import BootError
from casemate.kernel.sys.memfd import mapped, sealed_copy
from casemate.policy.measure import measured_digests

SIZE_LIMIT = 1 << 30
"""Bytes of one component: several times the largest payload of an image."""

WORKERS = 2
"""Components handled at once: more would only wait for memory bandwidth."""

HANDOVER = 0.0005
"""Seconds after which a thread that computes lets another begin: a tenth of Python's own, since
every component waits for one that only has to start the next hash."""

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A component in memory. ``digests`` is what is measured; ``sha256`` is of the file itself."""

    name: str
    descriptor: int
    size: int
    digests: dict[str, bytes]
    sha256: bytes

    def content(self) -> bytes:
        """Return a copy of the bytes: for small components that are parsed."""
        with mapped(self.descriptor) as view:
            return bytes(view)


def read_component(directory: Path, name: str, algorithms: Sequence[str]) -> Sealed:
    """Read a file of the bank once into sealed memory and hash it there; the caller closes it.

    Raises BootError (``component-missing``) when it cannot be read; LimitError when too large.
    """
    try:
        source = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BootError(
            f"{name} cannot be read: {error.strerror}",
            code="component-missing",
            component=name,
            remedy="Install the image again; boot.cfg names a file that is not in the bank.",
        ) from error
    try:
        sealed = sealed_copy(source, name, limit=SIZE_LIMIT)
    finally:
        os.close(source)
    try:
        with mapped(sealed) as view:
            digests, own = _digests(view, algorithms)
            return Sealed(name, sealed, len(view), digests, own)
    except BaseException:
        os.close(sealed)
        raise


class Reader:
    """Reads components ahead, in the order in which they will be asked for."""

    def __init__(self, directory: Path, algorithms: Sequence[str]) -> None:
        self._directory = directory
        self._algorithms = algorithms
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="component")
        self._reads: dict[str, Future[Sealed]] = {}
        self._usual = sys.getswitchinterval()

    def __enter__(self) -> Self:
        sys.setswitchinterval(HANDOVER)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        sys.setswitchinterval(self._usual)
        for read in self._reads.values():
            if not read.cancelled() and read.exception() is None:
                os.close(read.result().descriptor)

    def announce(self, names: Iterable[str]) -> None:
        """Begin to read these."""
        for name in names:
            if name not in self._reads:
                self._reads[name] = self._pool.submit(
                    read_component, self._directory, name, self._algorithms
                )

    def get(self, name: str) -> Sealed:
        """Wait for a component. Raises what ``read_component`` raised."""
        self.announce([name])
        return self._reads[name].result()

    def release(self, name: str) -> None:
        """Give up a component that is mounted or parsed: its memory lives as long as its mount."""
        read = self._reads.pop(name)
        os.close(read.result().descriptor)


def _digests(view: memoryview, algorithms: Sequence[str]) -> tuple[dict[str, bytes], bytes]:
    own = hashlib.sha256(view).digest()
    if bytes(view[:2]) == _GZIP or not view:
        return measured_digests(view, algorithms), own
    return {
        name: own if name == "sha256" else hashlib.new(name, view).digest() for name in algorithms
    }, own
