"""A machine from its first start on: used, updated and attacked as its owner and others would."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from ssl import CERT_NONE, SSLContext, create_default_context
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim
from tests.guest.conftest import (
    LAYOUT,
    Built,
    Newer,
    SerialLine,
    Trial,
    again,
    changed_image,
    named,
    new_machine,
    newer_image,
    replace_boot_image,
    stage,
    without_secure_boot,
)
from tests.guest.livemodules import Host as ModuleHost
from tests.guest.livemodules import Vendor, check_modules

from casemate.cli.install import make_iso
from casemate.formats import vmdk, vmx
from casemate.formats.gpt import SECTOR
from casemate.formats.kickstart import parse_kickstart
from casemate.formats.osrelease import BOOT_IMAGE
from casemate.image.bootreference import write_boot_reference
from casemate.image.disk import MEBIBYTE, replace_files
from casemate.kernel.boot.machinedisk import MachineDisk
from casemate.kernel.home import Home
from casemate.kernel.tpm import swtpm
from casemate.machine.fleet import FleetHost
from casemate.verifier import store
from casemate.verifier.enrol import Wanted
from casemate.verifier.service import Service, Settings

pytestmark = [pytest.mark.host, pytest.mark.guest, pytest.mark.timeout(1500)]

BOOT_PCRS = {4, 7, 9, 11, 12, 13, 14}
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
STATE_SECONDS = 900
"""Until an emulated machine on a busy one has come as far as its state, firmware included."""
OFF_SECONDS = 300
"""Until a host has stopped its VMs and itself."""
HELLO = b"Hello from inside.\r\n"
# Real mode: write HELLO, which lies behind the code, to the first serial port, then halt.
HELLO_SECTOR = (
    bytes.fromhex("31c0 8ed8 be157c baf803 ac 84c0 7403 ee ebf8 f4 ebfd") + HELLO
).ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


KEY_SECONDS = 300
"""Until an emulated console on a busy machine has answered a key, argon2 of a login included."""
CUSTOMIZE, END = "\x1b2", "\x1b0"
"""F2 and F12, as lines without function keys have them."""
DOWN = "\x1b[B"


@dataclass
class Life:
    """The machine, the newer image, and the recovery key that its first start told."""

    trial: Trial
    newer: Newer
    recovery: str = ""
    cookie: str = ""

    @property
    def reference(self) -> Path:
        """Of the newer image."""
        return self.newer.bank.parent / "newer.json"

    @property
    def port(self) -> int:
        return self.trial.machine.hardware.port

    def send(self, path: str, data: bytes) -> None:
        """Upload a file into the datastore, as the client that is logged in."""
        with self._asked("PUT", path, data) as answer:
            assert answer.status in {200, 201}

    def read(self, path: str) -> bytes:
        """Download a file of the datastore; nothing where it is not there yet."""
        try:
            with self._asked("GET", path, None) as answer:
                return bytes(answer.read())
        except HTTPError as error:
            error.close()
            if error.code != HTTPStatus.NOT_FOUND:
                raise
            return b""

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Log in with pyVmomi; yields the connection and the host. A login takes seconds."""
        si = SmartConnect(
            host="localhost",
            port=self.port,
            user="root",
            pwd=PASSWORD,
            disableSslCertValidation=True,
        )
        self.cookie = si._stub.cookie
        try:
            yield si, si.content.rootFolder.childEntity[0].hostFolder.childEntity[0].host[0]
        finally:
            Disconnect(si)

    def _asked(self, method: str, path: str, data: bytes | None) -> Any:
        address = (
            f"https://localhost:{self.port}/folder/{path}?dcPath=ha-datacenter&dsName=datastore1"
        )
        headers = {"Cookie": self.cookie, "Content-Type": "application/octet-stream"}
        asked = Request(address, data, headers, method=method)
        return urlopen(asked, context=insecure(), timeout=300)


