"""Layers that are swapped or changed under a running host are seen."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.kernel.sys.test_mounts import image, sealed

from casemate.errors import VerificationError
from casemate.formats.tarball import EntryKind, TarEntry
from casemate.kernel.boot.component import read_component
from casemate.kernel.boot.layers import EROFS_MAGIC, VisorRoot
from casemate.kernel.integrity import HASH_SECONDS, Integrity
from casemate.kernel.sys import mounts
from casemate.kernel.sys.loops import open_loop

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]
LOOP_CHANGE_FD = 0x4C06


def test_a_layer_that_is_swapped_changed_or_mounted_over_is_seen(in_child, tmp_path):
    packed = image(tmp_path, "layer", {"code": b"good"})
    evil = image(tmp_path, "evil", {"code": b"evil"})
    assert packed.stat().st_size == evil.stat().st_size

    def attack() -> list[list[str]]:
        place = tmp_path / "visor"
        place.mkdir()
        mounts.tmpfs(place, size=1 << 20, mode=0o700)
        component = read_component(tmp_path, "layer.img", ("sha256",))
        visor = VisorRoot(place)
        visor.add(component, EROFS_MAGIC)
        now = [0.0]
        fact = SimpleNamespace(
            file_name="layer.img",
            size=component.size,
            sha256=hashlib.sha256(packed.read_bytes()).digest(),
        )
        measured = SimpleNamespace(
            record=SimpleNamespace(layers=tuple(visor.devices), trees=()), components=(fact,)
        )
        integrity = Integrity(measured, clock=lambda: now[0])
        told = []

        def look() -> None:
            told.append([finding.code for finding in integrity.look()])

        look()
        now[0] += HASH_SECONDS
        look()
        good = fact.sha256
        fact.sha256 = bytes(32)
        now[0] += HASH_SECONDS
        look()
        fact.sha256 = good
        look()
        device = open_loop(visor.devices[0].number)
        other = sealed(evil)
        fcntl.ioctl(device, LOOP_CHANGE_FD, other)
        os.close(device)
        look()
        code = mounts.Access.NO_SUID
        mounts.tmpfs(tmp_path / "layer.tree", size=4096, mode=0o755, access=code)
        told.append([f.code for f in integrity.look() if f.code.startswith("mount")])
        mounts.umount(tmp_path / "layer.tree")
        mounts.umount(place / "layers" / "layer.img")
        look()
        return told

    assert in_child(attack) == [
        [],
        [],
        ["layer-changed"],
        [],
        ["layer-replaced"],
        ["mount-added"],
        ["mount-gone", "layer-gone"],
    ]


def test_an_archive_as_a_layer_that_is_changed_is_seen_at_boot_and_live(in_child, tmp_path):
    entries = (
        TarEntry("code.py", data=b"good"),
        TarEntry("run", data=b"x", mode=0o755),
        TarEntry("link", EntryKind.SYMLINK, target="run"),
        TarEntry("again", EntryKind.HARDLINK, target="run"),
    )

    def attack() -> list[object]:
        visor = VisorRoot(_made(tmp_path / "visor"))
        top = visor.add_archive("demo.v00", entries)
        record = SimpleNamespace(layers=(), trees=tuple(visor.trees))
        measured = SimpleNamespace(record=record, components=())
        now = [0.0]
        integrity = Integrity(measured, clock=lambda: now[0], trees=top.parent)
        integrity.confirm({"demo.v00"})
        told: list[object] = []
        for change in (
            lambda: (top / "code.py").write_bytes(b"evil"),
            lambda: (top / "code.py").chmod(0o755),
            lambda: (top / "more").write_bytes(b""),
            lambda: [(top / "link").unlink(), (top / "link").symlink_to("code.py")],
        ):
            _remount(top, "rw")
            kept = {p: (p.read_bytes(), p.stat().st_mode) for p in top.iterdir() if p.is_file()}
            change()
            _remount(top, "ro")
            # Between two readings only who asks for it is told.
            told.append([f.code for f in integrity.look() if f.component == "demo.v00"])
            try:
                integrity.confirm({"demo.v00"})
            except VerificationError as error:
                told.append(error.code)
            now[0] += HASH_SECONDS
            told.append([f.code for f in integrity.look() if f.component == "demo.v00"])
            _remount(top, "rw")
            _restore(top, kept)
            _remount(top, "ro")
            integrity.confirm({"demo.v00"})
            integrity.look()
        return told

    assert in_child(attack) == [[], "layer-changed", ["layer-changed"]] * 4


def test_what_was_mounted_over_before_a_kernel_started_is_seen_by_it(in_child, tmp_path):
    def attack() -> list[str]:
        noted = Path("/proc/self/mountinfo").read_text()
        code = mounts.Access.NO_SUID
        mounts.tmpfs(_made(tmp_path / "code"), size=4096, mode=0o755, access=code)
        measured = SimpleNamespace(record=SimpleNamespace(layers=(), trees=()), components=())
        return [finding.code for finding in Integrity(measured, first=noted).look()]

    assert in_child(attack) == ["mount-added"]


def _remount(top: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,bind,{how}", top], check=True)


def _made(place: Path) -> Path:
    place.mkdir()
    return place


def _restore(top: Path, kept: dict[Path, tuple[bytes, int]]) -> None:
    for path in top.iterdir():
        if path not in kept and not path.is_symlink():
            path.unlink()
    (top / "link").unlink()
    (top / "link").symlink_to("run")
    for path, (content, mode) in kept.items():
        if not path.is_symlink():
            path.write_bytes(content)
            path.chmod(mode & 0o7777)
