"""One round of attestation: fetch the evidence, or take what an agent sent, and judge it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from casemate.calls import evidence as wire
from casemate.calls.messages import Quote
from casemate.errors import (
    AppraisalError,
    CasemateError,
    HostError,
    NotAuthenticatedError,
)
from casemate.machine.fleet import FleetHost
from casemate.policy.appraise import Appraisal, Verdict
from casemate.policy.statemachine import Outcome, Result, Settings, State
from casemate.policy.tpmidentity import TpmIdentity, check_identity
from casemate.verifier import nonces, roundstore, store
from casemate.verifier.attempts import (
    Answer,
    Arrival,
    Attempt,
    Begun,
    request_of,
    weight_of,
    with_next,
)
from casemate.verifier.client import HostClient, RefusedError, prove_identity
from casemate.verifier.database import Database, Transaction
from casemate.verifier.judge import NO_REFERENCE, Judge, Judged, with_log
from casemate.verifier.ledger import Ledger
from casemate.verifier.reading import Read, Reader
from casemate.verifier.records import (
    claim_of,
    moment,
    read_claim,
    read_clock,
    read_head,
    write_claim,
)
from casemate.verifier.references import Anchors, ReferenceBook
from casemate.verifier.results import FAULT, FAULTY, Done, Entry, Finished
from casemate.verifier.rulebook import RuleBook

_LOG = logging.getLogger("verifier.rounds")

IDENTITIES = 1 << 15
"""Proven identities remembered: some 4 KiB each."""

ROUND_SECONDS = 45.0
"""Seconds for all answers of one round, with its repetitions: twice that is less than a lease."""

MAKERS_SECONDS = 10.0
"""How soon a maker of TPMs counts that was pinned, or does not that was taken away."""

CARRIED = 30.0
"""Cadence in seconds up to which an answer brings the next nonce along.

