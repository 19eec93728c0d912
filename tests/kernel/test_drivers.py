"""Drivers: what a machine's devices ask for, in an order that works, from an index that may lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from casemate.errors import BootError, HostError
from casemate.formats.efivars import GLOBAL, Variable, variable_data
from casemate.formats.eventlog import Event, write_event, write_header
from casemate.formats.eventtypes import EV_EFI_VARIABLE_DRIVER_CONFIG
from casemate.kernel.boot.drivers import Drivers, present
from casemate.kernel.boot.firmware import read_firmware

INDEX = {
    "net": {"file": "/m/net.ko", "depends": ["ring"], "aliases": ["virtio:d00000001v*"]},
    "disk": {"file": "/m/disk.ko", "depends": ["ring"], "aliases": ["virtio:d00000002v*"]},
    "ring": {"file": "/m/ring.ko", "depends": [], "aliases": []},
}


def drivers(place: Path, loaded: list[str], broken: str = "") -> Drivers:
    (place / "one.json").write_text(json.dumps(INDEX))

    def load(path: Path) -> None:
        if path.stem == broken:
            raise HostError("no such device")
        loaded.append(path.stem)

    return Drivers(place, load)


def test_a_device_gets_its_driver_after_what_it_needs_and_once(tmp_path: Path) -> None:
    loaded: list[str] = []
    known = drivers(tmp_path, loaded)
    assert known.match(["virtio:d00000002v1AF4", "virtio:d00000002v1AF4", "pci:unknown"]) == ()
    known.need("disk", "built_in")
    assert loaded == ["ring", "disk"]


def test_a_driver_that_fails_is_named_and_the_others_load(tmp_path: Path) -> None:
    loaded: list[str] = []
    failed = drivers(tmp_path, loaded, broken="net").match(
        ["virtio:d00000001v1", "virtio:d00000002v1"]
    )
    assert failed == ("net: no such device",)
    assert loaded == ["ring", "disk"]


@pytest.mark.parametrize(
    "text", ["[", '{"x": {}}', '{"x": {"file": 1, "depends": 1, "aliases": 1}}']
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "one.json").write_text(text)
    with pytest.raises(HostError):
        Drivers(tmp_path)


def test_devices_are_found_by_their_modalias(tmp_path: Path) -> None:
    place = tmp_path / "pci/devices/0000:00:01.0"
    place.mkdir(parents=True)
    (place / "modalias").write_text("pci:v1AF4\n")
    assert list(present(tmp_path)) == ["pci:v1AF4"]


def firmware_log(path: Path, *values: bytes) -> Path:
    data = write_header(("sha256", "sha384"))
    for value in values:
        body = variable_data(Variable("SecureBoot", GLOBAL, 0, value))
        digests = (("sha256", bytes(32)), ("sha384", bytes(48)))
        data += write_event(Event(7, EV_EFI_VARIABLE_DRIVER_CONFIG, digests, body))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("values", "on"), [([b"\1"], True), ([b"\0"], False), ([], False), ([b"\1", b"\0"], False)]
)
def test_secure_boot_is_on_where_firmware_says_so_once(
    tmp_path: Path, values: list[bytes], on: bool
) -> None:
    firmware = read_firmware(firmware_log(tmp_path / "log", *values))
    assert firmware.secure_boot is on
    assert firmware.banks == ("sha256", "sha384")


def test_a_machine_without_a_firmware_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="event log"):
        read_firmware(tmp_path / "absent")
