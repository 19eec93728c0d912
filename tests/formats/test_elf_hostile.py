"""Crafted ELF files: each is refused with our own error, at once, whatever it claims."""

from __future__ import annotations

import contextlib
import itertools
import random
import struct
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError
from casemate.formats.elf import parse_elf
from casemate.testing.elves import PAGE, Elf

LIMIT_SECONDS = 20.0
"""Of the processor, of a slow one."""
LIMIT_BYTES = 16 * 1024 * 1024
LOAD, DYNAMIC, INTERP = 1, 2, 3
HUGE = (1 << 63, (1 << 64) - 1, (1 << 64) - PAGE, 1 << 40)


def patched(data: bytes, at: int, raw: bytes) -> bytes:
    return data[:at] + raw + data[at + len(raw) :]


def phdr_at(data: bytes, index: int) -> int:
    return (64 + index * 56) if data[4] == 2 else (52 + index * 32)


def truncated() -> Iterator[bytes]:
    for elf in (
        Elf(),
        Elf(bits=32, machine=3, interpreter="/lib/ld-linux.so.2"),
        Elf(order=">", machine=22),
    ):
        data = elf.build()
        yield from (data[:size] for size in range(0, len(data), 7))


def huge_counts() -> Iterator[bytes]:
    for count, bits in itertools.product((513, 1171, 0x7FFF, 0xFFFE, 0xFFFF), (32, 64)):
        yield Elf(
            bits=bits, machine=3 if bits == 32 else 62, header={"entries": count}
        ).build() + bytes(1 << 16)
    for size in (0, 1, 31, 33, 55, 57, 64, 0xFFFF):
        yield Elf(header={"entry_size": size}).build()
    for table in (*HUGE, 1 << 20):
        yield Elf(header={"table": table}).build()


def lying_segments() -> Iterator[bytes]:
    """Override offset, address, file size and memory size of loaded and special segments."""
    data = Elf(interpreter="/lib64/ld-linux-x86-64.so.2").build()
    for index, field in itertools.product((0, 1), (8, 32)):
        for value in (*HUGE, len(data) + 1):
            yield patched(data, phdr_at(data, index) + field, struct.pack("<Q", value))
    for index in (0, 1):
        yield patched(data, phdr_at(data, index) + 40, struct.pack("<Q", 1))
    for value in ((1 << 64) - 1, (1 << 64) - 0x10):
        yield patched(data, phdr_at(data, 1) + 16, struct.pack("<Q", value))
    for index, field in itertools.product((2, 3, 4, 5), (8, 32)):
        for value in (*HUGE, len(data) + 1):
            yield patched(data, phdr_at(data, index) + field, struct.pack("<Q", value))
    for size in (1, 5000, 1 << 20):
        yield patched(data, phdr_at(data, 3) + 32, struct.pack("<Q", size)) + bytes(1 << 20)


