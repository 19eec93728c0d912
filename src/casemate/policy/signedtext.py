"""Text files that carry their own signature: policies, runtime policies, foreign references.

The file is the text, then a detached CMS signature over exactly these bytes as PEM. Only a signer
who may vouch for every component may sign one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from casemate.errors import AcceptanceError, SignatureError, VerificationError
from casemate.formats.cms import verify_detached
from casemate.policy.references import REFERENCE_LEVEL
from casemate.policy.trust import TrustStore, subject_of, verify_signer

_MARK: Final = b"\n-----BEGIN PKCS7-----"


@dataclass(frozen=True, slots=True)
class SignedText:
    """A text and its signature, unverified; an empty signature: none."""

    body: bytes
    signature: bytes


def split_signed(data: bytes) -> SignedText:
    """Take the text and its signature apart; the last mark counts."""
    place = data.rfind(_MARK)
    if place < 0:
        return SignedText(data, b"")
    return SignedText(data[: place + 1], data[place + 1 :])


def join_signed(body: bytes, signature: bytes) -> bytes:
    """Return the file; the text must end with a line end."""
    return body + signature


def verify_signed(signed: SignedText, trust: TrustStore, now: datetime, *, component: str) -> str:
    """Return the subject of the signer.

    Raises:
        SignatureError: ``signature-missing``, or as ``verify_detached`` and ``verify_signer`` say.
    """
    if not signed.signature:
        raise SignatureError(
            f"The {component} is not signed.",
            code="signature-missing",
            component=component,
            remedy="Have it signed by a key that may sign references.",
        )
    try:
        found = verify_detached(signed.signature, signed.body, component=component)
        verify_signer(found, REFERENCE_LEVEL, trust, now, component=component)
    except AcceptanceError as error:
        raise SignatureError(
            f"The signer of the {component} may sign VIBs of a lower level, but not this.",
            code="signer-untrusted",
            component=component,
            remedy=f"Sign it with a key of the level {REFERENCE_LEVEL}.",
        ) from error
    return subject_of(found.certificate)


def check_newer(current: int | None, offered: int, *, component: str) -> None:
    """Refuse to go back to an older version.

    Raises:
        VerificationError: ``rollback``.
    """
    if current is not None and offered < current:
        raise VerificationError(
            f"The {component} is version {offered}; version {current} is in force.",
            code="rollback",
            component=component,
            remedy="Sign what you want under a higher version.",
        )
