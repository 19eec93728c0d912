"""What a running VM takes, and what waits until it is off."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.machine.facts import DiskSpec, DriveSpec, NicSpec, VmConfig
from casemate.machine.hotnotes import (
    FREE,
    NUMBERS,
    Added,
    added,
    at_start,
    card_numbers,
    port_of,
    with_added,
    with_devices,
)
from casemate.machine.hotplug import (
    CORES,
    CPU_HOT_ADD,
    HOT_CPUS,
    HotChange,
    cores_per_socket,
    grown,
    hot_change,
    most_cpus,
    settled,
)

BOOT = DiskSpec("a.vmdk", "disk", "vmdk", 8, "scsi0", 0)
DATA = DiskSpec("b.vmdk", "disk", "vmdk", 8, "scsi0", 1)
ISO = DiskSpec("a.iso", "cdrom", "raw", 8, "ide1", 0)
VM = VmConfig(
    "vm", "", "[ds] vm/vm.vmx", "other", 2, 256, "bios", (BOOT, ISO), (NicSpec("", "LAN", "e1000"),)
)
CARD = NicSpec("", "LAN", "vmxnet3")
HOT = replace(VM, extra=(("VCPU.HotAdd", "true"),))


def test_what_no_guest_sees_needs_nothing() -> None:
    nics = (replace(VM.nics[0], network="DMZ"),)
    larger = (replace(BOOT, capacity=16), ISO)
    after = replace(VM, name="other", annotation="x", extra=(("a", "b"),), nics=nics, disks=larger)
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


def test_cards_and_controllers_come_while_a_port_is_free_and_are_noted() -> None:
    more = replace(
        HOT, nics=(*HOT.nics, CARD), disks=(BOOT, ISO, replace(DATA, controller="scsi1"))
    )
    change = hot_change(HOT, more)
    assert change is not None
    number = len(HOT.nics)
    assert (change.cards, change.controllers) == ((number,), ("scsi1",))
    noted = grown(HOT, more, change)
    assert added(noted) == Added((), ("scsi1", f"ethernet{number}"))
    assert port_of("scsi1", added(noted)) == "hot0"
    # Its disk goes, its controller stays, and the next disk comes to that.
    assert hot_change(noted, replace(noted, disks=(BOOT, ISO))) == HotChange(
        removed=(replace(DATA, controller="scsi1"),)
    )
    left = replace(noted, disks=(BOOT, ISO))
    again = hot_change(left, noted)
    assert again is not None
    assert again.controllers == ()
    full = replace(noted, nics=(*noted.nics, *[CARD] * 5))
    assert hot_change(noted, full) is None
    assert hot_change(noted, replace(full, nics=full.nics[:-1])) is not None


def test_the_last_card_goes_if_it_is_in_a_port_which_the_next_one_comes_to() -> None:
    other = replace(CARD, mac="00:0c:29:00:00:02")
    config = with_added(replace(HOT, nics=(CARD, other)), Added((), ("ethernet1", "scsi1")))
    alone = replace(config, nics=(CARD,))
    change = hot_change(config, alone)
    assert change == HotChange(card_gone=1)
    left = grown(config, alone, change)
    # The controller stays where the guest sees it.
    assert added(left) == Added((), (FREE, "scsi1"))
    assert port_of("scsi1", added(left)) == "hot1"
    back = hot_change(left, replace(left, nics=(CARD, other)))
    assert back == HotChange(cards=(1,))
    assert added(grown(left, left, back)) == Added((), ("ethernet1", "scsi1"))
    # The first card's number would be another one's; card 0 is the board's own.
    assert hot_change(config, replace(config, nics=(other,))) is None
    assert hot_change(left, replace(left, nics=())) is None
    assert hot_change(config, replace(config, nics=())) is None
    assert hot_change(config, replace(alone, cpus=3)) is None


def test_a_card_before_others_goes_and_they_keep_their_numbers() -> None:
    macs = [f"00:0c:29:00:00:0{number}" for number in range(4)]
    first, second, third, fresh = (replace(CARD, mac=mac) for mac in macs)
    start = replace(HOT, nics=(first, second))
    config = with_added(start, at_start(2))
    more = replace(config, nics=(first, second, third))
    change = hot_change(config, more)
    assert change is not None
    config = grown(config, more, change)
    assert (card_numbers(config), added(config).cards) == ((0, 1, 2), ())
    for at in range(3):
        others = config.nics[:at] + config.nics[at + 1 :]
        assert hot_change(config, replace(config, nics=others)) == HotChange(card_gone=at)
    moved = replace(second, network="DMZ")
    after = replace(config, nics=(moved, third))
    change = hot_change(config, after)
    assert change == HotChange(card_gone=0)
    # Until the guest has let go of the first, the second is connected elsewhere already.
    during = settled(config, after)
    assert (during.nics, card_numbers(during)) == ((first, moved, third), (0, 1, 2))
    left = grown(config, after, change)
    assert (card_numbers(left), added(left).devices) == ((1, 2), (FREE, "ethernet1", "ethernet2"))
    back = hot_change(left, replace(left, nics=(*left.nics, fresh)))
    assert back == HotChange(cards=(0,))
    again = grown(left, replace(left, nics=(*left.nics, fresh)), back)
    assert card_numbers(again) == (1, 2, 0)
    assert added(again).devices == ("ethernet0", "ethernet1", "ethernet2")
    assert hot_change(again, replace(again, nics=(third, fresh))) == HotChange(card_gone=1)
    # Not two at once, nor another order, nor one that comes while one goes.
    for nics in ((third,), (third, moved, fresh), (moved, fresh, third), (third, fresh, first)):
        assert hot_change(again, replace(again, nics=nics)) is None
    # Whoever starts afresh counts again.
    assert card_numbers(with_added(again, at_start(3))) == (0, 1, 2)


@pytest.mark.parametrize("note", ["1", "1+1", "1+10", "x+1", "-1+0", "0+1", "1+2+3", "1+", ""])
def test_numbers_of_cards_that_make_no_sense_count_as_none(note: str) -> None:
    config = replace(VM, nics=(CARD, CARD), extra=((NUMBERS, note),))
    assert card_numbers(config) == (0, 1)


def test_a_controller_goes_from_its_port_when_nothing_is_on_it() -> None:
    data = replace(DATA, controller="scsi1")
    config = with_added(replace(HOT, disks=(BOOT, data)), Added((), ("ethernet0", "scsi1")))
    alone = replace(config, disks=(BOOT,))
    assert hot_change(config, config, ("scsi1",)) is None
    change = hot_change(config, alone, ("scsi1",))
    assert change == HotChange(removed=(data,), unplugged=("scsi1",))
    assert added(grown(config, alone, change)) == Added((), ("ethernet0",))
    left = grown(config, alone, hot_change(config, alone) or HotChange())
    assert added(left).controllers == {"scsi1"}
    assert hot_change(left, left, ("scsi1",)) == HotChange(unplugged=("scsi1",))
    # One thing at a time is asked of the guest, and nothing beside it that cannot be taken back.
    assert hot_change(left, replace(left, nics=left.nics[:-1]), ("scsi1",)) is None
    assert hot_change(left, replace(left, cpus=3), ("scsi1",)) is None
    for board in ("scsi0", "scsi2", "ide0"):
        assert hot_change(left, left, (board,)) is None


def test_the_board_s_controller_is_noted_while_nothing_is_on_it() -> None:
    config = replace(HOT, disks=(BOOT, replace(DATA, controller="scsi2")))
    bare = replace(config, disks=(BOOT,))
    change = hot_change(config, bare)
    assert change is not None
    left = grown(config, bare, change)
    assert (added(left).kept, added(left).controllers) == (("scsi2",), {"scsi2"})
    again = hot_change(left, replace(left, disks=config.disks))
    assert again == HotChange(added=(config.disks[1],))
    assert added(grown(left, replace(left, disks=config.disks), again)) == Added()


def test_a_port_at_the_end_that_is_free_needs_no_note() -> None:
    what = Added((), ("ethernet0", "ethernet1"))
    assert with_devices(what, (), ("ethernet1",)) == Added((), ("ethernet0",))
    assert with_devices(with_devices(what, (), ("ethernet0",)), (), ("ethernet1",)) == Added()
    assert at_start(1) == Added((), ("ethernet0",))
    assert at_start(10) == what


@given(
    st.lists(st.integers(1, 8).map(lambda units: units * 128), max_size=16),
    st.lists(st.sampled_from(["ethernet1", "scsi1", "ethernet9"]), unique=True, max_size=4),
)
def test_a_note_is_read_back_and_counts_once(memory: list[int], devices: list[str]) -> None:
    what = Added(tuple(memory), tuple(devices), ("scsi0", "scsi3"))
    config = replace(VM, memory_mib=sum(memory) + 256)
    noted = with_added(config, what)
    assert added(noted) == what
    assert with_added(noted, what) == noted
    assert with_added(noted, Added()).extra == config.extra


@given(st.text(max_size=30))
def test_a_note_of_anything_else_counts_as_none_and_breaks_nothing(text: str) -> None:
    config = replace(VM, extra=(("casemate.hotMemory", text), ("casemate.hotDevices", text)))
    found = added(config)
    assert sum(found.memory) < config.memory_mib
    assert len(found.devices) <= 4


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
        {"nics": (CARD, CARD, CARD, CARD, CARD, CARD)},
        {"nics": (CARD, CARD)},
        {"disks": (BOOT, ISO, replace(DATA, mode="independent_nonpersistent"))},
        {"disks": (BOOT, ISO, replace(ISO, controller="scsi0", unit=3))},
        {"disks": (replace(BOOT, kind="cdrom", format="raw"), ISO)},
        {"extra": ()},
        {"extra": (*HOT.extra, ("mem.hotadd", "TRUE"))},
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
