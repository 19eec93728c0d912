"""The life of a driver VIB by an outside vendor, from its directory to its end, on a real host."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vmodl
from tests.host.conftest import COMMAND, TestHost, descendants

from casemate.testing.pki import Identity, issue

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]

T = TypeVar("T")
RECIPE = """
name = "acme-net"
version = "{version}"
vendor = "ACM"
summary = "Network driver for ACME cards"
level = "partner"
release-date = 2026-06-01T00:00:00Z
depends = ["casemate-kernel >= 0.1"]
tags = ["driver"]
live-install = {live}
live-remove = {live}
"""
PLUGIN = """
name = "acme"
kind = "storage"
interface = 1
entry = "driver:Disk"
version = "{version}"
suffixes = ["acme"]
"""
DRIVER = """
import fast

class Disk:
    def __init__(self, read, size):
        self.capacity = fast.whole(size)
        self._read = read

    def read(self, offset, length):
        return self._read(offset, length).ljust(length, b"\\0")
"""
FAST = r"""
#include <Python.h>
static PyObject *whole(PyObject *self, PyObject *size) {
    return PyLong_FromLong((PyLong_AsLong(size) + 511) / 512 * 512);
}
static PyMethodDef methods[] = {{"whole", whole, METH_O, "Bytes of whole sectors."}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fast", 0, -1, methods};
PyMODINIT_FUNC PyInit_fast(void) { return PyModule_Create(&module); }
"""
HARDENED = (
    *("gcc", "-shared", "-fPIC", "-O2", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-s"),
    *("-Wl,-z,relro,-z,now,-z,noexecstack", "-I/usr/include/python3.11", "-x", "c", "-"),
)
EXAMPLE = Path(__file__).parents[2] / "docs/examples/vhd/root"


class Vendor:
    """Has a directory, a signing key below a partner CA, and the command line."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.authority = issue("ACME CA", authority=True)
        self.key = issue("ACME VIB Signing", self.authority)
        (place / "ca.pem").write_bytes(self.authority.pem)
        driver = place / "root/usr/lib/vmware/acme"
        driver.mkdir(parents=True)
        (driver / "driver.py").write_text("NAME = 'acme'\n")
        shutil.copytree(EXAMPLE, place / "root", dirs_exist_ok=True)
        self.plugin = place / "root/usr/lib/vmware/plugins/acme"
        self.plugin.mkdir()
        (self.plugin / "driver.py").write_text(DRIVER)
        subprocess.run(
            [*HARDENED, "-o", self.plugin / "fast.so"], input=FAST, text=True, check=True
        )

    def casemate(self, *words: str) -> str:
        ran = subprocess.run(
            [str(COMMAND), *words],
            cwd=self.place,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def vib(self, version: str, *, live: bool = False, key: Identity | None = None) -> Path:
        """Build and sign a version, as the README says."""
        signer = key or self.key
        (self.plugin / "plugin.toml").write_text(PLUGIN.format(version=version))
        (self.place / "acme.toml").write_text(
            RECIPE.format(version=version, live=str(live).lower())
        )
        (self.place / "acme.pem").write_bytes(signer.pem)
        (self.place / "acme.key").write_bytes(signer.key_pem)
        file = self.place / f"{version}.vib"
        self.casemate("vib", "build", "root", "--toml", "acme.toml", "--out", str(file))
        self.casemate("vib", "sign", str(file), "--key", "acme.key", "--cert", "acme.pem")
        return file


def esxcli(host: TestHost, *words: str) -> tuple[int, Any, str]:
    """Return status, parsed JSON and what was said on standard error."""
    ran = subprocess.run(
        [
            str(COMMAND.with_name("esxcli")),
            *("--home", str(host.home), "--formatter", "json"),
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert "Traceback" not in ran.stderr
    return ran.returncode, json.loads(ran.stdout) if ran.stdout else None, ran.stderr


def install(host: TestHost, file: Path, *words: str) -> tuple[int, Any, str]:
    return esxcli(host, "software", "vib", "install", "-v", str(file), *words)


def installed(host: TestHost) -> dict[str, str]:
    status, rows, _ = esxcli(host, "software", "vib", "list")
    assert status == 0
    assert list(rows[0]) == [
        *("Name", "Version", "Vendor", "AcceptanceLevel", "InstallDate", "Platforms")
    ]
    return {row["Name"]: row["Version"] for row in rows}


def processes(host: TestHost) -> list[int]:
    return [pid for pid, words in descendants(host.first_process) if "enter hostd" in words]


def wait_for(look: Callable[[], T]) -> T:
    """Return what ``look`` finds, once it finds something."""
    for _ in range(1000):
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come")


def restart(host: TestHost, bank: str) -> dict[str, Any]:
    """Restart; the reference of the image that boots next was made before."""
    assert host.casemate("image", "reference", "--bank", str(host.home / bank))[0] == 0
    assert host.casemate("down")[0] == 0
    told = host.up("--no-demo")
    assert (told["bank"], told["attestation"]) == (bank, "trusted")
    return told


def module(host: TestHost, name: str) -> dict[str, Any]:
    status, row, said = esxcli(host, "system", "module", "get", "-m", name)
    assert status == 0, said
    return dict(row)


def loaded(host: TestHost) -> dict[str, bool]:
    status, rows, _ = esxcli(host, "system", "module", "list")
    assert status == 0
    assert list(rows[0]) == ["Name", "IsLoaded", "IsEnabled"]
    return {row["Name"]: row["IsLoaded"] for row in rows}


class Disks:
    """Copies disks over the API, from a file that only the vendor's plug-in reads."""

    def __init__(self, host: TestHost, password: str) -> None:
        self.host, self.password = host, password
        self.content = os.urandom(1 << 20)
        self.place = host.home / "volumes/datastore1"
        (self.place / "old.acme").write_bytes(self.content[:-99])

    def copy(self, target: str) -> str:
        """Return what it said when it failed."""
        si = SmartConnect(
            host="localhost",
            port=self.host.port,
            user="root",
            pwd=self.password,
            disableSslCertValidation=True,
        )
        try:
            dc = si.content.rootFolder.childEntity[0]
            names = ("[datastore1] old.acme", dc, f"[datastore1] {target}.vmdk", dc)
            WaitForTask(si.content.virtualDiskManager.CopyVirtualDisk_Task(*names))
        except vmodl.MethodFault as fault:
            return str(fault.msg)
        else:
            return ""
        finally:
            Disconnect(si)


def use_plugins(host: TestHost, disks: Disks) -> None:
    """Load the plug-in of the VIB that is in use, and let it do its work."""
    present = loaded(host)
    assert (present["acme"], present["vhd"]) == (False, False)
    assert esxcli(host, "system", "module", "load", "-m", "acme")[0] == 0
    row = module(host, "acme")
    assert (row["Kind"], row["Version"]) == ("storage plug-in", "1.0.0-1")
    assert (row["SignedStatus"], row["VIBAcceptanceLevel"]) == ("Signed", "PartnerSupported")
    assert (row["ContainingVIB"], len(row["SignatureDigest"].split())) == ("acme-net", 16)
    assert "ACME VIB Signing" in row["SignatureIssuer"]
    assert disks.copy("new") == ""
    copy = (disks.place / "new-flat.vmdk").read_bytes()
    assert copy == disks.content[:-99].ljust(len(disks.content), b"\0")
    told = host.casemate("status")[1]["findings"]
    assert {found["code"] for found in told} <= {"tcg-isolation"}


def restart_hostd(host: TestHost) -> None:
    """See that hostd, as every VM, that starts from now on has the VIB in its root."""
    os.kill(old := host.child("enter hostd"), signal.SIGKILL)
    again = wait_for(lambda: next(iter(p for p in processes(host) if p != old), None))
    driver = Path(f"/proc/{again}/root/usr/lib/vmware/acme/driver.py")
    assert wait_for(driver.is_file)


def lose_the_key(host: TestHost, vendor: Vendor, disks: Disks) -> None:
    """Revoke the vendor's certificate: whatever it signed is refused in the same words."""
    revoked = host.casemate(
        *("trust", "revoke", "--certificate", str(vendor.place / "acme.pem")),
        *("--reason", "key lost"),
    )
    assert revoked[0] == 0
    why = "is revoked: key lost"
    for words in ((), ("--force",), ("--no-sig-check",)):
        status, _, said = install(host, vendor.vib("1.3.0-1"), *words)
        assert status == 1
        assert why in said
    # So is what was loaded before, and loading it again.
    assert why in disks.copy("late")
    assert why in esxcli(host, "system", "module", "load", "-m", "acme")[2]
    assert why in module(host, "acme")["SignedStatus"]


def test_a_drivers_whole_life(host: TestHost, built: Path, tmp_path: Path) -> None:
    vendor = Vendor(tmp_path)
    first = vendor.vib("1.0.0-1", live=True)
    password = host.up("--no-demo")["password"] or (built / "password").read_text()
    disks = Disks(host, password)

    status, _, said = install(host, first)
    assert status == 1
    assert "Could not find a trusted signer" in said
    assert "acme-net" not in installed(host)

    # The host's owner trusts the vendor's CA, for partner VIBs; the next boot measures that.
    added = host.casemate("trust", "add", str(tmp_path / "ca.pem"), "--level", "partner")
    assert added[0] == 0
    status, told, said = install(host, first)
    assert status == 0, said
    assert told[0]["RebootRequired"] is False
    assert installed(host)["acme-net"] == "1.0.0-1"
    restart_hostd(host)
    row = module(host, "acmenet")
    assert (row["SignedStatus"], row["ContainingVIB"]) == ("Signed", "acme-net")
    assert "ACME VIB Signing" in row["SignatureIssuer"]
    use_plugins(host, disks)
    status, verdict = host.attest()
    assert (status, verdict["verdict"]) == (1, "untrusted")
    assert "acmenet.v00" in {f["component"].partition(" ")[0] for f in verdict["findings"]}

    status, told, said = install(host, vendor.vib("1.1.0-1"))
    assert status == 0, said
    assert told[0]["RebootRequired"] is True
    assert installed(host)["acme-net"] == "1.0.0-1"
    told = restart(host, "altbootbank")
    row = next(row for row in told["components"] if row["file"] == "acmenet.v00")
    assert "ACME VIB Signing" in str(row)
    assert installed(host)["acme-net"] == "1.1.0-1"
    assert loaded(host)["acme"]
    assert module(host, "acme")["Version"] == "1.1.0-1"
    status, verified, _ = esxcli(host, "software", "vib", "signature", "verify")
    assert status == 0
    assert {row["SignatureVerification"] for row in verified} == {"Succeeded"}

    assert host.casemate("boot", "rollback")[0] == 0
    restart(host, "bootbank")
    assert "acme-net" not in installed(host)
    assert "acme" not in loaded(host)
    assert "storage plug-in" in disks.copy("none")

    assert install(host, vendor.vib("1.2.0-1", live=True))[0] == 0
    assert esxcli(host, "system", "module", "load", "-m", "acme")[0] == 0
    lose_the_key(host, vendor, disks)
    # The staged image has a revoked VIB: the boot refuses it by name and falls back.
    assert host.casemate("down")[0] == 0
    reference = ("image", "reference", "--bank", str(host.home / "bootbank"))
    assert host.casemate(*reference)[0] == 0
    told = host.up("--no-demo")
    assert (told["bank"], told["attestation"]) == ("bootbank", "trusted")
    assert "acme-net" not in installed(host)
