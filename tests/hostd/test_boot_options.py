"""Boot options are carried out or refused, and read back as they were set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from casemate.hostd import vmchange, vmspec
from casemate.hostd.objects.bootoptions import boot_options
from casemate.hostd.objects.devices import disk_key
from casemate.machine.bootorder import boot_cards, boot_indices, boot_words, card_index
from casemate.machine.facts import DiskSpec, NicSpec, VmConfig
from casemate.testing.fakefacts import fake_vm
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj

BASE = fake_vm(1).config
CONFIG = replace(
    BASE,
    firmware="efi",
    disks=(
        DiskSpec("a.vmdk", "disk", "vmdk", 1 << 30, "scsi0", 0),
        DiskSpec("b.vmdk", "disk", "vmdk", 1 << 30, "scsi0", 1),
        DiskSpec("c.iso", "cdrom", "raw", 0, "ide0", 0),
    ),
)
FIRST, SECOND = (
    Obj("VirtualMachineBootOptionsBootableDiskDevice", deviceKey=disk_key(disk))
    for disk in CONFIG.disks[:2]
)
CDROM = Obj("VirtualMachineBootOptionsBootableCdromDevice")
CARD = Obj("VirtualMachineBootOptionsBootableEthernetDevice", deviceKey=4000)
NO_CARD = Obj("VirtualMachineBootOptionsBootableEthernetDevice", deviceKey=4009)
NO_DISK = Obj("VirtualMachineBootOptionsBootableDiskDevice", deviceKey=9)


def asked(config: VmConfig = CONFIG, **options: object) -> vmchange.Change:
    spec = Obj("VirtualMachineConfigSpec", bootOptions=Obj("VirtualMachineBootOptions", **options))
    return vmspec.changed(spec, config, ())


def entries(config: VmConfig) -> dict[str, str]:
    return {name.lower(): value for name, value in config.extra}


def test_the_order_is_carried_out_and_read_back() -> None:
    change = asked(bootOrder=(CDROM, SECOND, FIRST))
    assert boot_indices(change.config.disks, entries(change.config)) == (13, 12, 11)
    assert boot_options(change.config).get("bootOrder") == (CDROM, SECOND, FIRST)
    assert change.privileges == {"VirtualMachine.Config.Settings"}


def test_an_order_of_nothing_takes_the_order_away() -> None:
    ordered = asked(bootOrder=(SECOND,)).config
    cleared = asked(ordered, bootOrder=(Obj("VirtualMachineBootOptionsBootableDevice"),)).config
    assert cleared == CONFIG


def test_a_delay_is_carried_out_and_read_back() -> None:
    config = asked(bootDelay=3000).config
    assert list(boot_words(entries(config))) == ["-boot", "menu=on,splash-time=3000"]
    assert boot_options(config).get("bootDelay") == 3000
    assert asked(config, bootDelay=0).config == CONFIG


def test_secure_boot_is_switched_on_and_off() -> None:
    config = asked(efiSecureBootEnabled=True).config
    assert ("uefi.secureBoot.enabled", "TRUE") in config.extra
    assert boot_options(config).get("efiSecureBootEnabled") is True
    assert asked(config, efiSecureBootEnabled=False).config == CONFIG


def test_what_is_sent_back_as_it_was_read_changes_nothing() -> None:
    shown = boot_options(CONFIG)
    change = asked(**shown.fields)
    assert (change.config, change.privileges) == (CONFIG, set())


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"bootRetryEnabled": True}, "NotSupported"),
        ({"bootDelay": -1}, "InvalidArgument"),
        ({"bootDelay": 65536}, "InvalidArgument"),
        ({"bootOrder": (FIRST, CDROM, SECOND)}, "NotSupported"),
        ({"bootOrder": (NO_CARD,)}, "InvalidArgument"),
        ({"bootRetryDelay": 65536}, "InvalidArgument"),
        ({"bootOrder": (NO_DISK,)}, "InvalidArgument"),
    ],
)
def test_what_the_firmware_does_not_do_is_refused(options: dict[str, object], fault: str) -> None:
    with pytest.raises(FaultError) as refusal:
        asked(**options)
    assert refusal.value.object.type == fault


BIOS = replace(CONFIG, firmware="bios", nics=(NicSpec("", "VM Network", "e1000"),))


def test_a_bios_has_no_setup_and_tries_again_when_told() -> None:
    with pytest.raises(FaultError) as refusal:
        asked(BIOS, enterBIOSSetup=True)
    assert refusal.value.object.type == "NotSupported"
    config = asked(BIOS, bootRetryEnabled=True, bootRetryDelay=2000).config
    assert list(boot_words(entries(config))) == ["-boot", "reboot-timeout=2000"]
    shown = boot_options(config)
    assert (shown.get("bootRetryEnabled"), shown.get("bootRetryDelay")) == (True, 2000)
    assert asked(config, **boot_options(BIOS).fields).config == BIOS


def test_uefi_is_sent_to_its_setup_once() -> None:
    config = asked(enterBIOSSetup=True).config
    assert ("bios.forceSetupOnce", "TRUE") in config.extra
    assert boot_options(config).get("enterBIOSSetup") is True
    assert asked(config, enterBIOSSetup=False).config == CONFIG


@pytest.mark.parametrize("order", [(CARD, CDROM, FIRST), (FIRST, CDROM, CARD), (CARD,)])
def test_a_network_card_is_booted_from_before_or_after_the_drives(order: tuple[Obj, ...]) -> None:
    config = asked(BIOS, bootOrder=order).config
    assert boot_options(config).get("bootOrder") == order
    disks = boot_indices(config.disks, entries(config))
    (card,) = boot_cards(1, entries(config))
    index = card_index(card, len(disks), entries(config))
    assert index < min(disks) if order[0] is CARD else index > max(disks)


def test_a_network_card_between_drives_is_refused() -> None:
    with pytest.raises(FaultError) as refusal:
        asked(BIOS, bootOrder=(CDROM, CARD, FIRST))
    assert refusal.value.object.type == "NotSupported"


def test_secure_boot_of_a_bios_is_refused() -> None:
    with pytest.raises(FaultError):
        asked(replace(CONFIG, firmware="bios"), efiSecureBootEnabled=True)


def test_entries_that_cannot_be_read_show_as_unset() -> None:
    config = replace(CONFIG, extra=(("bios.bootOrder", "tape"), ("bios.bootDelay", "x")))
    shown = boot_options(config)
    assert (shown.get("bootDelay"), shown.get("bootOrder")) == (0, ())


@pytest.mark.parametrize("mode", ["eager", "undoable", "append"])
@pytest.mark.parametrize("operation", ["add", "edit"])
def test_a_disk_of_a_mode_of_long_ago_is_refused(mode: str, operation: str) -> None:
    backing = Obj("VirtualDiskFlatVer2BackingInfo", fileName="", diskMode=mode)
    device = Obj(
        "VirtualDisk", key=2000, controllerKey=1000, unitNumber=5, backing=backing, capacityInKB=1
    )
    item = Obj("VirtualDeviceConfigSpec", operation=operation, device=device)
    with pytest.raises(FaultError, match="persistent"):
        vmspec.changed(Obj("VirtualMachineConfigSpec", deviceChange=(item,)), CONFIG, ())


def test_the_older_name_of_a_nonpersistent_disk_is_understood() -> None:
    backing = Obj("VirtualDiskFlatVer2BackingInfo", fileName="", diskMode="nonpersistent")
    device = Obj(
        "VirtualDisk", key=2000, controllerKey=1000, unitNumber=5, backing=backing, capacityInKB=1
    )
    item = Obj("VirtualDeviceConfigSpec", operation="add", fileOperation="create", device=device)
    made = vmspec.changed(Obj("VirtualMachineConfigSpec", deviceChange=(item,)), CONFIG, ())
    assert made.config.disks[-1].mode == "independent_nonpersistent"
