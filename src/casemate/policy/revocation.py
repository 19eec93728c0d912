"""What is no longer trusted: a signed list of certificates and of VIBs.

The list is a text file that carries its own signature (``policy.signedtext``): one JSON object,
then a detached CMS signature by somebody who may give the strictest level::

    {"format": "casemate-revocations-1", "number": 3, "issued": "2026-11-01T00:00:00Z",
     "certificates": [{"sha256": "<of the DER>", "reason": "key lost"}],
     "vibs": [{"sha256": "<of descriptor.xml>", "reason": "CVE-2026-1"}]}

A revoked certificate takes everything below it along, whenever it claims to be signed: who holds
the key also chooses the date. ``number`` counts up, so that an older list never replaces a newer
one. A list that does not verify is an error, never an empty list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from casemate.errors import FormatError, LimitError, SignatureError
from casemate.policy.signedtext import split_signed, verify_signed
from casemate.policy.trust import TrustStore, subject_of

FORMAT: Final = "casemate-revocations-1"
COMPONENT: Final = "revocation list"
PLACE: Final = ("revoked", "list.signed")
"""Directory and file name of the list below a home's trust directory."""
MAX_LIST: Final = 8 << 20
"""Bytes of a list: about 50,000 entries."""
MAX_REASON: Final = 256
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_DIGEST: Final = 32


@dataclass(frozen=True, slots=True)
class Revocations:
    """Reasons by SHA-256: of certificates (DER), and of descriptors of VIBs."""

    number: int = 0
    issued: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    certificates: Mapping[bytes, str] = field(default_factory=dict)
    vibs: Mapping[bytes, str] = field(default_factory=dict)

    def check_vib(self, descriptor_bytes: bytes, vib_id: str) -> None:
        """Raise SignatureError (``vib-revoked``) when this very VIB is revoked."""
        if not self.vibs:
            return
        reason = self.vibs.get(hashlib.sha256(descriptor_bytes).digest())
        if reason is not None:
            raise SignatureError(
                f"{vib_id} is revoked: {reason}.",
                code="vib-revoked",
                component=vib_id,
                remedy="Install a newer version from its provider, or remove it.",
            )

    def check_certificates(self, certificates: Iterable[x509.Certificate], vib_id: str) -> None:
        """Raise SignatureError (``signer-revoked``) when one of the certificates is revoked."""
        if not self.certificates:
            return
        for one in certificates:
            reason = self.certificates.get(one.fingerprint(hashes.SHA256()))
            if reason is not None:
                raise SignatureError(
                    f"The certificate of {subject_of(one)} is revoked: {reason}.",
                    code="signer-revoked",
                    component=vib_id,
                    remedy="Ask the provider for a VIB that is signed with a new key.",
                )


NOTHING_REVOKED: Final = Revocations()


def measured_text(data: bytes, revoked: Revocations) -> str:
    """Return the security option by which a boot shows the list in force.

    Args:
        data: The whole signed file.
        revoked: What it says.
    """
    return f"revocationList = {revoked.number} {hashlib.sha256(data).hexdigest()}"


def write_revocations(revoked: Revocations) -> bytes:
    """Return the text to be signed: same values, same bytes."""
    body = {
        "format": FORMAT,
        "number": revoked.number,
        "issued": revoked.issued.astimezone(UTC).strftime(_TIME),
        "certificates": _rows(revoked.certificates),
        "vibs": _rows(revoked.vibs),
    }
    return json.dumps(body, indent=1).encode() + b"\n"


def parse_revocations(body: bytes) -> Revocations:
    """Return the list in a text whose signature was checked, or is about to be made.

    Raises:
        FormatError: Not such a list (code ``revocations``).
        LimitError: Larger than any real one.
    """
    if len(body) > MAX_LIST:
        raise LimitError(f"The list has more than {MAX_LIST} bytes.", component=COMPONENT)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _bad("it is not JSON") from error
    if not isinstance(value, dict) or set(value) != {
        *("format", "number", "issued", "certificates", "vibs")
    }:
        raise _bad("it is not an object with format, number, issued, certificates and vibs")
    if value["format"] != FORMAT:
        raise _bad("its format is unknown")
    number = value["number"]
    if type(number) is not int or not 0 <= number < 1 << 53:
        raise _bad("its number is out of range")
    try:
        issued = datetime.strptime(value["issued"], _TIME).replace(tzinfo=UTC)
    except (ValueError, TypeError) as error:
        raise _bad("issued is not a time in UTC") from error
    return Revocations(number, issued, _entries(value["certificates"]), _entries(value["vibs"]))


def verify_revocations(data: bytes, trust: TrustStore, now: datetime) -> Revocations:
    """Return the list in a signed file.

    Raises:
        SignatureError: Not signed by somebody who may revoke; codes as in ``verify_signed``.
        FormatError: Not such a list.
    """
    if len(data) > MAX_LIST:
        raise LimitError(f"The list has more than {MAX_LIST} bytes.", component=COMPONENT)
    signed = split_signed(data)
    verify_signed(signed, trust, now, component=COMPONENT)
    return parse_revocations(signed.body)


def _rows(entries: Mapping[bytes, str]) -> list[dict[str, str]]:
    return [{"sha256": key.hex(), "reason": entries[key]} for key in sorted(entries)]


def _entries(value: object) -> dict[bytes, str]:
    if not isinstance(value, list):
        raise _bad("its entries are not a list")
    found: dict[bytes, str] = {}
    for row in value:
        if not isinstance(row, dict) or set(row) != {"sha256", "reason"}:
            raise _bad("an entry is not an object with sha256 and reason")
        digest, reason = row["sha256"], row["reason"]
        if not isinstance(reason, str) or len(reason) > MAX_REASON or not reason.isprintable():
            raise _bad("a reason is not a short line of text")
        try:
            key = bytes.fromhex(digest)
        except (ValueError, TypeError) as error:
            raise _bad("a digest is not hexadecimal") from error
        if len(key) != _DIGEST or key in found:
            raise _bad("a digest has the wrong length, or stands twice")
        found[key] = reason
    return found


def _bad(why: str) -> FormatError:
    return FormatError(
        f"The revocation list cannot be used: {why}.",
        code="revocations",
        component=COMPONENT,
        remedy="Get the list again from who issues it: casemate trust revoke.",
    )
