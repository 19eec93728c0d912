"""What a running VM takes, and what waits until it is off."""

from __future__ import annotations

from dataclasses import replace

import pytest

from casemate.machine.facts import DiskSpec, DriveSpec, NicSpec, VmConfig
from casemate.machine.hotplug import (
    CORES,
    CPU_HOT_ADD,
    HOT_CPUS,
    HotChange,
    cores_per_socket,
    hot_change,
    most_cpus,
)

BOOT = DiskSpec("a.vmdk", "disk", "vmdk", 8, "scsi0", 0)
DATA = DiskSpec("b.vmdk", "disk", "vmdk", 8, "scsi0", 1)
ISO = DiskSpec("a.iso", "cdrom", "raw", 8, "ide1", 0)
VM = VmConfig(
    "vm", "", "[ds] vm/vm.vmx", "other", 2, 256, "bios", (BOOT, ISO), (NicSpec("", "LAN", "e1000"),)
)
HOT = replace(VM, extra=(("VCPU.HotAdd", "true"),))


def test_what_no_guest_sees_needs_nothing() -> None:
    nics = (replace(VM.nics[0], network="DMZ"),)
    grown = (replace(BOOT, capacity=16), ISO)
    after = replace(VM, name="other", annotation="x", extra=(("a", "b"),), nics=nics, disks=grown)
    assert hot_change(VM, after) == HotChange()


def test_disks_come_and_go_on_scsi_and_discs_are_changed() -> None:
    other = replace(ISO, file_name="b.iso")
    after = replace(VM, disks=(BOOT, DATA, other))
    assert hot_change(VM, after) == HotChange(added=(DATA,), swapped=((ISO, other),))
    assert hot_change(after, VM) == HotChange(removed=(DATA,), swapped=((other, ISO),))


def test_a_disc_is_taken_out_and_put_in_but_its_drive_stays() -> None:
    drive = DriveSpec("ide1", 0)
    empty = replace(VM, disks=(BOOT,), drives=(drive,))
    assert hot_change(VM, empty) == HotChange(swapped=((ISO, drive),))
    assert hot_change(empty, VM) == HotChange(swapped=((drive, ISO),))
    assert hot_change(empty, replace(empty, drives=())) is None


def test_vcpus_come_where_it_was_allowed_before() -> None:
    assert hot_change(HOT, replace(HOT, cpus=3)) == HotChange(cpus=1)
    assert hot_change(VM, replace(HOT, cpus=3)) is None
    assert most_cpus(HOT) == HOT_CPUS
    assert most_cpus(VM) == 2


def test_memory_comes_in_blocks_where_it_was_allowed_before() -> None:
    allowed = replace(VM, extra=(("mem.hotadd", "TRUE"),))
    assert hot_change(allowed, replace(allowed, memory_mib=512)) == HotChange(memory_mib=256)
    assert hot_change(allowed, replace(allowed, memory_mib=300)) is None
    assert hot_change(allowed, replace(allowed, memory_mib=128)) is None
    small = replace(allowed, memory_mib=64)
    assert hot_change(small, replace(small, memory_mib=192)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"cpus": 1},
        {"cpus": HOT_CPUS + 1},
        {"memory_mib": 512},
        {"firmware": "efi"},
        {"nics": ()},
        {"uuid": "x"},
        {"disks": (replace(BOOT, file_name="c.vmdk"), ISO)},
        {"disks": (BOOT,)},
        {"disks": (BOOT, ISO, replace(DATA, controller="ide0"))},
        {"disks": (BOOT, ISO, replace(DATA, controller="scsi1"))},
        {"disks": (BOOT, ISO, replace(ISO, controller="scsi0", unit=3))},
        {"disks": (replace(BOOT, kind="cdrom", format="raw"), ISO)},
    ],
)
def test_everything_else_waits(changes: dict[str, object]) -> None:
    assert hot_change(HOT, replace(HOT, **changes)) is None


@pytest.mark.parametrize(
    ("entry", "cpus", "cores"),
    [
        ("2", 4, 2),
        ("4", 4, 4),
        ("3", 4, 1),
        ("0", 4, 1),
        ("-2", 4, 1),
        ("many", 4, 1),
        ("9" * 50, 4, 1),
        ("8", 4, 1),
    ],
)
def test_cores_make_sockets_only_where_they_divide_the_vcpus(
    entry: str, cpus: int, cores: int
) -> None:
    config = VmConfig(*("vm", "", "vm.vmx", "other", cpus, 256, "efi"), extra=((CORES, entry),))
    assert cores_per_socket(config) == cores


def test_single_vcpus_come_to_no_socket_of_several_cores() -> None:
    config = VmConfig(
        *("vm", "", "vm.vmx", "other", 2, 256, "efi"),
        extra=((CPU_HOT_ADD, "TRUE"), ("CPUID.CORESPERSOCKET", "2")),
    )
    assert most_cpus(config) == 2
    assert most_cpus(replace(config, cpus=3)) > 3
    assert hot_change(config, replace(config, extra=config.extra[:1])) is None
