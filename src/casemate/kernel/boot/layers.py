"""The visor root: every verified payload a read-only layer, all layers together the root.

Later layers lie above earlier ones; an image has each file in exactly one VIB, so the order only
matters for overlays.
"""

from __future__ import annotations

from pathlib import Path

from casemate.kernel.boot.component import Sealed
from casemate.kernel.sys.loops import loop_device
from casemate.kernel.sys.mounts import erofs, overlay

EROFS_MAGIC = b"\xe2\xe1\xf5\xe0"
_SUPERBLOCK = 1024


class VisorRoot:
    """Collects layers under ``place`` (a private tmpfs) and joins them."""

    def __init__(self, place: Path) -> None:
        self._layers: list[Path] = []
        self._place = place
        self.root = place / "root"
        self.root.mkdir()

    def add(self, component: Sealed, magic: bytes) -> Path | None:
        """Mount an EROFS payload from its sealed memory; return where, or None for others.

        Nobody sees the layer before ``join``.
        """
        if magic != EROFS_MAGIC:
            return None
        target = self._place / "layers" / component.name
        target.mkdir(parents=True)
        with loop_device(component.descriptor, component.name) as device:
            erofs(device, target)
        self._layers.append(target)
        return target

    def join(self) -> Path:
        """Mount all layers as one tree and return it."""
        overlay(self.root, list(reversed(self._layers)))
        return self.root


def magic_of(view: memoryview | bytes) -> bytes:
    """Return the four bytes where an EROFS superblock has its magic."""
    return bytes(view[_SUPERBLOCK : _SUPERBLOCK + 4])
