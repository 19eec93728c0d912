"""No order of events makes a failed host trusted without a new good appraisal and, where latched,
an operator."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import PermissionDeniedError, StateError
from casemate.policy.statemachine import (
    TIMING_CODES,
    TRANSITIONS,
    Event,
    HostRecord,
    Outcome,
    Result,
    Settings,
    State,
    Step,
    appraised,
    enrolled,
    identity_conflict,
    operator,
    policy_changed,
    tick,
)

T0 = datetime(2026, 6, 1, tzinfo=UTC)
STRICT, LENIENT = Settings(), Settings(latch=False)


def _at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def _result(
    outcome: Outcome, begun: float, *codes: str, policy: int = 1, took: float = 1
) -> Result:
    return Result(outcome, _at(begun), _at(begun + took), policy, frozenset(codes))


def _trusted(settings: Settings = STRICT) -> HostRecord:
    return appraised(enrolled(T0, 1, approved=True), _result(Outcome.GOOD, 1), settings).record


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(set(row) == set(Event) for row in TRANSITIONS.values())


def test_only_a_good_appraisal_leads_into_trust() -> None:
    for state, row in TRANSITIONS.items():
        for event, target in row.items():
            if target is State.TRUSTED and state is not State.TRUSTED:
                assert event is Event.GOOD
    assert State.TRUSTED not in TRANSITIONS[State.LATCHED].values()
    assert set(TRANSITIONS[State.REMOVED].values()) == {State.REMOVED}


def test_a_latched_host_stays_failed_until_an_operator_clears_it_and_it_is_good_again() -> None:
    bad = appraised(_trusted(), _result(Outcome.BAD, 5, "component-changed"), STRICT)
    assert (bad.record.state, bad.alarm) == (State.LATCHED, True)
    good = appraised(bad.record, _result(Outcome.GOOD, 10), STRICT).record
    assert good.state is State.LATCHED
    clear = operator(good, Event.CLEAR, _at(20), people=("ada",))
    assert (clear.record.state, clear.again) == (State.UNKNOWN, True)
    before = appraised(clear.record, _result(Outcome.GOOD, 19, took=5), STRICT)
    assert (before.record.state, before.again) == (State.UNKNOWN, True)
    after = appraised(clear.record, _result(Outcome.GOOD, 21), STRICT)
    assert after.record.state is State.TRUSTED


def test_without_latching_a_good_appraisal_begun_after_the_failure_is_enough() -> None:
    bad = appraised(_trusted(LENIENT), _result(Outcome.BAD, 5, "x"), LENIENT).record
    assert bad.state is State.FAILED
    assert appraised(bad, _result(Outcome.GOOD, 5.5), LENIENT).record.state is State.FAILED
    assert appraised(bad, _result(Outcome.GOOD, 7), LENIENT).record.state is State.TRUSTED


def test_silence_never_overwrites_a_failure() -> None:
    bad = appraised(_trusted(), _result(Outcome.BAD, 5, "x"), STRICT).record
    for record in (bad, replace(bad, valid_until=_at(6))):
        assert tick(record, _at(10_000)).record.state is State.LATCHED
    silent = tick(_trusted(), _at(10_000))
    assert (silent.record.state, silent.alarm) == (State.EXPIRED, True)
    assert tick(_trusted(), _at(10)).record.state is State.TRUSTED


def test_a_race_is_asked_again_three_times_then_it_is_bad() -> None:
    record = _trusted()
    for attempt in range(3):
        step = appraised(record, _result(Outcome.BAD, 5 + attempt, "quote-behind-log"), STRICT)
        assert (step.record.state, step.again) == (State.TRUSTED, True)
        record = step.record
    final = appraised(record, _result(Outcome.BAD, 9, "quote-behind-log"), STRICT)
    assert final.record.state is State.LATCHED


def test_a_race_beside_another_finding_is_no_race() -> None:
    step = appraised(_trusted(), _result(Outcome.BAD, 5, "log-incomplete", "stale-nonce"), STRICT)
    assert step.record.state is State.LATCHED
    alone = appraised(_trusted(), _result(Outcome.BAD, 5, "log-event-removed"), STRICT)
    assert alone.record.state is State.LATCHED
    ended = _result(Outcome.BAD, 5, "log-event-removed", "log-incomplete")
    assert appraised(_trusted(), ended, STRICT).again
    assert appraised(_trusted(), _result(Outcome.BAD, 5), STRICT).record.state is State.LATCHED


def test_a_fault_of_the_verifier_is_an_alarm_and_never_trust() -> None:
    step = appraised(_trusted(), _result(Outcome.FAULT, 5), STRICT)
    assert (step.record.state, step.alarm, step.again) == (State.ERROR, True, True)
    bad = appraised(_trusted(), _result(Outcome.BAD, 5, "x"), STRICT).record
    assert appraised(bad, _result(Outcome.FAULT, 9), STRICT).record.state is State.LATCHED


def test_results_under_another_policy_are_asked_again() -> None:
    changed = policy_changed(_trusted(), 2)
    assert (changed.record.state, changed.again) == (State.TRUSTED, True)
    for outcome in Outcome:
        step = appraised(changed.record, _result(outcome, 5, "x"), STRICT)
        assert (step.record, step.again) == (changed.record, True)
    fresh = appraised(changed.record, _result(Outcome.BAD, 5, "x", policy=2), STRICT)
    assert fresh.record.state is State.LATCHED


def test_nothing_raises_a_removed_host() -> None:
    gone = operator(_trusted(), Event.REMOVE, _at(5), people=("ada",)).record
    assert gone.state is State.REMOVED
    for outcome in Outcome:
        assert appraised(gone, _result(outcome, 6, "x"), STRICT).record is gone
    assert identity_conflict(gone, _at(7)).record.state is State.REMOVED
    with pytest.raises(StateError):
        operator(gone, Event.REENROL, _at(8), people=("ada", "bob"))


def test_an_unapproved_host_is_never_trusted() -> None:
    waiting = enrolled(T0, 1)
    assert appraised(waiting, _result(Outcome.GOOD, 5), STRICT).record.state is State.PENDING
    assert operator(waiting, Event.APPROVE, _at(6), people=("ada",)).record.state is State.UNKNOWN


def test_another_tpm_latches_and_needs_two_people() -> None:
    step = identity_conflict(_trusted(), _at(5))
    assert (step.record.state, step.alarm) == (State.LATCHED, True)
    for people in ((), ("ada",), ("ada", "ada")):
        with pytest.raises(PermissionDeniedError) as caught:
            operator(step.record, Event.REENROL, _at(6), people=people)
        assert caught.value.code == "two-people"
    again = operator(step.record, Event.REENROL, _at(6), people=("ada", "bob"))
    assert again.record.state is State.UNKNOWN


def test_operators_cannot_say_what_means_nothing() -> None:
    for event in (Event.GOOD, Event.CLEAR, Event.APPROVE):
        with pytest.raises(StateError):
            operator(_trusted(), event, _at(5), people=("ada",))


RESULTS = st.tuples(
    st.sampled_from(Outcome),
    st.integers(-5, 0),
    st.integers(1, 2),
    st.sets(st.sampled_from([*sorted(TIMING_CODES), "x"]), max_size=2),
)
HAPPENINGS = st.lists(
    RESULTS | st.sampled_from([*(e for e in Event), "tick", "conflict", "policy"]),
    max_size=40,
)


@given(HAPPENINGS, st.booleans())
def test_no_order_of_events_restores_trust_without_what_it_needs(
    happenings: list[object], latch: bool
) -> None:
    settings = Settings(latch=latch)
    record = enrolled(T0, 1, approved=True)
    failed_at: datetime | None = None
    needs_operator = False
    cleared_at: datetime | None = None
    for number, happening in enumerate(happenings):
        now = _at(10 * number)
        result: Result | None = None
        step: Step
        if isinstance(happening, tuple):
            outcome, back, policy, codes = happening
            result = Result(outcome, now + timedelta(seconds=back), now, policy, frozenset(codes))
            step = appraised(record, result, settings)
        elif happening == "tick":
            step = tick(record, now)
        elif happening == "conflict":
            step = identity_conflict(record, now)
        elif happening == "policy":
            step = policy_changed(record, 3 - record.policy)
        else:
            try:
                step = operator(record, Event(str(happening)), now, people=("ada", "bob"))
            except StateError:
                continue
            cleared_at = now
            needs_operator = False
        before, record = record, step.record
        if record.state in {State.FAILED, State.LATCHED} and before.state is not record.state:
            failed_at = now
            needs_operator = record.state is State.LATCHED
        if record.state is State.TRUSTED and before.state is not State.TRUSTED:
            assert result is not None
            assert result.outcome is Outcome.GOOD
            assert result.policy == record.policy
            assert not needs_operator
            assert failed_at is None or result.begun >= failed_at
            assert cleared_at is None or result.begun >= cleared_at
            failed_at = None
