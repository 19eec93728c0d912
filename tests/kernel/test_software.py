"""Changing software: what is written, what is refused with nothing left behind, and power cuts."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace

import pytest
from tests.kernel.softwarehost import Host

from casemate.calls import software as s
from casemate.errors import CasemateError
from casemate.formats.bootcfg import BootState, parse_bootcfg
from casemate.formats.descriptor import Constraint, VibType, write_descriptor
from casemate.formats.efivars import GLOBAL
from casemate.formats.imgdb import ImageProfile
from casemate.formats.vib import parse_vib, write_vib
from casemate.image.profile import read_bank
from casemate.image.updated import write_updated
from casemate.kernel.boot import firmwareboot
from casemate.kernel.boot.bank import read_banks, write_states
from casemate.kernel.home import Home
from casemate.kernel.transaction import Disk
from casemate.policy.acceptance import verify_payload
from casemate.policy.banks import TRIED, plan_boot
from casemate.policy.newimage import BOOT_PAYLOAD, BOOT_VIB, unchecked_marks
from casemate.policy.revocation import Revocations, write_revocations
from casemate.policy.signedtext import join_signed
from casemate.testing.pki import NOW, shared_pki
from casemate.testing.smallimage import base_vib, driver, make_home
from casemate.testing.vibs import announce, make_descriptor


class PowerCutError(Exception):
    """The world ends."""


class FailingDisk(Disk):
    """Ends the world before its n-th operation, or in the middle of it."""

    def __init__(self, left, *, torn=False):
        self.left = left
        self.torn = torn
        self.operations = 0

    def _count(self):
        self.operations += 1
        self.left -= 1
        return self.left < 0

    def write(self, path, chunks):
        if self._count():
            if self.torn:
                data = b"".join(bytes(chunk) for chunk in chunks)
                path.write_bytes(data[: len(data) // 2])
            raise PowerCutError
        super().write(path, chunks)

    def rename(self, source, target):
        if self._count():
            if self.torn:
                source.replace(target)
            raise PowerCutError
        super().rename(source, target)

    def remove(self, path):
        if self._count():
            if self.torn:
                path.unlink(missing_ok=True)
            raise PowerCutError
        super().remove(path)


@pytest.fixture
def host(tmp_path):
    made = Host(make_home(tmp_path / "h"))
    yield made
    made.store.close()


BASE = ["casemate-boot 1.0-1", "casemate-kernel 1.0-1"]


def tree(home):
    return {
        path.relative_to(home.path): path.read_bytes()
        for bank in home.banks
        for path in sorted(bank.rglob("*"))
        if path.is_file()
    }


def boots(home):
    """Boot as the loader would: choose a bank, check every file; return its VIBs."""
    plan = plan_boot(read_banks(home))
    place = home.path / plan.bank.name
    config, database = read_bank(place)
    owners = database.owners()
    for module in config.files:
        if module.name == "imgdb.tgz":
            continue
        vib, payload = owners[module.name]
        data = (place / module.name).read_bytes()
        verify_payload(
            vib.descriptor, payload.name, size=len(data), sha256=hashlib.sha256(data).digest()
        )
    assert set(owners) == {module.name for module in config.files} - {"imgdb.tgz"}
    return sorted(vib.descriptor.vib_id for vib in database.vibs)


def test_an_install_goes_to_the_other_bank_and_boots_next(host):
    reply = host.install(driver())
    assert reply.reboot_required
    assert reply.installed == ("CSM_bootbank_driver_1.0-1",)
    assert "needs to be rebooted" in reply.message
    assert host.names(rebooting=False) == BASE
    assert host.names() == [*BASE, "driver 1.0-1"]
    assert "CSM_bootbank_driver_1.0-1" in boots(host.home)
    (other,) = [b for b in read_banks(host.home) if b.name == "altbootbank"]
    assert (other.config.bootstate, other.config.updated) == (BootState.UPGRADING, 2)


def test_the_bank_that_an_update_writes_is_known_before_it_is_installed(host, tmp_path):
    """Some files are replaced, some are new, some stay; a reference of it can be made before.

    A VIB that came and went meanwhile leaves no trace.
    """
    files = []
    for number, data in enumerate((base_vib("casemate-kernel", "2.0-1"), driver("one"))):
        files.append(tmp_path / f"{number}.vib")
        files[-1].write_bytes(data)
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    write_updated(host.home.banks[0], files, predicted)
    host.install(driver("other"))
    host.ask(s.SoftwareChange("", "remove", names=("other",)))
    host.install(*(path.read_bytes() for path in files))
    written = {path.name: path.read_bytes() for path in host.home.banks[1].iterdir()}
    told = {path.name: path.read_bytes() for path in predicted.iterdir()}
    assert written.keys() == told.keys()
    assert [name for name in told if told[name] != written[name]] == ["boot.cfg"]
    config, before = (parse_bootcfg(one["boot.cfg"]) for one in (written, told))
    assert config == replace(before, bootstate=config.bootstate, updated=config.updated)


def test_changes_add_up_until_the_restart(host):
    host.install(driver("one"))
    host.install(driver("two"))
    host.ask(s.SoftwareChange("", "remove", names=("one",)))
    assert host.names() == [*BASE, "two 1.0-1"]
    assert boots(host.home)


def test_a_dry_run_changes_nothing(host):
    before = tree(host.home)
    reply = host.install(driver(), dry_run=True)
    assert reply.message.startswith("Dryrun only")
    assert reply.installed
    assert tree(host.home) == before


def test_no_option_lets_a_looser_vib_take_the_place_of_a_stricter_one(host):
    host.install(driver())
    for more in ({"force": True}, {"no_sig_check": True}, {"force": True, "no_sig_check": True}):
        with pytest.raises(CasemateError) as caught:
            host.install(driver(version="2.0-1", sign=False), **more)
        assert caught.value.code in {"level-lowered", "signature-missing"}
    host.ask(s.SoftwareChange("", "remove", names=("driver",)))
    assert host.install(driver(version="2.0-1", sign=False), no_sig_check=True).installed


def test_what_is_there_is_skipped(host):
    host.install(driver())
    reply = host.install(driver())
    assert (reply.message, reply.skipped) == (
        "Host is not changed.",
        ("CSM_bootbank_driver_1.0-1",),
    )


def test_an_update_takes_newer_ones_only(host):
    assert host.install(driver(), action="update").skipped
    host.install(driver(version="1.2-1"))
    assert host.install(driver(version="1.1-1"), action="update").skipped
    reply = host.install(driver(version="1.10-1"), action="update")
    assert reply.removed == ("CSM_bootbank_driver_1.2-1",)
    assert host.names()[-1] == "driver 1.10-1"


def test_the_base_is_updated_in_its_place_and_never_removed(host):
    host.install(base_vib("casemate-kernel", "2.0-1"))
    config, database = read_bank(host.home.path / "altbootbank")
    assert config.kernel == "b.b00"
    assert [m.name for m in config.modules] == ["k.b00", "imgdb.tgz"]
    assert database.vibs[1].descriptor.version == "2.0-1"
    with pytest.raises(CasemateError) as caught:
        host.ask(s.SoftwareChange("", "remove", names=("casemate-kernel",)))
    assert caught.value.code == "base-vib"


def test_dependencies_come_from_the_depot(host):
    depot = host.depot(
        driver("top", depends=_needs("middle", ">=", "2.0")),
        driver("middle", "2.5-1", depends=_needs("low")),
        driver("middle", "1.0-1"),
        driver("low"),
        driver("stranger"),
    )
    reply = host.ask(s.SoftwareChange("", "install", depots=depot, names=("top",)))
    assert sorted(reply.installed) == [
        "CSM_bootbank_low_1.0-1",
        "CSM_bootbank_middle_2.5-1",
        "CSM_bootbank_top_1.0-1",
    ]
    assert len(boots(host.home)) == 5


def _needs(name, relation="", version=""):
    return (Constraint(name, relation, version),)


HOSTILE = {
    "unsigned, says partner": (driver(sign=False), "signature-missing"),
    "unsigned community": (driver(level="community", sign=False), "level-too-low"),
    "signed community": (driver(level="community"), "level-too-low"),
    "hides a file from its list": (
        driver(files={"opt/seen": b"1", "opt/hidden": b"2"}, listed=("opt/seen",)),
        "file-not-listed",
    ),
    "lists a file it lacks": (driver(listed=("opt/driver/code", "opt/more")), "file-missing"),
    "writes above its level": (driver(files={"etc/passwd": b"root"}), "path-not-allowed"),
    "writes into the kernel": (
        driver(files={"usr/lib/python3/dist-packages/casemate/x.py": b""}),
        "path-not-allowed",
    ),
    "needs what is not there": (driver(depends=_needs("nothing")), "dependency"),
    "needs a newer kernel": (
        driver(depends=_needs("casemate-kernel", ">>", "1.0-1")),
        "dependency",
    ),
    "conflicts with the kernel": (driver(conflicts=_needs("casemate-kernel")), "conflict"),
    "replaces the kernel": (driver(replaces=_needs("casemate-kernel")), "base-missing"),
    "takes the kernel's name": (driver("casemate-kernel", "9-1"), "level-lowered"),
    "needs maintenance mode": (driver(install_needs_maintenance=True), "maintenance-mode"),
    "belongs into a locker": (driver(type=VibType.LOCKER), "argument"),
    "no VIB at all": (b"#!/bin/sh\n", "ar-magic"),
    "half a VIB": (driver()[:-100], None),
    "trailing bytes": (driver() + b"!", None),
}


@pytest.mark.parametrize("name", [name for name, (_, code) in HOSTILE.items() if code])
def test_what_is_refused_leaves_nothing_behind(host, name):
    data, code = HOSTILE[name]
    before = tree(host.home)
    with pytest.raises(CasemateError) as caught:
        host.install(data)
    assert caught.value.code == code
    assert caught.value.remedy
    assert tree(host.home) == before


@pytest.mark.parametrize("name", [name for name, (_, code) in HOSTILE.items() if not code])
def test_other_broken_vibs_are_refused_too(host, name):
    before = tree(host.home)
    with pytest.raises(CasemateError):
        host.install(HOSTILE[name][0])
    assert tree(host.home) == before


def test_two_vibs_with_one_file_do_not_go_together(host):
    host.install(driver("one", files={"opt/same": b"1"}))
    with pytest.raises(CasemateError) as caught:
        host.install(driver("two", files={"opt/same": b"2"}))
    assert caught.value.code == "file-conflict"
    assert host.install(driver("two", files={"opt/same": b"2"}, overlay=True)).installed


def test_force_passes_over_dependencies_but_not_over_signatures(host):
    assert host.install(driver(depends=_needs("nothing")), force=True).installed
    for data in (driver("x", sign=False), driver("x", level="community")):
        with pytest.raises(CasemateError) as caught:
            host.install(data, force=True)
        assert caught.value.code in {"signature-missing", "level-too-low"}


def test_without_signature_check_the_image_says_so_until_the_vib_is_gone(host):
    host.install(driver(sign=False), no_sig_check=True)
    config, database = read_bank(host.home.path / "altbootbank")
    (mark,) = unchecked_marks(config.kernelopt)
    assert mark == hashlib.sha256(database.vibs[-1].descriptor_bytes).hexdigest()[:16]
    (shown,) = [v for v in host.ask(s.SoftwareList(rebooting=True)).vibs if v.name == "driver"]
    assert shown.acceptance_level == "CommunitySupported"
    assert shown.signature.startswith("Failed")
    host.ask(s.SoftwareChange("", "remove", names=("driver",)))
    assert not unchecked_marks(read_bank(host.home.path / "altbootbank")[0].kernelopt)


def revoke(home, *vibs):
    body = write_revocations(
        Revocations(
            1,
            NOW,
            {},
            {hashlib.sha256(parse_vib(v).descriptor_bytes).digest(): "bad" for v in vibs},
        )
    )
    (home.trust / "revoked").mkdir(exist_ok=True)
    path = home.trust / "revoked" / "list.signed"
    path.write_bytes(join_signed(body, shared_pki().sign(body, "certified")))
    return path


@pytest.mark.parametrize("more", [{}, {"force": True}, {"no_sig_check": True}])
def test_what_is_revoked_gets_in_by_no_option(host, more):
    revoke(host.home, driver())
    with pytest.raises(CasemateError) as caught:
        host.install(driver(), **more)
    assert caught.value.code == "vib-revoked"


def test_an_image_with_a_revoked_vib_is_only_left_by_removing_it(host):
    host.install(driver("bad"))
    revoke(host.home, driver("bad"))
    with pytest.raises(CasemateError) as caught:
        host.install(driver("good"))
    assert caught.value.code == "vib-revoked"
    host.ask(s.SoftwareChange("", "remove", names=("bad",)))
    assert host.names() == BASE


def test_a_forged_revocation_list_stops_changes(host):
    path = revoke(host.home)
    path.write_bytes(path.read_bytes().replace(b'"number": 1', b'"number": 0'))
    with pytest.raises(CasemateError) as caught:
        host.install(driver())
    assert caught.value.code == "content-changed"


def test_the_host_level_is_that_of_the_next_boot_and_every_vib_must_comply(host):
    assert host.ask(s.AcceptanceGet()).level == "PartnerSupported"
    assert host.ask(s.AcceptanceSet("", "CommunitySupported")).level == "CommunitySupported"
    assert host.ask(s.AcceptanceGet()).level == "CommunitySupported"
    assert host.install(driver(level="community", sign=False)).installed
    for level, code in (("PartnerSupported", "level-too-low"), ("partner", "argument")):
        with pytest.raises(CasemateError) as caught:
            host.ask(s.AcceptanceSet("", level))
        assert caught.value.code == code
    assert boots(host.home)


def test_a_boot_option_is_in_the_next_image_and_the_running_one_stays_as_it_is(host):
    def configured(*, rebooting: bool) -> list[str]:
        return host.ask(s.SoftwareList(rebooting=rebooting)).kernel_options.split()

    host.ask(s.BootOptionSet("", "apiCompatibility", "true"))
    assert "apiCompatibility=TRUE" in configured(rebooting=True)
    assert "apiCompatibility=TRUE" not in configured(rebooting=False)
    assert boots(host.home)
    assert host.install(driver()).installed
    assert "apiCompatibility=TRUE" in configured(rebooting=True)
    host.ask(s.BootOptionSet("", "apiCompatibility", "FALSE"))
    assert "apiCompatibility" not in " ".join(configured(rebooting=True))
    assert boots(host.home)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("execInstalledOnly", "FALSE", "option-fixed"),
        ("noSigCheck", "0" * 16, "option-fixed"),
        ("apiCompatibility", "TRUE quiet=1", "argument"),
        ("init", "/bin/sh", "argument"),
    ],
)
def test_a_boot_option_that_opens_the_host_is_refused_and_changes_nothing(host, name, value, code):
    before = host.ask(s.SoftwareList(rebooting=True))
    with pytest.raises(CasemateError) as caught:
        host.ask(s.BootOptionSet("", name, value))
    assert caught.value.code == code
    assert host.ask(s.SoftwareList(rebooting=True)) == before
    host.ask(s.BootOptionSet("", "execInstalledOnly", "TRUE"))
    assert host.ask(s.SoftwareList(rebooting=True)) == before


def test_after_a_rollback_nothing_is_changed_before_the_restart(host):
    host.install(driver())
    write_states(host.home, [("altbootbank", BootState.VALID)])
    restarted = Host(host.home)
    restarted.ask(s.BootRollback())
    assert len(boots(host.home)) == 2
    with pytest.raises(CasemateError) as caught:
        restarted.install(driver("other"))
    assert caught.value.code == "rollback-pending"
    restarted.store.close()


def test_a_damaged_file_of_the_running_image_is_not_carried_over(host):
    path = host.home.banks[0] / "k.b00"
    path.write_bytes(b"X" + path.read_bytes()[1:])
    with pytest.raises(CasemateError) as caught:
        host.install(driver())
    assert caught.value.code == "payload-changed"
    assert plan_boot(read_banks(host.home)).bank.name == "bootbank"
    assert [one[0] for one in host.ask(s.SoftwareValidate()).findings] == ["payload-changed"]


def test_a_profile_replaces_the_whole_image(host):
    host.install(driver("old"))
    vibs = (base_vib("casemate-boot", "2-1"), base_vib("casemate-kernel", "2-1"), driver("new"))
    ids = tuple(parse_vib(data).descriptor.vib_id for data in vibs)
    profile = ImageProfile("Next", "Tests", "community", NOW, ids)
    depot = host.depot(*vibs, profiles=[profile])
    assert host.ask(s.DepotList("", depot)).profiles == ("Next",)
    host.ask(s.SoftwareChange("", "profile-install", depots=depot, names=("Next",)))
    assert host.names() == ["casemate-boot 2-1", "casemate-kernel 2-1", "new 1.0-1"]
    image = host.ask(s.SoftwareList(rebooting=True))
    assert (image.profile, image.acceptance_level) == ("Next", "PartnerSupported")
    with pytest.raises(CasemateError) as caught:
        host.ask(s.SoftwareChange("", "profile-install", depots=depot, names=("Other",)))
    assert caught.value.code == "no-match"


def test_power_cut_at_every_write_leaves_the_old_or_the_new_image(tmp_path):
    old = [driver("keep"), driver("gone"), driver("driver")]
    seed = make_home(tmp_path / "seed", old)
    before = boots(seed)
    change = s.SoftwareChange("", "install", force=True)
    first = Host(seed)
    first.install(driver("driver", "0.9-1"), force=True)
    first.store.close()
    for torn in (False, True):
        seen = set()
        for cut in range(200):
            home = Home(tmp_path / f"{torn}{cut}")
            shutil.copytree(seed.path, home.path)
            write_states(home, [("altbootbank", BootState.INVALID)])
            disk = FailingDisk(cut, torn=torn)
            host = Host(home, disk)
            places = host.put(driver("driver", "2.0-1"), driver("fresh"))
            try:
                host.ask(replace(change, vibs=places))
            except PowerCutError:
                finished = False
            else:
                finished = True
            host.store.close()
            after = boots(home)
            assert after == before or "CSM_bootbank_fresh_1.0-1" in after
            seen.add(after == before)
            shutil.rmtree(home.path)
            if finished:
                assert after != before
                break
        assert seen == {True, False}
        assert disk.operations > 8


def boot_image(version, content):
    payload = announce(BOOT_PAYLOAD, content, "boot")
    descriptor = replace(
        make_descriptor("accepted", {}, name=BOOT_VIB, version=version), payloads=(payload,)
    )
    described = write_descriptor(descriptor)
    signature = shared_pki().sign(described, "accepted")
    return write_vib(described, signature, [(BOOT_PAYLOAD, content)])


def test_a_boot_image_goes_along_and_firmware_is_told_to_try_it_once(host, tmp_path, monkeypatch):
    monkeypatch.setattr(firmwareboot, "VARIABLES", tmp_path)
    options = {"bootbank": b"first", "altbootbank": b"second"}
    firmwareboot.FirmwareBoot(options).record(host.home)
    host.install(boot_image("1.0-1", b"MZ one"))
    other = host.home.path / "altbootbank"
    assert (other / "boot.efi").read_bytes() == b"MZ one"
    config, _ = read_bank(other)
    assert "boot.efi" not in {module.name for module in config.files}
    assert dict(config.extra) == {TRIED: "1"}
    assert variable(tmp_path, "BootNext") == b"\0\0"
    assert variable(tmp_path, "Boot0000") == b"second"


def test_a_rollback_has_firmware_start_the_other_boot_image(host, tmp_path, monkeypatch):
    monkeypatch.setattr(firmwareboot, "VARIABLES", tmp_path)
    firmwareboot.FirmwareBoot({"altbootbank": b"second"}, tmp_path).record(host.home)
    host.install(driver())
    write_states(host.home, [("altbootbank", BootState.VALID)])
    (tmp_path / f"BootNext-{GLOBAL}").unlink()
    host.ask(s.BootRollback())
    assert variable(tmp_path, "BootNext") == b"\0\0"


def test_firmware_that_takes_no_variable_does_not_undo_the_update(host, tmp_path, monkeypatch):
    monkeypatch.setattr(firmwareboot, "VARIABLES", tmp_path / "absent")
    firmwareboot.FirmwareBoot({"altbootbank": b"second"}).record(host.home)
    assert host.install(driver()).reboot_required
    config, _ = read_bank(host.home.path / "altbootbank")
    assert (config.bootstate, config.extra) == (BootState.UPGRADING, ())


def variable(place, name):
    return (place / f"{name}-{GLOBAL}").read_bytes()[4:]
