"""Which VMs start with the host, in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError
from casemate.machine.autostart import (
    DELAY_LIMIT,
    AutoStartDefaults,
    AutoStartEntry,
    AutoStartFact,
    Turn,
    check_defaults,
    merged,
    starting,
    stopping,
)

ENTRIES = st.builds(
    AutoStartEntry,
    vm=st.integers(1, 9).map(str),
    order=st.integers(-1, 5),
    start_delay=st.integers(-1, 300),
    start_action=st.sampled_from(("none", "powerOn")),
    stop_delay=st.integers(-1, 300),
    stop_action=st.sampled_from(("none", "systemDefault", "powerOff", "suspend", "guestShutdown")),
)


def on(vm: str, order: int, **more: object) -> AutoStartEntry:
    return AutoStartEntry(vm, order, start_action="powerOn", **more)  # type: ignore[arg-type]


def test_vms_start_in_their_order_then_those_without_and_stop_the_other_way_round() -> None:
    entries = (on("1", -1), on("2", 2, start_delay=5), on("3", 1), on("4", 3, stop_action="none"))
    fact = merged(AutoStartFact(AutoStartDefaults(start_delay=9, stop_delay=7)), entries)
    assert starting(fact) == (
        Turn("3", "powerOn", 9),
        Turn("2", "powerOn", 5),
        Turn("4", "powerOn", 9),
        Turn("1", "powerOn", 9),
    )
    assert stopping(fact) == (
        Turn("1", "powerOff", 7),
        Turn("2", "powerOff", 7),
        Turn("3", "powerOff", 7),
    )


@given(st.lists(ENTRIES, max_size=12))
def test_every_vm_has_one_entry_the_last_that_was_given(entries: list[AutoStartEntry]) -> None:
    fact = merged(AutoStartFact(), tuple(entries))
    last = {entry.vm: entry for entry in entries}
    kept = {entry.vm: entry for entry in fact.entries}
    assert len(kept) == len(fact.entries)
    for vm, entry in last.items():
        idle = entry.start_action == "none" and entry.stop_action in {"none", "systemDefault"}
        assert kept.get(vm) == (None if idle else entry)
    started = [turn.vm for turn in starting(fact)]
    orders = [kept[vm].order for vm in started]
    assert orders == sorted(orders, key=lambda order: (order < 0, order))
    assert merged(fact, fact.entries) == fact


@pytest.mark.parametrize(
    "entry",
    [
        on("1", -2),
        on("1", 1 << 20),
        on("1", 1, start_delay=-2),
        on("1", 1, stop_delay=DELAY_LIMIT + 1),
        AutoStartEntry("1", 1, start_action="reboot"),
        on("1", 1, stop_action="explode"),
        on("1", 1, wait_for_heartbeat="maybe"),
    ],
)
def test_what_means_nothing_is_refused(entry: AutoStartEntry) -> None:
    with pytest.raises(ArgumentError):
        merged(AutoStartFact(), (entry,))


@pytest.mark.parametrize(
    "changes",
    [{"start_delay": -1}, {"stop_delay": DELAY_LIMIT + 1}, {"stop_action": "systemDefault"}],
)
def test_defaults_are_whole(changes: dict[str, object]) -> None:
    check_defaults(AutoStartDefaults())
    with pytest.raises(ArgumentError):
        check_defaults(replace(AutoStartDefaults(), **changes))
