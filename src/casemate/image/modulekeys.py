"""Trusting the keys that a Linux kernel was built with, for its modules."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from casemate.errors import HostError, NotFoundError
from casemate.formats.vmlinuz import built_in_certificates
from casemate.policy.trust import MODULE_KEYS


def keys_of(kernel: bytes, name: str) -> tuple[Certificate, ...]:
    """Return the certificates that are built into a kernel image.

    Raises:
        NotFoundError: It has none.
        FormatError: It cannot be unpacked.
    """
    found = built_in_certificates(kernel)
    if not found:
        raise NotFoundError(
            f"{name} has no key built in: it loads modules without looking.",
            code="no-module-keys",
            component=name,
            remedy="Use a kernel that was built to verify modules (CONFIG_MODULE_SIG).",
        )
    return found


def trust_keys(trust: Path, keys: Iterable[Certificate]) -> None:
    """Write certificates into a trust directory, each under its fingerprint. Raises HostError."""
    place = trust / MODULE_KEYS
    try:
        place.mkdir(parents=True, exist_ok=True)
        for one in keys:
            target = place / f"{one.fingerprint(hashes.SHA256()).hex()[:16]}.pem"
            fresh = target.with_suffix(".new")
            fresh.write_bytes(one.public_bytes(Encoding.PEM))
            fresh.rename(target)
    except OSError as error:
        raise HostError(
            f"The module keys cannot be written: {error.strerror}.", component=str(place)
        ) from error
