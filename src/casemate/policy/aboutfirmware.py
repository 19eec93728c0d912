"""What firmware's and Linux's own events are about, where a reference expects them.

Their data is a remark or an address more often than what was measured, so such events are compared
by digest alone; the name only says which thing it is.
"""

from __future__ import annotations

from typing import Final

from casemate.errors import FormatError
from casemate.formats import eventtypes as ev
from casemate.formats.text import escape
from casemate.formats.uefi import parse_variable, utf16

TAG_LOAD_OPTIONS: Final = 0x8F3B22ED
TAG_INITRD: Final = 0x8F3B22EC
"""Tagged events of Linux's EFI stub in PCR 9 (``efistub.h``); what was measured is not in them."""

LINUX_TAGS: Final = {
    TAG_LOAD_OPTIONS: "command line of Linux",
    TAG_INITRD: "first root of Linux",
}

SECURE_BOOT: Final = "secure-boot"
BOOT_LOADER: Final = "boot-loader"
BOOT_IMAGE: Final = "boot-image"
KINDS: Final = frozenset({SECURE_BOOT, BOOT_LOADER, BOOT_IMAGE})

NAME_LIMIT: Final = 64
"""Characters of a name: variables and sections have short ones."""


def about_firmware(event_type: int, data: bytes) -> tuple[str, str] | None:
    """Return kind and name of such an event; None for all others. Never raises."""
    match event_type:
        case ev.EV_EFI_VARIABLE_DRIVER_CONFIG | ev.EV_EFI_VARIABLE_AUTHORITY:
            try:
                name = escape(parse_variable(data).name)[:NAME_LIMIT]
            except FormatError:
                return None
            authority = event_type == ev.EV_EFI_VARIABLE_AUTHORITY
            return SECURE_BOOT, f"authority from {name}" if authority else name
        case ev.EV_EFI_BOOT_SERVICES_APPLICATION:
            return BOOT_LOADER, "boot image"
        case ev.EV_IPL if (name := utf16(data)).startswith("."):
            return BOOT_IMAGE, escape(name)[:NAME_LIMIT]
        case _:
            return None
