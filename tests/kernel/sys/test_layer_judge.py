"""A mounted layer is judged whole, whatever its directories say of what is in them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from tests.kernel.sys.test_mounts import devices_are_free, image, sealed

from casemate.errors import VerificationError
from casemate.formats.erofs import ErofsImage
from casemate.kernel.boot.elfcheck import LayerJudge
from casemate.kernel.sys import mounts
from casemate.kernel.sys.loops import loop_device
from casemate.policy.levels import Level
from casemate.testing.elves import Elf

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]
LINK = 7
"""What an EROFS directory says of a symbolic link."""
FIXED = Elf(e_type=2).build()


def lying(file: Path) -> bytes:
    """Return an image whose directory calls its only large file a link."""
    data = bytearray(file.read_bytes())
    found = ErofsImage(memoryview(data)).files()
    assert found is not None
    (node,) = (one.node for one in found if one.path == "/weak")
    place = data.find(struct.pack("<Q", node), 1024)
    while data[place + 10] != 1:
        place = data.find(struct.pack("<Q", node), place + 1)
    data[place + 10] = LINK
    data[1024 + 8] &= ~1  # its maker does not have to give a checksum of the first block
    return bytes(data)


def test_a_weak_program_is_found_though_its_directory_calls_it_a_link(in_child, tmp_path):
    data = lying(image(tmp_path, "layer", {"weak": FIXED, "text": b"x"}))
    (tmp_path / "lying").write_bytes(data)
    (tmp_path / "top").mkdir()

    def change() -> list[object]:
        descriptor = sealed(tmp_path / "lying")
        with loop_device(descriptor, "lying") as device:
            mounts.erofs(device, tmp_path / "top")
        os.close(descriptor)
        with os.scandir(tmp_path / "top") as entries:
            told: list[object] = [entry.is_symlink() for entry in entries if entry.name == "weak"]
        told.append((tmp_path / "top" / "weak").read_bytes() == FIXED)
        for seen in (data, bytes(4096)):
            with LayerJudge(()) as judge:
                judge.submit(
                    tmp_path / "top", Level.ACCEPTED, "l.v00", ErofsImage(memoryview(seen))
                )
                try:
                    judge.conclude()
                except VerificationError as error:
                    told.append((error.component, error.code))
        return told

    assert in_child(change) == [True, True, *[("/weak", "hardening-pie")] * 2]
    assert devices_are_free()
