"""VIBs taken into use without a restart: verified, measured, switched to at once, or not at all."""

from __future__ import annotations

import hashlib

import pytest
from tests.kernel.softwarehost import Host

from casemate.calls import software as s
from casemate.errors import CasemateError
from casemate.kernel import live as live_module
from casemate.kernel.boot.bank import read_banks
from casemate.machine.facts import ComponentFact
from casemate.policy.banks import plan_boot
from casemate.testing.smallimage import driver, live_driver, make_home


@pytest.fixture
def host(tmp_path):
    made = Host(make_home(tmp_path / "h"))
    made.home.boot_record.mkdir(parents=True, exist_ok=True)
    yield made
    made.store.close()


def components(host):
    return {f.file_name: f.vib_version for f in host.stream.facts() if isinstance(f, ComponentFact)}


def next_vibs(host):
    return [one.vib_id for one in host.ask(s.SoftwareList(rebooting=True)).vibs]


def test_a_live_vib_is_measured_then_in_use_and_listed(host):
    content = b"code" * 100
    reply = host.install(live_driver(content=content))
    assert not reply.reboot_required
    assert "VMs that are powered on from now on" in reply.message
    assert host.layers.live == {"driver.v00": content}
    assert host.measurements.measured == [("driver.v00", hashlib.sha256(content).digest())]
    assert components(host) == {"driver.v00": "1.0-1"}
    assert "driver 1.0-1" in host.names(rebooting=False)


def test_an_archive_goes_live_like_an_image(host):
    more = {"live_install_allowed": True, "live_remove_allowed": True}
    assert not host.install(driver("tar", **more)).reboot_required
    assert list(host.layers.live) == ["tar.v00"]
    assert host.install(driver("later")).reboot_required
    assert list(host.layers.live) == ["tar.v00"]


def test_an_update_switches_from_the_old_to_the_new_under_the_same_name(host):
    host.install(live_driver())
    reply = host.install(live_driver("2.0-1", b"new" * 50))
    assert not reply.reboot_required
    assert host.layers.live == {"driver.v00": b"new" * 50}
    assert components(host) == {"driver.v00": "2.0-1"}
    host.ask(s.SoftwareChange("", "remove", names=("driver",)))
    assert host.layers.live == {}
    assert components(host) == {}


@pytest.mark.parametrize("step", ["stage", "switch", "measure"])
def test_what_fails_on_the_way_leaves_the_old_in_use_and_the_new_for_the_next_boot(host, step):
    host.install(live_driver(content=b"old" * 50))
    host.layers.failing = step
    host.measurements.broken = step == "measure"
    reply = host.install(live_driver("2.0-1"))
    assert reply.reboot_required
    assert "could not be taken into use" in reply.message
    assert host.layers.live == {"driver.v00": b"old" * 50}
    assert host.layers.staged == {}
    assert components(host) == {"driver.v00": "1.0-1"}
    assert "driver 1.0-1" in host.names(rebooting=False)
    assert "CSM_bootbank_driver_2.0-1" in next_vibs(host)


def test_a_payload_that_changed_in_memory_stops_everything_before_anything_is_touched(
    host, monkeypatch
):
    host.install(live_driver(content=b"old" * 50))
    before = next_vibs(host)
    honest = live_module.sealed_bytes
    monkeypatch.setattr(
        live_module, "sealed_bytes", lambda data, name: honest(bytes(data)[::-1], name)
    )
    with pytest.raises(CasemateError) as caught:
        host.install(live_driver("2.0-1"))
    assert caught.value.code == "payload-changed"
    assert host.layers.live == {"driver.v00": b"old" * 50}
    assert len(host.measurements.measured) == 1
    assert next_vibs(host) == before
    assert plan_boot(read_banks(host.home)).bank.name == "altbootbank"


def test_what_is_lost_with_the_kernel_is_only_what_is_no_longer_mounted(host):
    host.install(live_driver())
    again = Host(host.home, bank="bootbank")
    again.layers.live = dict(host.layers.live)
    assert "driver 1.0-1" in again.names(rebooting=False)
    again.layers.live = {}
    assert "driver 1.0-1" not in again.names(rebooting=False)
    again.store.close()


@pytest.mark.parametrize("earlier", [True, False])
def test_a_change_that_a_killed_kernel_left_half_made_is_not_listed_when_it_was_undone(
    host, earlier
):
    if earlier:
        host.install(live_driver())
    place = host.home.boot_record
    before = (place / "live.tgz").read_bytes() if earlier else b""
    host.install(live_driver("2.0-1", b"new" * 50))
    again = Host(host.home, bank="bootbank")
    # As a kernel leaves it that is killed between the record and the end of the switch.
    (place / "live-before.tgz").write_bytes(before)
    again.layers.live = dict(host.layers.live) if earlier else {}
    again.layers.undone = True
    again.software._live.recover()
    assert ("driver 1.0-1" in again.names(rebooting=False)) is earlier
    assert "driver 2.0-1" not in again.names(rebooting=False)
    assert not (place / "live-before.tgz").exists()
    again.store.close()
