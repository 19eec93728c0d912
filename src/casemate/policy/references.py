"""Who may say what a host should run: the signature over a reference manifest."""

from __future__ import annotations

from datetime import datetime

from casemate.errors import AcceptanceError, SignatureError
from casemate.formats.cms import verify_detached
from casemate.formats.manifest import SignedManifest
from casemate.policy.levels import Level
from casemate.policy.trust import TrustStore, subject_of, verify_signer

REFERENCE_LEVEL = Level.CERTIFIED
"""A reference vouches for every component, so its signer must be one that may give this level."""

COMPONENT = "reference"


def verify_reference(signed: SignedManifest, trust: TrustStore, now: datetime) -> str:
    """Return the subject of the signer of a reference manifest.

    Raises:
        SignatureError: ``reference-unsigned``, ``reference-changed``, or as ``verify_detached``
            and ``verify_signer`` say.
    """
    if not signed.signature:
        raise SignatureError(
            "The reference is not signed.", code="reference-unsigned", component=COMPONENT
        )
    try:
        signature = verify_detached(signed.signature, signed.body, component=COMPONENT)
        verify_signer(signature, REFERENCE_LEVEL, trust, now, component=COMPONENT)
    except AcceptanceError as error:
        raise SignatureError(
            "The signer of the reference may sign VIBs of a lower level, but not references.",
            code="signer-untrusted",
            component=COMPONENT,
            remedy=f"Sign the reference with a key of the level {REFERENCE_LEVEL}.",
        ) from error
    except SignatureError as error:
        if error.code != "content-changed":
            raise
        raise SignatureError(
            "The reference was changed after it was signed.",
            code="reference-changed",
            component=COMPONENT,
        ) from error
    return subject_of(signature.certificate)
