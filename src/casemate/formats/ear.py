"""EAR, the result of an appraisal that a relying party can check (draft-ietf-rats-ear).

A JWT with one submodule for each thing appraised. A submodule has a tier (``ear.status``) and the
AR4SI trust vector (draft-ietf-rats-ar4si): small numbers from which the tier follows, so that a
relying party may judge by its own taste. Our findings go along under ``casemate.findings``, our
warnings under ``casemate.warnings``. Tokens are signed with ES256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from casemate.errors import Finding, FormatError, LimitError, SignatureError

PROFILE: Final = "tag:github.com,2023:veraison/ear"
"""``eat_profile``: the value that published verifiers and relying parties use."""
ALGORITHM: Final = "ES256"
MAX_TOKEN: Final = 1 << 20
"""Bytes of a token; one with 1,000 findings has 300 KiB."""
MAX_FINDINGS: Final = 256
"""Findings and warnings of one submodule in a token; the verifier's own record has them all."""
MAX_SUBMODULES: Final = 32
CLOCK_SKEW: Final = timedelta(minutes=2)
"""How far the issuer's clock may be ahead of the relying party's."""


class Section(StrEnum):
    """The submodules of a host's result."""

    IDENTITY = "identity"
    FIRMWARE = "firmware"
    BOOT = "boot"
    KERNEL = "kernel-and-options"
    VIBS = "vibs"
    RUNTIME = "runtime"
    DRTM = "drtm"
    HARDENING = "hardening"


class Tier(IntEnum):
    """AR4SI trustworthiness tiers, the better the lower; the values are those of CWT."""

    NONE = 0
    AFFIRMING = 2
    WARNING = 32
    CONTRAINDICATED = 96

    @property
    def label(self) -> str:
        """The tier as JSON has it."""
        return self.name.lower()


_TIERS: Final = {tier.label: tier for tier in Tier}
CLAIM_RANGE: Final = range(-128, 128)
VERIFIER_MALFUNCTION: Final = -1
UNEXPECTED_EVIDENCE: Final = 1
CRYPTO_FAILED: Final = 99


def tier_of(claim: int) -> Tier:
    """Return the tier of one number of a trust vector (AR4SI, section 2.3.2)."""
    if -1 <= claim <= 1:
        return Tier.NONE
    size = claim if claim > 0 else -claim - 1
    if size >= Tier.CONTRAINDICATED:
        return Tier.CONTRAINDICATED
    return Tier.WARNING if size >= Tier.WARNING else Tier.AFFIRMING


@dataclass(frozen=True, slots=True)
class TrustVector:
    """AR4SI trustworthiness claims, -128 to 127; None: not claimed."""

    instance_identity: int | None = None
    configuration: int | None = None
    executables: int | None = None
    file_system: int | None = None
    hardware: int | None = None
    runtime_opaque: int | None = None
    storage_opaque: int | None = None
    sourced_data: int | None = None

    def claims(self) -> dict[str, int]:
        """Return what is claimed, under the names of JSON."""
        values = ((f.name.replace("_", "-"), getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in values if value is not None}

    @property
    def tier(self) -> Tier:
        """The worst tier of all claims."""
        return max(map(tier_of, self.claims().values()), default=Tier.NONE)


_VECTOR_NAMES: Final = {f.name.replace("_", "-"): f.name for f in fields(TrustVector)}


@dataclass(frozen=True, slots=True)
class Submodule:
    """The result for one thing appraised."""

    status: Tier
    vector: TrustVector = TrustVector()
    policy_id: str = ""
    findings: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Ear:
    """A whole result; times are aware, whole seconds."""

    issued: datetime
    expires: datetime
    developer: str
    build: str
    submodules: Mapping[str, Submodule] = field(default_factory=dict)
    nonce: str = ""
    subject: str = ""

    @property
    def status(self) -> Tier:
        """The worst tier of all submodules; NONE where one was not appraised and none is worse."""
        tiers = [one.status for one in self.submodules.values()]
        worst = max(tiers, default=Tier.NONE)
        return Tier.NONE if worst is Tier.AFFIRMING and Tier.NONE in tiers else worst


def issue(ear: Ear, key: ec.EllipticCurvePrivateKey, *, key_id: str) -> str:
    """Return the signed token.

    Raises:
        SignatureError: ``weak-algorithm``: the key is not on P-256.
    """
    _check_curve(key.curve)
    return jwt.encode(claims(ear), key, algorithm=ALGORITHM, headers={"kid": key_id})


def claims(ear: Ear) -> dict[str, Any]:
    """Return the claims set of a token."""
    result: dict[str, Any] = {
        "eat_profile": PROFILE,
        "iat": int(ear.issued.timestamp()),
        "exp": int(ear.expires.timestamp()),
        "ear.verifier-id": {"developer": ear.developer, "build": ear.build},
        "submods": {name: _submodule(one) for name, one in ear.submodules.items()},
    }
    if ear.nonce:
        result["eat_nonce"] = ear.nonce
    if ear.subject:
        result["sub"] = ear.subject
    return result


def _submodule(one: Submodule) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ear.status": one.status.label,
        "ear.trustworthiness-vector": one.vector.claims(),
    }
    if one.policy_id:
        result["ear.appraisal-policy-id"] = one.policy_id
    for name, found in (
        ("casemate.findings", one.findings),
        ("casemate.warnings", one.warnings),
    ):
        if found:
            result[name] = [
                {"code": f.code, "component": f.component, "reason": f.reason, "remedy": f.remedy}
                for f in found[:MAX_FINDINGS]
            ]
    return result


