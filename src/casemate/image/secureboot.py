"""Secure Boot's variables: for OVMF as a file, for real machines as lists to enrol.

A machine that trusts these keys starts boot images signed by this home and nothing else:
no Microsoft key is in db, so option ROMs and other systems signed by Microsoft do not start
either. Whoever needs those enrols Microsoft's certificates beside ours, or puts shim in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from casemate.formats.efivars import (
    BOOT_SERVICE,
    GLOBAL,
    IMAGE_SECURITY,
    KEY_ATTRIBUTES,
    NON_VOLATILE,
    SECURE_BOOT_ENABLE,
    Variable,
    certificate_list,
    write_store,
)
from casemate.image.debian import Packages
from casemate.image.erofs import NAMESPACE
from casemate.image.pki import load_certificate
from casemate.image.tree import File

OVMF_CODE: Final = "usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
OVMF_VARS: Final = "usr/share/OVMF/OVMF_VARS_4M.fd"
OWNER: Final = uuid5(NAMESPACE, "secure boot")
"""Signature owner: tells our entries of db from those of others."""

ROLES: Final = {"PK": "secureboot-pk", "KEK": "secureboot-kek", "db": "secureboot-ca"}
VENDORS: Final[dict[str, UUID]] = {"PK": GLOBAL, "KEK": GLOBAL, "db": IMAGE_SECURITY}


def key_variables(home: Path, written: datetime | None = None) -> tuple[Variable, ...]:
    """Return PK, KEK and db as this home's machines have them.

    Args:
        home: whose PKI it is.
        written: time stamp of the variables.

    Raises:
        NotFoundError: there are no Secure Boot keys yet.
    """
    return tuple(
        Variable(
            role,
            VENDORS[role],
            KEY_ATTRIBUTES,
            certificate_list(OWNER, [_der(load_certificate(home / "pki" / f"{name}.pem"))]),
            written,
        )
        for role, name in ROLES.items()
    )


def ovmf_variables(
    home: Path, packages: Packages, written: datetime, more: Sequence[Variable] = ()
) -> bytes:
    """Return the variable file of an OVMF machine with Secure Boot on; errors as above.

    Args:
        home: whose keys it has.
        packages: bring the empty file.
        written: time stamp of the keys.
        more: further variables.
    """
    (template,) = (node for node in packages.node(OVMF_VARS) if isinstance(node, File))
    enabled = Variable("SecureBootEnable", SECURE_BOOT_ENABLE, NON_VOLATILE | BOOT_SERVICE, b"\1")
    return write_store(template.read(), [*key_variables(home, written), enabled, *more])


def write_enrolment(home: Path, place: Path, written: datetime) -> tuple[Path, ...]:
    """Write what a real machine's firmware setup enrols: each role as signature list and DER."""
    place.mkdir(parents=True, exist_ok=True)
    paths = []
    for variable in key_variables(home, written):
        path = place / f"{variable.name}.esl"
        path.write_bytes(variable.data)
        certificate = place / f"{variable.name}.der"
        certificate.write_bytes(
            _der(load_certificate(home / "pki" / f"{ROLES[variable.name]}.pem"))
        )
        paths += [path, certificate]
    return tuple(paths)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
