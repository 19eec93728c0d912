"""A reference is computed from files alone, and never vouches for what a host would refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from casemate.cli.main import main
from casemate.errors import AcceptanceError, CasemateError, DigestError, NotFoundError
from casemate.formats.bootcfg import write_bootcfg
from casemate.formats.manifest import Manifest, parse_manifest
from casemate.formats.vib import write_vib
from casemate.image.pki import initialise
from casemate.image.reference import predict_bank, read_trust, write_reference
from casemate.policy.references import verify_reference
from casemate.testing.pki import NOW, shared_pki
from casemate.testing.smallhost import SmallHost, SmallImage


def write_bank(place: Path, image: SmallImage) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, data in image.files().items():
        (place / name).write_bytes(data)
    (place / "boot.cfg").write_bytes(write_bootcfg(image.cfg()))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for level, issuer in shared_pki().issuers.items():
        (tmp_path / "trust" / level).mkdir(parents=True)
        (tmp_path / "trust" / level / "ca.pem").write_bytes(issuer.pem)
    write_bank(tmp_path / "bootbank", SmallImage())
    return tmp_path


def predicted(home: Path) -> Manifest:
    return predict_bank(home / "trust", home / "bootbank", now=NOW)


def test_the_reference_of_a_bank_equals_the_tpm_after_its_boot(home: Path) -> None:
    manifest = predicted(home)
    values = SmallHost().tpm.values()
    for bank, expected in manifest.pcrs.items():
        assert expected == {pcr: values[bank][pcr] for pcr in manifest.indexes}
    assert manifest == SmallImage().reference()


def test_payloads_may_come_from_the_vibs(home: Path) -> None:
    image = SmallImage()
    vibs = home / "vibs"
    vibs.mkdir()
    for vib in image.db().vibs:
        payloads = [(part, image.content(name)) for part, name in vib.files.items()]
        data = write_vib(vib.descriptor_bytes, vib.signature, payloads)
        (vibs / f"{vib.descriptor.name}.vib").write_bytes(data)
    for name in image.files():
        if name != "imgdb.tgz":
            (home / "bootbank" / name).unlink()
    bank = home / "bootbank"
    assert predict_bank(home / "trust", bank, now=NOW, vibs=vibs) == image.reference()
    (vibs / "qemu.vib").unlink()
    with pytest.raises(NotFoundError, match="qemu"):
        predict_bank(home / "trust", bank, now=NOW, vibs=vibs)


def test_a_changed_payload_gets_no_reference(home: Path) -> None:
    path = home / "bootbank" / "qemu.v00"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(DigestError) as caught:
        predicted(home)
    assert caught.value.code == "payload-changed"


def test_a_level_that_the_signer_may_not_give_gets_no_reference(home: Path) -> None:
    write_bank(home / "bootbank", SmallImage(levels={"nic-driver": "certified"}))
    with pytest.raises(AcceptanceError) as caught:
        predicted(home)
    assert caught.value.code == "level-not-backed"


def test_a_missing_payload_gets_no_reference(home: Path) -> None:
    (home / "bootbank" / "nic.v00").unlink()
    with pytest.raises(NotFoundError, match=r"nic\.v00"):
        predicted(home)


def test_a_file_that_no_vib_brings_gets_no_reference(home: Path) -> None:
    path = home / "bootbank" / "boot.cfg"
    path.write_bytes(path.read_bytes().replace(b"--- imgdb", b"--- evil.v00 --- imgdb"))
    (home / "bootbank" / "evil.v00").write_bytes(b"evil")
    with pytest.raises(NotFoundError) as caught:
        predicted(home)
    assert caught.value.code == "unrecognized-tardisk"


def test_without_anchors_there_is_no_reference(home: Path, tmp_path: Path) -> None:
    with pytest.raises(CasemateError) as caught:
        predict_bank(tmp_path / "nowhere", home / "bootbank", now=NOW)
    assert caught.value.code == "no-anchors"


def test_the_file_is_signed_by_the_development_key(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    initialise(home, now=NOW)
    out = home / "reference.json"
    manifest = write_reference(home, home / "bootbank", out, now=NOW)
    signed = parse_manifest(out.read_bytes())
    assert signed.manifest == manifest
    assert "Certified VIB Signing" in verify_reference(signed, read_trust(home / "trust"), NOW)
    other = home / "other.json"
    assert main(["--home", str(home), "image", "reference", "--out", str(other), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pcrs"]["sha384"]["20"] == manifest.pcrs["sha384"][20].hex()
    assert parse_manifest(other.read_bytes()).manifest.pcrs == manifest.pcrs
