"""Video card and USB controllers of a VM: VMware's vmx entries, and QEMU's devices for them.

Nothing of the host is plugged into a VM's USB controllers. The pointer that a screen has is on a
controller of its own, which no entry names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from casemate.machine.facts import VmConfig

SCREEN: Final = "svga.present"
"""False: the VM has its serial port alone."""
VIDEO_BYTES: Final = "svga.vramSize"
VIDEO_AUTO: Final = "svga.autodetect"
"""True: the host chooses how much memory the video card has."""
USUAL_KIB: Final = 16 << 10
VIDEO_KIB: Final = (1 << 10, 256 << 10)
"""KiB of a video card, least and most: what QEMU's card and vSphere have in common."""
UHCI: Final = "usb.present"
EHCI: Final = "ehci.present"
"""USB 2.0, on the same controller as USB 1.1."""
XHCI: Final = "usb_xhci.present"
AUTO_CONNECT: Final = "usb.generic.autoconnect"
"""Kept for whoever reads it: there is nothing that would be connected."""
_DIGITS: Final = 12
# Slots of the board where nothing is put that the board chooses a slot for: cards keep theirs.
_EHCI_SLOT: Final = "1d"
_XHCI_SLOT: Final = "1c"


def is_on(entries: Mapping[str, str], name: str) -> bool:
    """Tell whether an entry (by its name in lower case) says TRUE."""
    return entries.get(name.lower(), "").lower() in {"true", "yes", "1"}


def entries_of(config: VmConfig) -> Mapping[str, str]:
    """Return the entries that no field of a configuration shows, by their names in lower case."""
    return {name.lower(): value for name, value in config.extra}


def video_kib(entries: Mapping[str, str]) -> int:
    """Return the KiB of the video card's memory; a size that cannot be counts as none said."""
    said = entries.get(VIDEO_BYTES.lower(), "")
    if is_on(entries, VIDEO_AUTO) or not (said.isascii() and said.isdecimal()):
        return USUAL_KIB
    kib = int(said[:_DIGITS]) >> 10
    return kib if VIDEO_KIB[0] <= kib <= VIDEO_KIB[1] else USUAL_KIB


def video_mib(entries: Mapping[str, str]) -> int:
    """Return the MiB that QEMU gives the video card: the next power of two."""
    return 1 << (-(-video_kib(entries) >> 10) - 1).bit_length()


def usb_words(entries: Mapping[str, str]) -> Iterator[str]:
    """Yield QEMU's arguments for the USB controllers that the entries name."""
    place = f"bus=pcie.0,addr={_EHCI_SLOT}"
    if is_on(entries, EHCI):
        yield from ("-device", f"ich9-usb-ehci1,id=ehci,{place}.7,multifunction=on")
        for number in range(3):
            companion = f"ich9-usb-uhci{number + 1},masterbus=ehci.0,firstport={2 * number}"
            yield from ("-device", f"{companion},{place}.{number},multifunction=on")
    elif is_on(entries, UHCI):
        yield from ("-device", f"ich9-usb-uhci1,id=uhci,{place}.0")
    if is_on(entries, XHCI):
        yield from ("-device", f"qemu-xhci,id=xhci,bus=pcie.0,addr={_XHCI_SLOT}")


def shown_to_guest(config: VmConfig) -> tuple[object, ...]:
    """Return what a guest sees of all this: it stays as it is while a VM runs or sleeps."""
    entries = entries_of(config)
    screen = entries.get(SCREEN.lower(), "").lower() != "false"
    return screen, video_mib(entries), tuple(usb_words(entries))
