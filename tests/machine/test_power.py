"""The table of power states keeps the rules written on top of it."""

from __future__ import annotations

import pytest

from casemate.errors import PowerStateError
from casemate.machine.facts import PowerState
from casemate.machine.power import TRANSITIONS, Operation, next_state

GUEST_NEEDED = {
    Operation.RESET,
    Operation.SUSPEND,
    Operation.SHUTDOWN_GUEST,
    Operation.REBOOT_GUEST,
}


@pytest.mark.parametrize("operation", list(Operation))
@pytest.mark.parametrize("state", list(PowerState))
def test_every_pair_is_a_state_or_a_refusal_with_both_states(operation, state):
    possible = TRANSITIONS[operation]
    if state in possible:
        assert next_state(operation, state) == possible[state]
        return
    with pytest.raises(PowerStateError) as caught:
        next_state(operation, state, component="7")
    assert caught.value.existing == state
    assert PowerState(caught.value.requested) in possible
    assert caught.value.component == "7"


def test_only_a_running_guest_is_asked_anything():
    for operation in GUEST_NEEDED:
        assert set(TRANSITIONS[operation]) == {PowerState.POWERED_ON}


def test_what_runs_is_neither_forgotten_nor_destroyed():
    for operation in (Operation.UNREGISTER, Operation.DESTROY, Operation.POWER_ON):
        assert PowerState.POWERED_ON not in TRANSITIONS[operation]


def test_every_operation_is_in_the_table():
    assert set(TRANSITIONS) == set(Operation)
