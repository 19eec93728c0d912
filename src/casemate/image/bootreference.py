"""The reference of a machine that boots by itself: from its boot image, its bank and its keys."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization

from casemate.errors import FormatError, NotFoundError
from casemate.formats.eventlog import Event
from casemate.formats.manifest import Manifest
from casemate.formats.pe import authenticode_digest, parse_pe
from casemate.image.pki import load_certificate
from casemate.image.reference import write_reference
from casemate.image.secureboot import OWNER, ROLES, key_variables
from casemate.policy.bootimage import MEASURED_PARTS, BootImage, boot_image_events
from casemate.policy.measure import BANKS

NEEDED: Final = (".linux", ".cmdline", ".initrd")


def read_boot_image(home: Path, path: Path) -> BootImage:
    """Read what of a boot image is measured, and the Secure Boot keys of this home.

    Raises:
        NotFoundError: the image, or the keys, are missing.
        FormatError: it is no boot image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"{path} cannot be read: {error.strerror}.",
            component=path.name,
            remedy="Build it: casemate image disk.",
        ) from error
    image = parse_pe(data)
    found = {name: image.section(data, name) for name in MEASURED_PARTS}
    parts = {name: content for name, content in found.items() if content is not None}
    for name in NEEDED:
        if name not in parts:
            raise FormatError(
                f"{path.name} is no boot image: it has no {name}", component=path.name
            )
    authority = load_certificate(home / "pki" / f"{ROLES['db']}.pem")
    return BootImage(
        loader={name: authenticode_digest(data, name) for name in BANKS},
        parts=parts,
        keys={one.name: one.data for one in key_variables(home)},
        authority=OWNER.bytes_le + authority.public_bytes(serialization.Encoding.DER),
    )


def firmware_events(home: Path, path: Path) -> tuple[Event, ...]:
    """Return what firmware measures of a boot image; errors as above."""
    return boot_image_events(read_boot_image(home, path), BANKS)


def write_boot_reference(home: Path, boot: Path, bank: Path, out: Path, now: datetime) -> Manifest:
    """Compute, sign and write the reference of a boot image with a bank.

    Args:
        home: gives keys, trust anchors and the signing key.
        boot: the boot image.
        bank: the boot bank that the machine has.
        out: the file to write.
        now: time of signing, aware.

    Raises:
        CasemateError: as ``read_boot_image`` and ``write_reference``.
    """
    return write_reference(home, bank, out, now=now, firmware=firmware_events(home, boot))
