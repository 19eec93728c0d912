"""A machine that boots by itself: what it proves, and at which stage each attack is found."""

from __future__ import annotations

import datetime as dt
import shutil
import urllib.request
from dataclasses import replace
from pathlib import Path
from ssl import CERT_NONE, create_default_context
from typing import Any

import pytest
from tests.guest.conftest import LAYOUT, Built, Trial

from casemate.formats.bootcfg import BootState, parse_bootcfg, write_bootcfg
from casemate.formats.pe import add_sections, parse_pe
from casemate.image.bootable import build_bootable
from casemate.image.bootreference import write_boot_reference
from casemate.image.disk import BOOT_PATH, replace_files
from casemate.image.secureboot import OVMF_VARS
from casemate.image.uki import STUB

pytestmark = [pytest.mark.host, pytest.mark.guest, pytest.mark.timeout(400)]

FIRMWARE_SECONDS = 180
"""Emulated firmware hashes the boot image in 20 seconds on an idle machine."""

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


def test_the_image_built_again_has_the_same_bytes(built: Built, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name in ("pki", "trust", "cache"):
        shutil.copytree(built.home / name, home / name)
    again = build_bootable(home, tmp_path / "disk.img", now=_now(), layout=LAYOUT)
    assert again.boot.data == built.bootable.boot.data
    with again.disk.open("rb") as one, built.bootable.disk.open("rb") as two:
        while block := one.read(1 << 22):
            assert block == two.read(1 << 22)


def test_a_broken_update_falls_back_and_the_good_image_is_trusted_from_outside(
    trial: Trial, tmp_path: Path
) -> None:
    """A newer image in the second bank has one changed byte; the machine comes back by itself."""
    bank = tmp_path / "newer"
    shutil.copytree(trial.built.place / "bank", bank)
    config = parse_bootcfg((bank / "boot.cfg").read_bytes())
    newer = replace(config, updated=config.updated + 1, bootstate=BootState.UPGRADING)
    (bank / "boot.cfg").write_bytes(write_bootcfg(newer))
    data = bytearray((bank / "pylibs.v00").read_bytes())
    data[1 << 20] ^= 1
    (bank / "pylibs.v00").write_bytes(data)
    replace_files(trial.disk, "altbootbank", {path.name: path for path in sorted(bank.iterdir())})

    refused = stage(trial.boot())
    assert (refused["stage"], refused["code"]) == ("refused", "payload-changed")
    assert "python-libs" in f"{refused['component']} {refused['reason']}"

    told = trial.boot()
    assert stage(told)["stage"] == "ready"
    assert {"stage": "load", "bank": "bootbank"}.items() <= _named(told, "load").items()
    verdict = trial.attest()
    assert (verdict.verdict, verdict.findings) == ("trusted", ())
    assert verdict.pcrs is not None
    for rows in verdict.pcrs.values():
        assert {pcr for pcr, row in rows.items() if row.status == "expected"} == BOOT_PCRS

    insecure = create_default_context()
    insecure.check_hostname, insecure.verify_mode = False, CERT_NONE
    address = f"https://localhost:{trial.machine.hardware.port}/sdk/vimServiceVersions.xml"
    with urllib.request.urlopen(address, context=insecure, timeout=30) as answer:
        assert b"urn:vim25" in answer.read()

    old = _reference_of_a_newer_image(trial.built, tmp_path)
    outdated = trial.attest(old)
    assert outdated.verdict == "untrusted"
    assert "system-version-changed" in {finding.code for finding in outdated.findings}


def test_an_unsigned_boot_image_is_refused_by_firmware(trial: Trial) -> None:
    install(trial, changed_image(trial.built))
    trial.machine.start()
    said = trial.console("BdsDxe: failed to load", FIRMWARE_SECONDS)
    assert "Access Denied" in said
    assert "stage" not in said


def test_a_changed_part_of_a_signed_boot_image_is_refused_by_firmware(trial: Trial) -> None:
    image = bytearray(trial.built.bootable.boot.data)
    part = next(one for one in parse_pe(image).sections if one.name == ".cmdline")
    image[part.offset] ^= 0x20
    install(trial, bytes(image))
    trial.machine.start()
    assert "Access Denied" in trial.console("BdsDxe: failed to load", FIRMWARE_SECONDS)


def test_without_secure_boot_every_changed_part_of_the_boot_image_is_named(
    trial: Trial,
) -> None:
    """The whole chain is the attacker's; what it cannot change are the PCRs."""
    vars_file = trial.machine.place / "vars.fd"
    vars_file.write_bytes(Path("/", OVMF_VARS).read_bytes())
    sections = trial.built.bootable.boot.sections
    command_line = sections[".cmdline"].replace(b" module.sig_enforce=1", b"")
    initrd = sections[".initrd"] + bytes(512)
    install(trial, changed_image(trial.built, cmdline=command_line, initrd=initrd))
    assert stage(trial.boot())["stage"] == "ready"
    verdict = trial.attest()
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


def _reference_of_a_newer_image(built: Built, tmp_path: Path) -> Path:
    bank = tmp_path / "next"
    shutil.copytree(built.place / "bank", bank)
    config = parse_bootcfg((bank / "boot.cfg").read_bytes())
    newer = replace(config, updated=config.updated + 1, build=f"{config.build}.1")
    (bank / "boot.cfg").write_bytes(write_bootcfg(newer))
    out = tmp_path / "newer.json"
    write_boot_reference(built.home, built.place / "boot.efi", bank, out, _now())
    return out


def _named(told: list[dict[str, object]], name: str) -> dict[str, object]:
    return next(fact for fact in told if fact["stage"] == name)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
