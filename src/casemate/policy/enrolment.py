"""The promises of an enrolment: nonces are spent once, challenges too, and a host keeps its TPM.

Pure decisions over what a store holds. The store reads and marks a record in one transaction, so
of two that come at once only one finds it unspent.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from casemate.errors import AppraisalError
from casemate.policy.tpmidentity import TpmIdentity, check_activation

NONCE_SIZE: Final = 32
"""Bytes of a nonce."""
NONCE_LIFETIME: Final = timedelta(seconds=60)
"""A hardware TPM needs at most some seconds for a quote."""
CHALLENGE_LIFETIME: Final = timedelta(minutes=5)
"""An activation needs two TPM commands, and a person may start it."""
_ASK_AGAIN: Final = "Ask for fresh evidence with a new nonce."
_ENROL_AGAIN: Final = "Begin the enrolment again."


@dataclass(frozen=True, slots=True)
class Issued:
    """Something handed out to one host, to come back once and in time.

    ``value`` is the nonce, or the secret of a challenge; ``issued`` is by the clock of the store,
    the same that gives ``now`` later.
    """

    host: str
    value: bytes
    issued: datetime
    lifetime: timedelta
    spent: bool = False

    def expired(self, now: datetime) -> bool:
        """Tell whether it is too late; a clock that went back does not make it younger."""
        return not timedelta(0) <= now - self.issued <= self.lifetime


def check_nonce_record(record: Issued, host: str, now: datetime) -> bytes:
    """Return the nonce that the quote must hold; the caller marks it spent whatever follows.

    Raises:
        AppraisalError: ``stale-nonce`` (of another host), ``nonce-reused``, ``nonce-expired``.
    """
    if record.host != host:
        raise AppraisalError(
            "the nonce was issued to another host", code="stale-nonce", remedy=_ASK_AGAIN
        )
    if record.spent:
        raise AppraisalError(
            "this evidence, or another with this nonce, was sent before",
            code="nonce-reused",
            remedy=_ASK_AGAIN,
        )
    if record.expired(now):
        raise AppraisalError(
            "the evidence came too late for its nonce", code="nonce-expired", remedy=_ASK_AGAIN
        )
    return record.value


def check_challenge(record: Issued, host: str, answer: bytes, now: datetime) -> None:
    """Check the answer to a credential challenge; the record is gone afterwards, good or bad.

    Raises:
        AppraisalError: ``activation-spent``, ``activation-expired``, ``activation``.
    """
    if record.spent:
        raise AppraisalError(
            "the challenge was answered before", code="activation-spent", remedy=_ENROL_AGAIN
        )
    if record.expired(now):
        raise AppraisalError(
            "the answer came too late for its challenge",
            code="activation-expired",
            remedy=_ENROL_AGAIN,
        )
    if record.host != host:
        raise AppraisalError(
            "the challenge is another host's", code="activation", remedy=_ENROL_AGAIN
        )
    check_activation(answer, record.value)


@dataclass(frozen=True, slots=True)
class Pinned:
    """The TPM of an enrolled host: EK fingerprint and AK name."""

    host: str
    fingerprint: str
    ak_name: bytes


def check_registration(pinned: Pinned | None, host: str, identity: TpmIdentity) -> None:
    """Check that a host that registers under a known name brings the same TPM.

    Raises:
        AppraisalError: ``identity-conflict``: raise an alarm; a swapped board needs the supervised
            way.
    """
    if pinned is None or (pinned.host == host and pinned.fingerprint == identity.fingerprint):
        return
    raise AppraisalError(
        f"{host} is enrolled with another TPM",
        code="identity-conflict",
        component=host,
        remedy="If its board was swapped, let two people approve the new TPM; if not, look at who "
        "uses its name.",
    )


def check_key(pinned: Pinned, ak_name: bytes, owner: str | None) -> None:
    """Check that a quote's key is the one that was activated for this host.

    Args:
        pinned: the host's TPM.
        ak_name: name of the key that signed the quote.
        owner: the host to which that key belongs, where it is known at all.

    Raises:
        AppraisalError: ``key-not-of-host`` (another host's key), ``key-changed``.
    """
    if hmac.compare_digest(pinned.ak_name, ak_name):
        return
    if owner is not None and owner != pinned.host:
        raise AppraisalError(
            f"the quote is signed by the key of {owner}",
            code="key-not-of-host",
            component=pinned.host,
            remedy="Look at who answers under this host's address.",
        )
    raise AppraisalError(
        "the quote is signed by a key that was not activated for this host",
        code="key-changed",
        component=pinned.host,
        remedy="Enrol the host's new attestation key by a credential challenge.",
    )
