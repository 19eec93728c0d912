"""The boot image: built again it is the same, and firmware starts no other."""

from __future__ import annotations

import datetime as dt
import shutil
import time
from pathlib import Path

import pytest
from tests.guest.conftest import (
    LAYOUT,
    Built,
    asked_for_the_other_bank,
    changed_image,
    new_machine,
    newer_image,
    put,
    replace_boot_image,
    stage,
)

from casemate.cli.install import make_iso
from casemate.formats.gpt import SECTOR
from casemate.formats.osrelease import BOOT_IMAGE
from casemate.formats.pe import parse_pe
from casemate.image.bootable import PLACE, build_bootable
from casemate.image.disk import MEBIBYTE
from casemate.image.vm import DISK
from casemate.kernel.home import Home

pytestmark = [pytest.mark.host, pytest.mark.guest, pytest.mark.timeout(1200)]

FIRMWARE_SECONDS = 600
"""Emulated firmware hashes the boot image in 20 seconds on an idle machine."""
REFUSED = ("DVD-ROM", "Misc Device")
"""What firmware calls the drive of the installer, and the machine's disk."""


@pytest.fixture(scope="module")
def iso(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installer that asks."""
    path = tmp_path_factory.mktemp("iso") / "installer.iso"
    make_iso(Home(built.home), path)
    return path


def test_disk_and_installer_built_again_have_the_same_bytes(
    built: Built, iso: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    for name in ("pki", "trust", "cache"):
        shutil.copytree(built.home / name, home / name)
    again = build_bootable(home, home / PLACE / DISK, now=_now(), layout=LAYOUT)
    assert again.boot.data == built.bootable.boot.data
    make_iso(Home(home), tmp_path / "installer.iso")
    for pair in ((again.disk, built.bootable.disk), (tmp_path / "installer.iso", iso)):
        with pair[0].open("rb") as one, pair[1].open("rb") as two:
            while block := one.read(1 << 22):
                assert block == two.read(1 << 22)
            assert not two.read(1)


def test_a_changed_boot_image_is_refused_by_firmware_and_the_good_bank_boots_by_itself(
    built: Built, tmp_path: Path
) -> None:
    """One byte of the newer image is changed; the machine restarts itself for a clean TPM."""
    bank = newer_image(built, tmp_path).bank
    image = bytearray((bank / BOOT_IMAGE).read_bytes())
    part = next(one for one in parse_pe(image).sections if one.name == ".cmdline")
    image[part.offset] ^= 0x20
    (bank / BOOT_IMAGE).write_bytes(image)
    with new_machine(
        built, tmp_path / "machine", asked_for_the_other_bank(built.bootable.disk)
    ) as machine:
        put(machine, bank)
        told = machine.until("image")
        assert [fact["stage"] for fact in told] == ["start", "image-failed", "image"]
        assert (told[1]["bank"], told[2]["bank"]) == ("altbootbank", "bootbank")
        assert "Access Denied" in machine.machine.console()
        again = machine.until("load", "refused")
        assert (stage(again)["stage"], stage(again)["bank"]) == ("load", "bootbank")


def test_firmware_starts_neither_an_unsigned_boot_image_nor_a_changed_installer(
    built: Built, iso: Path, tmp_path: Path
) -> None:
    """One byte of what the installer would write is another one."""
    data, changed = bytearray(iso.read_bytes()), tmp_path / "changed.iso"
    payload = (built.bootable.image.bank / "k.b00").read_bytes()
    data[data.index(payload[MEBIBYTE : MEBIBYTE + SECTOR])] ^= 1
    changed.write_bytes(data)
    drives = ((changed, "ide-cd"),)
    with new_machine(built, tmp_path / "machine", drives=drives, tpm=False) as machine:
        replace_boot_image(machine, changed_image(built.bootable.boot))
        machine.machine.start()
        deadline = time.monotonic() + FIRMWARE_SECONDS
        while (said := machine.machine.console()).count("Access Denied") < len(REFUSED):
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        assert all(name in said for name in REFUSED)
        assert "stage" not in said


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
