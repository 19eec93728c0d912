"""What a verifier thinks of a host over time: one table of transitions, and few rules on top.

The table says where each state goes on each event; it is complete, so nothing happens by default.
The rules decide which event an occurrence is: a bad appraisal latches where the settings say so, a
race is asked again a few times before it is bad, a result that was begun before the state's barrier
(an operator's word, a failure) or under another policy changes nothing and is asked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from casemate.errors import PermissionDeniedError, StateError

TIMING_CODES: Final = frozenset(
    {"quote-behind-log", "log-behind-quote", "log-incomplete", "audit-unproven"}
)
"""Findings that a race explains (between quote and log, between two rounds); nothing else is ever
asked again."""
TIMING_CONSEQUENCES: Final = frozenset({"log-event-removed", "boot-incomplete"})
"""Findings that a log without its end brings along; they never make a race by themselves."""


class State(StrEnum):
    """States of a host; only TRUSTED means that it may be relied upon."""

    PENDING = "pending"
    UNKNOWN = "unknown"
    TRUSTED = "trusted"
    FAILED = "failed"
    LATCHED = "failed-latched"
    NOT_APPRAISED = "not-appraised"
    EXPIRED = "expired"
    ERROR = "error"
    REMOVED = "removed"


class Event(StrEnum):
    """What can happen to a host."""

    APPROVE = "approve"
    GOOD = "good"
    BAD = "bad"
    LATCH = "latch"
    NO_POLICY = "no-policy"
    FAULT = "fault"
    SILENCE = "silence"
    CLEAR = "clear"
    REENROL = "reenrol"
    REMOVE = "remove"


_S, _E = State, Event
_WAITING: Final[Mapping[Event, State]] = {
    _E.GOOD: _S.TRUSTED,
    _E.BAD: _S.FAILED,
    _E.LATCH: _S.LATCHED,
    _E.NO_POLICY: _S.NOT_APPRAISED,
    _E.FAULT: _S.ERROR,
    _E.REENROL: _S.UNKNOWN,
    _E.REMOVE: _S.REMOVED,
}
_OPERATOR_ONLY: Final[Mapping[Event, State]] = {
    _E.CLEAR: _S.UNKNOWN,
    _E.REENROL: _S.UNKNOWN,
    _E.REMOVE: _S.REMOVED,
}


def _row(state: State, changes: Mapping[Event, State]) -> dict[Event, State]:
    return {event: changes.get(event, state) for event in Event}


TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    _S.PENDING: _row(
        _S.PENDING, {_E.APPROVE: _S.UNKNOWN, _E.LATCH: _S.LATCHED, _E.REMOVE: _S.REMOVED}
    ),
    _S.UNKNOWN: _row(_S.UNKNOWN, _WAITING),
    _S.TRUSTED: _row(_S.TRUSTED, {**_WAITING, _E.SILENCE: _S.EXPIRED}),
    _S.FAILED: _row(_S.FAILED, {**_OPERATOR_ONLY, _E.GOOD: _S.TRUSTED, _E.LATCH: _S.LATCHED}),
    _S.LATCHED: _row(_S.LATCHED, _OPERATOR_ONLY),
    _S.NOT_APPRAISED: _row(_S.NOT_APPRAISED, _WAITING),
    _S.EXPIRED: _row(_S.EXPIRED, _WAITING),
    _S.ERROR: _row(_S.ERROR, _WAITING),
    _S.REMOVED: _row(_S.REMOVED, {}),
}
"""Where each state goes on each event."""


class Outcome(StrEnum):
    """What an appraisal gave."""

    GOOD = "good"
    BAD = "bad"
    NOT_APPRAISED = "not-appraised"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Settings:
    """How strict a fleet is.

    Attributes:
        latch: a failed host stays failed until an operator clears it.
        retries: how often a race is asked again before it counts as bad.
        validity: how long a good appraisal holds; three cadences are usual.
    """

    latch: bool = True
    retries: int = 3
    validity: timedelta = timedelta(minutes=3)


@dataclass(frozen=True, slots=True)
class Result:
    """A finished appraisal.

    ``begun`` is when its nonce was issued, ``at`` when it was done, both by the store's clock;
    ``policy`` is the version that it used; ``codes`` are those of its findings.
    """

    outcome: Outcome
    begun: datetime
    at: datetime
    policy: int
    codes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What is kept of a host.

    ``barrier``: results begun before it do not count. ``policy``: the version now in force.
    ``retries`` counts races in a row.
    """

    state: State
    since: datetime
    barrier: datetime
    policy: int
    valid_until: datetime | None = None
    retries: int = 0
    codes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Step:
    """What follows: the record, whether to ask the host again now, whether to raise an alarm."""

    record: HostRecord
    again: bool = False
    alarm: bool = False


