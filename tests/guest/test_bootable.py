"""A machine that boots by itself: what it proves, and at which stage each attack is found."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from ssl import CERT_NONE, create_default_context
from typing import Any

import pytest
from pyVim.connect import Disconnect, SmartConnect
from tests.guest.conftest import (
    LAYOUT,
    Built,
    Trial,
    asked_for_the_other_bank,
    new_machine,
)
from tests.guest.livemodules import Host as ModuleHost
from tests.guest.livemodules import Vendor, check_modules

from casemate.cli.install import make_iso
from casemate.formats.bootcfg import BootState, parse_bootcfg, write_bootcfg
from casemate.formats.gpt import SECTOR
from casemate.formats.kickstart import parse_kickstart
from casemate.formats.osrelease import BOOT_IMAGE
from casemate.formats.pe import add_sections, parse_pe
from casemate.image.bootable import PLACE, build_bootable
from casemate.image.bootreference import write_boot_reference
from casemate.image.build import RELEASED, make_payload, make_vib
from casemate.image.cpio import Entry, write_cpio
from casemate.image.debian import Packages
from casemate.image.disk import BOOT_PATH, MEBIBYTE, replace_files
from casemate.image.initrd import IDENTITY_FILE, FirstRoot
from casemate.image.linux import Kernel
from casemate.image.pki import load_boot_signer, load_signer
from casemate.image.profile import make_profile, write_bank
from casemate.image.secureboot import OVMF_VARS
from casemate.image.uki import STUB, boot_recipe, make_boot_image
from casemate.image.vm import DISK
from casemate.kernel.boot.machinedisk import MachineDisk
from casemate.kernel.home import Home
from casemate.policy.banks import mark_tried
from casemate.policy.levels import Level

pytestmark = [pytest.mark.host, pytest.mark.guest, pytest.mark.timeout(1200)]

FIRMWARE_SECONDS = 600
"""Emulated firmware hashes the boot image in 20 seconds on an idle machine."""

MORE = 512
"""MiB that the disk of an installed machine is larger than the image: uploads leave 256 free."""
PASSWORD = "Wald-und-Wiese7"
SCRIPT = f"""
vmaccepteula
install --firstdisk --overwritevmfs
rootpw {PASSWORD}
network --bootproto=static --ip=10.0.2.15 --netmask=255.255.255.0 --gateway=10.0.2.2 \
--hostname=esx1.example.test
""".encode()
REFUSED = ("DVD-ROM", "Misc Device")
"""What firmware calls the drive of the installer, and the machine's disk."""

BOOT_PCRS = {4, 7, 9, 11, 12, 13, 14}


def stage(told: list[dict[str, object]]) -> dict[str, Any]:
    return dict(told[-1])


def changed_image(built: Built, **parts: bytes) -> bytes:
    """Make the boot image again with other parts, unsigned."""
    sections = built.bootable.boot.sections | {f".{name}": data for name, data in parts.items()}
    return add_sections(Path("/", STUB).read_bytes(), sections)


def install(trial: Trial, image: bytes) -> None:
    copy = trial.machine.place / "changed.efi"
    copy.write_bytes(image)
    replace_files(trial.disk, "EFI", {BOOT_PATH: copy})


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


def newer_bank(built: Built, place: Path) -> Path:
    """Make a bank with a boot image of its own, newer than the one that the machine has."""
    sections, identity = built.bootable.boot.sections, "0123456789abcdef"
    named = write_cpio([Entry(IDENTITY_FILE, stat.S_IFREG | 0o444, f"{identity}\n".encode())])
    before = sections[".initrd"]
    packages = Packages()
    first = FirstRoot(before + bytes(-len(before) % 4) + named, identity)
    boot = make_boot_image(packages, Kernel(packages), first, "9.9", load_boot_signer(built.home))
    recipe = boot_recipe(boot, "9.9-1", identity)
    payload = make_payload(recipe, place, "")
    signer = load_signer(built.home, Level.ACCEPTED)
    fresh = make_vib(recipe, payload, signer, place, RELEASED)
    kept = [vib for vib in built.bootable.image.vibs if BOOT_IMAGE not in vib.files.values()]
    profile = make_profile(
        [*kept, fresh], name="newer", vendor="Casemate", level="partner", created=RELEASED
    )
    bank = place / "bank"
    write_bank(bank, [*kept, fresh], profile, build="9.9-newer")
    config = parse_bootcfg((bank / "boot.cfg").read_bytes())
    tried = mark_tried(replace(config, updated=7, bootstate=BootState.UPGRADING))
    (bank / "boot.cfg").write_bytes(write_bootcfg(tried))
    return bank


def put(trial: Trial, bank: Path) -> None:
    replace_files(trial.disk, "altbootbank", {path.name: path for path in sorted(bank.iterdir())})


