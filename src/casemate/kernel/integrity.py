"""Whether the visor root still is what was measured, asked again and again while the host runs.

Two questions. The mounts of the host's namespace must be those that the boot made: nobody mounted
something over a part of the root, moved it, or took a restriction away. And behind each layer must
lie the sealed memory that was measured: the loop device still points to it, and what Linux reads
through it still has the digest that stands in the log.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from casemate.errors import CasemateError, Finding, VerificationError
from casemate.kernel.boot.layers import LayerDevice, LayerFact, LayerTree, tree_digest
from casemate.kernel.boot.visor import LAYERS
from casemate.kernel.layers import LIVE
from casemate.kernel.measurements import Measurements
from casemate.kernel.sys.loops import backing_of, open_loop
from casemate.policy.mountaudit import audit_mounts, parse_mounts

HASH_SECONDS: Final = 600.0
"""Between two readings of all layers: they take a core for about a tenth of a second."""
MOUNTINFO: Final = Path("/proc/self/mountinfo")
_CHUNK: Final = 1 << 20
_REMEDY: Final = "Boot the host again; find out who reached the machine's kernel or root account."


class Integrity:
    """Looks. What it sees is acted on by who asks.

    Args:
        measurements: what was measured, and the layers of this boot.
        mountinfo: Linux's list of the mounts of this namespace.
        clock: seconds that only grow.
        first: the mounts that the boot made, as init noted them; without, those of now.
        trees: where the layers are that were laid out from archives.
    """

    def __init__(
        self,
        measurements: Measurements,
        mountinfo: Path = MOUNTINFO,
        clock: Callable[[], float] = time.monotonic,
        *,
        first: str = "",
        trees: Path = LAYERS,
    ) -> None:
        self._measurements = measurements
        self._mountinfo = mountinfo
        self._clock = clock
        self._first = parse_mounts(first or mountinfo.read_text())
        self._hashed = clock()
        self._trees = trees
        self._live: Callable[[], Iterable[LayerFact]] = tuple

    def follow(self, live: Callable[[], Iterable[LayerFact]]) -> None:
        """Look at what is installed live as well: ``live`` tells what that is now."""
        self._live = live

    def look(self) -> tuple[Finding, ...]:
        """Return what is not as it was measured."""
        return (*self._mounts(), *self._layers())

    def confirm(self, names: Collection[str]) -> None:
        """Raise unless the layers of these names still are what was measured.

        Raises:
            VerificationError: ``layer-replaced`` or ``layer-changed``.
            HostError: One cannot be looked at.
        """
        for layer, place in self._known():
            if layer.name in names:
                for found in self._check(layer, place, whole=True):
                    raise VerificationError(
                        found.reason,
                        code=found.code,
                        component=found.component,
                        remedy=found.remedy,
                    )

    def _known(self) -> Iterator[tuple[LayerFact, Path]]:
        """Yield every layer, with the directory of its kind."""
        record = self._measurements.record
        for device in record.layers:
            yield LayerDevice(*device), self._trees
        for tree in record.trees:
            yield LayerTree(*tree), self._trees
        for layer in self._live():
            yield layer, LIVE

    def _mounts(self) -> Iterator[Finding]:
        yield from audit_mounts(self._first, parse_mounts(self._mountinfo.read_text()))

    def _layers(self) -> Iterator[Finding]:
        due = self._clock() >= self._hashed + HASH_SECONDS
        found: list[Finding] = []
        for layer, place in self._known():
            try:
                found += self._check(layer, place, whole=due)
            except CasemateError as error:
                found.append(
                    Finding("layer-gone", layer.name, f"{layer.name}: {error.reason}", _REMEDY)
                )
        # A finding is looked at again at once, with the digests.
        if due and not found:
            self._hashed = self._clock()
        yield from found

    def _check(self, layer: LayerFact, place: Path, *, whole: bool) -> Iterator[Finding]:
        """Yield what is wrong with a layer; all of its content is read when ``whole``."""
        if isinstance(layer, LayerTree):
            if whole and tree_digest(place / layer.name) != layer.digest:
                yield _changed(layer.name)
            return
        facts = (one for one in self._measurements.components if one.file_name == layer.name)
        fact = next(facts, None) if whole else None
        yield from _check(layer, *((fact.size, fact.sha256) if fact else (0, b"")))


def _check(device: LayerDevice, size: int, digest: bytes) -> Iterator[Finding]:
    """Yield what is wrong with a layer; its content is read when ``size`` is given."""
    descriptor = open_loop(device.number)
    try:
        behind = backing_of(descriptor)
        if (behind.device, behind.inode) != (device.device, device.inode) or not behind.read_only:
            yield Finding(
                "layer-replaced",
                device.name,
                f"Behind the layer {device.name} no longer lies what was measured.",
                _REMEDY,
            )
        elif size and _digest(descriptor, size) != digest:
            yield _changed(device.name)
    finally:
        os.close(descriptor)


def _changed(name: str) -> Finding:
    return Finding(
        "layer-changed",
        name,
        f"What is read of the layer {name} is not what was measured.",
        _REMEDY,
    )


def _digest(descriptor: int, size: int) -> bytes:
    digest = hashlib.sha256()
    place = 0
    while place < size:
        chunk = os.pread(descriptor, min(_CHUNK, size - place), place)
        if not chunk:
            break
        digest.update(chunk)
        place += len(chunk)
    return digest.digest()
