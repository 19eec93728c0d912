"""Versions and the resolution of dependencies: order, laws, and images that must not come about."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, LimitError, StateError
from casemate.formats.descriptor import Constraint
from casemate.policy import solve
from casemate.policy.levels import Level
from casemate.policy.solve import install, remove, replace_all
from casemate.policy.versions import satisfies, version_key
from casemate.policy.vibpaths import allowed, check_list, check_places
from casemate.testing.vibs import make_descriptor


def vib(name, version="1.0-1", **changes):
    for field in ("depends", "conflicts", "replaces", "provides"):
        changes[field] = tuple(Constraint(*text.split(" ")) for text in changes.get(field, ()))
    return replace(make_descriptor(name=name, version=version, payloads={}), **changes)


BASE = (vib("casemate-boot"), vib("casemate-kernel", "0.1.0-1"))


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.0-1", "1.0-2"),
        ("1.9-1", "1.10-1"),
        ("1.0", "1.0.1"),
        ("1.0", "1.0a"),
        ("1.0a", "1.0b"),
        ("1.0a", "1.0.1"),
        ("7.732.03.00-1OEM.700.1.0.15843807", "7.732.03.00-1OEM.800.1.0.20613240"),
        ("6.7.0-0.0.8169922", "6.7.0-1.28.10302608"),
        ("2.36-9.deb12u9", "2.36-9.deb12u14"),
    ],
)
def test_newer_versions_are_newer(older, newer):
    assert version_key(older) < version_key(newer)


@pytest.mark.parametrize(("one", "other"), [("1.0", "1-0"), ("1.00", "1.0"), ("1.0-", "1.0")])
def test_what_only_separates_does_not_count(one, other):
    assert version_key(one) == version_key(other)


_VERSIONS = st.text("0123456789abZ.-_", min_size=1, max_size=12)


@given(_VERSIONS, _VERSIONS)
def test_relations_agree_with_each_other(one, other):
    truth = {r: satisfies(Constraint("x", r, other), one) for r in ("<<", "<=", "=", ">=", ">>")}
    assert [truth["<<"], truth["="], truth[">>"]].count(True) == 1
    assert truth["<="] == (truth["<<"] or truth["="])
    assert truth[">="] == (truth[">>"] or truth["="])


@given(_VERSIONS)
def test_no_relation_asks_for_nothing(version):
    assert satisfies(Constraint("x"), version)


def names(change):
    return [one.name for one in change.result]


def test_what_is_needed_is_taken_newest_first():
    shelf = [vib("lib", "1.0-1"), vib("lib", "3.0-1"), vib("lib", "2.0-1")]
    change = install(BASE, [vib("app", depends=["lib << 3.0"])], shelf)
    assert names(change) == ["casemate-boot", "casemate-kernel", "app", "lib"]
    assert change.result[-1].version == "2.0-1"


def test_a_choice_that_leads_nowhere_is_taken_back():
    shelf = [vib("lib", "2.0-1", depends=["missing"]), vib("lib", "1.0-1")]
    change = install(BASE, [vib("app", depends=["lib"])], shelf)
    assert change.result[-1].version == "1.0-1"


def test_what_conflicts_is_not_chosen():
    shelf = [vib("fast", "9.0-1", conflicts=["app"]), vib("slow")]
    shelf = [replace(one, provides=(Constraint("net"),)) for one in shelf]
    assert names(install(BASE, [vib("app", depends=["net"])], shelf))[-1] == "slow"


def test_what_is_replaced_goes():
    before = (*BASE, vib("old-net"))
    change = install(before, [vib("new-net", replaces=["old-net"])])
    assert [one.name for one in change.removed] == ["old-net"]


def test_the_order_of_the_shelf_does_not_matter():
    shelf = [vib("lib", v) for v in ("1-1", "2-1", "3-1")] + [vib("other")]
    wanted = [vib("app", depends=["lib"])]
    results = {install(BASE, wanted, order).result for order in itertools.permutations(shelf)}
    assert len(results) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda: install(BASE, [vib("a", depends=["b"])]), "dependency"),
        (lambda: install(BASE, [vib("a", depends=["b >= 2"])], [vib("b")]), "dependency"),
        (lambda: install(BASE, [vib("a", conflicts=["casemate-boot"])]), "conflict"),
        (lambda: install((*BASE, vib("a", conflicts=["b"])), [vib("b")]), "conflict"),
        (lambda: install(BASE, [vib("a"), vib("a", "2-1")]), "argument"),
        (lambda: remove(BASE, ["casemate-boot"]), "base-vib"),
        (lambda: remove(BASE, ["nothing"]), "no-match"),
        (lambda: remove((*BASE, vib("a"), vib("b", depends=["a"])), ["a"]), "dependency"),
        (lambda: replace_all(BASE, [vib("a")]), "base-missing"),
    ],
    ids=itertools.count(),
)
def test_images_that_must_not_come_about(change, code):
    with pytest.raises(CasemateError) as caught:
        change()
    assert caught.value.code == code


def test_force_looks_away():
    assert install(BASE, [vib("a", depends=["b"])], force=True).installed
    older = install((*BASE, vib("a", "2-1")), [vib("a", "1-1")], force=True)
    assert older.installed[0].version == "1-1"


def test_a_search_without_end_is_ended():
    shelf = [
        vib(f"n{depth}", f"{version}-1", depends=[f"n{depth + 1}"])
        for depth in range(20)
        for version in range(4)
    ]
    with pytest.raises(LimitError) as caught:
        install(BASE, [vib("a", depends=["n0"])], shelf)
    assert caught.value.code == "solver-limit"


@given(st.data())
def test_a_result_never_lacks_or_has_what_is_wrong(data):
    pool = [f"p{n}" for n in range(5)]
    some = st.lists(st.sampled_from(pool), max_size=2, unique=True)
    shelf = [
        vib(name, f"{version}-1", depends=data.draw(some), conflicts=[])
        for name in pool
        for version in (1, 2)
        if data.draw(st.booleans())
    ]
    wanted = [vib("app", depends=data.draw(some), conflicts=data.draw(some))]
    try:
        change = install(BASE, wanted, shelf)
    except StateError:
        return
    assert not list(solve.problems(change.result))


@pytest.mark.parametrize(
    ("path", "level", "good"),
    [
        ("opt/acme/x", Level.COMMUNITY, True),
        ("optional/x", Level.COMMUNITY, False),
        ("etc/init.d/x", Level.COMMUNITY, False),
        ("etc/init.d/x", Level.PARTNER, True),
        ("usr/lib/python3/x.py", Level.PARTNER, False),
        ("usr/bin/x", Level.ACCEPTED, True),
    ],
)
def test_the_looser_the_level_the_less_it_may_touch(path, level, good):
    assert allowed(path, level) is good
    if not good:
        with pytest.raises(CasemateError) as caught:
            check_places([path], level, "x")
        assert caught.value.code == "path-not-allowed"


def test_lists_and_payloads_must_agree():
    check_list(["a", "b/"], ["b", "a"], "x")
    for listed, found, code in (
        (["a"], ["a", "b"], "file-not-listed"),
        (["a"], [], "file-missing"),
    ):
        with pytest.raises(CasemateError) as caught:
            check_list(listed, found, "x")
        assert caught.value.code == code
