"""A VM boots from what its vmx names first, and never from less than it has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError
from casemate.machine.bootorder import boot_delay, boot_indices, boot_words
from casemate.machine.facts import DiskSpec


def drive(controller: str, unit: int, kind: str = "disk") -> DiskSpec:
    return DiskSpec(f"{controller}-{unit}", kind, "raw", 0, controller, unit)


FIRST, SECOND = drive("scsi0", 0), drive("scsi0", 1)
CD = drive("ide0", 0, "cdrom")


@pytest.mark.parametrize(
    ("entries", "indices"),
    [
        ({}, (1, 2, 3)),
        ({"bios.bootorder": "cdrom,hdd"}, (2, 1, 3)),
        ({"bios.bootorder": "CDROM"}, (2, 1, 3)),
        ({"bios.bootorder": "hdd"}, (1, 3, 2)),
        ({"bios.hddorder": "scsi0:1"}, (2, 3, 1)),
        ({"bios.bootorder": "cdrom, hdd", "bios.hddorder": "scsi0:1"}, (3, 1, 2)),
        ({"bios.bootorder": "ethernet0,floppy,hdd"}, (1, 3, 2)),
        ({"bios.bootorder": "hdd", "bios.hddorder": "scsi9:9"}, (1, 3, 2)),
    ],
)
def test_what_is_named_comes_first_and_the_rest_after_it(entries, indices):
    assert boot_indices([FIRST, CD, SECOND], entries) == tuple(10 + index for index in indices)


@given(
    st.lists(st.sampled_from(["hdd", "cdrom", "floppy", "ethernet1"])),
    st.lists(st.sampled_from(["scsi0:0", "scsi0:1", "ide0:0", ",", ""])),
)
def test_every_drive_has_a_place_of_its_own_and_none_the_loader_s(order, slots):
    entries = {"bios.bootorder": ",".join(order), "bios.hddorder": ",".join(slots)}
    assert sorted(boot_indices([FIRST, CD, SECOND], entries)) == [11, 12, 13]


def test_a_kind_that_nobody_knows_is_said_and_not_passed_over():
    with pytest.raises(ArgumentError, match="tape"):
        boot_indices([FIRST], {"bios.bootorder": "tape"})


@pytest.mark.parametrize("value", ["-1", "65536", "9" * 99, "1,order=n", "²"])
def test_a_delay_is_a_number_that_the_firmware_can_hold(value):
    with pytest.raises(ArgumentError):
        boot_delay({"bios.bootdelay": value})


def test_a_delay_becomes_the_wait_of_the_firmware_s_menu():
    assert list(boot_words({"bios.bootdelay": "3000"})) == ["-boot", "menu=on,splash-time=3000"]
    assert not list(boot_words({"bios.bootdelay": "0"}))
