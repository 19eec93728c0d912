"""Merging disks changes no content that a snapshot or a guest can see, whatever the tree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from casemate.machine.chains import Drop, Merge, plan_consolidation


@st.composite
def trees(draw):
    """Give parents by name, the pinned and the current disks."""
    size = draw(st.integers(1, 10))
    parents = {"d0": ""}
    for number in range(1, size):
        parents[f"d{number}"] = f"d{draw(st.integers(0, number - 1))}"
    names = st.sampled_from(sorted(parents))
    pinned = draw(st.frozensets(names))
    current = draw(st.frozensets(names, max_size=1)) - pinned
    # What is written now has nothing above it.
    return parents, pinned, {name for name in current if name not in parents.values()}


def content(parents, blocks, disk):
    """Return what is read from a disk: for each writer the topmost block."""
    seen = []
    while disk:
        seen += blocks[disk]
        disk = parents[disk]
    return seen


@given(trees())
def test_content_stays_and_nothing_more_can_be_merged(tree):
    parents, pinned, current = tree
    blocks = {disk: [disk] for disk in parents}
    before = {disk: content(parents, blocks, disk) for disk in pinned | current}
    place = {disk: disk for disk in pinned | current}
    steps = plan_consolidation(parents, pinned, current)
    parents = dict(parents)
    for step in steps:
        assert step.name in parents
        if isinstance(step, Drop):
            assert step.name not in parents.values()
            assert step.name not in place.values()
            del parents[step.name], blocks[step.name]
            continue
        assert isinstance(step, Merge)
        assert parents[step.name] == step.into
        assert [disk for disk, lower in parents.items() if lower == step.into] == [step.name]
        assert step.into not in place.values()
        blocks[step.into] = blocks[step.name] + blocks[step.into]
        del parents[step.name], blocks[step.name]
        parents = {d: step.into if lower == step.name else lower for d, lower in parents.items()}
        place = {disk: step.into if now == step.name else now for disk, now in place.items()}
    assert {disk: content(parents, blocks, place[disk]) for disk in place} == before
    for disk, lower in parents.items():
        above = [name for name, its in parents.items() if its == disk]
        assert disk in place.values() or len(above) > 1 or not lower


def test_a_chain_without_snapshots_becomes_one_disk():
    parents = {"base": "", "one": "base", "two": "one"}
    assert plan_consolidation(parents, (), ("two",)) == (
        Merge("one", "base"),
        Merge("two", "base"),
    )


def test_a_branch_that_nobody_needs_is_dropped_from_its_top():
    parents = {"base": "", "one": "base", "two": "one", "now": "base"}
    steps = plan_consolidation(parents, ("base",), ("now",))
    assert steps == (Drop("two"), Drop("one"))
