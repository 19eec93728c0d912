"""A packed disk has every sector of the disk, and never reaches past what it keeps."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, CasemateError, FormatError
from casemate.formats.gpt import SECTOR
from casemate.formats.sparsedisk import SparseDisk, pack_disk

CONTENTS = st.lists(st.sampled_from([b"\0", b"a", b"b", b"c"]), min_size=1, max_size=60)


def whole(contents: list[bytes]) -> bytes:
    return b"".join(one * SECTOR for one in contents)


@given(CONTENTS, st.integers(1, 9), st.integers(0, 59), st.integers(1, 60))
def test_what_is_read_is_what_was_packed(contents, step, start, count):
    disk = whole(contents)
    pieces = [
        (number, disk[number * SECTOR : (number + step) * SECTOR])
        for number in range(0, len(contents), step)
    ]
    packed = SparseDisk(pack_disk(len(contents), pieces))
    assert packed.sectors == len(contents)
    wanted = disk[start * SECTOR : (start + count) * SECTOR].ljust(count * SECTOR, b"\0")
    assert packed.read(start, count) == wanted


def test_a_content_is_kept_once():
    content = bytes(range(256)) * 2 + b"x" * SECTOR
    packed = pack_disk(100, [(3, content), (50, content)])
    assert len(packed) < 3 * SECTOR
    assert SparseDisk(packed).read(50, 2) == content


@pytest.mark.parametrize(
    "pieces", [[(1, b"x")], [(2, b"x" * SECTOR), (2, b"x" * SECTOR)], [(9, b"x" * 2 * SECTOR)]]
)
def test_pieces_that_are_no_disk_are_not_packed(pieces):
    with pytest.raises(ArgumentError):
        pack_disk(10, pieces)


GOOD = pack_disk(10, [(1, b"x" * SECTOR + b"y" * SECTOR), (5, b"y" * SECTOR)])


@pytest.mark.parametrize("length", [0, 16, 31, 40, 63, len(GOOD) - 1, len(GOOD) - SECTOR])
def test_a_packed_disk_cut_short_is_refused(length):
    with pytest.raises(FormatError):
        SparseDisk(GOOD[:length])


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6))
def test_a_changed_packed_disk_is_refused_or_gives_whole_sectors(changes):
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    try:
        packed = SparseDisk(data)
    except CasemateError:
        return
    assert len(packed.read(0, 10)) == 10 * SECTOR


def test_rows_that_overlap_are_refused():
    data = bytearray(GOOD)
    struct.pack_into("<Q", data, 32 + 16, 2)
    with pytest.raises(FormatError):
        SparseDisk(data)
