"""UEFI variables: one is set in a real store, and bytes that are none find only our own error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError
from casemate.formats import uefivars
from casemate.formats.uefivars import GLOBAL, OS_INDICATIONS, with_variable

OVMF = Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
ONE = (1).to_bytes(8, "little")


@pytest.fixture(scope="module")
def image() -> bytes:
    if not OVMF.exists():
        pytest.skip("needs the Debian package ovmf")
    return OVMF.read_bytes()


def test_a_variable_is_set_behind_those_that_are_there_and_set_again_takes_its_place(image):
    once = with_variable(image, OS_INDICATIONS, GLOBAL, ONE)
    changed = [at for at, (old, new) in enumerate(zip(image, once, strict=True)) if old != new]
    assert len(once) == len(image)
    # Flash: only bytes that were empty are written.
    assert {image[at] for at in changed} == {0xFF}
    name = OS_INDICATIONS.encode("utf-16-le")
    assert once.count(name) == 1 + image.count(name)
    twice = with_variable(once, OS_INDICATIONS, GLOBAL, bytes(8))
    marked = [at for at, (old, new) in enumerate(zip(once, twice, strict=True)) if old != new]
    # Of the first one only its state changes, from added to deleted.
    assert (once[marked[0]], twice[marked[0]]) == (0x3F, 0x3D)
    assert min(changed) <= marked[0] < marked[1]
    assert marked[1] > max(changed)


def test_a_full_store_is_said(image):
    def fill(full: bytes) -> None:
        for _ in range(10_000):
            full = with_variable(full, "Padding", GLOBAL, bytes(8192))

    with pytest.raises(FormatError) as raised:
        fill(image)
    assert raised.value.code == "uefi-variables-full"


@given(st.binary(max_size=200))
def test_bytes_that_are_no_store_are_refused(data):
    with pytest.raises(FormatError):
        with_variable(data, OS_INDICATIONS, GLOBAL, ONE)


@given(st.integers(0, 300), st.binary(min_size=1, max_size=40))
def test_a_damaged_store_finds_only_our_own_error(at, damage):
    if not OVMF.exists():
        pytest.skip("needs the Debian package ovmf")
    data = bytearray(OVMF.read_bytes()[:70_000])
    data[at : at + len(damage)] = damage
    try:
        made = with_variable(bytes(data), OS_INDICATIONS, GLOBAL, ONE)
    except FormatError:
        return
    assert len(made) == len(data)


def test_an_image_without_end_is_refused():
    with pytest.raises(FormatError, match="size"):
        with_variable(bytes(uefivars.SIZE_LIMIT + 1), OS_INDICATIONS, GLOBAL, ONE)
