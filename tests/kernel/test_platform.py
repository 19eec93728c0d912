"""Sysctls are set to the baseline, and put back exactly."""

from __future__ import annotations

import pytest

from casemate.errors import FormatError, NotFoundError
from casemate.kernel import platform
from casemate.policy.platform import SYSCTLS


@pytest.fixture
def machine(tmp_path):
    """A tree that stands for /, with every sysctl weak."""
    for sysctl in SYSCTLS:
        place = tmp_path / sysctl.path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("1\n" if sysctl.exact else "0\n")
    return tmp_path


def values(root):
    return {s.path: (root / s.path.lstrip("/")).read_text().strip() for s in SYSCTLS}


def test_the_baseline_is_set_and_put_back(machine):
    record, before = machine / "record", values(machine)
    changed = platform.apply(record, machine)
    assert changed.keys() == before.keys()
    assert all(s.good(int(values(machine)[s.path])) for s in SYSCTLS)
    assert platform.undo(record, machine) == before
    assert values(machine) == before


def test_a_second_run_does_not_forget_what_was_there_first(machine):
    record, before = machine / "record", values(machine)
    platform.apply(record, machine)
    platform.apply(record, machine)
    platform.undo(record, machine)
    assert values(machine) == before


def test_nothing_is_put_back_where_nothing_was_set(machine):
    with pytest.raises(NotFoundError):
        platform.undo(machine / "record", machine)


def test_a_record_cannot_make_undo_write_elsewhere(machine):
    record, victim = machine / "record", machine / "victim"
    victim.write_text("7")
    record.write_text('{"/victim": "1"}')
    assert platform.undo(record, machine) == {}
    assert victim.read_text() == "7"


def test_a_damaged_record_is_refused(machine):
    (machine / "record").write_text("[1]")
    with pytest.raises(FormatError):
        platform.undo(machine / "record", machine)