def overlapping() -> Iterator[bytes]:
    data = Elf().build()
    end = len(data)
    for address in range(0, end, 40):
        yield patched(
            data, phdr_at(data, 1) + 16, struct.pack("<Q", max(0, address - 1) % max(1, end - 300))
        )
    for start in (0, PAGE // 2, PAGE):
        yield Elf(segments=((LOAD, 5, 0, start, 64, 64),)).build()
    for kind in (DYNAMIC, INTERP, 0x6474E551, 0x6474E552, 0x6474E553):
        yield Elf(segments=((kind, 4, 0, 0, 8, 8),) * 2).build()


def loops() -> Iterator[bytes]:
    """Tables that lie in each other, in the headers, or in nothing."""
    for tag in (5, 10, 6, 4, 0x6FFFFEF5):
        for value in (*HUGE, 0x10_0000):
            data = Elf(hash_table="sysv" if tag == 4 else "gnu").build()
            at = next(
                a
                for a in range(len(data) - 16, 0, -8)
                if struct.unpack_from("<Q", data, a)[0] == tag and a % 8 == len(data) % 8
            )
            yield patched(data, at + 8, struct.pack("<Q", value))
    for tag in (1, 14, 15, 29):
        yield from (Elf(entries=((tag, value),)).build() for value in (*HUGE, 0x1000))
    yield Elf(terminated=False).build()
    yield Elf(entries=((1, 1),) * 9000).build()
    yield from (Elf(entries=((11, size),)).build() for size in (0, 1, 16, 25, 1 << 63))


def bad_strings() -> Iterator[bytes]:
    for name in ("a\x1b[0m", "a\nb", "a\x07", "\u202eevil", "a\u2028b"):
        yield Elf(needed=(name,)).build()
        yield Elf(soname=name).build()
        yield Elf(runpath=name).build()
        yield Elf(interpreter=name).build()
    data = Elf(interpreter="/lib/ld.so").build()
    at = data.index(b"/lib/ld.so")
    yield patched(data, at, b"\xff")
    yield patched(data, at + 4, b"\0")
    yield patched(data, at + 10, b"x")


def bad_notes() -> Iterator[bytes]:
    data = Elf().build()
    build_id = data.index(b"GNU\0")
    for at in (build_id, data.index(b"GNU\0", build_id + 1)):
        for size in (0xFFFFFFFF, 0x7FFFFFFF, 1000):
            yield patched(data, at - 12, struct.pack("<I", size))
            yield patched(data, at - 8, struct.pack("<I", size))
    yield patched(data, data.index(struct.pack("<I", 0xC0000002)) + 4, struct.pack("<I", 0xFFFF))
    yield Elf(build_id=bytes(300_000)).build()


def expensive() -> Iterator[bytes]:
    """Files made so that a careless reader would take seconds or gigabytes."""
    yield Elf(
        needed=("_" * 200000 + "_chk", *tuple(f"{'_' * 250}{i}_chk" for i in range(100)))
    ).build()
    yield Elf(needed=tuple(f"__{'_' * 240}{i}_chk" for i in range(200))).build()


GENERATORS = (
    truncated,
    huge_counts,
    lying_segments,
    overlapping,
    loops,
    bad_strings,
    bad_notes,
    expensive,
)
CRAFTED = [
    pytest.param(data, id=f"{make.__name__}-{number}")
    for make in GENERATORS
    for number, data in enumerate(make())
]


def test_there_are_at_least_three_hundred_crafted_files():
    assert len({case.values[0] for case in CRAFTED}) >= 300


@pytest.mark.parametrize("data", CRAFTED)
def test_a_crafted_file_is_refused_at_once(data):
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(FormatError) as caught:
            parse_elf(data)
        seconds = time.process_time() - started
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds < LIMIT_SECONDS
    assert peak < LIMIT_BYTES
    assert caught.value.remedy


def bounded(data: bytes) -> None:
    started = time.process_time()
    with contextlib.suppress(FormatError):
        parse_elf(data)
    assert time.process_time() - started < LIMIT_SECONDS


@given(st.binary(max_size=400))
def test_whatever_the_bytes_only_our_own_error(data):
    bounded(data)
    bounded(b"\x7fELF" + data)


@given(
    elf=st.sampled_from(
        [
            Elf(interpreter="/lib64/ld.so", soname="a", exports=("__x_chk",)),
            Elf(bits=32, machine=3, hash_table="sysv"),
            Elf(order=">", machine=22, hash_table="none"),
        ]
    ),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8)), max_size=8),
    cut=st.integers(0, 4000),
)
def test_whatever_is_done_to_a_good_file_only_our_own_error(elf, edits, cut):
    data = elf.build()
    for at, raw in edits:
        data = patched(data, at % len(data), raw)[: len(data)]
    bounded(data)
    bounded(data[: cut % len(data)])


def test_many_random_mutations_stay_bounded():
    chance = random.Random(2024)
    good = Elf(interpreter="/lib64/ld.so", soname="a", exports=("__x_chk",)).build()
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.choice(
                (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
            )
        bounded(bytes(data))


def test_a_table_of_many_imports_of_one_name_is_bounded():
    count = 1 << 18
    strings = b"\0__x_chk\0"
    symbols = struct.pack("<IBBHQQ", 1, 0x12, 0, 0, 0, 0) * count
    rows = [(1, 5, 0, 0, 0, 0), (2, 6, 0, 0, 0, 0)]
    head = 64 + 56 * len(rows)
    at_strings = head + len(symbols)
    at_dynamic = at_strings + len(strings) + (-len(strings) % 8)
    dynamic = b"".join(
        struct.pack("<QQ", *row) for row in ((6, head), (5, at_strings), (10, len(strings)), (0, 0))
    )
    end = at_dynamic + len(dynamic)
    table = struct.pack("<IIQQQQQQ", LOAD, 6, 0, 0, 0, end, end, 4096)
    table += struct.pack(
        "<IIQQQQQQ", DYNAMIC, 6, at_dynamic, at_dynamic, 0, len(dynamic), len(dynamic), 8
    )
    header = Elf().build()[:64]
    header = patched(header, 56, struct.pack("<H", 2))
    data = (header + table + symbols + strings).ljust(at_dynamic, b"\0") + dynamic
    started = time.process_time()
    assert parse_elf(data).fortified == 1
    assert time.process_time() - started < LIMIT_SECONDS
