"""What is written to a vmx file is what is read from it, and nothing of a stranger's is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError
from casemate.formats import vmx
from casemate.formats.vmx import Vmx
from casemate.machine.diskmodes import MODES
from casemate.machine.facts import Allocation, DiskSpec, DriveSpec, NicSpec, VmConfig
from casemate.machine.vmconfig import vm_config
from casemate.machine.vmxwrite import BASE_ENTRIES, check_addresses, generated_mac, vmx_of

PATH = "[datastore1] a/a.vmx"
UUID = "564d6a0c-7f3c-0d21-9e5b-112233445566"
TEXT = st.text(
    st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="\x00"), min_size=1
)
CONFIGS = st.builds(
    VmConfig,
    name=TEXT.map(lambda text: text[:80]).filter(str.isprintable),
    uuid=st.uuids().map(str),
    vmx_path=st.just(PATH),
    guest_id=st.sampled_from(["other", "debian12-64"]),
    cpus=st.integers(1, 255),
    memory_mib=st.integers(1, 1 << 18).map(lambda units: units * 4),
    firmware=st.sampled_from(["bios", "efi"]),
    disks=st.lists(
        st.builds(
            DiskSpec,
            file_name=st.sampled_from(["a.vmdk", "b.vmdk", "c.vmdk"]),
            kind=st.just("disk"),
            format=st.just("vmdk"),
            capacity=st.just(0),
            controller=st.sampled_from(["ide0", "sata1", "scsi0", "nvme2"]),
            unit=st.integers(0, 1),
            iops=st.sampled_from([-1, 16, 5000]),
            bps=st.sampled_from([-1, 64 << 10, 1 << 20, 3 << 30]),
            mode=st.sampled_from(MODES),
            shares=st.sampled_from([1, 500, 1000, 2000, 3000]),
        ).map(lambda disk: disk if disk.iops < 0 else replace(disk, bps=-1)),
        unique_by=lambda disk: (disk.controller, disk.unit),
        max_size=4,
    ).map(lambda disks: tuple(sorted(disks, key=lambda disk: (disk.controller, disk.unit)))),
    nics=st.lists(
        st.builds(
            NicSpec,
            mac=st.sampled_from(["", "00:50:56:00:00:01"]),
            network=TEXT,
            model=st.sampled_from(["e1000", "vmxnet3"]),
            manual=st.booleans(),
            connected=st.booleans(),
        ).map(lambda nic: replace(nic, manual=nic.manual and bool(nic.mac))),
        max_size=3,
    ).map(tuple),
    cpu_allocation=st.builds(
        Allocation,
        reservation=st.integers(0, 1000),
        limit=st.integers(-1, 1000),
        shares_level=st.just("custom"),
        shares=st.integers(1, 100_000),
    ),
    memory_allocation=st.builds(Allocation, shares_level=st.just("custom"), shares=st.just(7)),
    annotation=TEXT | st.just(""),
    drives=st.sampled_from([(), (DriveSpec("ide1", 0),), (DriveSpec("sata0", 3),)]),
    extra=st.dictionaries(st.sampled_from(["guestinfo.a", "tools.b", "scsi0.virtualDev"]), TEXT)
    .map(lambda entries: {**entries, "scsi0.virtualDev": "pvscsi"})
    .map(lambda entries: tuple(entries.items())),
)


def of(config: VmConfig) -> VmConfig:
    """Return the configuration with its disks in the order of a file."""
    return replace(config, disks=vm_config(vmx_of(config, Vmx(())), PATH).disks)


@given(CONFIGS)
def test_what_is_written_is_read_back(config):
    config = of(config)
    written = vmx.parse(vmx.write(vmx_of(config, Vmx(()))))
    assert vm_config(written, PATH) == config


@given(CONFIGS, CONFIGS)
def test_a_change_gives_the_new_machine_and_nothing_of_the_old(before, after):
    after = of(after)
    old = vmx_of(before, Vmx(()))
    assert vm_config(vmx_of(after, old), PATH) == after


def test_what_no_field_shows_stays():
    old = Vmx((*BASE_ENTRIES, ("ide1:0.present", "TRUE"), ("ide1:0.deviceType", "atapi-cdrom")))
    config = replace(vm_config(old, PATH), cpus=4)
    assert vmx_of(config, old).get("ide1:0.deviceType") == "atapi-cdrom"
    assert vmx_of(config, old).get("numvcpus") == "4"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "two\nlines"},
        {"cpus": 0},
        {"memory_mib": 5},
        {"guest_id": "a b"},
        {"disks": (DiskSpec("../x.vmdk", "disk", "vmdk", 0, "ide0", 0),)},
        {"nics": (NicSpec("ff:ff:ff:ff:ff:ff", "VM Network", "e1000"),)},
        {"extra": (("cpuid.80000001.edx", "-----------0--------------------"),)},
    ],
)
def test_what_would_not_be_read_is_not_written(change):
    config = vm_config(Vmx(BASE_ENTRIES), PATH)
    with pytest.raises(ArgumentError):
        vmx_of(replace(config, **change), Vmx(BASE_ENTRIES))


def test_addresses_of_cards_are_of_vmware_s_range_and_differ():
    made = {generated_mac(UUID, number) for number in range(10)}
    assert len(made) == 10
    assert all(address.startswith("00:0c:29:") for address in made)


def chosen(mac: str) -> VmConfig:
    nic = NicSpec(mac, "VM Network", "e1000", manual=True)
    return replace(vm_config(Vmx(BASE_ENTRIES), PATH), nics=(nic,))


@pytest.mark.parametrize(
    "mac",
    [
        *("00:50:56:40:00:00", "00:50:56:bf:ff:ff", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"),
        *("00:00:00:00:00:00", "00:50:56:00:00", "00-50-56-00-00-01", "", "x"),
    ],
)
def test_an_address_that_is_not_a_person_s_to_choose_is_refused(mac):
    with pytest.raises(ArgumentError) as caught:
        check_addresses(chosen(mac), replace(chosen(mac), nics=()))
    assert caught.value.argument == "macAddress"


@pytest.mark.parametrize("mac", ["00:50:56:00:00:00", "00:50:56:3f:ff:ff", "02:00:00:00:00:01"])
def test_an_address_of_the_free_half_or_of_somebody_else_s_is_taken(mac):
    check_addresses(chosen(mac), replace(chosen(mac), nics=()))


def test_an_address_that_a_vm_has_already_is_nobody_s_choice():
    given_by_a_manager = chosen("00:50:56:80:00:01")
    check_addresses(given_by_a_manager, given_by_a_manager)


@pytest.mark.parametrize(
    ("entries", "nic"),
    [
        ((("addressType", "static"), ("address", "00:50:56:00:00:01")), (True, True)),
        ((("addressType", "generated"), ("generatedAddress", "00:50:56:00:00:01")), (False, True)),
        ((("addressType", "vpx"), ("generatedAddress", "00:50:56:00:00:01")), (False, True)),
        ((("generatedAddress", "00:50:56:00:00:01"), ("startConnected", "FALSE")), (False, False)),
    ],
)
def test_the_entries_of_a_card_say_who_chose_its_address_and_whether_it_is_plugged(entries, nic):
    named = tuple((f"ethernet0.{name}", value) for name, value in entries)
    (found,) = vm_config(Vmx((*BASE_ENTRIES, ("ethernet0.present", "TRUE"), *named)), PATH).nics
    assert found == NicSpec("00:50:56:00:00:01", "VM Network", "e1000", *nic)


@pytest.mark.parametrize(
    "name", ["displayName", "MEMSIZE", "scsi0.present", "scsi0:0.fileName", "SCSI0:0.DeviceType"]
)
def test_an_extra_entry_never_makes_a_file_that_cannot_be_read_again(name):
    old = Vmx(
        (
            *(("displayName", "a"), ("scsi0.present", "TRUE"), ("scsi0:0.present", "TRUE")),
            *(("scsi0:0.fileName", "a.vmdk"), ("scsi0:0.deviceType", "disk")),
        )
    )
    config = replace(vm_config(old, PATH), extra=((name, "/vmfs/volumes/second/b/b.vmdk"),))
    with pytest.raises(ArgumentError, match="already"):
        vmx_of(config, old)


def test_an_extra_entry_is_there_once_whatever_its_case():
    config = replace(vm_config(Vmx(()), PATH), extra=(("guestinfo.a", "1"), ("GuestInfo.A", "2")))
    with pytest.raises(ArgumentError, match="GuestInfo"):
        vmx_of(config, Vmx(()))