@pytest.fixture(scope="module")
def updated(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A machine whose other bank brings another first root, switched on.

    The installer put the image on its disk, which is larger and was full of something else. The
    disk of the image stands before it, as if it were another host's.
    """
    place = tmp_path_factory.mktemp("updated")
    disk, iso = place / "disk", place / "installer.iso"
    with disk.open("wb") as stream:
        for _ in range(built.bootable.disk.stat().st_size // MEBIBYTE):
            stream.write(b"\xa5" * MEBIBYTE)
        stream.seek(MORE * MEBIBYTE, os.SEEK_CUR)
        stream.write(b"\xa5" * SECTOR)
    make_iso(Home(built.home), iso, parse_kickstart(SCRIPT))
    cd = ((iso, "ide-cd"),)
    with new_machine(built, place / "installer", (), disk, cd, tpm=False) as installer:
        told = installer.until("installed", "refused")
        assert [fact["stage"] for fact in told] == ["start", "installing", "installed"]
        installer.machine.stop()
        first = MachineDisk(installer.disk, {}).options()["bootbank"]
        assert first in (installer.machine.place / "vars.fd").read_bytes()
        variables = asked_for_the_other_bank(installer.disk)
        installer.disk.rename(disk)
    others = ((built.bootable.disk, "virtio-blk-pci"),)
    with new_machine(built, place / "machine", variables, disk, others) as machine:
        put(machine, newer_bank(built, place))
        machine.machine.start()
        yield machine


@pytest.fixture(scope="module")
def unguarded(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A machine without Secure Boot and with an attacker's boot image, switched on."""
    with new_machine(built, tmp_path_factory.mktemp("unguarded") / "machine") as machine:
        (machine.machine.place / "vars.fd").write_bytes(Path("/", OVMF_VARS).read_bytes())
        sections = built.bootable.boot.sections
        command_line = sections[".cmdline"].replace(b" module.sig_enforce=1", b"")
        initrd = sections[".initrd"] + bytes(512)
        install(machine, changed_image(built, cmdline=command_line, initrd=initrd))
        machine.machine.start()
        yield machine


@pytest.mark.usefixtures("unguarded")
def test_an_update_of_the_boot_image_is_booted_and_trusted_by_its_own_reference(
    updated: Trial, tmp_path: Path
) -> None:
    """Firmware starts the newer image, and it boots its own bank.

    The machine of the next test boots beside it: firmware keeps one processor busy.
    """
    told = updated.boot()
    assert stage(told)["stage"] == "ready"
    assert _named(told, "load")["bank"] == "altbootbank"
    assert _named(told, "settings")["used"] is True
    assert "account" not in [fact["stage"] for fact in told]
    bank, reference = updated.machine.place.parent / "bank", tmp_path / "newer.json"
    write_boot_reference(updated.built.home, bank / BOOT_IMAGE, bank, reference, _now())
    verdict = updated.attest(reference)
    assert (verdict.verdict, verdict.findings) == ("trusted", ())
    assert verdict.pcrs is not None
    for rows in verdict.pcrs.values():
        assert {pcr for pcr, row in rows.items() if row.status == "expected"} == BOOT_PCRS

    insecure = create_default_context()
    insecure.check_hostname, insecure.verify_mode = False, CERT_NONE
    port = updated.machine.hardware.port
    api = SmartConnect(host="localhost", port=port, user="root", pwd=PASSWORD, sslContext=insecure)
    (host,) = api.content.rootFolder.childEntity[0].hostFolder.childEntity[0].host
    assert host.name == "esx1.example.test"
    (store,) = host.datastore
    assert store.summary.capacity > (LAYOUT.datastore + MORE // 2) * MEBIBYTE
    check_modules(ModuleHost(updated, api, PASSWORD, insecure), Vendor(updated, tmp_path))
    Disconnect(api)

    outdated = updated.attest()
    assert outdated.verdict == "untrusted"
    codes = {finding.code for finding in outdated.findings}
    assert {"system-version-changed", "boot-loader-changed", "boot-image-changed"} <= codes
    updated.machine.stop()


def test_without_secure_boot_every_changed_part_of_the_boot_image_is_named(
    unguarded: Trial,
) -> None:
    """The whole chain is the attacker's; what it cannot change are the PCRs."""
    assert stage(unguarded.boot())["stage"] == "ready"
    verdict = unguarded.attest()
    assert verdict.verdict == "untrusted"
    found = {(finding.code, finding.component) for finding in verdict.findings}
    assert {
        ("secure-boot-changed", "SecureBoot"),
        ("secure-boot-removed", "authority from db"),
        ("boot-loader-changed", "boot image"),
        ("boot-image-changed", ".cmdline"),
        ("boot-image-changed", ".initrd"),
        ("boot-image-changed", "command line of Linux"),
        ("boot-image-changed", "first root of Linux"),
        ("security-option-changed", "uefiSecureBootEnabled"),
    } <= found
    unguarded.machine.stop()


def test_a_changed_boot_image_is_refused_by_firmware_and_the_good_bank_boots_by_itself(
    built: Built, tmp_path: Path
) -> None:
    """One byte of the newer image is changed; the machine restarts itself for a clean TPM."""
    bank = newer_bank(built, tmp_path)
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
        install(machine, changed_image(built))
        machine.machine.start()
        deadline = time.monotonic() + FIRMWARE_SECONDS
        while (said := machine.machine.console()).count("Access Denied") < len(REFUSED):
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        assert all(name in said for name in REFUSED)
        assert "stage" not in said


def _named(told: list[dict[str, object]], name: str) -> dict[str, object]:
    return next(fact for fact in told if fact["stage"] == name)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
