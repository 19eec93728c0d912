"""Video card and USB controllers: what a spec says of them."""

from __future__ import annotations

from casemate.hostd.objects.devices import USB_KEY, VIDEO_KEY, XHCI_KEY
from casemate.hostd.objects.vmsettings import with_entry
from casemate.hostd.vmchange import number, unsupported
from casemate.machine import peripherals
from casemate.machine.facts import VmConfig
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj, Value

VIDEO = "VirtualMachineVideoCard"
USB = "VirtualUSBController"
USB_TYPES = frozenset({USB, "VirtualUSBXHCIController"})
_DEVICE = "config.deviceChange.device."


def video(operation: str, device: Obj, config: VmConfig) -> VmConfig:
    """Return the configuration with the video card as a device says it is. Raises FaultError.

    Whole descriptions of a VM "add" the card that every VM has.
    """
    if operation == "remove":
        raise unsupported("Every VM has a video card.")
    if operation == "edit" and device.get("key") != VIDEO_KEY:
        raise faults.invalid_argument(_DEVICE + "key", "No video card has this key.")
    if device.get("enable3DSupport") is True:
        # What else is said of 3D graphics says nothing where there are none.
        raise unsupported("This host offers no 3D graphics for a VM.")
    if number(device.get("numDisplays"), 1) != 1:
        raise unsupported("A VM of this host has one display.")
    entries = peripherals.entries_of(config)
    auto = device.get("useAutoDetect")
    if isinstance(auto, bool) and auto != peripherals.is_on(entries, peripherals.VIDEO_AUTO):
        config = with_entry(config, peripherals.VIDEO_AUTO, "TRUE" if auto else "")
    wanted = number(device.get("videoRamSizeInKB"), peripherals.video_kib(entries))
    least, most = peripherals.VIDEO_KIB
    if not least <= wanted <= most:
        raise faults.invalid_argument(
            _DEVICE + "videoRamSizeInKB", f"A video card has {least} to {most} KB."
        )
    if wanted != peripherals.video_kib(peripherals.entries_of(config)):
        config = with_entry(config, peripherals.VIDEO_BYTES, str(wanted << 10))
    return config


def usb(operation: str, device: Obj, config: VmConfig) -> VmConfig:
    """Return the configuration with a USB controller added, changed or removed.

    Raises:
        FaultError: There is one already, or none.
    """
    entries = peripherals.entries_of(config)
    older = device.type == USB
    names = (peripherals.UHCI, peripherals.EHCI) if older else (peripherals.XHCI,)
    present = any(peripherals.is_on(entries, name) for name in names)
    if operation == "add":
        if present:
            raise FaultError(
                Obj("TooManyDevices", property=_DEVICE + "key"),
                "A VM has one USB controller of each kind.",
            )
    elif not present or device.get("key") != (USB_KEY if older else XHCI_KEY):
        raise faults.invalid_argument(_DEVICE + "key", "No USB controller has this key.")
    if operation == "remove":
        for name in names:
            config = with_entry(config, name, "")
        return config
    adds = operation == "add"
    config = _said(config, names[0], adds or None)
    if older:
        ehci = device.get("ehciEnabled")
        config = _said(config, peripherals.EHCI, adds or None if ehci is None else ehci)
    return _said(config, peripherals.AUTO_CONNECT, device.get("autoConnectDevices"))


def _said(config: VmConfig, name: str, value: Value) -> VmConfig:
    """Return the configuration with an entry that says so; what says nothing changes nothing."""
    present = peripherals.is_on(peripherals.entries_of(config), name)
    if not isinstance(value, bool) or value == present:
        return config
    return with_entry(config, name, "TRUE" if value else "")
