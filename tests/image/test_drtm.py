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


def test_secure_launch_gets_the_same_parts_for_both_makers(tmp_path: Path) -> None:
    boot = tmp_path / "boot.efi"
    parts = {".linux": b"linux", ".cmdline": b"quiet lockdown=integrity\0", ".initrd": b"root"}
    boot.write_bytes(add_sections(small_pe(), parts))
    launch = write_launch(boot, tmp_path / "out")
    assert tmp_path / "out/slaunch.cfg" in launch.files
    entries = (tmp_path / "out/slaunch.cfg").read_text().split("menuentry ")[1:]
    commands = [[line.strip() for line in entry.splitlines()[1:-1]] for entry in entries]
    assert commands == [
        [
            "slaunch",
            f"slaunch_module /casemate/{module}",
            f"linux /casemate/linux quiet lockdown=integrity {iommu}",
            "initrd /casemate/initrd",
        ]
        for module, iommu in (
            ("SINIT.bin", "intel_iommu=on"),
            ("skl.bin", "amd_iommu=force_enable"),
        )
    ]


def test_what_is_no_boot_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        write_launch(tmp_path / "none", tmp_path / "out")
    (tmp_path / "other").write_bytes(small_pe())
    with pytest.raises(FormatError):
        write_launch(tmp_path / "other", tmp_path / "out")
    assert not (tmp_path / "out").exists()
