"""Layers that are swapped or changed under a running host are seen."""

from __future__ import annotations

import fcntl
import hashlib
import os
from types import SimpleNamespace

import pytest
from tests.kernel.sys.test_mounts import image, sealed

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
            record=SimpleNamespace(layers=tuple(visor.devices)), components=(fact,)
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
