"""A list of snapshots is read back as written, and a stranger's is a tree or refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, FormatError, NotFoundError
from casemate.formats import vmx
from casemate.formats.vmx import Vmx
from casemate.machine.facts import SnapshotSpec
from casemate.machine.snapshots import (
    below,
    check_text,
    find,
    last_number,
    snapshots_of,
    vmsd_of,
    without,
)

TEXT = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=40)


@st.composite
def books(draw):
    snapshots = [
        SnapshotSpec(
            number=number,
            parent=draw(st.integers(0, number - 1)),
            name=draw(TEXT),
            description=draw(TEXT | st.just("")),
            created=draw(st.integers(0, 1 << 33)) / 2,
            memory=draw(st.booleans()),
            disks=draw(st.sampled_from([(), (("scsi0:0", "a.vmdk"), ("ide1:1", "b.vmdk"))])),
        )
        for number in range(1, draw(st.integers(0, 6)) + 1)
    ]
    return tuple(snapshots), draw(st.integers(0, len(snapshots)))


@given(books())
def test_what_is_written_is_read_back(book):
    snapshots, current = book
    written = vmx.parse(vmx.write(vmsd_of(snapshots, current, 9)))
    assert snapshots_of(written) == book
    assert last_number(written) == 9


@given(books(), st.data())
def test_removing_leaves_a_tree_of_the_others(book, data):
    snapshots, current = book
    gone = data.draw(st.frozensets(st.sampled_from([one.number for one in snapshots] or [1])))
    kept, now = without(snapshots, current, gone & {one.number for one in snapshots})
    left = {one.number for one in kept}
    assert not left & gone
    assert now in left | {0}
    assert all(one.parent in left | {0} for one in kept)
    assert snapshots_of(vmsd_of(kept, now, 9)) == (kept, now)


def test_descendants_and_what_is_not_there():
    tree = tuple(
        SnapshotSpec(number, parent, "n", "", 0.0, memory=False)
        for number, parent in ((1, 0), (2, 1), (3, 2), (4, 1))
    )
    assert below(tree, 2) == {2, 3}
    assert find(tree, 4, "vm").parent == 1
    with pytest.raises(NotFoundError):
        find(tree, 5, "vm")
    for name, description in (("", ""), ("x" * 81, ""), ("a\nb", ""), ("x", "y" * 5000)):
        with pytest.raises(ArgumentError):
            check_text(name, description)


@pytest.mark.parametrize(
    "changes",
    [
        {"snapshot0.parent": "1"},
        {"snapshot0.parent": "7"},
        {"snapshot.current": "7"},
        {"snapshot0.uid": "0"},
        {"snapshot0.uid": "-1"},
        {"snapshot0.uid": "9" * 30},
        {"snapshot.numSnapshots": "2"},
        {"snapshot.numSnapshots": "999999"},
        {"snapshot0.disk0.fileName": "../../etc/shadow"},
        {"snapshot0.disk0.fileName": "/etc/shadow"},
    ],
)
def test_a_stranger_s_list_that_is_no_tree_or_leads_out_is_refused(changes):
    one = SnapshotSpec(1, 0, "n", "", 0.0, memory=False, disks=(("ide0:0", "a.vmdk"),))
    entries = {**dict(vmsd_of((one,), 1, 1).entries), **changes}
    with pytest.raises(FormatError):
        snapshots_of(Vmx(tuple(entries.items())))


@given(st.dictionaries(st.sampled_from(["snapshot.numsnapshots", "snapshot0.uid"]), st.text()))
def test_whatever_the_entries_only_our_error_escapes(entries):
    with contextlib.suppress(FormatError):
        snapshots_of(Vmx(tuple(entries.items())))
