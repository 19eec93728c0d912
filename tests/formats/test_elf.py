"""The ELF reader says what is in the file, for every layout a linker makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError
from casemate.formats.elf import ElfKind, is_elf, parse_elf
from casemate.testing.elves import Elf

NAMES = st.text("abcdefghij_.-0123456789", min_size=1, max_size=20).filter(
    lambda s: s != "__stack_chk_fail" and not s.endswith("_chk")
)
LAYOUTS = st.sampled_from(
    [(64, "<", 62), (64, "<", 183), (32, "<", 3), (32, ">", 20), (64, ">", 22)]
)


@given(
    layout=LAYOUTS,
    needed=st.lists(NAMES, max_size=6),
    soname=st.none() | NAMES,
    rpath=st.none() | NAMES,
    runpath=st.none() | NAMES,
    interpreter=st.none() | NAMES,
    stack=st.sampled_from([None, 6, 7]),
    text_flags=st.sampled_from([5, 7]),
    relro=st.booleans(),
    flags=st.sampled_from([0, 4, 8]),
    flags_1=st.sampled_from([0, 1, 0x08000000]),
    imports=st.lists(
        st.sampled_from(["__stack_chk_fail", "__memcpy_chk", "__read_chk", "open"]), unique=True
    ),
    exports=st.lists(st.sampled_from(["run", "__own_chk", "stop"]), unique=True),
    hash_table=st.sampled_from(["gnu", "sysv", "none"]),
    features=st.sampled_from([None, 0, 1, 2, 3]),
    build_id=st.binary(max_size=20),
)
def test_what_was_put_into_the_file_is_what_is_read_out(**wanted):
    bits, order, machine = wanted.pop("layout")
    spec = {k: tuple(v) if isinstance(v, list) else v for k, v in wanted.items()}
    elf = Elf(bits=bits, order=order, machine=machine, **spec)
    facts = parse_elf(elf.build())
    assert (facts.bits, facts.little_endian, facts.machine) == (bits, order == "<", machine)
    assert facts.needed == elf.needed
    assert (facts.soname, facts.rpath, facts.runpath) == (elf.soname, elf.rpath, elf.runpath)
    assert facts.interpreter == elf.interpreter
    assert facts.exec_stack == (None if elf.stack is None else elf.stack == 7)
    assert bool(facts.writable_executable) == (elf.text_flags == 7)
    assert facts.relro == elf.relro
    assert facts.bind_now == (elf.flags == 8 or elf.flags_1 == 1)
    assert facts.textrel == (elf.flags == 4)
    assert facts.pie_flag == (elf.flags_1 == 0x08000000)
    assert facts.canary == ("__stack_chk_fail" in elf.imports)
    assert facts.fortified == sum(n.endswith("_chk") for n in elf.imports)
    assert (facts.ibt, facts.shstk) == ((elf.features or 0) & 1 > 0, (elf.features or 0) & 2 > 0)
    assert facts.build_id == elf.build_id


def test_a_library_that_can_be_run_is_still_a_library():
    facts = parse_elf(Elf(interpreter="/lib64/ld-linux-x86-64.so.2", soname="libc.so.6").build())
    assert facts.kind is ElfKind.LIBRARY


def test_an_old_pie_without_its_flag_is_a_program():
    facts = parse_elf(Elf(interpreter="/lib64/ld-linux-x86-64.so.2", flags_1=0).build())
    assert facts.kind is ElfKind.PIE


def test_a_static_pie_has_no_interpreter():
    assert parse_elf(Elf(needed=(), flags_1=0x08000001).build()).kind is ElfKind.STATIC_PIE


def test_libraries_loaded_behind_needed_are_seen():
    elf = Elf(needed=("libc.so.6",), entries=((0x6FFFFEFC, 1), (0x6FFFFEFB, 1), (0x7FFFFFFF, 1)))
    assert parse_elf(elf.build()).audit == ("libc.so.6",) * 3


def test_a_memoryview_reads_like_bytes():
    data = Elf().build()
    assert parse_elf(memoryview(data)) == parse_elf(data)


@pytest.mark.parametrize("data", [b"", b"\x7fEL", b"#!/bin/sh\n", b"MZ\x90\0", bytes(64)])
def test_other_files_are_not_elf(data):
    assert not is_elf(data)
    with pytest.raises(FormatError, match="not an ELF"):
        parse_elf(data)


@pytest.mark.parametrize(
    ("elf", "why"),
    [
        (Elf(machine=62, header={"class": 1}), "claims 32-bit while the kernel runs it as 64-bit"),
        (Elf(machine=62, header={"data": 2}), "hides its machine behind the other byte order"),
        (Elf(bits=32, machine=62), "32-bit layout with a 64-bit machine"),
        (Elf(bits=64, machine=6), "64-bit layout with an i486, which 64-bit kernels run as 32-bit"),
        (Elf(bits=64, order=">", machine=0x3E00), "x86-64 seen by the kernel, foreign to others"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_header_the_kernel_reads_differently_is_refused(elf, why):
    with pytest.raises(FormatError) as caught:
        parse_elf(elf.build())
    assert caught.value.code in {"elf-ambiguous", "elf-headers"}, why


def test_a_second_dynamic_section_is_refused():
    with pytest.raises(FormatError) as caught:
        parse_elf(Elf(segments=((2, 6, 0, 0, 16, 16),)).build())
    assert caught.value.code == "elf-duplicate"


def test_a_second_stack_header_cannot_hide_the_first():
    with pytest.raises(FormatError) as caught:
        parse_elf(Elf(stack=7, segments=((0x6474E551, 6, 0, 0, 0, 0),)).build())
    assert caught.value.code == "elf-duplicate"


def test_a_second_string_table_is_refused():
    with pytest.raises(FormatError) as caught:
        parse_elf(Elf(entries=((5, 0x40),)).build())
    assert caught.value.code == "elf-duplicate"


def test_a_dynamic_section_without_an_end_is_refused():
    with pytest.raises(FormatError) as caught:
        parse_elf(Elf(terminated=False).build())
    assert caught.value.code == "elf-dynamic"


def test_terminal_escapes_in_a_library_name_are_refused():
    with pytest.raises(FormatError) as caught:
        parse_elf(Elf(needed=("lib\x1b[2Jc.so",)).build())
    assert caught.value.code == "elf-string"
