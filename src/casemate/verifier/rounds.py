"""One round of attestation: fetch the evidence, or take what an agent sent, and judge it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from casemate.calls import evidence as wire
from casemate.calls.messages import EvidenceReply, Quote
from casemate.errors import AppraisalError, CasemateError, Finding, FormatError, HostError
from casemate.machine.fleet import FleetHost
from casemate.policy.appraise import Appraisal, Verdict, refused
from casemate.policy.statemachine import Outcome, Result, Settings, State
from casemate.policy.tpmidentity import TpmIdentity, check_identity
from casemate.verifier import nonces, store
from casemate.verifier.client import HostClient, RefusedError, evidence_of, prove_identity
from casemate.verifier.database import Database, Transaction
from casemate.verifier.judge import NO_REFERENCE, Assigned, Candidate, Judge, Judged
from casemate.verifier.ledger import Done, Finished, Ledger
from casemate.verifier.records import claim_of, moment, read_claim, read_clock, write_claim
from casemate.verifier.references import Anchors, ReferenceBook
from casemate.verifier.rulebook import RuleBook

_LOG = logging.getLogger("verifier.rounds")

IDENTITIES = 1 << 15
"""Proven identities remembered: some 4 KiB each."""

ClientMaker = Callable[[str], HostClient]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What a round begins with."""

    host: FleetHost
    version: int
    candidates: tuple[Candidate, ...]
    assigned: Assigned | None
    nonce: bytes
    started: float


