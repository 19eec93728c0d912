"""Boot banks: whatever happened before, the host boots an image that works, or says why not."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import BootError, Finding, StateError
from casemate.formats.bootcfg import BootCfg, BootState
from casemate.policy.banks import (
    Bank,
    after_failure,
    mark_complete,
    mark_tried,
    next_state,
    plan_boot,
    plan_image,
    plan_rollback,
    stage,
)

VALID, UPGRADING, DIRTY, INVALID, UNDEFINED = (
    BootState.VALID,
    BootState.UPGRADING,
    BootState.DIRTY,
    BootState.INVALID,
    BootState.UNDEFINED,
)
BROKEN = Finding("bootcfg-line", "altbootbank", "It is not text.", "Install it again.")
FAILURE = Finding("payload-changed", "k.b00", "Payload k is not what was signed.", "Do not use it.")


def bank(name: str, state: BootState = VALID, updated: int = 1) -> Bank:
    return Bank(name, BootCfg("b.b00", updated=updated, bootstate=state))


def two(first: BootState, second: BootState) -> tuple[Bank, Bank]:
    """Two banks; the first is the newer."""
    return bank("bootbank", first, 2), bank("altbootbank", second, 1)


# (newer, older) -> what boots, and the states that are written first
TABLE = {
    (VALID, VALID): ("bootbank", {}),
    (VALID, UPGRADING): ("bootbank", {}),
    (VALID, DIRTY): ("bootbank", {"altbootbank": INVALID}),
    (VALID, INVALID): ("bootbank", {}),
    (UPGRADING, VALID): ("bootbank", {"bootbank": DIRTY}),
    (UPGRADING, UPGRADING): ("bootbank", {"bootbank": DIRTY}),
    (UPGRADING, DIRTY): ("bootbank", {"bootbank": DIRTY, "altbootbank": INVALID}),
    (UPGRADING, INVALID): ("bootbank", {"bootbank": DIRTY}),
    (DIRTY, VALID): ("altbootbank", {"bootbank": INVALID}),
    (DIRTY, UPGRADING): ("altbootbank", {"bootbank": INVALID, "altbootbank": DIRTY}),
    (DIRTY, DIRTY): (None, {}),
    (DIRTY, INVALID): (None, {}),
    (INVALID, VALID): ("altbootbank", {}),
    (INVALID, UPGRADING): ("altbootbank", {"altbootbank": DIRTY}),
    (INVALID, DIRTY): (None, {}),
    (INVALID, INVALID): (None, {}),
    (UNDEFINED, VALID): ("altbootbank", {}),
    (UNDEFINED, UNDEFINED): (None, {}),
}


@pytest.mark.parametrize(("newer", "older"), TABLE)
def test_what_boots_and_what_is_written_first(newer, older):
    chosen, states = TABLE[newer, older]
    if chosen is None:
        with pytest.raises(BootError) as caught:
            plan_boot(two(newer, older))
        assert caught.value.code == "no-bank"
        assert "bootbank:" in caught.value.reason
        assert "altbootbank:" in caught.value.reason
        return
    plan = plan_boot(two(newer, older))
    assert plan.bank.name == chosen
    assert dict(plan.states) == states


def test_the_table_knows_every_pair_of_real_states():
    real = [VALID, UPGRADING, DIRTY, INVALID]
    assert {pair for pair in TABLE if UNDEFINED not in pair} == set(product(real, real))


@pytest.mark.parametrize(
    ("state", "then"),
    [(VALID, VALID), (UPGRADING, DIRTY), (DIRTY, INVALID), (INVALID, INVALID)],
)
def test_states_only_get_worse_until_a_boot_completes(state, then):
    assert next_state(state) is then
    assert mark_complete(BootCfg("b.b00", bootstate=then)).bootstate is VALID


def test_a_bank_without_bootcfg_is_passed_over_with_its_reason():
    plan = plan_boot([Bank("altbootbank", None, BROKEN), bank("bootbank")])
    assert plan.bank.name == "bootbank"
    assert plan.findings == (BROKEN,)


def test_two_unreadable_banks_give_both_reasons():
    other = replace(BROKEN, component="bootbank", reason="It is missing.")
    with pytest.raises(BootError) as caught:
        plan_boot([Bank("altbootbank", None, BROKEN), Bank("bootbank", None, other)])
    assert "altbootbank: It is not text." in caught.value.reason
    assert "bootbank: It is missing." in caught.value.reason


def test_no_bank_at_all_is_said():
    with pytest.raises(BootError) as caught:
        plan_boot([])
    assert caught.value.remedy


def test_a_bank_that_was_never_installed_does_not_boot():
    plan = plan_boot([bank("altbootbank", VALID, 0), bank("bootbank", VALID, 1)])
    assert plan.bank.name == "bootbank"
    assert plan.others == ()


def test_a_new_image_that_fails_at_once_is_invalid_and_the_old_one_boots():
    plan = after_failure(plan_boot(two(UPGRADING, VALID)), FAILURE)
    assert plan.bank.name == "altbootbank"
    assert dict(plan.states) == {"bootbank": INVALID}
    assert [(f.code, f.component) for f in plan.findings] == [("payload-changed", "bootbank")]


def test_an_image_that_once_worked_stays_valid_when_it_fails():
    plan = after_failure(plan_boot(two(VALID, VALID)), FAILURE)
    assert plan.bank.name == "altbootbank"
    assert plan.states == ()


def test_when_the_second_bank_fails_too_both_reasons_are_given():
    plan = after_failure(plan_boot(two(VALID, VALID)), FAILURE)
    with pytest.raises(BootError) as caught:
        after_failure(plan, replace(FAILURE, reason="The clock is wrong."))
    assert FAILURE.reason in caught.value.reason
    assert "The clock is wrong." in caught.value.reason


def test_a_rollback_makes_the_other_bank_boot_next():
    banks = two(VALID, VALID)
    plan = plan_rollback(banks, "bootbank")
    assert plan.bank.name == "altbootbank"
    assert plan_boot(written(banks, plan.states)).bank.name == "altbootbank"


@pytest.mark.parametrize("state", [DIRTY, INVALID])
def test_a_rollback_to_nothing_is_refused(state):
    with pytest.raises(StateError) as caught:
        plan_rollback(two(VALID, state), "bootbank")
    assert caught.value.code == "no-rollback"


def test_a_new_image_goes_to_the_bank_that_does_not_run():
    banks = two(VALID, VALID)
    name, config = stage(banks, "bootbank", BootCfg("b.b00"))
    assert (name, config.updated, config.bootstate) == ("altbootbank", 3, UPGRADING)


def test_a_single_bank_cannot_be_upgraded():
    with pytest.raises(StateError):
        stage([bank("bootbank")], "bootbank", BootCfg("b.b00"))


def written(banks, states) -> list[Bank]:
    """The banks after the states were written."""
    new = dict(states)
    return [
        replace(one, config=replace(one.config, bootstate=new[one.name]))
        if one.name in new and one.config
        else one
        for one in banks
    ]


@given(st.integers(0, 10))
def test_an_upgrade_that_crashes_at_any_boot_never_leaves_the_host_without_an_image(crashes):
    """Boot again and again; the new image never completes, the old one always does."""
    banks = list(two(UPGRADING, VALID))
    booted = []
    for _ in range(crashes + 1):
        plan = plan_boot(banks)
        banks = written(banks, plan.states)
        booted.append(plan.bank.name)
    assert booted.count("bootbank") == 1
    assert booted[1:] == ["altbootbank"] * crashes


@given(
    st.lists(
        st.builds(
            bank,
            st.sampled_from(["bootbank", "altbootbank", "third"]),
            st.sampled_from(BootState),
            st.integers(0, 5),
        ),
        max_size=3,
        unique_by=lambda one: one.name,
    )
)
def test_what_boots_is_the_newest_that_may(banks):
    usable = [one for one in banks if one.config.bootstate in {VALID, UPGRADING}]
    usable = [one for one in usable if one.config.updated > 0]
    if not usable:
        with pytest.raises(BootError):
            plan_boot(banks)
        return
    plan = plan_boot(banks)
    assert plan.bank.config.updated == max(one.config.updated for one in usable)
    assert {plan.bank, *plan.others} == set(usable)
    assert len(plan.findings) == len(banks) - len(usable)


def images(first: str, second: str) -> dict[str, str]:
    return {"bootbank": first, "altbootbank": second}


def test_a_bank_with_another_boot_image_is_booted_by_that_one() -> None:
    banks = two(UPGRADING, VALID)
    chosen = plan_image(banks, images("new", "old"), "old")
    assert (chosen.plan.bank.name, chosen.start, chosen.failed) == ("bootbank", True, ())
    chosen = plan_image(banks, images("new", "old"), "new")
    assert (chosen.plan.bank.name, chosen.start) == ("bootbank", False)
    assert chosen.plan.states == (("bootbank", DIRTY),)


def test_a_boot_image_that_was_asked_for_and_did_not_start_gives_way_after_a_clean_restart() -> (
    None
):
    new, old = two(UPGRADING, VALID)
    assert new.config is not None
    tried = replace(new, config=mark_tried(mark_tried(new.config)))
    assert tried.config is not None
    assert tried.config.extra == (("imagetried", "1"),)
    chosen = plan_image((tried, old), images("new", "old"), "old")
    assert (chosen.plan.bank.name, chosen.start, chosen.failed) == (
        "altbootbank",
        True,
        ("bootbank",),
    )


def test_a_complete_boot_forgets_that_its_image_was_asked_for() -> None:
    config = mark_tried(BootCfg("b.b00", updated=1, bootstate=DIRTY, extra=(("crypto", "1"),)))
    assert mark_complete(config).extra == (("crypto", "1"),)


def test_a_bank_without_a_boot_image_is_booted_by_any() -> None:
    assert not plan_image(two(VALID, VALID), {}, "old").start
    assert not plan_image(two(VALID, VALID), images("", "old"), "old").start


@given(
    st.sampled_from([VALID, UPGRADING, DIRTY, INVALID, UNDEFINED]),
    st.sampled_from([VALID, UPGRADING, DIRTY, INVALID, UNDEFINED]),
    st.tuples(st.sampled_from(["", "one", "two", "dead"]), st.sampled_from(["", "one", "two"])),
    st.sampled_from(["one", "two", "removable"]),
)
def test_however_the_images_lie_a_machine_comes_to_rest(
    first: BootState, second: BootState, lie: tuple[str, str], running: str
) -> None:
    """Restarts end: in a bank booted by its own image, or with the reason why none can be.

    Firmware starts what it was told, but for the image "dead", which it refuses.
    """
    banks = {one.name: one for one in two(first, second)}
    for _ in range(6):
        try:
            chosen = plan_image(tuple(banks.values()), images(*lie), running)
        except BootError:
            return
        name = chosen.plan.bank.name
        own = images(*lie)[name]
        if not chosen.start:
            assert own in ("", running)
            return
        for failed in chosen.failed:
            config = banks[failed].config
            assert config is not None
            banks[failed] = Bank(failed, replace(config, bootstate=INVALID))
        config = banks[name].config
        assert config is not None
        banks[name] = Bank(name, mark_tried(config))
        running = running if own in ("", "dead") else own
    pytest.fail("the machine restarts for ever")