@pytest.fixture(scope="module")
def life(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """A machine that the installer put the image on; switched on.

    Its disk is larger than the image and was full of something else. The disk of the image stands
    before it, as if it were another host's.
    """
    place = tmp_path_factory.mktemp("life")
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
        stages = [fact["stage"] for fact in told if fact["stage"] != "progress"]
        assert stages == ["start", "installing", "installed"]
        installer.machine.stop()
        first = MachineDisk(installer.disk, {}).options()["bootbank"]
        variables = (installer.machine.place / "vars.fd").read_bytes()
        assert first in variables
        installer.disk.rename(disk)
    others = ((built.bootable.disk, "virtio-blk-pci"),)
    with new_machine(built, place / "machine", (), disk, others) as machine:
        (machine.machine.place / "vars.fd").write_bytes(variables)
        machine.machine.start()
        yield Life(machine, newer_image(built, place))


@pytest.fixture(scope="module")
def verifier(life: Life, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A verifier with a store of its own that trusts the machine's makers."""
    state = tmp_path_factory.mktemp("verifier")
    shutil.copytree(life.trial.built.home / "trust", state / "trust")
    ek = Home(life.trial.machine.place).trust / "ek"
    shutil.copytree(ek, state / "trust" / "ek", dirs_exist_ok=True)
    service = Service(Settings(state))
    yield service
    service.close()


def test_a_machine_is_updated_over_the_api_used_switched_off_and_attacked(
    life: Life, verifier: Service, tmp_path: Path
) -> None:
    """All of it on one machine, because a start takes most of a minute."""
    an_update_over_the_api_is_trusted_from_its_first_boot_on(life, verifier, tmp_path)
    a_vm_runs_inside_and_prints(life)
    with (
        again(life.trial, tmp_path / "moved") as moved,
        again(life.trial, tmp_path / "open") as bare,
    ):
        a_changed_payload_another_tpm_and_a_boot_image_of_an_attacker(life, moved, bare)
        the_other_bank_is_refused_its_state_on_another_machine(moved)
        moved.machine.stop()
        without_secure_boot_the_state_needs_its_key_and_every_changed_part_is_named(life, bare)
        who_sits_at_the_console_rolls_the_host_back(bare)


def an_update_over_the_api_is_trusted_from_its_first_boot_on(
    life: Life, verifier: Service, tmp_path: Path
) -> None:
    """The newer image's reference is there before it; both count while they overlap.

    Before, modules of a vendor go live.
    """
    told = life.trial.boot()
    assert stage(told)["stage"] == "ready", told
    assert named(told, "load")["bank"] == "bootbank"
    assert named(told, "settings")["used"] is True
    assert "account" not in [fact["stage"] for fact in told]
    life.recovery = str(named(told, "state")["recoveryKey"])

    verifier.book.add(life.trial.built.reference.read_bytes(), "anna")
    verifier.enrolment.pull(Wanted("machine", f"localhost:{life.port}"), "anna")
    verifier.enrolment.approve("machine", "anna")
    assert asked(verifier).state == "trusted", asked(verifier).verdict
    newer = life.reference
    home, bank = life.trial.built.home, life.newer.bank
    write_boot_reference(home, bank / BOOT_IMAGE, bank, newer, dt.datetime.now(dt.UTC))
    before = life.trial.attest(newer)
    assert before.verdict == "untrusted"
    codes = {finding.code for finding in before.findings}
    assert {"system-version-changed", "boot-loader-changed", "boot-image-changed"} <= codes
    verifier.book.add(newer.read_bytes(), "anna")
    assert asked(verifier).state == "trusted"

    with life.client() as (si, host):
        check_modules(ModuleHost(life.trial, si, insecure()), Vendor(life.trial, tmp_path))
        assert host.name == "esx1.example.test"
        (datastore,) = host.datastore
        assert datastore.summary.capacity > (LAYOUT.datastore + MORE // 2) * MEBIBYTE
        si.content.fileManager.MakeDirectory(name="[datastore1] updates")
        for path in life.newer.vibs:
            life.send(f"updates/{path.name}", path.read_bytes())
        urls = [f"[datastore1] updates/{path.name}" for path in life.newer.vibs]
        task = host.configManager.patchManager.InstallHostPatchV2_Task(vibUrls=urls)
        WaitForTask(task)
        assert [one.restartRequired for one in task.info.result.status] == [True, True]
        host.RebootHost_Task(force=True)

    told = life.trial.boot()
    assert stage(told)["stage"] == "ready", told
    assert named(told, "load")["bank"] == "altbootbank"
    failed = named(told, "drivers")["failed"]
    assert isinstance(failed, list)
    assert any(one.startswith("dummy: cannot load dummy.ko") for one in failed), failed
    assert asked(verifier).state == "trusted", asked(verifier).verdict
    verdict = life.trial.attest(newer)
    assert (verdict.verdict, verdict.findings) == ("trusted", ())
    assert verdict.pcrs is not None
    for rows in verdict.pcrs.values():
        assert {pcr for pcr, row in rows.items() if row.status == "expected"} == BOOT_PCRS


def a_vm_runs_inside_and_prints(life: Life) -> None:
    """A machine's code, translated by a QEMU that is itself translated."""
    disk = vmdk.Vmdk(vmdk.CreateType.MONOLITHIC_FLAT, "in-flat.vmdk", 2048, adapter="ide")
    settings = vmx.Vmx(
        (
            ("config.version", "8"),
            ("virtualHW.version", "21"),
            ("displayName", "inside"),
            ("guestOS", "otherGuest"),
            ("firmware", "bios"),
            ("numvcpus", "1"),
            ("memSize", "16"),
            ("sata0.present", "TRUE"),
            ("sata0:0.present", "TRUE"),
            ("sata0:0.fileName", "in.vmdk"),
            ("serial0.present", "TRUE"),
            ("serial0.fileType", "file"),
            ("serial0.fileName", "serial.log"),
        )
    )
    with life.client() as (si, host):
        si.content.fileManager.MakeDirectory(name="[datastore1] inside")
        life.send("inside/in-flat.vmdk", HELLO_SECTOR.ljust(2048 * SECTOR, b"\0"))
        life.send("inside/in.vmdk", vmdk.write(disk))
        life.send("inside/inside.vmx", vmx.write(settings))
        center = si.content.rootFolder.childEntity[0]
        pool = host.parent.resourcePool
        task = center.vmFolder.RegisterVM_Task(
            "[datastore1] inside/inside.vmx", asTemplate=False, pool=pool
        )
        WaitForTask(task)
        vm = task.info.result
        WaitForTask(vm.PowerOn())
        deadline = time.monotonic() + 300
        while HELLO not in (said := life.read("inside/serial.log")):
            assert vm.runtime.powerState == vim.VirtualMachine.PowerState.poweredOn
            assert time.monotonic() < deadline, said
            time.sleep(1)
        host.ShutdownHost_Task(force=True)
    deadline = time.monotonic() + OFF_SECONDS
    while life.trial.machine.running():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def a_changed_payload_another_tpm_and_a_boot_image_of_an_attacker(
    life: Life, moved: Trial, bare: Trial
) -> None:
    """Attack two copies of the machine, and switch both on."""
    shutil.rmtree(moved.machine.place / "tpm")
    swtpm.manufacture(Home(moved.machine.place))
    bad = bytearray((life.newer.bank / "virtio.v00").read_bytes())
    bad[len(bad) // 2] ^= 1
    changed = moved.machine.place / "virtio.v00"
    changed.write_bytes(bad)
    replace_files(moved.disk, "altbootbank", {changed.name: changed})
    moved.machine.start()

    without_secure_boot(bare)
    boot = life.newer.boot
    line = boot.sections[".cmdline"].replace(b" module.sig_enforce=1", b" sysrq_always_enabled")
    initrd = boot.sections[".initrd"] + bytes(512)
    replace_boot_image(bare, changed_image(boot, cmdline=line, initrd=initrd))
    bare.machine.start()


def the_other_bank_is_refused_its_state_on_another_machine(moved: Trial) -> None:
    """The changed payload is found by name, the other bank boots by itself; its state is sealed."""
    told = stage(moved.until("refused", "ready"))
    assert (told["stage"], told.get("code")) == ("refused", "payload-changed"), told
    assert "drivers-virtio" in told["component"]
    told = stage(moved.until("load", "refused"))
    assert (told["stage"], told["bank"]) == ("load", "bootbank")
    said = moved.console("\n   > ", STATE_SECONDS)
    assert "The state of this host stays encrypted" in said
    assert "another TPM" in " ".join(said.split())
    assert "PCR 7" not in said


def without_secure_boot_the_state_needs_its_key_and_every_changed_part_is_named(
    life: Life, bare: Trial
) -> None:
    """The whole chain is the attacker's; what it cannot change are the PCRs."""
    said = bare.console("\n   > ", STATE_SECONDS)
    assert "PCR 7 is not what the state was" in said
    assert "SecureBoot" in said.partition("Changed:")[2]
    with SerialLine(bare.machine) as line:
        line.type(f"{life.recovery}\r")
        assert stage(bare.boot())["stage"] == "ready"
    verdict = bare.attest(life.reference)
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


def who_sits_at_the_console_rolls_the_host_back(trial: Trial) -> None:
    """On the serial line: log in, roll back, restart; the other bank boots."""
    steps = (
        ("", "Customize System"),
        (CUSTOMIZE, "Authentication Required"),
        (f"{PASSWORD}\r", "System Customization"),
        (f"{DOWN * 6}\r", "Boot the other bank next?"),
        ("y", "The other bank boots next"),
        (f"{END}{DOWN}\r", "Restart the host?"),
    )
    with SerialLine(trial.machine) as line:
        after = 0
        for keys, words in steps:
            line.type(keys)
            after = len(trial.console(words, KEY_SECONDS, after))
        line.type("y")
        told = stage(trial.until("load", "refused"))
    assert (told["stage"], told["bank"]) == ("load", "bootbank")


def asked(verifier: Service) -> FleetHost:
    """Have the machine attested now, as a verifier's scheduler does; return what is known then.

    On a busy computer a machine's first answer may take longer than a verifier waits.
    """
    deadline = time.monotonic() + KEY_SECONDS
    while True:
        with verifier.database.transaction() as step:
            store.due_now(step, "machine")
        for leased in store.lease_due(verifier.database, "test", 60):
            verifier.rounds.pull(leased)
        with verifier.database.transaction() as step:
            found = store.get_host(step, "machine")
        if not found.verdict.startswith("no answer") or time.monotonic() > deadline:
            return found


def insecure() -> SSLContext:
    """Return a context that believes every certificate: the machine made its own."""
    context = create_default_context()
    context.check_hostname, context.verify_mode = False, CERT_NONE
    return context