Half a nonce's life: a host that quotes at once, and is changed before it sends, is found in the
round after, and that is within the cadence that hosts have by default.
"""

ClientMaker = Callable[[str], HostClient]


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
        self._nonces = nonces.Nonces()
        self._reader = Reader()
        self._identities: dict[str, TpmIdentity] = {}
        self._makers: tuple[tuple[str, int, int], ...] = ()
        self._looked = -MAKERS_SECONDS
        self._turn = threading.Lock()

    def pull(self, host: FleetHost, seconds: float = ROUND_SECONDS) -> Done:
        """Do a whole round with a leased host, asking again where only time was at fault.

        All its answers have ``seconds`` together.
        """
        client = self._connect(host.address)
        client.within(seconds)
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
            nonce = self._nonces.issue(step, found.host.name, found.version)
            return found.host, request_of(self._attempt(step, found, nonce))

    def push(self, secret: str, nonce: bytes, body: bytes) -> Answer:
        """Take in what a host's agent sent; raises what ``take_in`` returns as an error."""
        (answer,) = self.take_in([Arrival(secret, nonce, body)])
        if isinstance(answer, CasemateError):
            raise answer
        return answer

    def take_in(self, arrivals: Sequence[Arrival]) -> list[Answer | CasemateError]:
        """Judge what agents sent, and write it down in one transaction.

        An error stands for what is no verdict: NotAuthenticatedError (no agent has this secret),
        AppraisalError (the nonce is not this host's, spent, or too old), NotFoundError (a part of
        the evidence was not sent), HostError (the store).
        """
        begun = self.begin(arrivals)
        answers = iter(self.finish([one for one in begun if isinstance(one, Begun)]))
        return [next(answers) if isinstance(one, Begun) else one for one in begun]

    def begin(self, arrivals: Sequence[Arrival]) -> list[Begun | CasemateError]:
        """Find out whose evidence it is, and whether it answers a question of ours.

        What nobody foresaw in one of them is the fault of none of the others.
        """
        try:
            return self._begin(arrivals)
        except CasemateError:
            raise
        except Exception:  # noqa: BLE001 (as said)
            if len(arrivals) > 1:
                return [self.begin([one])[0] for one in arrivals]
            _LOG.exception("evidence that cannot be taken in")
            return [HostError(FAULT.reason, code=FAULT.code)]

    def _begin(self, arrivals: Sequence[Arrival]) -> list[Begun | CasemateError]:
        begun: list[Begun | CasemateError] = []
        with self._database.transaction() as step:
            hosts = {
                one.host.token: one
                for one in store.currents(step, "token", [a.secret for a in arrivals if a.secret])
            }
            spent = roundstore.spent_nonces(step, [one.nonce for one in arrivals])
            for arrival in arrivals:
                found = hosts.get(arrival.secret)
                try:
                    attempt = self._begun(step, found, arrival, spent)
                    weight = weight_of(step, attempt.host.name, arrival.body)
                    one = Begun(attempt, arrival.body, weight)
                    begun.append(one if one.heavy else self._whole(step, one))
                except CasemateError as error:
                    begun.append(error)
                except Exception as error:
                    error.add_note(f"evidence of {found.host.name if found else 'nobody'}")
                    raise
        return begun

    def finish(self, begun: Sequence[Begun]) -> list[Answer | CasemateError]:
        """Judge evidence, and write it down in one transaction."""
        answers: list[Answer | CasemateError | None] = [None] * len(begun)
        judged: dict[int, Entry] = {}
        for n, one in enumerate(begun):
            attempt = one.attempt
            if attempt.version != attempt.asked:  # it could not know for what it would be judged
                answers[n] = Answer(State(attempt.host.state), attempt.host.verdict, 0.0)
                continue
            try:
                finished = self._appraised(attempt, self._completed(one).body)
            except CasemateError as error:
                answers[n] = error
                continue
            except Exception:  # noqa: BLE001 (one host's evidence must not stop the others)
                _LOG.exception("evidence of %s", attempt.host.name)
                finished = self._finished(attempt, FAULTY, b"")
            judged[n] = Entry(attempt.host, attempt.version, finished)
        written = self._ledger.write(list(judged.values()))
        for (n, entry), done in zip(judged.items(), written, strict=True):
            answers[n] = done if isinstance(done, CasemateError) else self._answer(entry, done)
        outcomes = (judged[n].outcome if n in judged else None for n in range(len(begun)))
        return [
            with_next(one.attempt, answer, outcome)
            for one, answer, outcome in zip(begun, answers, outcomes, strict=True)
            if answer
        ]

    def _completed(self, begun: Begun) -> Begun:
        if not begun.heavy:
            return begun
        with self._database.transaction() as step:
            return self._whole(step, begun)

    def _whole(self, step: Transaction, begun: Begun) -> Begun:
        last = partial(roundstore.last_evidence, step, begun.attempt.host.name)
        return replace(begun, body=self._reader.whole(begun.body, last))

    def _begun(
        self, step: Transaction, found: store.Current | None, arrival: Arrival, spent: set[bytes]
    ) -> Attempt:
        if found is None:
            raise NotAuthenticatedError("No agent has this secret.")
        read = self._nonces.read(step, arrival.nonce, found.host.name)
        if arrival.nonce in spent:
            raise nonces.spent()
        attempt = self._attempt(step, found, arrival.nonce)
        upcoming = b""
        if found.host.cadence <= CARRIED and found.host.state != State.PENDING:
            upcoming = self._nonces.issue(step, found.host.name, found.version)
        return replace(attempt, begun=read.issued, asked=read.version, upcoming=upcoming)

    def _appraised(self, attempt: Attempt, body: bytes) -> Finished:
        identity: TpmIdentity | None = None
        try:
            identity = self._identity(attempt.host)
            judged = self._judged(attempt, self._reader.read(body), identity)
        except (CasemateError, ValueError) as error:
            judged = Judged(_refused(error), "")
        except Exception:  # noqa: BLE001 (one host's evidence must not stop the others)
            _LOG.exception("appraisal of %s", attempt.host.name)
            judged = FAULTY
        return self._finished(attempt, judged, body)

    def _answer(self, entry: Entry, done: Done) -> Answer:
        wait = 0.0 if done.again else self._ledger.pause(entry.host)
        return Answer(done.state, done.sentence, wait)

    def _pull_once(self, host: FleetHost, client: HostClient) -> Done:
        with self._database.transaction() as step:
            found = store.current(step, host.name)
            if found is None:
                return Done(State.REMOVED, again=False, sentence="the host was removed")
            nonce = self._nonces.issue(step, host.name, found.version)
            attempt = self._attempt(step, replace(found, host=host), nonce)
        identity: TpmIdentity | None = None
        body, claim = b"", ""
        try:
            body = wire.encode(client.evidence(request_of(attempt)))
            reply = self._reader.read(body)
            with self._database.transaction() as step:
                self._nonces.read(step, nonce, host.name)
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
            judged = FAULTY
        finished = self._finished(attempt, judged, body, claim if identity else "")
        (done,) = self._ledger.write([Entry(host, attempt.version, finished)])
        if isinstance(done, CasemateError):
            raise done
        return done

    def _attempt(self, step: Transaction, found: store.Current, nonce: bytes) -> Attempt:
        host, version, now = found.host, found.version, moment(step.now())
        candidates = self._book.in_force(step, host.profile, version)
        assigned = self._rules.of(step, found)
        return Attempt(host, version, candidates, assigned, nonce, now, time.perf_counter(), now)

    def _judged(self, attempt: Attempt, read: Read, identity: TpmIdentity) -> Judged:
        host, evidence, nonce = attempt.host, read.evidence, attempt.nonce
        if not attempt.candidates and attempt.assigned is None:
            return Judged(Appraisal(Verdict.UNDECIDED, (NO_REFERENCE,)), "")
        previous = read_clock(host.counters)
        if attempt.assigned is not None:
            now = datetime.now(UTC)
            judged = self._judge.judge_by_policy(
                evidence, attempt.assigned, attempt.candidates, identity, nonce, now, previous
            )
        else:
            judged = self._judge.judge(
                evidence, attempt.candidates, identity, nonce, previous, read.key
            )
        return with_log(judged, read_head(host.counters), evidence.heads)

    def _finished(self, attempt: Attempt, judged: Judged, body: bytes, claim: str = "") -> Finished:
        findings = judged.appraisal.findings
        kind = _OUTCOMES[judged.appraisal.verdict] if FAULT not in findings else Outcome.FAULT
        codes = frozenset(finding.code for finding in findings)
        elapsed = time.perf_counter() - attempt.started
        launched = (
            c.manifest.launched for c in attempt.candidates if c.identifier == judged.reference
        )
        at = attempt.now + timedelta(seconds=elapsed)
        self._ledger.count(kind.value)
        return Finished(
            judged,
            claim,
            Result(kind, attempt.begun, at, attempt.version, codes),
            attempt.nonce,
            body,
            any(launched),
            elapsed * 1000,
            judged.head,
        )

    def _identity(self, host: FleetHost) -> TpmIdentity:
        """Return the proven identity of a host; checked anew when the pinned makers change."""
        self._look_at_makers()
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

    def _look_at_makers(self) -> None:
        with self._turn:
            if time.monotonic() - self._looked < MAKERS_SECONDS:
                return
            self._looked = time.monotonic()
            makers = self._anchors.ek_mark()
            if makers != self._makers:
                self._makers = makers
                self._identities.clear()

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


def _refused(error: Exception) -> Appraisal:
    if isinstance(error, CasemateError):
        return Appraisal(Verdict.UNTRUSTED, (error.finding(),))
    return FAULTY.appraisal
