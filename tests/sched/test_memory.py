"""Memory states do not flap, and the minimum to keep free is exact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.sched.memory import (
    GIB,
    MIB,
    QEMU_KVM,
    QEMU_TCG,
    MemoryState,
    minimum_free,
    next_state,
    swap_size,
    threshold,
)

MINIMUM = 1000 * MIB
STATES = st.sampled_from(MemoryState)


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 40))
def test_a_larger_host_keeps_more_free_but_a_smaller_part(total, more):
    assert minimum_free(total) <= minimum_free(total + more)
    assert minimum_free(total) * 100 <= total * 6
    if total:
        assert minimum_free(total + more) * total <= (minimum_free(total) + 1) * (total + more)


@given(STATES, st.integers(0, 2 * MINIMUM))
def test_a_state_is_stable_while_free_memory_is(state, free):
    once = next_state(state, free, MINIMUM)
    assert next_state(once, free, MINIMUM) == once


@given(STATES, st.integers(0, 2 * MINIMUM), st.integers(0, MINIMUM))
def test_more_free_memory_is_never_a_worse_state(state, free, more):
    assert next_state(state, free + more, MINIMUM) <= next_state(state, free, MINIMUM)


@given(STATES, st.integers(0, 2 * MINIMUM))
def test_history_only_ever_delays_recovery(state, free):
    assert next_state(MemoryState.HIGH, free, MINIMUM) <= next_state(state, free, MINIMUM)


def test_a_worse_state_is_entered_at_once_and_left_only_with_a_margin():
    soft = threshold(MINIMUM, MemoryState.SOFT)
    assert next_state(MemoryState.HIGH, soft - 1, MINIMUM) is MemoryState.SOFT
    assert next_state(MemoryState.HIGH, soft, MINIMUM) is MemoryState.CLEAR
    assert next_state(MemoryState.SOFT, soft + 7 * MINIMUM // 100, MINIMUM) is MemoryState.SOFT
    assert next_state(MemoryState.SOFT, soft + 8 * MINIMUM // 100, MINIMUM) is MemoryState.CLEAR
    assert next_state(MemoryState.HIGH, 0, MINIMUM) is MemoryState.LOW
    assert next_state(MemoryState.LOW, 2 * MINIMUM, MINIMUM) is MemoryState.HIGH


def test_the_best_state_has_no_threshold():
    assert threshold(MINIMUM, MemoryState.HIGH) == 0


@pytest.mark.parametrize(("model", "least"), [(QEMU_KVM, 31), (QEMU_TCG, 104)])
def test_reserved_overhead_is_never_below_what_was_measured(model, least):
    assert model.reserve(1, 256) >= least * MIB
    assert model.reserve(2, 256) > model.reserve(1, 256)
    assert 0 <= model.reserve(1, 512) - model.estimate(1, 512) * MIB < 1


def test_a_fully_reserved_vm_needs_no_swap():
    assert swap_size(4 * GIB, 4 * GIB) == 0
    assert swap_size(4 * GIB, 5 * GIB) == 0
