"""What a running process must not look like, each by its own finding; and whatever the text."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError
from casemate.policy import processaudit as p

MAPS = """\
55d0c0a00000-55d0c0a10000 r--p 00000000 00:2a 45                         /usr/bin/qemu
55d0c0a10000-55d0c0a20000 r-xp 00010000 00:2a 45                         /usr/bin/qemu
55d0c0a30000-55d0c0a31000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000001000 r-xs 00000000 00:01 9                          /memfd:tcg-jit (deleted)
7f0000002000-7f0000003000 rw-s 00000000 00:01 9                          /memfd:tcg-jit (deleted)
7f0001000000-7f0001001000 r-xp 00000000 00:2a 46                         /usr/lib/libc.so.6
7f0002000000-7f0002001000 rw-p 00000000 00:00 0 
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
7ffd00100000-7ffd00102000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""  # noqa: W291 - Linux writes that blank
STATUS = (
    "Name:\tqemu\nTracerPid:\t0\nUid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\n"
    + "".join(f"{name}:\t0000000000000000\n" for name in p._CAPABILITIES)
    + "NoNewPrivs:\t1\nSeccomp:\t2\n"
)
LIMITS = "Max core file size        0                    0                    bytes     \n"
VECTOR = struct.pack(
    "=8Q",
    *(p.AT_ENTRY, 0x55D0C0A10100, p.AT_BASE, 0x7F0003000000),
    *(p.AT_SYSINFO_EHDR, 0x7FFD00100000, 0, 0),
)
OWN = {"mnt": "mnt:[2]", "net": "net:[2]"}
HOST = {"mnt": "mnt:[1]", "net": "net:[1]"}


def texts(**changes) -> p.ProcessTexts:
    plain = {
        "pid": 5,
        "maps": MAPS,
        "status": STATUS,
        "personality": "00000000\n",
        "limits": LIMITS,
        "auxv": VECTOR,
        "namespaces": OWN,
    }
    return p.ProcessTexts(**(plain | changes))


EXPECTED = p.Expected(
    "VM 1",
    "regularVMDom",
    7,
    frozenset({"00:2a"}),
    frozenset({"/memfd:tcg-jit (deleted)"}),
    frozenset({"mnt", "net"}),
    HOST,
)


def broken(one: p.ProcessTexts, expected: p.Expected = EXPECTED) -> set[str]:
    return {row.rule for row in p.audit_process(one, expected).results if not row.kept}


def mapped(line: str) -> p.ProcessTexts:
    return texts(maps=MAPS + line + "\n")


def test_a_cell_as_it_should_be_breaks_no_rule():
    report = p.audit_process(texts(), EXPECTED)
    assert report.findings == ()
    assert report.bases == {
        "exe": 0x55D0C0A00000,
        "heap": 0x55D0C0A30000,
        "mmap": 0x7F0001000000,
        "stack": 0x7FFD00021000,
        "loader": 0x7F0003000000,
        "vdso": 0x7FFD00100000,
    }
    assert {row.rule for row in report.results} == set(p.REMEDIES)


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ("7f1-7f2 rwxp 00000000 00:2a 47 /usr/lib/x.so", {"writable-code"}),
        ("7f1-7f2 rwxp 00000000 00:00 0 ", {"writable-code", "code-origin"}),
        ("7f1-7f2 --xp 00000000 00:00 0 ", {"code-origin"}),
        ("7f1-7f2 r-xp 00000000 00:00 0 [heap]", {"code-origin"}),
        ("7f1-7f2 r-xp 00000000 00:2a 48 /usr/lib/x.so (deleted)", {"code-origin"}),
        ("7f1-7f2 r-xp 00000000 00:2b 48 /tmp/x.so", {"code-origin"}),
        ("7f1-7f2 r-xp 00000000 00:01 48 /memfd:x (deleted)", {"code-origin"}),
        ("7f1-7f2 rw-s 00000000 00:2a 46 /usr/lib/libc.so.6", {"alias"}),
        ("7f1-7f2 r-xp 00000000 00:01 9 /memfd:tcg-jit (deleted)", {"code-origin"}),
    ],
)
def test_code_that_was_not_verified_is_found(line, rules):
    assert broken(mapped(line)) == rules


def test_a_second_memory_file_named_like_the_translator_s_is_no_excuse_without_the_domain():
    service = p.Expected("hostd", "hostdDom", 7, frozenset({"00:2a"}))
    assert broken(texts(), service) == {"alias", "code-origin"}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"personality": "00040000\n"}, "random-addresses"),
        ({"personality": "00400000\n"}, "random-addresses"),
        ({"auxv": struct.pack("=4Q", p.AT_ENTRY, 0x401000, 0, 0)}, "random-addresses"),
        ({"status": STATUS.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0")}, "no-new-privileges"),
        ({"status": STATUS.replace("Seccomp:\t2", "Seccomp:\t0")}, "call-filter"),
        ({"status": STATUS.replace("Uid:\t7\t7", "Uid:\t7\t0")}, "identity"),
        ({"status": STATUS.replace("Gid:\t7\t7\t7\t7", "Gid:\t0\t0\t0\t0")}, "identity"),
        (
            {"status": STATUS.replace("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000001")},
            "capabilities",
        ),
        ({"status": STATUS.replace("CapEff", "CapXxx")}, "capabilities"),
        ({"status": STATUS.replace("TracerPid:\t0", "TracerPid:\t9")}, "not-traced"),
        ({"namespaces": OWN | {"net": "net:[1]"}}, "namespaces"),
        ({"namespaces": {"mnt": "mnt:[2]"}}, "namespaces"),
        ({"limits": LIMITS.replace("0   ", "unlimited", 1)}, "no-core-dumps"),
        ({"limits": ""}, "no-core-dumps"),
    ],
)
def test_a_wall_that_is_missing_is_found(change, rule):
    assert broken(texts(**change)) == {rule}


@given(st.text(max_size=400) | st.text(max_size=60).map(lambda tail: MAPS + tail), st.binary())
def test_whatever_the_texts_only_our_error(maps, auxv):
    try:
        report = p.audit_process(texts(maps=maps, auxv=auxv), EXPECTED)
    except FormatError:
        return
    assert len(report.results) == len(p.REMEDIES)
