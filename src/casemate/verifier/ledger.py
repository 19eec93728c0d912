"""Writing down what a round gave: the host's new state, the round itself, alarms, the audit log.

The state of a host is decided by ``policy.statemachine`` on the record as it stands when the
result is written, not as it stood when the round began: an operator's word in between counts.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from casemate.errors import CasemateError, HostError
from casemate.machine.fleet import FleetHost, Mode, Round
from casemate.policy.statemachine import (
    HostRecord,
    Outcome,
    Settings,
    State,
    Step,
    appraised,
    identity_conflict,
    policy_changed,
    tick,
)
from casemate.policy.tpmidentity import TpmIdentity
from casemate.verifier import alarmstore, audit, nonces, roundstore, store
from casemate.verifier.alarms import Notifier
from casemate.verifier.database import Database, Transaction
from casemate.verifier.outbox import Notice
from casemate.verifier.packing import Packer
from casemate.verifier.records import moment, read_record, write_counters, write_record
from casemate.verifier.results import FAULT, Done, Entry, Finished, Results, at_fault, told

JITTER = 0.2
"""Share of the cadence by which the next round may come earlier, so that no herd forms."""

DUE_FACTOR = 3
"""Cadences without a good round after which trust runs out."""

THINNING = 0.1
"""Share of the rounds after which old ones are thinned out."""

RACES = 8
"""Tries to write a result down while others write to the same host."""

_LOG = logging.getLogger("verifier.ledger")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a round, the ``number``-th of those that are written, makes of its host."""

    number: int
    change: store.Change
    taken: Step
    record: HostRecord


class _SpentError(Exception):
    """These nonces were spent meanwhile."""

    def __init__(self, nonces: set[bytes]) -> None:
        super().__init__()
        self.nonces = nonces