def enrolled(now: datetime, policy: int, *, approved: bool = False) -> HostRecord:
    """Return the record of a host that has just proven its TPM."""
    return HostRecord(State.UNKNOWN if approved else State.PENDING, now, now, policy)


def appraised(record: HostRecord, result: Result, settings: Settings) -> Step:
    """Take in a finished appraisal."""
    if record.state is State.REMOVED:
        return Step(record)
    if result.begun < record.barrier or result.policy != record.policy:
        return Step(record, again=record.state is not State.PENDING)
    if result.outcome is Outcome.BAD and _is_race(result.codes):
        retries = record.retries + 1
        if retries <= settings.retries:
            return Step(replace(record, retries=retries), again=True)
    return _taken(record, result, settings)


def _is_race(codes: frozenset[str]) -> bool:
    return bool(codes & TIMING_CODES) and codes <= TIMING_CODES | TIMING_CONSEQUENCES


def _taken(record: HostRecord, result: Result, settings: Settings) -> Step:
    bad = Event.LATCH if settings.latch and record.state is not State.PENDING else Event.BAD
    event = {
        Outcome.GOOD: Event.GOOD,
        Outcome.BAD: bad,
        Outcome.NOT_APPRAISED: Event.NO_POLICY,
        Outcome.FAULT: Event.FAULT,
    }[result.outcome]
    step = _go(replace(record, retries=0), event, result.at)
    after = step.record
    if after.state is State.TRUSTED:
        after = replace(after, valid_until=result.begun + settings.validity, codes=frozenset())
    elif result.outcome is Outcome.BAD and after.state is not State.PENDING:
        after = replace(after, barrier=result.at, codes=result.codes)
    return Step(after, again=result.outcome is Outcome.FAULT, alarm=step.alarm)


def tick(record: HostRecord, now: datetime) -> Step:
    """Let time pass: trust that has run out becomes ``expired``."""
    if record.valid_until is None or now < record.valid_until:
        return Step(record)
    return _go(record, Event.SILENCE, now)


def identity_conflict(record: HostRecord, now: datetime) -> Step:
    """Somebody used the host's name with another TPM."""
    step = _go(replace(record, codes=frozenset({"identity-conflict"})), Event.LATCH, now)
    return Step(replace(step.record, barrier=now), alarm=record.state is not State.REMOVED)


def policy_changed(record: HostRecord, policy: int) -> Step:
    """Another policy version is in force: the state stays until the host was appraised by it."""
    return Step(replace(record, policy=policy), again=record.state is not State.REMOVED)


def operator(record: HostRecord, event: Event, now: datetime, *, people: tuple[str, ...]) -> Step:
    """Do what an operator asks: approve, clear, reenrol or remove.

    Args:
        record: the host.
        event: one of those four.
        now: by the store's clock.
        people: who says so; a new TPM needs two different people.

    Raises:
        PermissionDeniedError: ``two-people``, or nobody.
        StateError: there is nothing to approve, clear or re-enrol.
    """
    needed = 2 if event is Event.REENROL else 1
    if len(set(people)) < needed:
        error = PermissionDeniedError(
            "a new TPM for a host needs the word of two people", privilege="Verifier.Enrol"
        )
        error.code = "two-people"
        raise error
    target = TRANSITIONS[record.state][event]
    renewed = event is Event.REENROL and record.state is State.UNKNOWN
    if event not in _ASKED or (target is record.state and not renewed):
        raise StateError(f"{event.value} means nothing for a host that is {record.state.value}")
    step = _go(record, event, now)
    after = replace(step.record, barrier=now, retries=0, codes=frozenset(), valid_until=None)
    return Step(after, again=after.state is State.UNKNOWN)


_ASKED: Final = frozenset({Event.APPROVE, Event.CLEAR, Event.REENROL, Event.REMOVE})
_ALARMING: Final = frozenset({State.FAILED, State.LATCHED, State.EXPIRED, State.ERROR})


def _go(record: HostRecord, event: Event, now: datetime) -> Step:
    target = TRANSITIONS[record.state][event]
    if target is record.state:
        return Step(record)
    kept = record.valid_until if target is State.TRUSTED else None
    after = replace(record, state=target, since=now, valid_until=kept)
    return Step(after, alarm=target in _ALARMING)
