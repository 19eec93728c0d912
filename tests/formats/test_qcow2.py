"""A QCOW2 file is used only if it stands alone, whatever it names."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError, LimitError
from casemate.formats import qcow2


def header(size: int = 1 << 30) -> bytearray:
    return bytearray(dict(qcow2.empty(size))[0][: qcow2.HEADER_SIZE])


@given(st.integers(0, qcow2.CAPACITY_LIMIT))
def test_an_empty_file_has_the_size_it_was_made_with(size):
    pieces = dict(qcow2.empty(size))
    assert qcow2.capacity(pieces[0]) == size
    ends = [offset + len(data) for offset, data in sorted(pieces.items())]
    assert ends == sorted(ends)


@pytest.mark.parametrize(
    ("offset", "code", "number", "reason"),
    [
        (8, ">Q", 200, "qcow2-backing"),
        (16, ">I", 11, "qcow2-backing"),
        (32, ">I", 1, "qcow2-feature"),
        (72, ">Q", 1 << 2, "qcow2-feature"),
        (72, ">Q", 1 << 40, "qcow2-feature"),
        (4, ">I", 1, "qcow2-malformed"),
        (20, ">I", 63, "qcow2-malformed"),
        (24, ">Q", 1 << 60, "limit"),
    ],
)
def test_a_file_that_names_others_or_cannot_be_is_refused(offset, code, number, reason):
    made = header()
    struct.pack_into(code, made, offset, number)
    with pytest.raises(FormatError) as caught:
        qcow2.capacity(bytes(made))
    assert caught.value.code == reason


def test_a_disk_too_large_is_not_made():
    with pytest.raises(LimitError):
        list(qcow2.empty(qcow2.CAPACITY_LIMIT + 1))


@given(st.binary(max_size=200))
def test_whatever_the_bytes_only_our_error_escapes(data):
    for candidate in (data, b"QFI\xfb" + data):
        with contextlib.suppress(FormatError):
            qcow2.capacity(candidate)