class Rounds:
    """Carries out rounds, from any thread."""

    def __init__(
        self,
        database: Database,
        book: ReferenceBook,
        rules: RuleBook,
        anchors: Anchors,
        ledger: Ledger,
        connect: ClientMaker,
    ) -> None:
        self._database = database
        self._book = book
        self._rules = rules
        self._anchors = anchors
        self._ledger = ledger
        self._connect = connect
        self._judge = Judge()
        self._identities: dict[str, TpmIdentity] = {}
        self._turn = threading.Lock()

    def pull(self, host: FleetHost) -> Done:
        """Do a whole round with a leased host, asking again where only time was at fault."""
        client = self._connect(host.address)
        try:
            done = self._pull_once(host, client)
            for _ in range(Settings().retries):
                if not done.again:
                    break
                with self._database.transaction() as step:
                    fresh = store.find_host(step, host.name)
                if fresh is None or fresh.lease_owner != host.lease_owner:
                    break
                done = self._pull_once(fresh, client)
            return done
        finally:
            client.close()
            self._give_back(host)

    def ask(self, secret: str) -> tuple[FleetHost, Quote | None]:
        """Return what a pushing host shall answer: a nonce of its own, banks and PCRs.

        ``secret`` is the digest of its agent's secret; nothing is asked before it is approved.

        Raises:
            NotAuthenticatedError: no agent has this secret.
        """
        with self._database.transaction() as step:
            found = store.get_host_of_token(step, secret)
            if found.host.state == State.PENDING:
                return found.host, None
            nonce = nonces.issue(step, found.host.name)
            return found.host, _request(self._attempt(step, found, nonce))

    def push(self, secret: str, nonce: bytes, body: bytes) -> tuple[FleetHost, Done]:
        """Take in what a host's agent sent.

        Raises:
            NotAuthenticatedError: no agent has this secret.
            AppraisalError: the nonce is not this host's, spent, or too old: that is no verdict.
        """
        with self._database.transaction() as step:
            found = store.get_host_of_token(step, secret)
            host = found.host
            taken = nonces.take(step, nonce, host.name)
            attempt = self._attempt(step, found, nonce)
        begun = taken.check()
        identity: TpmIdentity | None = None
        try:
            reply = wire.decode(EvidenceReply, body)
            identity = self._identity(host)
            judged = self._judged(attempt, reply, identity)
        except (CasemateError, ValueError) as error:
            judged = Judged(_refused(error), "")
        return host, self._finish(attempt, judged, identity, body, begun)

    def _pull_once(self, host: FleetHost, client: HostClient) -> Done:
        with self._database.transaction() as step:
            nonce = nonces.issue(step, host.name)
            begun = moment(step.now())
            found = store.current(step, host.name)
            if found is None:
                return Done(State.REMOVED, again=False, sentence="the host was removed")
            attempt = self._attempt(step, replace(found, host=host), nonce)
        identity: TpmIdentity | None = None
        body, claim = b"", ""
        try:
            reply = client.evidence(_request(attempt))
            body = wire.encode(reply)
            begun = nonces.spend(self._database, nonce, host.name)
            identity = self._identity(host)
            judged = self._judged(attempt, reply, identity)
            appraised = attempt.candidates or attempt.assigned
            if appraised and judged.appraisal.clock is None:
                # The host may have a new attestation key: let it prove that.
                identity, told = prove_identity(client, self._anchors.ek_roots(), self._now())
                if identity.fingerprint != host.ek:
                    return self._ledger.conflict(host, identity)
                claim = write_claim(claim_of(told))
                judged = self._judged(attempt, reply, identity)
        except (HostError, RefusedError) as error:
            return self._ledger.silent(host, error)
        except (CasemateError, ValueError) as error:
            judged = Judged(_refused(error), "")
        except Exception:  # noqa: BLE001 (one host's evidence must not stop the others)
            _LOG.exception("appraisal of %s", host.name)
            judged = Judged(Appraisal(Verdict.UNDECIDED, (_FAULT,)), "")
        return self._finish(attempt, judged, identity, body, begun, claim)

    def _attempt(self, step: Transaction, found: store.Current, nonce: bytes) -> _Attempt:
        host, version = found.host, found.version
        candidates = self._book.in_force(step, host.profile, version)
        assigned = self._rules.of(step, found)
        return _Attempt(host, version, candidates, assigned, nonce, time.perf_counter())

    def _judged(self, attempt: _Attempt, reply: EvidenceReply, identity: TpmIdentity) -> Judged:
        host = attempt.host
        if not attempt.candidates and attempt.assigned is None:
            return Judged(Appraisal(Verdict.UNDECIDED, (NO_REFERENCE,)), "")
        try:
            evidence = evidence_of(reply)
        except FormatError as error:
            return Judged(refused(error, "evidence"), "")
        previous = read_clock(host.counters)
        if attempt.assigned is not None:
            now = datetime.now(UTC)
            return self._judge.judge_by_policy(
                evidence,
                attempt.assigned,
                attempt.candidates,
                identity,
                attempt.nonce,
                now,
                previous,
            )
        return self._judge.judge(evidence, attempt.candidates, identity, attempt.nonce, previous)

    def _finish(
        self,
        attempt: _Attempt,
        judged: Judged,
        identity: TpmIdentity | None,
        body: bytes,
        begun: datetime,
        claim: str = "",
    ) -> Done:
        findings = judged.appraisal.findings
        kind = _OUTCOMES[judged.appraisal.verdict] if _FAULT not in findings else Outcome.FAULT
        codes = frozenset(finding.code for finding in findings)
        elapsed = time.perf_counter() - attempt.started
        launched = (
            c.manifest.launched for c in attempt.candidates if c.identifier == judged.reference
        )
        finished = Finished(
            judged,
            claim if identity else "",
            Result(kind, begun, begun + timedelta(seconds=elapsed), attempt.version, codes),
            attempt.nonce,
            body,
            any(launched),
            elapsed * 1000,
        )
        self._ledger.count(kind.value)
        return self._ledger.write(attempt.host, finished)

    def _identity(self, host: FleetHost) -> TpmIdentity:
        """Return the proven identity of a host; it was checked when it was proven."""
        known = self._identities.get(host.identity)
        if known is not None:
            return known
        if not host.identity:
            raise AppraisalError("the host has not shown its TPM", code="ek-missing")
        found = check_identity(read_claim(host.identity), self._anchors.ek_roots(), self._now())
        with self._turn:
            if len(self._identities) >= IDENTITIES:
                self._identities.clear()
            self._identities[host.identity] = found
        return found

    def _give_back(self, host: FleetHost) -> None:
        with self._database.transaction() as step:
            store.release(step, host.lease_owner, host.name)

    def _now(self) -> datetime:
        with self._database.transaction() as step:
            return moment(step.now())


_OUTCOMES = {
    Verdict.TRUSTED: Outcome.GOOD,
    Verdict.UNTRUSTED: Outcome.BAD,
    Verdict.UNDECIDED: Outcome.NOT_APPRAISED,
}

_FAULT = Finding(
    "fault",
    "verifier",
    "the verifier failed while it judged this host; the host was not appraised",
    "Look at the verifier's log; the host is asked again by itself.",
)


def _request(attempt: _Attempt) -> Quote:
    """Return what to ask a host for, so that its policy or each reference can be applied."""
    candidates, nonce = attempt.candidates, attempt.nonce
    if attempt.assigned is not None:
        rules = attempt.assigned.rules
        return Quote(nonce, rules.policy.banks, rules.pcrs)
    banks = dict.fromkeys(bank for one in candidates for bank in one.manifest.algorithms)
    pcrs = sorted({pcr for one in candidates for pcr in one.manifest.indexes})
    return Quote(nonce, tuple(banks) or ("sha256",), tuple(pcrs) or tuple(range(24)))


def _refused(error: Exception) -> Appraisal:
    if isinstance(error, CasemateError):
        return Appraisal(Verdict.UNTRUSTED, (error.finding(),))
    return Appraisal(Verdict.UNDECIDED, (_FAULT,))
