"""No process of a host is planned without one of its walls."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.machine.callfilters import FRONT_END, NEVER, PRIVILEGED
from casemate.machine.domains import DOMAINS, SUPER, Enforcement, Wall, domain_named
from casemate.machine.processplan import (
    HOSTD,
    PLANS,
    FileRule,
    audit_process,
    plan_named,
    swtpm_plan,
)

PATHS = st.from_regex(r"/[a-z0-9]{1,40}", fullmatch=True)
EVERY = st.sampled_from(PLANS) | st.builds(swtpm_plan, PATHS, PATHS)


@given(EVERY)
def test_no_plan_lacks_a_wall(plan):
    assert audit_process(plan) == ()
    assert plan.domain.walls <= plan.walls
    assert plan.core_bytes == 0


@given(EVERY, st.data())
def test_a_plan_without_any_one_wall_is_refused(plan, data):
    wall = data.draw(st.sampled_from(sorted(plan.domain.walls)))
    assert audit_process(replace(plan, walls=plan.walls - {wall}))


@pytest.mark.parametrize(
    "change",
    [
        {"calls": None},
        {"calls": replace(PRIVILEGED, refused=NEVER[1:])},
        {"calls": replace(FRONT_END, allowed=(*FRONT_END.allowed, "execve"))},
        {"files": ()},
        {"files": (FileRule("/"),)},
        {"files": (FileRule("/tmp", run=True, change=True),)},
        {"uid": 0},
        {"uid": None},
        {"core_bytes": 1},
        {"file_bytes": 0},
    ],
)
def test_a_weaker_plan_is_refused(change):
    assert audit_process(replace(HOSTD, **change))


def test_every_process_has_what_no_process_is_without():
    for domain in DOMAINS:
        assert {
            Wall.NO_NEW_PRIVILEGES,
            Wall.NO_WRITABLE_CODE,
            Wall.NO_EXECUTABLE_MEMFD,
            Wall.RANDOM_ADDRESSES,
            Wall.NOT_DUMPABLE,
            Wall.CALL_FILTER,
        } <= domain.walls


def test_only_the_privileged_domain_keeps_capabilities():
    assert [d.name for d in DOMAINS if Wall.NO_CAPABILITIES not in d.walls] == [SUPER.name]


def test_what_faces_strangers_is_enforced():
    for name in ("regularVMDom", "hostdDom"):
        domain = domain_named(name)
        assert domain is not None
        assert domain.enforcement is Enforcement.ENFORCING


def test_hostd_can_start_nothing():
    starters = {"execve", "execveat", "fork", "vfork", "clone", "clone3", "unshare", "setns"}
    assert not starters & set(FRONT_END.allowed)
    assert not set(NEVER) & set(FRONT_END.allowed)


def test_plans_are_found_by_name():
    assert plan_named("hostd") is HOSTD
    assert plan_named("nobody") is None
