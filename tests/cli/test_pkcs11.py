"""Signing with a key in a token, as a vendor with an HSM types it; SoftHSM is the token."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from casemate.formats.cms import verify_detached
from casemate.formats.vib import parse_vib
from casemate.testing.pki import issue, shared_pki
from casemate.testing.vibs import make_vib

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
COMMAND = Path(sys.executable).parent / "casemate"
PIN = "482915"

pytestmark = pytest.mark.skipif(
    not MODULE.exists() or not shutil.which("softhsm2-util"), reason="needs the package softhsm2"
)


@pytest.fixture(params=["ec", "rsa"])
def vendor(request, tmp_path, monkeypatch):
    """Give a vendor whose key lies in a token; ``run`` is the command line, in a process."""
    pytest.importorskip("pkcs11", reason="needs python-pkcs11")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm.conf"))
    key = rsa.generate_private_key(65537, 2048) if request.param == "rsa" else None
    signer = issue("Token", shared_pki().issuers["partner"], key=key)
    for name, content in (("key", signer.key_pem), ("cert", signer.pem), ("pin", PIN.encode())):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "a.vib").write_bytes(make_vib())
    make = ["--init-token", "--free", "--label", "acme", "--so-pin", PIN, "--pin", PIN]
    put = ["--import", str(tmp_path / "key"), "--token", "acme", "--label", "vibs", "--id", "01"]
    for words in (make, [*put, "--pin", PIN]):
        subprocess.run(["softhsm2-util", *words], check=True, capture_output=True, timeout=30)

    def run(*words: str, token: str = "acme", label: str = "vibs"):
        command = [COMMAND, "vib", "sign", "a.vib", "--cert", "cert", "--json"]
        key = ["--pkcs11", MODULE, "--token", token, "--key-label", label, "--pin-file", "pin"]
        ran = subprocess.run(
            [*command, *key, *words],
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert PIN not in ran.stdout + ran.stderr
        return ran.returncode, json.loads(ran.stdout)

    run.place = tmp_path
    run.signer = signer
    return run


def test_signed_in_the_token(vendor):
    status, told = vendor()
    assert (status, told.get("signed")) == (0, True), told
    vib = parse_vib((vendor.place / "a.vib").read_bytes())
    signed = verify_detached(vib.signature, vib.descriptor_bytes)
    assert signed.certificate == vendor.signer.certificate


def test_what_a_token_does_not_do_is_told_and_the_vib_stays(vendor):
    before = (vendor.place / "a.vib").read_bytes()
    told = [
        vendor(token="another")[1],
        vendor(label="another")[1],
    ]
    (vendor.place / "cert").write_bytes(shared_pki().signers["partner"].pem)
    told.append(vendor()[1])
    (vendor.place / "pin").write_text("000000")
    told.append(vendor()[1])
    codes = [one["error"]["code"] for one in told]
    assert codes == ["token", "token-object", "signature-invalid", "argument"]
    assert all(one["error"]["remedy"] for one in told)
    assert (vendor.place / "a.vib").read_bytes() == before
