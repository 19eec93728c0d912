"""What a boot image says of itself: its ``.osrel`` section, as os-release(5) has it."""

from __future__ import annotations

from typing import Final

from casemate.errors import FormatError
from casemate.formats.pe import parse_pe

BOOT_IMAGE: Final = "boot.efi"
"""Name of the boot image in a bank."""
SECTION: Final = ".osrel"
IDENTITY: Final = "IMAGE_VERSION"
SECTION_LIMIT: Final = 4096
"""Bytes of an ``.osrel``; ours has about 100."""


def write_release(version: str, identity: str) -> bytes:
    """Return the section: a version for people, an identity for the loader."""
    return (
        f'NAME="Casemate"\nID=casemate\nVERSION_ID={version}\n{IDENTITY}={identity}\n'
        f'PRETTY_NAME="Casemate {version} ({identity})"\n'
    ).encode()


def image_identity(image: bytes | memoryview) -> str:
    """Return the identity of a boot image.

    Raises:
        FormatError: it is no PE image, or says nothing of itself (``boot-image``).
    """
    with memoryview(image) as view:
        section = next((one for one in parse_pe(view).sections if one.name == SECTION), None)
        size = min(section.size, section.virtual_size, SECTION_LIMIT) if section else 0
        text = bytes(view[section.offset : section.offset + size]) if section else b""
    for line in text.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition("=")
        if name == IDENTITY and value:
            return value
    raise FormatError("the boot image does not say which one it is", code="boot-image")
