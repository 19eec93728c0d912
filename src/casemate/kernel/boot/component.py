"""One component, read once: copied, sealed, hashed from the sealed copy.

From here on the bytes cannot change: what is hashed is what is verified, measured and loaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from casemate.errors import BootError
from casemate.kernel.sys.memfd import mapped, sealed_copy
from casemate.policy.measure import measured_digests

SIZE_LIMIT = 1 << 30
"""Bytes of one component: several times the largest payload of an image."""

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


@contextmanager
def read_component(
    directory: Path, name: str, algorithms: Sequence[str], workers: ThreadPoolExecutor
) -> Iterator[Sealed]:
    """Read a file of the bank once into sealed memory and hash it there, all banks at once.

    Raises BootError (``component-missing``) when it cannot be read; LimitError when too large.
    """
    path = directory / name
    try:
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
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
            digests, own = _digests(view, algorithms, workers)
        yield Sealed(name, sealed, os.fstat(sealed).st_size, digests, own)
    finally:
        os.close(sealed)


def _digests(
    view: memoryview, algorithms: Sequence[str], workers: ThreadPoolExecutor
) -> tuple[dict[str, bytes], bytes]:
    if bytes(view[:2]) == _GZIP or not view:
        own = hashlib.sha256(view).digest()
        return measured_digests(view, algorithms), own
    jobs = {
        name: workers.submit(lambda name=name: hashlib.new(name, view).digest())
        for name in {*algorithms, "sha256"}
    }
    found = {name: job.result() for name, job in jobs.items()}
    return {name: found[name] for name in algorithms}, found["sha256"]
