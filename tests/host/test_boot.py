"""What boots, what is refused, and by which name: the bank is attacked, then booted."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.host.conftest import TestHost

from casemate.formats.bootcfg import BootModule, parse_bootcfg, write_bootcfg
from casemate.formats.cms import sign_detached
from casemate.formats.compressed import gzip
from casemate.formats.descriptor import Checksum, PayloadInfo, parse_descriptor, write_descriptor
from casemate.formats.imgdb import DbVib, ImageDb, parse_imgdb, write_imgdb
from casemate.formats.tarball import TarEntry
from casemate.formats.tarwrite import write_tar
from casemate.image.pki import load_signer
from casemate.policy.levels import Level

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def resigned(
    vib: DbVib, home: Path, level: str, boot_files: dict[str, str] | None = None, **changes: object
) -> DbVib:
    """Change a descriptor and sign it again with the development key of ``level``."""
    changed = write_descriptor(replace(parse_descriptor(vib.descriptor_bytes), **changes))  # type: ignore[arg-type]
    signer = load_signer(home, Level(level))
    signature = sign_detached(
        changed,
        signer.certificate,
        signer.key,
        chain=signer.chain,
        signing_time=dt.datetime.now(dt.UTC),
    )
    return DbVib(changed, signature, boot_files or vib.files)


def test_a_clean_boot_is_trusted_and_every_pcr_was_predicted(host: TestHost) -> None:
    told = host.up("--no-demo")
    assert told["attestation"] == "trusted"
    status, verdict = host.attest()
    assert (status, verdict["verdict"], verdict["findings"]) == (0, "trusted", [])
    status, itself = host.casemate("attest")
    assert (status, itself["host"]) == (0, f"localhost:{host.port}")
    assert {row["file"] for row in told["components"]} >= {"b.b00", "k.b00", "imgdb.tgz"}
    for bank in ("sha256", "sha384"):
        assert set(verdict["pcrs"][bank]) >= {str(n) for n in (11, 12, 13, 14, *range(17, 23))}


def test_one_byte_changed_in_a_payload_is_refused_by_name(host: TestHost) -> None:
    flip(host.bank / "qemu.v00", 1 << 20)
    error = host.refused()
    assert error["code"] == "no-bank"
    assert "not what was signed" in error["reason"]
    assert "qemu" in error["reason"]
    assert error["remedy"]


def test_one_byte_changed_in_a_descriptor_is_refused_by_name(host: TestHost) -> None:
    def change(vib: DbVib) -> DbVib:
        return replace(
            vib, descriptor_bytes=vib.descriptor_bytes.replace(b"</summary>", b".</summary>", 1)
        )

    host.edit_database(change, "qemu")
    error = host.refused()
    assert "qemu" in error["reason"]
    assert "descriptor" in error["reason"].lower()


def test_one_byte_changed_in_a_signature_is_refused_by_name(host: TestHost) -> None:
    def change(vib: DbVib) -> DbVib:
        lines = vib.signature.split(b"\n")
        lines[-4] = lines[-4][::-1]
        return replace(vib, signature=b"\n".join(lines))

    host.edit_database(change, "swtpm")
    error = host.refused()
    assert "swtpm" in error["reason"]
    assert "signature" in error["reason"].lower()


def test_a_level_that_the_signer_may_not_give_is_refused(host: TestHost) -> None:
    host.edit_database(
        lambda vib: resigned(vib, host.home, "community", acceptance_level="certified"), "qemu"
    )
    error = host.refused()
    assert "qemu" in error["reason"]
    assert "certified" in error["reason"]


def test_an_unsigned_vib_on_a_partner_level_host_is_refused(host: TestHost) -> None:
    host.edit_database(lambda vib: replace(vib, signature=b""), "qemu")
    error = host.refused()
    assert "qemu" in error["reason"]


def test_a_community_vib_on_a_partner_level_host_is_refused_in_esxis_words(host: TestHost) -> None:
    host.edit_database(
        lambda vib: resigned(vib, host.home, "community", acceptance_level="community"), "qemu"
    )
    assert "not compliant" in host.refused()["reason"]


def test_an_older_signed_vib_boots_but_is_found_by_name(host: TestHost) -> None:
    payload = (host.bank / "qemu.v00").read_bytes() + bytes(4096)
    (host.bank / "qemu.v00").write_bytes(payload)

    def older(vib: DbVib) -> DbVib:
        (info,) = vib.descriptor.payloads
        checksum = Checksum("sha-256", hashlib.sha256(payload).digest())
        payloads = (replace(info, size=len(payload), checksums=(checksum,)),)
        return resigned(vib, host.home, "accepted", version="7.1-0.old", payloads=payloads)

    host.edit_database(older, "qemu")
    assert host.casemate("up", "--port", "0", "--no-demo")[0] == 1, host.output
    status, verdict = host.attest()
    assert (status, verdict["verdict"]) == (1, "untrusted")
    (about,) = [f for f in verdict["findings"] if "qemu" in f["component"]]
    assert "7.1-0.old" in about["reason"]
    assert about["remedy"]


def test_changed_boot_options_boot_but_are_found(host: TestHost) -> None:
    cfg = host.bank / "boot.cfg"
    text = cfg.read_text()
    lines = [
        f"{line} debugShell=TRUE" if line.startswith("kernelopt=") else line
        for line in text.splitlines()
    ]
    cfg.write_text("\n".join(lines) + "\n")
    assert cfg.read_text() != text
    assert host.casemate("up", "--port", "0", "--no-demo")[0] == 1
    status, verdict = host.attest()
    assert (status, verdict["verdict"]) == (1, "untrusted")
    assert any("option" in finding["code"] for finding in verdict["findings"])


def test_a_component_that_boot_cfg_names_but_no_vib_brings_is_refused(host: TestHost) -> None:
    cfg = host.bank / "boot.cfg"
    (host.bank / "extra.v00").write_bytes((host.bank / "swtpm.v00").read_bytes())
    cfg.write_text(cfg.read_text().replace(" --- imgdb.tgz", " --- extra.v00 --- imgdb.tgz"))
    assert "extra.v00" in host.refused()["reason"]


def test_a_missing_file_of_the_bank_is_refused(host: TestHost) -> None:
    (host.bank / "hostd.v00").unlink()
    assert "hostd.v00" in host.refused()["reason"]


def test_a_bad_bank_falls_back_to_the_good_one(host: TestHost) -> None:
    copy_bank(host)
    flip(host.bank / "qemu.v00", 1 << 20)
    told = host.up("--no-demo")
    assert told["bank"] == "altbootbank"
    assert told["attestation"] == "trusted"


def test_both_banks_bad_names_both_reasons_and_leaves_nothing(host: TestHost) -> None:
    copy_bank(host)
    flip(host.bank / "qemu.v00", 1 << 20)
    flip(host.home / "altbootbank" / "swtpm.v00", 5000)
    error = host.refused()
    assert "bootbank" in error["reason"]
    assert "altbootbank" in error["reason"]
    assert "qemu" in error["reason"]
    assert "swtpm" in error["reason"]


def test_no_trust_anchor_means_no_boot(host: TestHost) -> None:
    for anchor in (host.home / "trust").glob("*/*.pem"):
        if anchor.parent.name != "ek":
            anchor.unlink()
    assert "trust anchor" in host.refused()["reason"]


def test_a_stranger_among_the_trust_anchors_is_found(host: TestHost) -> None:
    stranger = next((host.home / "trust" / "community").glob("*.pem")).read_bytes()
    (host.home / "trust" / "certified" / "stranger.pem").write_bytes(stranger)
    assert host.casemate("up", "--port", "0", "--no-demo")[0] == 1
    status, verdict = host.attest()
    assert (status, verdict["verdict"]) == (1, "untrusted")


def copy_bank(host: TestHost) -> None:
    """Make the other bank an older copy of the first."""
    other = host.home / "altbootbank"
    for file in host.bank.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    for place, serial in ((other, 1), (host.bank, 2)):
        cfg = place / "boot.cfg"
        cfg.write_text(
            re.sub(r"^updated=.*$", f"updated={serial}", cfg.read_text(), flags=re.MULTILINE)
        )


def test_a_changed_loader_is_refused_before_it_runs(host: TestHost) -> None:
    flip(host.bank / "b.b00", 5000)
    error = host.refused()
    assert "not what was signed" in error["reason"]
    assert not (host.home / "run" / "boot" / "boot.json").exists()


def test_a_partners_key_and_the_bank_at_hand_do_not_reach_the_kernels_files(
    host: TestHost,
) -> None:
    """Nobody installed this VIB, so nobody looked into it before: the loader does."""
    archive = gzip(
        write_tar([TarEntry("opt/acme/code"), TarEntry("usr/bin/casemate-python", data=b"evil")])
    )
    payload = PayloadInfo(
        "acme", "tgz", len(archive), (Checksum("sha-256", hashlib.sha256(archive).digest()),)
    )
    path = host.bank / "imgdb.tgz"
    database = parse_imgdb(path.read_bytes())
    model = next(vib for vib in database.vibs if vib.descriptor.name == "swtpm")
    planted = resigned(
        model,
        host.home,
        "partner",
        {"acme": "acme.v00"},
        name="acme",
        acceptance_level="partner",
        files=("opt/acme/code",),
        payloads=(payload,),
    )
    (host.bank / "acme.v00").write_bytes(archive)
    vibs = (*database.vibs, planted)
    profile = replace(database.profile, vib_ids=tuple(one.descriptor.vib_id for one in vibs))
    path.write_bytes(write_imgdb(ImageDb(profile, vibs)))
    config = parse_bootcfg((host.bank / "boot.cfg").read_bytes())
    modules = (*config.modules[:-1], BootModule("acme.v00"), config.modules[-1])
    (host.bank / "boot.cfg").write_bytes(write_bootcfg(replace(config, modules=modules)))
    error = host.refused()
    assert "A partner VIB may not bring the file usr/bin/casemate-python" in error["reason"]
