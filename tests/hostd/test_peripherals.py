"""Video card and USB controllers over the API: asked for, read back, refused."""

from __future__ import annotations

import pytest

from casemate.hostd.objects.devices import devices
from casemate.hostd.objects.governance import privilege_ids
from casemate.hostd.objects.vmsettings import SETTINGS, extra_options, managed_by
from casemate.hostd.vmspec import changed
from casemate.machine.facts import VmConfig
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj

ONE = VmConfig("one", "", "[datastore1] one/one.vmx", "otherGuest", 1, 64, "bios")
RIGHT = "VirtualMachine.Config."
VIDEO = "VirtualMachineVideoCard"
USB, XHCI = "VirtualUSBController", "VirtualUSBXHCIController"


def spec(operation: str, kind: str, **device: object) -> Obj:
    change = Obj("VirtualDeviceConfigSpec", operation=operation, device=Obj(kind, **device))
    return Obj("VirtualMachineConfigSpec", deviceChange=(change,))


def shown(config: VmConfig, kind: str) -> Obj:
    (found,) = [one for one in devices(config, "[datastore1] one/", None) if one.type == kind]
    return found


@pytest.mark.parametrize(("kind", "key"), [(USB, 7000), (XHCI, 14000)])
def test_a_usb_controller_comes_is_read_back_and_goes(kind: str, key: int) -> None:
    made = changed(spec("add", kind, key=-1, busNumber=0), ONE, ())
    assert made.privileges == {RIGHT + "AddRemoveDevice"}
    card = shown(made.config, kind)
    assert (card.get("key"), card.get("controllerKey")) == (key, 100)
    assert card.get("ehciEnabled") is (True if kind == USB else None)
    assert not extra_options(made.config)
    assert {key, 500, 1000} <= set(shown(made.config, "VirtualPCIController").get("device"))
    # What a client sends back as it was read changes nothing.
    same = changed(spec("edit", kind, **card.fields), made.config, ())
    assert (same.config, same.privileges) == (made.config, set())
    with pytest.raises(FaultError) as again:
        changed(spec("add", kind, key=-1), made.config, ())
    assert again.value.object.type == "TooManyDevices"
    with pytest.raises(FaultError):
        changed(spec("remove", kind, key=key + 1), made.config, ())
    gone = changed(spec("remove", kind, key=key), made.config, ())
    assert gone.config == ONE
    with pytest.raises(FaultError):
        changed(spec("remove", kind, key=key), ONE, ())


def test_a_usb_controller_loses_usb_2_and_keeps_what_is_said_of_it() -> None:
    config = changed(spec("add", USB, key=-1, autoConnectDevices=True), ONE, ()).config
    change = changed(spec("edit", USB, key=7000, ehciEnabled=False), config, ())
    assert change.privileges == {RIGHT + "EditDevice"}
    assert shown(change.config, USB).get("ehciEnabled") is False
    assert shown(change.config, USB).get("autoConnectDevices") is True


def test_a_usb_device_of_the_host_is_refused() -> None:
    backing = Obj("VirtualUSBUSBBackingInfo", deviceName="1")
    with pytest.raises(FaultError) as raised:
        changed(spec("add", "VirtualUSB", key=-1, backing=backing), ONE, ())
    assert raised.value.object.type == "NotSupported"


def test_the_video_card_changes_and_says_what_it_has() -> None:
    card = shown(ONE, VIDEO)
    assert card.get("videoRamSizeInKB") == 16384
    assert changed(spec("edit", VIDEO, **card.fields), ONE, ()).config == ONE
    fields = {**card.fields, "videoRamSizeInKB": 8192}
    change = changed(spec("edit", VIDEO, **fields), ONE, ())
    assert change.privileges == {RIGHT + "EditDevice"}
    assert shown(change.config, VIDEO).get("videoRamSizeInKB") == 8192
    auto = changed(spec("edit", VIDEO, key=500, useAutoDetect=True), change.config, ()).config
    assert shown(auto, VIDEO).get("useAutoDetect") is True
    assert shown(auto, VIDEO).get("videoRamSizeInKB") == 16384
    back = {**shown(auto, VIDEO).fields, "useAutoDetect": False}
    assert shown(changed(spec("edit", VIDEO, **back), auto, ()).config, VIDEO).fields == card.fields
    # A whole description of a VM adds the card that it has.
    whole = changed(spec("add", VIDEO, key=-1, videoRamSizeInKB=4096), ONE, ()).config
    assert shown(whole, VIDEO).get("videoRamSizeInKB") == 4096


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"key": 500, "enable3DSupport": True}, "NotSupported"),
        ({"key": 500, "numDisplays": 2}, "NotSupported"),
        ({"key": 500, "videoRamSizeInKB": 12}, "InvalidArgument"),
        ({"key": 500, "videoRamSizeInKB": 1 << 30}, "InvalidArgument"),
        ({"key": 501}, "InvalidArgument"),
    ],
)
def test_a_video_card_that_cannot_be_is_refused(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(FaultError) as raised:
        changed(spec("edit", VIDEO, **fields), ONE, ())
    assert raised.value.object.type == fault
    with pytest.raises(FaultError):
        changed(spec("remove", VIDEO, key=500), ONE, ())


def test_who_manages_a_vm_is_kept_shown_and_taken_back() -> None:
    def managed(key: str, kind: str = "") -> Obj:
        info = Obj("ManagedByInfo", extensionKey=key, type=kind)
        return Obj("VirtualMachineConfigSpec", managedBy=info)

    assert managed_by(ONE) is None
    made = changed(managed("org.example", "appliance"), ONE, ())
    assert made.privileges == {RIGHT + "ManagedBy"}
    # Every right that a setting takes can be given to a role.
    assert {RIGHT + one.right for one in SETTINGS.values()} <= set(privilege_ids())
    assert managed_by(made.config) == Obj(
        "ManagedByInfo", extensionKey="org.example", type="appliance"
    )
    assert not extra_options(made.config)
    assert changed(managed("org.example", "appliance"), made.config, ()).privileges == set()
    assert changed(managed("", "appliance"), made.config, ()).config == ONE
    assert changed(managed("", "appliance"), ONE, ()).config == ONE
