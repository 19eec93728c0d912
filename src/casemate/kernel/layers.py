"""Payloads mounted beside the visor root: for a look into a VIB, and for VIBs installed live.

The visor root is one read-only overlay, and Linux lets nobody add a layer to one. A VIB that is
installed live is mounted at ``/run/live/FILE``, and a second overlay, of those mounts above the
layers of the visor root, at ``/run/visor/NUMBER``: the root of every cell and of every hostd that
is started from then on. What runs already keeps the root that it has.

A change stages every new payload first and then switches all at once: when any step fails, the
mounts are as they were before. What is being switched is written down beside the mounts first, so
that a kernel that is started after another was killed amid it finishes the switch, or undoes it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from casemate.errors import AcceptanceError, HostError
from casemate.formats.descriptor import Descriptor
from casemate.formats.erofs import ErofsImage
from casemate.kernel.boot.contents import walk
from casemate.kernel.boot.elfcheck import LayerJudge
from casemate.kernel.boot.layers import (
    EROFS_MAGIC,
    LayerDevice,
    LayerFact,
    LayerTree,
    device_of,
    magic_of,
    tree_digest,
    unpack,
)
from casemate.kernel.boot.visor import LAYERS
from casemate.kernel.files import write_file
from casemate.kernel.roots import JOINED, joined_roots
from casemate.kernel.sys import mounts
from casemate.kernel.sys.libc import from_os_error
from casemate.kernel.sys.loops import loop_device
from casemate.kernel.sys.memfd import mapped, sealed_bytes
from casemate.policy.hardening import Waiver
from casemate.policy.levels import Level
from casemate.policy.mountaudit import parse_mounts
from casemate.policy.vibcontent import ARCHIVES, judge_archive, read_archive

LIVE: Final = Path("/run/live")
_LOWER: Final = "lowerdir="
_STAGED: Final = ".new-"
_FORMER: Final = ".old-"
_SWITCH: Final = ".switch.json"
_FACTS: Final = ".layers.json"
_LOOKS: Final = Path("/run/look")
_CONTROL: Final = Path("/dev/loop-control")
_CONTROL_DEVICE: Final = (10, 237)
"""Major and minor number of the loop driver's control device (Linux, devices.txt)."""


class Layers:
    """Mounts payloads. ``waivers`` reads the hardening waivers in force."""

    def __init__(
        self,
        waivers: Callable[[], tuple[Waiver, ...]],
        place: Path = LIVE,
        joined: Path = JOINED,
        booted: Callable[[], Sequence[Path]] | None = None,
    ) -> None:
        self._waivers = waivers
        self._place = place
        self._joined = joined
        self._booted = booted or booted_layers
        self._staged: dict[str, LayerFact] = {}

    def inspect(
        self, kind: str, image: bytes | memoryview, descriptor: Descriptor, level: Level
    ) -> tuple[str, ...]:
        """Return the files and links of a payload after judging every program in it.

        Raises:
            AcceptanceError: It is not of its type, or holds something that no VIB may bring.
            FormatError: It is an archive that must not be unpacked.
            VerificationError: A program breaks a required hardening rule.
            HostError: This machine cannot mount it.
        """
        if kind != "erofs":
            return judge_archive(kind, image, descriptor, level, self._waivers())
        if magic_of(image) != EROFS_MAGIC:
            raise AcceptanceError(
                "A payload of the type erofs holds something else.",
                code="payload-type",
                component=descriptor.vib_id,
            )
        sealed = sealed_bytes(image, descriptor.name)
        try:
            with (
                _mounted(sealed, descriptor.name, _LOOKS) as top,
                LayerJudge(self._waivers()) as judge,
            ):
                found = tuple(walk(top, descriptor.vib_id))
                judge.submit(top, level, descriptor.vib_id, ErofsImage(memoryview(image)))
                judge.conclude()
                return found
        finally:
            os.close(sealed)

    def stage(self, name: str, sealed: int, kind: str) -> None:
        """Mount a payload of a type where nobody sees it yet. Raises HostError, FormatError."""
        target = self._place / f"{_STAGED}{name}"
        target.mkdir(parents=True, exist_ok=True)
        if kind in ARCHIVES:
            with mapped(sealed) as view:
                unpack(read_archive(kind, view, component=name), target)
            self._staged[name] = LayerTree(name, tree_digest(target))
            return
        _ensure_control()
        with loop_device(sealed, name) as device:
            mounts.erofs(device, target)
            self._staged[name] = device_of(name, device, sealed)

    def discard(self) -> None:
        """Take away what was staged and not switched to."""
        self._staged.clear()
        for one in self._mounts(_STAGED):
            _drop(one)

    def facts(self) -> tuple[LayerFact, ...]:
        """Return what tells the live layers from all others."""
        found = _read(self._place / _FACTS).get("layers", [])
        return tuple(_fact(one) for one in found if one[0] in self.names())

    def prepare(self, names: Sequence[str]) -> None:
        """Write down what ``switch`` will be asked to do. Raises HostError."""
        kept = [one for one in self.facts() if one.name not in self._staged]
        layers = [one for one in (*kept, *self._staged.values()) if one.name in names]
        self._place.mkdir(parents=True, exist_ok=True)
        words = {
            "root": max(joined_roots(self._joined), default=0) + 1 if names else 0,
            "new": list(self._staged),
            "layers": layers,
        }
        write_file(self._place / _SWITCH, json.dumps(words).encode())

    def recover(self) -> bool:
        """Finish or undo a switch that a killed kernel left; tell whether one was undone.

        It counts as made when the root that it was to end with is there.
        """
        words = _read(self._place / _SWITCH)
        if not words:
            return False
        roots = joined_roots(self._joined)
        done = words["root"] in roots if words["root"] else not roots
        if done:
            self._finish(words)
        else:
            self._undo(words["new"])
        return not done

    def _finish(self, words: dict[str, Any]) -> None:
        for number in joined_roots(self._joined):
            if number != words["root"]:
                _drop(self._joined / str(number))
        for former in (*self._mounts(_FORMER), *self._mounts(_STAGED)):
            _drop(former)
        write_file(self._place / _FACTS, json.dumps({"layers": words["layers"]}).encode())
        self._end()

    def _end(self) -> None:
        """Take away where something was mounted, and what was written down."""
        for one in self._place.iterdir():
            if one.is_dir() and not one.is_mount():
                one.rmdir()
        (self._place / _SWITCH).unlink()

    def _undo(self, new: Sequence[str]) -> None:
        for name in new:
            # What is still staged never came to its place.
            staged = self._place / f"{_STAGED}{name}"
            if (self._place / name).is_mount() and not staged.is_mount():
                _drop(self._place / name)
        for former in self._mounts(_FORMER):
            place = former.with_name(former.name.removeprefix(_FORMER))
            place.mkdir(exist_ok=True)
            mounts.move(former, place)
        for left in self._mounts(_STAGED):
            _drop(left)
        self._end()

    def switch(self, names: Sequence[str]) -> None:
        """Make these payloads the live ones, the last on top: staged ones, else those that were.

        ``prepare`` was called with the same names.

        Raises:
            HostError: Linux refused a step; everything is as it was.
        """
        words = _read(self._place / _SWITCH)
        with ExitStack() as undo:
            undo.callback(self._end)
            for one in self._mounts(""):
                _move(one, one.with_name(f"{_FORMER}{one.name}"), undo)
            for name in names:
                staged = self._place / f"{_STAGED}{name}"
                former = self._place / f"{_FORMER}{name}"
                _move(staged if staged.is_mount() else former, self._place / name, undo)
            if names:
                self._join(names, words["root"])
            undo.pop_all()
        self._staged.clear()
        self._finish(words)

    def _join(self, names: Sequence[str], number: int) -> None:
        target = self._joined / str(number)
        target.mkdir(parents=True, exist_ok=True)
        live = [self._place / name for name in reversed(names)]
        mounts.overlay(target, [*live, *self._booted()])

    def names(self) -> frozenset[str]:
        """Return the file names of the payloads that are mounted live."""
        return frozenset(one.name for one in self._mounts(""))

    def _mounts(self, prefix: str) -> tuple[Path, ...]:
        """Return the mounts whose name begins so; without a prefix, those that are live."""
        if not self._place.is_dir():
            return ()
        found = [one for one in self._place.iterdir() if one.is_mount()]
        if not prefix:
            return tuple(one for one in found if not one.name.startswith("."))
        return tuple(one for one in found if one.name.startswith(prefix))


