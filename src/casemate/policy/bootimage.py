"""What firmware, boot stub and Linux measure of a machine that boots our image, predicted.

=====  ===========================================================================================
PCR    events
=====  ===========================================================================================
4      the attempt to boot, the separator, the boot image as a whole (Authenticode digest)
7      SecureBoot, PK, KEK, db, dbx; the separator; the entry of db that vouched for the image
9      Linux's EFI stub: its command line (UTF-16, with its NUL), the first root
11     systemd's stub: name (with NUL) and content of each part, in its fixed order
=====  ===========================================================================================

Sources: TCG PC Client Platform Firmware Profile 1.06; systemd-stub(7), version 252, ``stub.c``;
Linux 6.1, ``drivers/firmware/efi/libstub``. All tried against OVMF's and Linux's own log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from casemate.formats import eventtypes as ev
from casemate.formats.algorithms import digest
from casemate.formats.efivars import GLOBAL, IMAGE_SECURITY, Variable, variable_data
from casemate.formats.eventlog import Event
from casemate.formats.tagged import TaggedEvent, write_tagged
from casemate.policy.aboutfirmware import TAG_INITRD, TAG_LOAD_OPTIONS

MEASURED_PARTS: Final = (".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb")
"""In the order of systemd's stub; what an image lacks is not measured."""

BOOT_PCRS: Final = (4, 7, 9, 11)
CALLING: Final = b"Calling EFI Application from Boot Option"
SEPARATOR: Final = bytes(4)


@dataclass(frozen=True, slots=True)
class BootImage:
    """A signed boot image, and the Secure Boot variables of the machines that start it.

    ``loader`` holds its Authenticode digests by bank, ``parts`` its sections by name, ``keys`` PK,
    KEK and db by name, ``authority`` the one EFI_SIGNATURE_DATA of db that its signature leads to.
    """

    loader: Mapping[str, bytes]
    parts: Mapping[str, bytes]
    keys: Mapping[str, bytes]
    authority: bytes


def boot_image_events(image: BootImage, algorithms: Sequence[str]) -> tuple[Event, ...]:
    """Return the events that a boot of the image leaves in PCR 4, 7, 9 and 11, in order."""

    def event(pcr: int, kind: int, measured: bytes, data: bytes | None = None) -> Event:
        digests = tuple((name, digest(name, measured)) for name in algorithms)
        return Event(pcr, kind, digests, measured if data is None else data)

    separator = {pcr: event(pcr, ev.EV_SEPARATOR, SEPARATOR) for pcr in (4, 7)}
    config = ev.EV_EFI_VARIABLE_DRIVER_CONFIG
    keys = [
        event(7, config, variable_data(Variable(name, vendor, 0, data)))
        for name, vendor, data in (
            ("SecureBoot", GLOBAL, b"\1"),
            ("PK", GLOBAL, image.keys["PK"]),
            ("KEK", GLOBAL, image.keys["KEK"]),
            ("db", IMAGE_SECURITY, image.keys["db"]),
            ("dbx", IMAGE_SECURITY, b""),
        )
    ]
    authority = variable_data(Variable("db", IMAGE_SECURITY, 0, image.authority))
    loader = tuple((name, image.loader[name]) for name in algorithms)
    parts = []
    for name in MEASURED_PARTS:
        if name in image.parts:
            label = f"{name}\0"
            data = label.encode("utf-16-le")
            parts.append(event(11, ev.EV_IPL, label.encode(), data))
            parts.append(event(11, ev.EV_IPL, image.parts[name], data))
    options = (image.parts[".cmdline"].decode() + "\0").encode("utf-16-le")
    return (
        *keys,
        separator[7],
        event(4, ev.EV_EFI_ACTION, CALLING),
        separator[4],
        event(7, ev.EV_EFI_VARIABLE_AUTHORITY, authority),
        Event(4, ev.EV_EFI_BOOT_SERVICES_APPLICATION, loader, b""),
        *parts,
        event(9, ev.EV_EVENT_TAG, options, _remark(TAG_LOAD_OPTIONS, b"LOADED_IMAGE::LoadOptions")),
        event(9, ev.EV_EVENT_TAG, image.parts[".initrd"], _remark(TAG_INITRD, b"Linux initrd")),
    )


def _remark(tag: int, text: bytes) -> bytes:
    return write_tagged(TaggedEvent(tag, text + b"\0"))
