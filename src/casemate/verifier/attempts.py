"""Rounds that have begun: whose evidence it is, which question it answers, what is said then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from casemate.calls import evidence as wire
from casemate.calls.messages import Quote
from casemate.errors import CasemateError
from casemate.machine.fleet import FleetHost
from casemate.policy.auditheads import LogHead
from casemate.policy.statemachine import State
from casemate.verifier import roundstore
from casemate.verifier.database import Transaction
from casemate.verifier.judge import Assigned, Candidate
from casemate.verifier.records import read_head
from casemate.verifier.results import Finished

HEAVY = 256 << 10
"""Bytes of evidence that is judged by itself: firmware logs have 20 to 60 KiB, IMA lists more."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a round begins with.

    ``now`` is the store's clock at ``started``; ``begun`` is when the nonce was issued, under the
    version ``asked`` of the rules; ``upcoming`` is the nonce of the next round, if it goes along.
    """

    host: FleetHost
    version: int
    candidates: tuple[Candidate, ...]
    assigned: Assigned | None
    nonce: bytes
    now: datetime
    started: float
    begun: datetime
    asked: int = 0
    upcoming: bytes = b""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What an agent sent; ``secret`` is the digest of its secret."""

    secret: str
    nonce: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """Evidence that answers a question of ours; a ``heavy`` one is not whole before it is judged.

    ``weight`` is how many bytes are to be judged.
    """

    attempt: Attempt
    body: bytes
    weight: int

    @property
    def host(self) -> str:
        """The name of whose evidence it is."""
        return self.attempt.host.name

    @property
    def heavy(self) -> bool:
        """Whether others should not wait for its verdict."""
        return self.weight > HEAVY


@dataclass(frozen=True, slots=True)
class Answer:
    """How a round ended for its agent: ``wait`` seconds, then answer ``asked``, or ask for it."""

    state: State
    verdict: str
    wait: float
    asked: Quote | None = None


def weight_of(step: Transaction, host: str, body: bytes) -> int:
    """Return how many bytes are to be read and judged; what a body goes on with has to be read."""
    lacks = wire.continues(body)
    if lacks is None:
        return len(body)
    return len(body) + max(lacks[0], roundstore.last_evidence_size(step, host))


def with_next(
    attempt: Attempt, answer: Answer | CasemateError, finished: Finished | None
) -> Answer | CasemateError:
    """Let an answer bring the nonce of the next round, where that was issued."""
    if not attempt.upcoming or isinstance(answer, CasemateError):
        return answer
    head = finished.head if finished is not None and finished.good else None
    return replace(answer, asked=request_of(replace(attempt, nonce=attempt.upcoming), head))


def request_of(attempt: Attempt, head: LogHead | None = None) -> Quote:
    """Return what to ask a host for, so that its policy or each reference can be applied.

    ``head`` is of its audit log; that of its last good round unless given.
    """
    candidates, nonce = attempt.candidates, attempt.nonce
    head = head or read_head(attempt.host.counters)
    entry = head.number if head else 0
    if attempt.assigned is not None:
        rules = attempt.assigned.rules
        return Quote(nonce, rules.policy.banks, rules.pcrs, entry)
    banks = dict.fromkeys(bank for one in candidates for bank in one.manifest.algorithms)
    pcrs = sorted({pcr for one in candidates for pcr in one.manifest.indexes})
    return Quote(nonce, tuple(banks) or ("sha256",), tuple(pcrs) or tuple(range(24)), entry)