def booted_layers(mountinfo: Path = Path("/proc/self/mountinfo")) -> tuple[Path, ...]:
    """Return the layers of the visor root, the uppermost first, in the order of the root's mount.

    An overlay of the root itself would not do: files of two layers may have one inode number, and
    a program's loader that sees them through an overlay of an overlay takes them for one file.

    Raises:
        HostError: The layers are not at hand.
    """
    root = next(one for one in parse_mounts(mountinfo.read_text()) if one.place == "/")
    lower = next((text for text in root.options if text.startswith(_LOWER)), "")
    names = [part.rpartition("/")[2] for part in lower.removeprefix(_LOWER).split(":")]
    found = tuple(LAYERS / name for name in names if name and (LAYERS / name).is_mount())
    if not found or len(found) != len(names):
        raise HostError("The layers of the visor root are not at hand.", component=str(LAYERS))
    return found


def _read(path: Path) -> dict[str, Any]:
    """Return what was written down; nothing where there is none, or half of it."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return dict(found)


def _fact(words: Sequence[Any]) -> LayerFact:
    return LayerTree(*words) if len(words) == len(LayerTree._fields) else LayerDevice(*words)


def _move(source: Path, target: Path, undo: ExitStack) -> None:
    target.mkdir(exist_ok=True)
    mounts.move(source, target)
    undo.callback(mounts.move, target, source)


def _drop(place: Path) -> None:
    """Take a mount away; what uses it still, keeps it."""
    mounts.umount(place, lazy=True)
    with suppress(OSError):
        place.rmdir()


@contextmanager
def _mounted(sealed: int, name: str, place: Path) -> Iterator[Path]:
    target = place / str(sealed)
    target.mkdir(parents=True, exist_ok=True)
    _ensure_control()
    with loop_device(sealed, name) as device:
        mounts.erofs(device, target, mounts.READ_ONLY_DATA)
    try:
        yield target
    finally:
        mounts.umount(target)
        target.rmdir()


def _ensure_control() -> None:
    """Make the node of the loop driver where /dev lacks it: a booted host starts without."""
    if _CONTROL.exists():
        return
    try:
        os.mknod(_CONTROL, stat.S_IFCHR | 0o600, os.makedev(*_CONTROL_DEVICE))
    except OSError as error:
        raise from_os_error(f"cannot make {_CONTROL}", error) from error