def verify(
    token: str,
    keys: Mapping[str, ec.EllipticCurvePublicKey],
    now: datetime,
    *,
    nonce: str | None = None,
) -> Ear:
    """Check a token and return the result in it.

    Args:
        token: the JWT.
        keys: the verifier's public keys by key id.
        now: the present, aware.
        nonce: what the relying party asked with; None: it did not.

    Raises:
        SignatureError: ``signature-invalid``, ``signer-untrusted``, ``weak-algorithm``.
        FormatError: ``ear-malformed``, ``ear-expired``, ``ear-nonce``.
        LimitError: larger than any token.
    """
    if len(token) > MAX_TOKEN:
        raise LimitError(f"an attestation result of {len(token)} bytes")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError as error:
        raise _bad("it is no signed token") from error
    if header.get("alg") != ALGORITHM:
        raise SignatureError("the result is not signed with ES256", code="weak-algorithm")
    key = keys.get(str(header.get("kid")))
    if key is None:
        raise SignatureError("the result is signed by an unknown verifier", code="signer-untrusted")
    _check_curve(key.curve)
    try:
        body = jwt.decode(token, key, algorithms=[ALGORITHM], options=_NO_CLOCK)
    except jwt.InvalidSignatureError as error:
        raise SignatureError("the signature over the result is wrong") from error
    except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
        raise _bad("its claims cannot be read") from error
    ear = _parse(body)
    if not ear.issued - CLOCK_SKEW <= now < ear.expires:
        raise FormatError(
            f"the result is valid from {ear.issued:%Y-%m-%d %H:%M:%S} "
            f"to {ear.expires:%Y-%m-%d %H:%M:%S} UTC",
            code="ear-expired",
            remedy="Ask the verifier for a fresh result, and check both clocks.",
        )
    if nonce is not None and ear.nonce != nonce:
        raise FormatError(
            "the result answers another request",
            code="ear-nonce",
            remedy="Ask the verifier again with a nonce of your own.",
        )
    return ear


# PyJWT would read the machine's clock; times are judged here, by the caller's.
_NO_CLOCK: Final[Any] = {
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
    "verify_aud": False,
    "require": ["iat", "exp", "eat_profile", "submods"],
}


def _check_curve(curve: ec.EllipticCurve) -> None:
    if curve.name != "secp256r1":
        raise SignatureError("results are signed with keys on P-256", code="weak-algorithm")


def _bad(reason: str) -> FormatError:
    return FormatError(f"attestation result: {reason}", code="ear-malformed")


def _parse(body: dict[str, Any]) -> Ear:
    if body["eat_profile"] != PROFILE:
        raise _bad("it is of another profile")
    submods = _map(body["submods"])
    if not 1 <= len(submods) <= MAX_SUBMODULES:
        raise _bad("it has no submodule, or too many")
    verifier = _map(body.get("ear.verifier-id", {}))
    return Ear(
        _time(body["iat"]),
        _time(body["exp"]),
        _text(verifier.get("developer", "")),
        _text(verifier.get("build", "")),
        {name: _parse_submodule(_map(one)) for name, one in submods.items()},
        _text(body.get("eat_nonce", "")),
        _text(body.get("sub", "")),
    )


def _parse_submodule(body: Mapping[str, Any]) -> Submodule:
    status = _TIERS.get(_text(body.get("ear.status")))
    if status is None:
        raise _bad("a submodule has no status")
    vector: dict[str, int] = {}
    for name, value in _map(body.get("ear.trustworthiness-vector", {})).items():
        if name not in _VECTOR_NAMES or type(value) is not int or value not in CLAIM_RANGE:
            raise _bad("a trust vector has an unknown claim")
        vector[_VECTOR_NAMES[name]] = value
    return Submodule(
        status,
        TrustVector(**vector),
        _text(body.get("ear.appraisal-policy-id", "")),
        _findings(body.get("casemate.findings", [])),
        _findings(body.get("casemate.warnings", [])),
    )


def _findings(value: object) -> tuple[Finding, ...]:
    if not isinstance(value, list) or len(value) > MAX_FINDINGS:
        raise _bad("findings that are no list")
    rows: Sequence[Mapping[str, Any]] = [_map(one) for one in value]
    return tuple(
        Finding(*(_text(row.get(key)) for key in ("code", "component", "reason", "remedy")))
        for row in rows
    )


def _map(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _bad("expected an object")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _bad("expected a string")
    return value


def _time(value: object) -> datetime:
    if type(value) is not int:
        raise _bad("a time is not a whole number")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        raise _bad("a time is out of range") from None
