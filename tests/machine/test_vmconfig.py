"""A stranger's vmx file gives a VM or a refusal that names the entry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, LimitError
from casemate.formats.vmx import Vmx
from casemate.machine.facts import Allocation, DiskSpec, NicSpec
from casemate.machine.vmconfig import vm_config

PATH = "[datastore1] demo/demo.vmx"
WHOLE = {
    "displayName": "demo",
    "guestOS": "debian12-64",
    "memSize": "512",
    "numvcpus": "2",
    "uuid.bios": "56 4d 6a 0c 7f 3c 0d 21-9e 5b 11 22 33 44 55 66",
    "annotation": "first\nsecond",
    "scsi0.present": "TRUE",
    "scsi0.virtualDev": "pvscsi",
    "scsi0:0.present": "TRUE",
    "scsi0:0.fileName": "demo.vmdk",
    "scsi0:0.deviceType": "scsi-hardDisk",
    "ide1:0.present": "TRUE",
    "ide1:0.fileName": "tools.iso",
    "ide1:0.deviceType": "cdrom-image",
    "ide1:1.present": "TRUE",
    "ide1:1.deviceType": "atapi-cdrom",
    "ethernet0.present": "TRUE",
    "ethernet0.virtualDev": "vmxnet3",
    "ethernet0.networkName": "VM Network",
    "ethernet0.generatedAddress": "00:0c:29:AB:cd:ef",
    "sched.cpu.shares": "high",
    "sched.cpu.min": "100",
    "sched.mem.shares": "1234",
    "sched.mem.max": "unlimited",
    "guestinfo.key": "value",
}


def config(**changes: str):
    entries = {**WHOLE, **{name.replace("__", "."): value for name, value in changes.items()}}
    return vm_config(Vmx(tuple(entries.items())), PATH)


def test_disks_and_images_lie_elsewhere_on_a_datastore_and_nowhere_else():
    image = "/vmfs/volumes/datastore1/iso/debian.iso"
    data = "/vmfs/volumes/datastore2/demo/demo.vmdk"
    files = {"ide1:0.fileName": image, "scsi0:0.fileName": data}
    vm = vm_config(Vmx(tuple({**WHOLE, **files}.items())), PATH)
    assert [disk.file_name for disk in vm.disks] == [image, data]
    own = {"scsi0:0.fileName": "/vmfs/volumes/datastore1/demo/demo.vmdk"}
    assert vm_config(Vmx(tuple({**WHOLE, **own}.items())), PATH) == config()
    for slot, name in (
        ("scsi0:0", "/vmfs/volumes/datastore1/demo/../../etc/demo.vmdk"),
        ("scsi0:0", "/vmfs/devices/disks/demo.vmdk"),
        ("scsi0:0", "/vmfs/volumes/datastore1/other/demo.txt"),
        ("ide1:0", "/etc/debian.iso"),
        ("ide1:0", "/vmfs/volumes/datastore1/../debian.iso"),
        ("ide1:0", "/vmfs/volumes/datastore1"),
        ("ide1:0", "/vmfs/volumes//x.iso"),
        ("ide1:0", "../x.iso"),
    ):
        with pytest.raises(ArgumentError):
            vm_config(Vmx(tuple({**WHOLE, f"{slot}.fileName": name}.items())), PATH)


def test_a_whole_file_is_understood():
    vm = config()
    assert (vm.name, vm.cpus, vm.memory_mib, vm.guest_id) == ("demo", 2, 512, "debian12-64")
    assert vm.uuid == "564d6a0c-7f3c-0d21-9e5b-112233445566"
    assert vm.disks == (
        DiskSpec("tools.iso", "cdrom", "raw", 0, "ide1", 0),
        DiskSpec("demo.vmdk", "disk", "vmdk", 0, "scsi0", 0),
    )
    assert vm.nics == (NicSpec("00:0c:29:ab:cd:ef", "VM Network", "vmxnet3"),)
    assert vm.cpu_allocation == Allocation(100, -1, "high", 4000)
    assert vm.memory_allocation == Allocation(0, -1, "custom", 1234)
    assert dict(vm.extra) == {"guestinfo.key": "value", "scsi0.virtualDev": "pvscsi"}


def test_an_empty_file_is_a_small_machine_named_after_its_file():
    vm = vm_config(Vmx(()), PATH)
    assert (vm.name, vm.cpus, vm.memory_mib, vm.disks, vm.nics) == ("demo", 1, 32, (), ())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("numvcpus", "0"),
        ("numvcpus", "256"),
        ("numvcpus", "-1"),
        ("numvcpus", "two"),
        ("numvcpus", "٣"),
        ("memsize", "513"),
        ("memsize", "99999999"),
        ("firmware", "coreboot"),
        ("displayname", "two\nlines"),
        ("displayname", "x" * 81),
        ("guestos", "a,b"),
        ("uuid.bios", "not-a-uuid"),
        ("scsi0:0.filename", "/etc/shadow"),
        ("scsi0:0.filename", "../other/disk.vmdk"),
        ("scsi0:0.filename", "json:{}.vmdk/x"),
        ("scsi0:0.filename", ""),
        ("scsi0:0.devicetype", "rawDisk"),
        ("scsi0:0.devicetype", "tape"),
        ("scsi0:0.present", "maybe"),
        ("scsi0.virtualdev", "evil,addr=1"),
        ("ide1:0.filename", "/dev/sda"),
        ("ide1:0.filename", "disk.vmdk"),
        ("ethernet0.virtualdev", "tap"),
        ("ethernet0.address", "01:00:5e:00:00:01"),
        ("ethernet0.address", "00:50:56:00:00:01,netdev=x"),
        ("sched.cpu.shares", "all"),
        ("sched.mem.min", "-5"),
        ("cpuid.80000001.edx", "-----------0--------------------"),
        ("cpuid.80000001.0.edx.amd", "---- ---- ---0 ---- ---- ---- ---- ----"),
        ("cpuid.7.ebx", "-----------0--------------------"),
        ("cpuid.00000007.ebx", "------------------------0-------"),
        ("cpuid.7.ecx", "-----------------------------0--"),
        ("cpuid.1.ecx", "0"),
    ],
)
def test_a_dangerous_or_senseless_entry_is_refused_by_name(name, value):
    lowered = {key.lower(): given for key, given in WHOLE.items()}
    with pytest.raises(ArgumentError) as caught:
        vm_config(Vmx(tuple({**lowered, name: value}.items())), PATH)
    assert caught.value.argument == name


def test_a_harmless_cpu_mask_is_accepted():
    assert config(cpuid__1__ecx="0" * 32).cpus == 2


def test_a_number_with_a_million_digits_is_refused():
    with pytest.raises(LimitError):
        config(memSize="9" * 1_000_000)


@given(st.dictionaries(st.sampled_from(sorted(WHOLE)), st.text(max_size=12)))
def test_whatever_the_values_only_our_errors(changes):
    try:
        config(**changes)
    except (ArgumentError, LimitError):
        return
