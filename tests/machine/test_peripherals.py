"""Video card and USB controllers: what a vmx file says, and what QEMU is told."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.machine import peripherals
from casemate.machine.facts import VmConfig
from casemate.machine.hotplug import hot_change
from casemate.machine.plan import HostSide, cell_memory, plan_power_on
from casemate.machine.planaudit import UID_BASE

ONE = VmConfig("one", "", "[datastore1] one/one.vmx", "otherguest", 1, 64, "bios")


def with_entries(**said: str) -> VmConfig:
    return replace(ONE, extra=tuple(said.items()))


def devices_of(config: VmConfig) -> list[str]:
    argv = plan_power_on("1", config, (), HostSide("tcg", 1000, UID_BASE)).argv
    return [value for word, value in pairwise(argv) if word == "-device"]


@given(st.integers(*peripherals.VIDEO_KIB))
def test_a_video_card_has_what_was_asked_for_and_the_cell_has_room_for_it(kib: int) -> None:
    config = replace(ONE, extra=((peripherals.VIDEO_BYTES, str(kib << 10)),))
    mib = peripherals.video_mib(peripherals.entries_of(config))
    assert kib <= mib << 10 < 2 * max(kib, 1024)
    assert f"VGA,vgamem_mb={mib}" in devices_of(config)
    assert cell_memory(config, "tcg") - cell_memory(ONE, "tcg") == mib - 16


@given(st.text(max_size=30) | st.integers().map(str))
def test_a_size_that_cannot_be_is_the_usual_one(said: str) -> None:
    mib = peripherals.video_mib({"svga.vramsize": said})
    assert mib & (mib - 1) == 0
    assert 1 <= mib <= 256


def test_a_card_that_the_host_decides_about_has_the_usual_memory() -> None:
    config = with_entries(**{"svga.autodetect": "TRUE", "svga.vramSize": str(64 << 20)})
    assert "VGA,vgamem_mb=16" in devices_of(config)


def test_usb_controllers_are_in_places_where_nothing_else_moves() -> None:
    bare = devices_of(ONE)
    both = with_entries(
        **{"usb.present": "TRUE", "ehci.present": "TRUE", "usb_xhci.present": "TRUE"}
    )
    added = [one for one in devices_of(both) if one not in bare]
    assert [one for one in devices_of(both) if one in bare] == bare
    assert [one.partition(",")[0] for one in added] == [
        *("ich9-usb-ehci1", "ich9-usb-uhci1", "ich9-usb-uhci2", "ich9-usb-uhci3"),
        "qemu-xhci",
    ]
    assert all("bus=pcie.0,addr=1" in one for one in added)
    (old,) = [one for one in devices_of(with_entries(**{"usb.present": "TRUE"})) if "uhci" in one]
    assert "masterbus" not in old


@pytest.mark.parametrize(
    "entry",
    [
        *(("usb.present", "TRUE"), ("ehci.present", "TRUE"), ("usb_xhci.present", "TRUE")),
        *(("svga.present", "FALSE"), ("svga.vramSize", str(32 << 20))),
    ],
)
def test_what_a_guest_sees_waits_until_it_is_off(entry: tuple[str, str]) -> None:
    assert hot_change(ONE, replace(ONE, extra=(entry,))) is None
    assert hot_change(ONE, replace(ONE, extra=(("guestinfo.a", "1"),))) is not None
