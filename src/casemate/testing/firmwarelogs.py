"""A plausible log of a machine's firmware, to be tampered with."""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Final

from casemate.formats import eventtypes as ev
from casemate.formats.algorithms import ALGORITHMS, digest
from casemate.formats.eventlog import Event, EventLog

SEPARATOR: Final = bytes(4)
GLOBAL_GUID: Final = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
"""EFI_GLOBAL_VARIABLE, as it stands in an event."""


def event(pcr: int, kind: int, data: bytes = SEPARATOR, measured: bytes | None = None) -> Event:
    """Return an event with a SHA-256 digest of ``measured``, else of its data."""
    value = digest("sha256", data if measured is None else measured)
    return Event(pcr, kind, (("sha256", value),), data)


def variable(name: str, data: bytes) -> bytes:
    """Return UEFI_VARIABLE_DATA."""
    raw = name.encode("utf-16-le")
    return GLOBAL_GUID + struct.pack("<QQ", len(name), len(data)) + raw + data


def image(path: str = "\\EFI\\BOOT\\BOOTX64.EFI") -> bytes:
    """Return UEFI_IMAGE_LOAD_EVENT with a file path."""
    node = path.encode("utf-16-le") + b"\0\0"
    body = struct.pack("<BBH", 4, 4, len(node) + 4) + node + b"\x7f\xff\x04\0"
    return struct.pack("<QQQQ", 0x1000, 0x2000, 0, len(body)) + body


def machine(*more: Event, without: Collection[int] = ()) -> EventLog:
    """Return a log of PCR 0-7 with Secure Boot on, and ``more`` after it.

    ``without`` are PCRs that get no separator.
    """
    events = [
        event(0, ev.EV_S_CRTM_VERSION, b"1\0.\0"),
        event(0, ev.EV_EFI_PLATFORM_FIRMWARE_BLOB, bytes(16), b"firmware"),
        event(7, ev.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\1")),
        event(7, ev.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("PK", b"")),
        event(4, ev.EV_EFI_ACTION, b"Calling EFI Application from Boot Option"),
        *(event(pcr, ev.EV_SEPARATOR) for pcr in range(8) if pcr not in without),
        event(4, ev.EV_EFI_BOOT_SERVICES_APPLICATION, image(), b"shim"),
        *more,
    ]
    return EventLog((ALGORITHMS["sha256"],), tuple(events))
