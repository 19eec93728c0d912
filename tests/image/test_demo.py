from __future__ import annotations

import contextlib
import socket
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import HostError
from casemate.formats import vmdk, vmx
from casemate.formats.modinfo import parse_modinfo
from casemate.image.cpio import Entry, device, folder, link, program, write_cpio
from casemate.image.debian import Packages
from casemate.image.demo import READY, first_root, in_order, kernel_release, write_demo
from casemate.machine.vmconfig import vm_config
from casemate.testing.linuxmodules import relocatable

QEMU = "qemu-system-x86_64"
BOOT_LIMIT = 200.0
NAMES = st.text("abc/", min_size=1, max_size=9)


def parse_cpio(data: bytes) -> list[tuple[str, int, bytes]]:
    """Read an archive as Linux does; the oracle for our writer."""
    found, at = [], 0
    while True:
        head = data[at : at + 110]
        assert head[:6] == b"070701"
        fields = [int(head[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 109 + length].decode()
        at += -(-(110 + length) // 4) * 4
        content = data[at : at + size]
        at += -(-size // 4) * 4
        if name == "TRAILER!!!":
            assert at == len(data)
            return found
        found.append((name, mode, content))


@given(st.lists(st.builds(program, NAMES, st.binary(max_size=20))))
def test_an_archive_read_back_is_what_was_written(entries):
    data = write_cpio(entries)
    assert parse_cpio(data) == [(entry.path, entry.mode, entry.data) for entry in entries]


def test_every_kind_of_entry_is_what_linux_expects():
    data = write_cpio([folder("d"), link("l", "d"), device("d/c", 5, 1), Entry("e", 0o100644)])
    assert [mode for _, mode, _ in parse_cpio(data)] == [0o40755, 0o120777, 0o20600, 0o100644]
    assert b"0000000500000001" in data


@pytest.mark.host
def test_every_module_of_the_guest_is_loaded_after_those_that_it_needs():
    packages = Packages()
    loaded: set[str] = set()
    for entry in first_root(packages, kernel_release(packages)):
        if entry.path.endswith(".ko"):
            info = parse_modinfo(entry.data)
            assert loaded >= set(info.depends), entry.path
            loaded.add(info.name)
    assert {"virtio_balloon", "virtio_net", "vmxnet3", "button"} <= loaded


def test_a_module_that_needs_another_is_refused_without_it():
    with pytest.raises(HostError) as caught:
        list(in_order([relocatable(b"name=one\0depends=two\0")]))
    assert caught.value.component == "two"


@pytest.mark.host
def test_the_demo_guest_is_the_same_every_time_and_its_settings_are_good(tmp_path):
    first = write_demo(tmp_path / "one")
    time.sleep(2.1)  # the coarsest time stamp of a FAT file system
    second = write_demo(tmp_path / "two")
    assert first.disk.read_bytes() == second.disk.read_bytes()
    assert first.vmx.read_bytes() == second.vmx.read_bytes()
    disk = vmdk.parse((tmp_path / "one/demo.vmdk").read_bytes())
    assert disk.extent == first.disk.name
    assert disk.capacity == first.disk.stat().st_size
    config = vm_config(vmx.parse(first.vmx.read_bytes()), "demo/demo.vmx")
    assert (config.name, config.firmware, config.memory_mib) == ("demo", "bios", 256)
    assert [spec.file_name for spec in config.disks] == ["demo.vmdk"]


@pytest.mark.guest
@pytest.mark.host
def test_the_demo_guest_boots_to_its_prompt_and_obeys_the_power_button(tmp_path):
    guest = write_demo(tmp_path)
    serial, monitor = tmp_path / "serial.log", tmp_path / "monitor"
    command = [
        *(QEMU, "-accel", "tcg,split-wx=on", "-M", "q35", "-cpu", "max", "-m", "256"),
        *("-nodefaults", "-display", "none", "-serial", f"file:{serial}"),
        *(
            "-drive",
            f"file={guest.disk},format=raw,if=none,id=disk",
            "-device",
            "ide-hd,drive=disk",
        ),
        *("-monitor", f"unix:{monitor},server=on,wait=off"),
    ]
    with subprocess.Popen(command) as process:
        try:
            began = time.monotonic()
            text = ""
            while READY not in text:
                assert time.monotonic() - began < BOOT_LIMIT, text
                time.sleep(0.1)
                with contextlib.suppress(FileNotFoundError):
                    text = serial.read_text(errors="replace")
            assert "Checked W+X mappings: passed" in text
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(str(monitor))
                control.recv(256)
                control.sendall(b"system_powerdown\n")
                assert process.wait(timeout=BOOT_LIMIT) == 0
        finally:
            process.kill()