class Ledger:
    """Writes results down, from any thread."""

    def __init__(self, database: Database, notifier: Notifier, *, latch: bool = True) -> None:
        self._database = database
        self._notifier = notifier
        self._latch = latch
        self._turn = threading.Lock()
        self._random = random.Random()  # noqa: S311 (jitter keeps no secret)
        self._packer = Packer()
        self._results = Results()
        self.counts: dict[str, int] = {}

    def count(self, name: str) -> None:
        """Count a round for the metrics."""
        with self._turn:
            self.counts[name] = self.counts.get(name, 0) + 1

    def pause(self, host: FleetHost) -> float:
        """Return the seconds until a host's next round: its cadence at most."""
        return host.cadence * self._random.uniform(1 - JITTER, 1)

    def write(self, rounds: Sequence[Entry]) -> list[Done | CasemateError]:
        """Write finished rounds down together, and say how each ended, once that is for good.

        A host that has changed since it was read is read again. A round that cannot be written
        for what is in it is written as a fault, and the others as they are. An error stands for
        a round that was not written: ``nonce-reused``, ``fault``, or too many that write to the
        host. Raises HostError (the store).
        """
        done: list[Done | CasemateError | None] = [None] * len(rounds)
        for turn in range(RACES):
            left = [n for n, one in enumerate(done) if one is None]
            if not left:
                break
            try:
                self._write_some(rounds, left, done, again=turn > 0)
            except _SpentError as error:
                for n in left:
                    if rounds[n].outcome.nonce in error.nonces:
                        done[n] = nonces.spent()
            except CasemateError:
                raise
            except Exception:  # noqa: BLE001 (what one host sent must not cost others their rounds)
                for n in left:
                    done[n] = self._apart(rounds[n], alone=len(left) == 1)
        return [
            HostError(f"too many write to {entry.host.name} at once", component=entry.host.name)
            if one is None
            else one
            for entry, one in zip(rounds, done, strict=True)
        ]

    def _apart(self, entry: Entry, *, alone: bool) -> Done | CasemateError:
        """Write a round by itself; one that was alone and failed, as a fault of the verifier."""
        if not alone:
            return self.write([entry])[0]
        _LOG.exception("the round of %s cannot be written", entry.host.name)
        if FAULT in entry.outcome.judged.appraisal.findings:
            return HostError(FAULT.reason, code=FAULT.code, component=entry.host.name)
        self.count(Outcome.FAULT.value)
        (done,) = self.write([at_fault(entry)])
        # Asked again at once it would fail again.
        return replace(done, again=False) if isinstance(done, Done) else done

    def _write_some(
        self,
        rounds: Sequence[Entry],
        left: list[int],
        done: list[Done | CasemateError | None],
        *,
        again: bool,
    ) -> None:
        """Write in one transaction what still can be written, and what others are to hear."""
        ended: dict[int, Done] = {}
        notices: list[Notice] = []
        with self._database.transaction() as step:
            entries = {n: rounds[n] for n in left}
            if again:
                names = [one.host.name for one in entries.values()]
                now = {one.host.name: one for one in store.currents(step, "name", names)}
                for n, one in entries.items():
                    found = now.get(one.host.name)
                    if found is None or not _still_ours(one.host, found.host):
                        ended[n] = Done(State.REMOVED, again=False, sentence="the lease was lost")
                        continue
                    entries[n] = replace(one, host=found.host, version=found.version)
            first = {one.host.name: n for n, one in reversed(entries.items()) if n not in ended}
            plans = {  # of two rounds of one host the later waits for the next transaction
                name: _Plan(n, *self._planned(step, entries[n])) for name, n in first.items()
            }
            written = store.write_judged(step, [plan.change for plan in plans.values()])
            kept = [plans[name] for name in sorted(written)]
            self._keep(step, [(p.change.after, entries[p.number].outcome) for p in kept])
            for plan in kept:
                after, taken = plan.change.after, plan.taken
                notices += self._alarm(step, after, taken, plan.record)
                ended[plan.number] = Done(taken.record.state, taken.again, after.verdict)
            self._notifier.tell(step, notices)
        for number, ending in ended.items():
            done[number] = ending

    def _planned(self, step: Transaction, entry: Entry) -> tuple[store.Change, Step, HostRecord]:
        host, outcome = entry.host, entry.outcome
        record = _at(read_record(host.record), entry.version)
        settings = Settings(
            latch=self._latch, validity=timedelta(seconds=DUE_FACTOR * host.cadence)
        )
        taken = appraised(record, outcome.result, settings)
        after = self._after(step, host, taken, outcome)
        return store.Change(host, entry.version, after), taken, record

    def _after(
        self, step: Transaction, host: FleetHost, taken: Step, outcome: Finished
    ) -> FleetHost:
        now = step.now()
        trusted = outcome.good and taken.record.state is State.TRUSTED
        clock = outcome.judged.appraisal.clock
        return replace(
            host,
            state=taken.record.state.value,
            record=write_record(taken.record),
            identity=outcome.claim or host.identity,
            next_due=now + self.pause(host) if host.mode == Mode.PULL else host.next_due,
            last_tried=now,
            last_good=now if trusted else host.last_good,
            policy=outcome.result.policy,
            reference=outcome.judged.reference or host.reference,
            verdict=told(taken.record, outcome),
            counters=write_counters(clock, outcome.head) if outcome.good else host.counters,
        )

    def _keep(self, step: Transaction, rounds: Sequence[tuple[FleetHost, Finished]]) -> None:
        """Keep what was judged. Raises _SpentError: then nothing of the transaction counts."""
        if not rounds:
            return
        made = [
            Round(
                0,
                host.name,
                outcome.result.at.timestamp(),
                outcome.result.outcome.value,
                host.state,
                outcome.judged.reference,
                outcome.result.policy,
                outcome.millis,
                outcome.nonce,
                self._results.written(outcome),
                outcome.reply,
            )
            for host, outcome in rounds
        ]
        fresh = roundstore.add_rounds(step, made, self._packer)
        if len(fresh) < len(made):
            raise _SpentError({one.nonce for one in made} - fresh)
        for one in made:
            if self._random.random() < THINNING:
                roundstore.thin_out(step, one.host)

    def _alarm(
        self, step: Transaction, host: FleetHost, taken: Step, before: HostRecord
    ) -> list[Notice]:
        """Raise or end alarms; returns what others are to hear of it."""
        state = taken.record.state
        if state is before.state:
            return []
        notice = Notice(host.name, state.value, host.verdict, step.now())
        if taken.alarm:
            new = alarmstore.raise_alarm(step, host.name, state.value, host.verdict)
            return [notice] if new else []
        if state is State.TRUSTED:
            alarmstore.clear_alarms(step, host.name)
            return [notice]
        return []

    def _raise(self, step: Transaction, name: str, code: str, sentence: str) -> None:
        if alarmstore.raise_alarm(step, name, code, sentence):
            self._notifier.tell(step, [Notice(name, code, sentence, step.now())])

    def silent(self, host: FleetHost, error: CasemateError) -> Done:
        """Note that a host gave no answer: that is no verdict, but trust runs out."""
        with self._database.transaction() as step:
            current = store.find_host(step, host.name)
            if current is None or not _still_ours(host, current):
                return Done(State.REMOVED, again=False, sentence="the lease was lost")
            now = step.now()
            record = read_record(current.record)
            taken = tick(record, moment(now))
            after = replace(
                current,
                state=taken.record.state.value,
                record=write_record(taken.record),
                last_tried=now,
                next_due=now + self.pause(current),
                verdict=host.verdict if record.codes else f"no answer: {error.reason}",
            )
            store.update_host(step, current, after)
            if taken.alarm:
                self._raise(step, host.name, after.state, after.verdict)
            self.count("silent")
            return Done(taken.record.state, again=False, sentence=after.verdict, silent=True)

    def conflict(self, host: FleetHost, identity: TpmIdentity) -> Done:
        """Latch a host whose name another TPM uses."""
        sentence_ = (
            f"identity-conflict: enrolled with TPM {host.ek[:16]}, answered by "
            f"{identity.fingerprint[:16]}"
        )
        with self._database.exclusive("audit") as step:
            current = store.get_host(step, host.name)
            now = step.now()
            taken = identity_conflict(read_record(current.record), moment(now))
            after = replace(
                current,
                state=taken.record.state.value,
                record=write_record(taken.record),
                last_tried=now,
                next_due=now + current.cadence,
                verdict=sentence_,
            )
            store.update_host(step, current, after)
            self._raise(step, host.name, "identity-conflict", sentence_)
            if host.state != after.state:
                audit.append(step, "verifier", "identity-conflict", host.name, sentence_)
        return Done(taken.record.state, again=False, sentence=sentence_)

    def expire(self) -> int:
        """Let trust run out where no good round has renewed it; returns how many hosts."""
        with self._database.transaction() as step:
            found = store.overdue(step)
        return sum(map(self._expire, found))  # one by one: none holds up another's round

    def _expire(self, host: FleetHost) -> bool:
        with self._database.transaction() as step:
            taken = tick(read_record(host.record), moment(step.now()))
            if taken.record.state is State.TRUSTED:
                return False
            last = f"last good round {moment(host.last_good):%Y-%m-%d %H:%M:%S} UTC"
            after = replace(
                host,
                state=taken.record.state.value,
                record=write_record(taken.record),
                verdict=f"silent: nothing good was heard in time; {last}",
            )
            if not store.update_host(step, host, after):
                return False
            self._raise(step, host.name, after.state, after.verdict)
            return True


def _still_ours(leased: FleetHost, current: FleetHost) -> bool:
    return leased.mode != Mode.PULL or leased.lease_owner == current.lease_owner


def _at(record: HostRecord, version: int) -> HostRecord:
    return record if record.policy == version else policy_changed(record, version).record
