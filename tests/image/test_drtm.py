"""The files of a dynamic launch follow from the boot image."""

from __future__ import annotations

from pathlib import Path

import pytest

from casemate.errors import FormatError, NotFoundError
from casemate.formats.pe import add_sections
from casemate.formats.tbootpolicy import module_digest
from casemate.image.drtm import write_launch
from casemate.testing.smallpe import small_pe


def test_tboot_gets_what_firmware_would_have_started(tmp_path: Path) -> None:
    boot = tmp_path / "boot.efi"
    parts = {".linux": b"linux" * 99, ".cmdline": b"quiet lockdown=integrity", ".initrd": b"root"}
    boot.write_bytes(add_sections(small_pe(), parts))
    launch = write_launch(boot, tmp_path / "out")
    assert (tmp_path / "out/linux").read_bytes() == parts[".linux"]
    assert (tmp_path / "out/initrd").read_bytes() == parts[".initrd"]
    line = "quiet lockdown=integrity intel_iommu=on noefi"
    menu = (tmp_path / "out/tboot.cfg").read_text()
    assert f"module2 /casemate/linux {line}\n" in menu
    digests = {18: module_digest(line, parts[".linux"]), 19: module_digest("", b"root")}
    assert launch.digests == digests
    policy = (tmp_path / "out/tboot.pol").read_bytes()
    assert all(digest in policy for digest in digests.values())


def test_what_is_no_boot_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        write_launch(tmp_path / "none", tmp_path / "out")
    (tmp_path / "other").write_bytes(small_pe())
    with pytest.raises(FormatError):
        write_launch(tmp_path / "other", tmp_path / "out")
    assert not (tmp_path / "out").exists()
