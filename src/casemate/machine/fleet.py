"""The nouns of a fleet under attestation: what a verifier keeps, shows and passes on.

Times are Unix seconds by the clock of the verifier's store.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """Who begins a round: the verifier, or the host's agent."""

    PULL = "pull"
    PUSH = "push"


@dataclass(frozen=True, slots=True)
class FleetHost:
    """An enrolled host.

    Attributes:
        name: what people call it; unique.
        address: ``host:port`` of its attestation endpoints; empty for one that pushes.
        mode: who begins a round.
        state: of ``policy.statemachine``; ``record`` is the whole record as JSON.
        ek: fingerprint of its TPM's endorsement key; empty before the TPM has shown itself.
        issuer: who vouches for that key.
        identity: EK certificate, EK and AK as JSON, as the host last proved them.
        profile: name of the image profile that it should run; empty: any reference will do.
        cadence: seconds between two rounds.
        next_due: when the next round is due; ``lease_owner`` holds it until ``lease_until``.
        last_tried: when the last round ended; ``last_good`` when the last good one did.
        policy: version that the last verdict used; ``reference`` its identifier.
        verdict: one sentence about the last round.
        counters: what only grows, as of the last good round, as JSON: the TPM's clock, and the
            head of the host's audit log.
        token: SHA-256 of the secret by which a pushing host's agent is known.
    """

    name: str
    address: str
    mode: str
    state: str
    record: str
    ek: str
    issuer: str
    identity: str
    profile: str
    cadence: float
    next_due: float
    lease_owner: str
    lease_until: float
    last_tried: float
    last_good: float
    policy: int
    reference: str
    verdict: str
    counters: str
    token: str
    added: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """A new TPM for an enrolled host (a swapped board), waiting for a second person."""

    host: str
    ek: str
    issuer: str
    identity: str
    proposer: str
    time: float


@dataclass(frozen=True, slots=True)
class Round:
    """One round of attestation: its outcome, and the evidence it was judged on.

    ``result`` is the JSON of ``calls.verdict``, ``evidence`` the host's answer as it came;
    ``nonce`` the challenge. Both may be empty once retention has thinned them out.
    """

    number: int
    host: str
    time: float
    outcome: str
    state: str
    reference: str
    policy: int
    millis: float
    nonce: bytes
    result: bytes
    evidence: bytes


@dataclass(frozen=True, slots=True)
class StoredReference:
    """A signed reference; ``until`` ends an overlap: None means in force without end."""

    identifier: str
    profile: str
    build: str
    serial: int
    signer: str
    added: float
    added_by: str
    until: float | None
    body: bytes


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A signed policy, or the runtime policy of that name; the highest version is in force."""

    identifier: str
    kind: str
    name: str
    version: int
    signer: str
    added: float
    added_by: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A line of the audit log; ``digest`` covers it and the line before."""

    number: int
    time: float
    who: str
    action: str
    thing: str
    why: str
    digest: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a person should look at; ``cleared`` is 0 while it stands."""

    number: int
    time: float
    host: str
    code: str
    sentence: str
    cleared: float


@dataclass(frozen=True, slots=True)
class Person:
    """A local user of the verifier; ``hash`` is an argon2id string."""

    name: str
    role: str
    hash: str
    failures: int
    locked_until: float
