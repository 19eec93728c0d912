"""Attestation results for relying parties: a signed EAR token that says what is thought of a host.

The key is made on first use, kept in the store, and shared by all verifiers of a fleet; its public
half is served as a JSON Web Key Set.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from casemate import __version__
from casemate.errors import ArgumentError, Finding
from casemate.formats import ear
from casemate.formats.ear import Ear, Section, Tier
from casemate.policy.statemachine import State
from casemate.policy.verdict import Judged, submodules
from casemate.verifier import roundstore, rulestore, store
from casemate.verifier.database import Database, Transaction
from casemate.verifier.records import moment, read_record

LIFETIME: Final = timedelta(minutes=5)
"""A token lives so long at most, and never longer than the verdict behind it."""

NONCE_LIMIT: Final = 128
"""Characters of a relying party's nonce."""

_KEY = "token-key"


@dataclass(frozen=True, slots=True)
class Token:
    """A signed result, and in short whether the host may be given secrets."""

    token: str
    allowed: bool
    state: str
    expires: float


class Tokens:
    """Issues tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.exclusive("token-key") as step:
            text = rulestore.get_value(step, _KEY)
            if not text:
                text = _new_key()
                rulestore.set_value(step, _KEY, text)
        key = serialization.load_pem_private_key(text.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ArgumentError("the token key is not on an elliptic curve", argument=_KEY)
        self._key = key
        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.key_id = hashlib.sha256(spki).hexdigest()[:16]

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key that checks tokens."""
        return self._key.public_key()

    def issue(self, name: str, nonce: str = "") -> Token:
        """Say what is thought of a host now. Raises NotFoundError, ArgumentError."""
        if len(nonce) > NONCE_LIMIT:
            raise ArgumentError(f"a nonce has at most {NONCE_LIMIT} characters", argument="nonce")
        with self._database.transaction() as step:
            host = store.get_host(step, name)
            record = read_record(host.record)
            now = moment(step.now()).replace(microsecond=0)
            judged, policy = _judged(step, name, record.state)
        expires = now + LIFETIME
        allowed = record.state is State.TRUSTED
        if allowed and record.valid_until is not None:
            expires = min(expires, record.valid_until.replace(microsecond=0))
            allowed = expires > now
        sections = submodules([judged], (policy or host.reference)[:16])
        if allowed and any(one.status > Tier.WARNING for one in sections.values()):
            allowed = False
        result = Ear(now, expires, "casemate", __version__, sections, nonce, host.name)
        token = ear.issue(result, self._key, key_id=self.key_id)
        return Token(token, allowed, record.state.value, expires.timestamp())

    def keys(self) -> dict[str, object]:
        """Return the JSON Web Key Set."""
        numbers = self.public_key.public_numbers()
        return {
            "keys": [
                {
                    "kty": "EC",
                    "crv": "P-256",
                    "alg": "ES256",
                    "use": "sig",
                    "kid": self.key_id,
                    "x": _number(numbers.x),
                    "y": _number(numbers.y),
                }
            ]
        }


def _judged(step: Transaction, name: str, state: State) -> tuple[Judged, str]:
    """Return what counts, and by which policy: nothing unless the state is the last verdict."""
    if state not in {State.FAILED, State.LATCHED, State.TRUSTED}:
        return Judged(frozenset()), ""
    last = roundstore.latest_round(step, name)
    value = json.loads(last.result) if last and last.result else {}
    policy = str(value.get("policy", ""))
    if state is not State.TRUSTED:
        findings = tuple(Finding(**one) for one in value.get("findings", ()))
        return Judged(frozenset({Section.BOOT}), findings or (_LATCHED,)), policy
    tiers = value.get("sections", {})
    covered = {Section(one) for one, tier in tiers.items() if tier != Tier.NONE.label}
    warnings = tuple(Finding(**one) for one in value.get("warnings", ()))
    return Judged(frozenset(covered), (), warnings), policy


_LATCHED = Finding(
    "failed-latched",
    "host",
    "the host failed before, and no operator has cleared it",
    "Look at its timeline in the verifier.",
)


def _number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()


def _new_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
