"""Boot options and partition tables: what firmware must find again, and what may be damaged."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError
from casemate.formats.bootoption import Place, option_name, parse_order, write_option, write_order
from casemate.formats.gpt import HEAD, LINUX_DATA, Entry, parse_gpt, write_gpt
from casemate.formats.osrelease import image_identity

PLACE = Place(2, 264192, 262144, UUID("01020304-0506-0708-090a-0b0c0d0e0f10"))


def test_an_option_is_laid_out_as_the_specification_says() -> None:
    """By hand from UEFI 2.10: EFI_LOAD_OPTION, hard drive node (10.3.5.1), file path (10.3.5.4)."""
    assert write_option("C", PLACE, "\\b") == bytes.fromhex(
        "01000000"  # active
        "3800"  # bytes of device paths: 42 + 10 + 4
        "43000000"  # C, end
        "04012a00 02000000 0008040000000000 0000040000000000"
        "0403020106050807090a0b0c0d0e0f10 02 02"
        "04040a00 5c0062000000"
        "7fff0400"
    )
    assert option_name(0x1A) == "Boot001A"


@given(st.lists(st.integers(0, 0xFFFF), max_size=40).map(tuple))
def test_an_order_survives(numbers: tuple[int, ...]) -> None:
    assert parse_order(write_order(numbers)) == numbers


@pytest.mark.parametrize("data", [b"\0", bytes(2000)])
def test_a_damaged_order_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_order(data)


def table() -> tuple[bytes, list[Entry]]:
    entries = [
        Entry(LINUX_DATA, UUID(int=number), 2048 * number, 2048, name)
        for number, name in enumerate(("EFI", "bootbank", "altbootbank"), 1)
    ]
    first, _ = write_gpt(UUID(int=99), 2048 * 5, entries)
    return first, entries


def test_a_partition_table_is_read_as_it_was_written() -> None:
    first, entries = table()
    assert len(first) == HEAD
    assert list(parse_gpt(first)) == entries


@given(st.integers(512, HEAD - 1), st.integers(0, 7))
def test_a_flipped_bit_in_a_partition_table_is_found(at: int, bit: int) -> None:
    first, entries = table()
    changed = bytearray(first)
    changed[at] ^= 1 << bit
    try:
        found = parse_gpt(bytes(changed))
    except FormatError:
        return
    assert list(found) == entries  # only in what is reserved behind the header
    assert 512 + 92 <= at < 1024


@given(st.binary(max_size=4096))
def test_whatever_the_bytes_only_our_error_escapes(data: bytes) -> None:
    for parse in (parse_gpt, image_identity):
        with pytest.raises(FormatError):
            parse(data)
