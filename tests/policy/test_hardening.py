"""Hardening rules: a component that breaks a required one is refused, by file and rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, VerificationError
from casemate.formats.elf import EM_AARCH64, parse_elf
from casemate.policy.hardening import RULES, Outcome, Waiver, Weight, check, enforce
from casemate.policy.levels import Level
from casemate.testing.elves import Elf

LOADER = "/lib64/ld-linux-x86-64.so.2"
PATH = "/usr/bin/tool"
PROGRAM = Elf(interpreter=LOADER, flags_1=0x08000001)
LIBRARY = Elf(soname="libtool.so.1")
LEVELS = tuple(Level)

BROKEN = [
    ("pie", Elf(e_type=2, interpreter=LOADER)),
    ("nx-stack", Elf(stack=7)),
    ("nx-stack", Elf(stack=None)),
    ("no-wx", Elf(text_flags=7)),
    ("relro", Elf(relro=False)),
    ("bind-now", Elf(interpreter=LOADER, flags=0, flags_1=0x08000000)),
    ("no-textrel", Elf(flags=4 | 8)),
    ("no-textrel", Elf(entries=((22, 0),))),
    ("interpreter", Elf(interpreter="/tmp/ld.so", flags_1=0x08000001)),
    ("interpreter", Elf(interpreter="/usr/lib/../../tmp/ld.so", flags_1=0x08000001)),
    ("interpreter", Elf(interpreter="lib/ld.so", flags_1=0x08000001)),
    ("no-rpath", Elf(rpath="/usr/lib")),
    ("runpath", Elf(runpath="$ORIGIN")),
    ("runpath", Elf(runpath="/usr/lib/$ORIGIN/x")),
    ("runpath", Elf(runpath="/tmp")),
    ("runpath", Elf(runpath="")),
    ("runpath", Elf(runpath="/usr/lib:")),
    ("runpath", Elf(runpath="/usr/lib:/vmfs/volumes")),
    ("runpath", Elf(runpath="/usr/lib/../../tmp")),
    ("runpath", Elf(runpath="/usr/library")),
    ("no-audit", Elf(entries=((0x6FFFFEFC, 1),))),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("elf", [PROGRAM, LIBRARY], ids=["program", "library"])
def test_a_well_built_component_has_no_finding_at_any_level(elf, level):
    report = enforce(parse_elf(elf.build()), PATH, level)
    assert report.findings == ()
    assert {result.outcome for result in report.results} == {Outcome.PASSED}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("rule", "elf"), BROKEN)
def test_each_broken_rule_is_refused_by_file_and_rule(rule, elf, level):
    with pytest.raises(VerificationError) as caught:
        enforce(parse_elf(elf.build()), PATH, level)
    assert caught.value.code == f"hardening-{rule}"
    assert caught.value.component == PATH
    assert rule in caught.value.reason
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("elf", "rule"),
    [
        (Elf(flags=0, flags_1=0), "bind-now"),
        (Elf(runpath="/usr/lib/x86_64-linux-gnu/swtpm"), "runpath"),
    ],
)
def test_community_components_meet_a_stricter_set(elf, rule):
    facts = parse_elf(elf.build())
    for level in LEVELS:
        assert check(facts, PATH, level).accepted == (level is not Level.COMMUNITY)
    with pytest.raises(VerificationError, match=rule):
        enforce(facts, PATH, Level.COMMUNITY)


def test_missing_canary_fortify_and_cet_are_told_but_not_refused():
    report = enforce(parse_elf(Elf(imports=(), features=None).build()), PATH, Level.COMMUNITY)
    assert {f.code for f in report.findings} == {
        "hardening-canary",
        "hardening-fortify",
        "hardening-cet",
    }


def test_a_waiver_lifts_one_rule_of_one_file_and_stays_visible():
    facts = parse_elf(Elf(stack=7).build())
    waiver = Waiver(PATH, "nx-stack", "Trampolines of the vendor's compiler.")
    report = enforce(facts, PATH, Level.PARTNER, [waiver])
    (finding,) = report.findings
    assert finding.code == "hardening-nx-stack"
    assert "Trampolines" in finding.reason
    for other in (Waiver("/usr/bin/other", "nx-stack", "x"), Waiver(PATH, "no-wx", "x")):
        with pytest.raises(VerificationError, match="nx-stack"):
            enforce(facts, PATH, Level.PARTNER, [other])


@pytest.mark.parametrize(
    ("path", "rule", "reason"),
    [
        (PATH, "everything", "x"),
        ("usr/bin/tool", "pie", "x"),
        ("*", "pie", "x"),
        (PATH, "pie", " "),
    ],
)
def test_a_waiver_that_is_vague_is_not_one(path, rule, reason):
    with pytest.raises(ArgumentError):
        Waiver(path, rule, reason)


def test_firmware_for_another_machine_is_data_here_and_code_there():
    facts = parse_elf(Elf(machine=EM_AARCH64, stack=7).build())
    assert {r.outcome for r in check(facts, PATH, Level.PARTNER).results} == {
        Outcome.NOT_APPLICABLE
    }
    assert not check(facts, PATH, Level.PARTNER, host=EM_AARCH64).accepted


@pytest.mark.parametrize("machine", [3, 6])
def test_32_bit_programs_are_judged_since_the_kernel_runs_them(machine):
    facts = parse_elf(Elf(bits=32, machine=machine, e_type=2).build())
    assert not check(facts, PATH, Level.PARTNER).accepted


def test_object_files_are_outside_the_rules():
    facts = parse_elf(Elf(e_type=1).build())
    assert {r.outcome for r in check(facts, PATH, Level.PARTNER).results} == {
        Outcome.NOT_APPLICABLE
    }


def test_rules_have_distinct_codes_and_remedies():
    assert len({rule.code for rule in RULES}) == len(RULES)
    assert all(rule.remedy and rule.title for rule in RULES)


@given(
    elf=st.builds(
        Elf,
        e_type=st.sampled_from([2, 3]),
        stack=st.sampled_from([None, 6, 7]),
        text_flags=st.sampled_from([5, 7]),
        relro=st.booleans(),
        flags=st.sampled_from([0, 4, 8]),
        flags_1=st.sampled_from([0, 1, 0x08000001]),
        runpath=st.sampled_from([None, "/usr/lib", "/tmp", "$ORIGIN"]),
        rpath=st.sampled_from([None, "/usr/lib"]),
        interpreter=st.sampled_from([None, LOADER]),
    ),
    level=st.sampled_from(LEVELS),
)
def test_what_community_accepts_every_level_accepts(elf, level):
    facts = parse_elf(elf.build())
    if check(facts, PATH, Level.COMMUNITY).accepted:
        assert check(facts, PATH, level).accepted
    report = check(facts, PATH, level)
    assert len(report.results) == len(RULES)
    refused = [
        r for r in report.results if r.outcome is Outcome.FAILED and r.weight is Weight.REQUIRED
    ]
    assert report.accepted == (not refused)
