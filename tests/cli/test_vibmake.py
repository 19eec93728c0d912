"""``casemate vib build``, ``sign``, ``bundle`` and ``trust revoke``, as a vendor types them."""

from __future__ import annotations

import json

import pytest

from casemate.cli.main import main
from casemate.formats.depot import parse_depot
from casemate.formats.vib import parse_vib
from casemate.testing.pki import shared_pki

RECIPE = """
name = "acme"
version = "1.0-1"
vendor = "ACM"
summary = "A driver"
level = "partner"
type = "tgz"
"""


@pytest.fixture
def vendor(tmp_path, capsys):
    (tmp_path / "root/opt/acme").mkdir(parents=True)
    (tmp_path / "root/opt/acme/driver").write_text("x")
    (tmp_path / "acme.toml").write_text(RECIPE)
    for level, ca in shared_pki().issuers.items():
        (tmp_path / "trust" / level).mkdir(parents=True)
        (tmp_path / "trust" / level / "ca.pem").write_bytes(ca.pem)
    signer = shared_pki().signers["partner"]
    (tmp_path / "key").write_bytes(signer.key_pem)
    (tmp_path / "cert").write_bytes(signer.pem)

    def run(*words):
        paths = [str(tmp_path / w[1:]) if w.startswith("@") else w for w in words]
        status = main(["--home", str(tmp_path), *paths, "--json"])
        return status, json.loads(capsys.readouterr().out)

    assert run("vib", "build", "@root", "--toml", "@acme.toml", "--out", "@a.vib")[0] == 0
    run.place = tmp_path
    return run


def test_built_signed_and_good(vendor):
    assert vendor("vib", "verify", "@a.vib")[1]["findings"][0]["code"] == "signature-missing"
    status, told = vendor("vib", "sign", "@a.vib", "--key", "@key", "--cert", "@cert")
    assert (status, told["signed"]) == (0, True)
    assert vendor("vib", "verify", "@a.vib")[1]["verdict"] == "good"


def test_signed_elsewhere(vendor):
    assert vendor("vib", "sign", "@a.vib", "--export", "@descriptor")[0] == 0
    descriptor = (vendor.place / "descriptor").read_bytes()
    assert descriptor == parse_vib((vendor.place / "a.vib").read_bytes()).descriptor_bytes
    (vendor.place / "sig").write_bytes(shared_pki().sign(descriptor, "partner"))
    assert vendor("vib", "sign", "@a.vib", "--external", "@sig")[0] == 0
    assert vendor("vib", "verify", "@a.vib")[0] == 0


def test_what_cannot_be_done_is_said(vendor):
    status, told = vendor("vib", "sign", "@a.vib", "--pkcs11", "/usr/lib/token.so")
    assert (status, told["error"]["code"]) == (2, "argument")
    assert "--key-label" in told["error"]["reason"]
    assert vendor("vib", "sign", "@a.vib", "--key", "@key")[1]["error"]["code"] == "argument"


def test_bundled(vendor):
    words = ("vib", "bundle", "@b.zip", "@a.vib", "--vendor", "ACME", "--profile", "Mine")
    assert vendor(*words) == (
        0,
        {"file": str(vendor.place / "b.zip"), "vibs": ["ACM_bootbank_acme_1.0-1"]},
    )
    with (vendor.place / "b.zip").open("rb") as file:
        found = parse_depot(file)
    assert [one.name for one in found.profiles] == ["Mine"]
    assert found.profiles[0].acceptance_level == "partner"
