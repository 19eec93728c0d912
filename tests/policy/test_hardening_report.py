"""Entropy from samples, the baseline of the platform, and a score that skipping cannot raise."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, Finding
from casemate.policy import platform
from casemate.policy.entropy import LEAST_LAUNCHES, WANTED, effective_bits, measure
from casemate.policy.hardening import Weight
from casemate.policy.hardeningreport import (
    Area,
    Outcome,
    Row,
    entropy_rows,
    findings,
    score,
    skipped,
    violation_rows,
)

WEIGHTS = st.sampled_from([Weight.REQUIRED, Weight.ADVISORY])
OUTCOMES = st.sampled_from(list(Outcome))
ROWS = st.lists(
    st.builds(
        Row,
        st.sampled_from(list(Area)),
        st.just("x"),
        st.just("g"),
        st.just("r"),
        WEIGHTS,
        OUTCOMES,
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("bits", [0, 8, 18, 22, 28, 32])
@pytest.mark.parametrize("launches", [16, 64, 300])
def test_random_addresses_have_the_bits_that_they_were_drawn_with(bits, launches):
    draw = random.Random(bits * launches)
    samples = [0x7F00_0000_0000 + (draw.getrandbits(bits) << 12 if bits else 0)] * 1
    samples += [
        0x7F00_0000_0000 + (draw.getrandbits(bits) << 12 if bits else 0)
        for _ in range(launches - 1)
    ]
    assert abs(effective_bits(samples) - bits) <= (1 if bits > 12 or not bits else 2)


def test_a_constant_address_has_no_bits():
    assert effective_bits([0x400000] * 64) == 0


def test_a_counter_is_not_random():
    assert effective_bits([0x5500_0000_0000 + (n << 12) for n in range(64)]) <= 6


def test_too_few_launches_prove_nothing():
    with pytest.raises(ArgumentError):
        effective_bits([1] * (LEAST_LAUNCHES - 1))


def test_a_region_that_was_not_seen_every_time_has_no_bits():
    launches = [{"exe": n << 30} for n in range(64)]
    rows = {row.region: row for row in measure("x", launches)}
    assert rows.keys() == WANTED.keys()
    assert rows["heap"].bits == 0
    assert {row.outcome for row in entropy_rows(rows.values())} == {Outcome.FAILED}


@given(ROWS, st.data())
def test_leaving_out_an_area_or_skipping_a_rule_never_raises_the_score(rows, data):
    area = data.draw(st.sampled_from(list(Area)))
    without = [row for row in rows if row.area is not area]
    assert score(without) <= score(rows)
    place = data.draw(st.integers(0, len(rows) - 1))
    if rows[place].outcome is not Outcome.NOT_APPLICABLE:
        lazy = [*rows]
        lazy[place] = replace(rows[place], outcome=Outcome.SKIPPED)
        assert score(lazy) <= score(rows)


@given(ROWS)
def test_a_hundred_is_for_a_host_without_any_failure(rows):
    if score(rows) == 100:
        assert {row.outcome for row in rows} <= {Outcome.PASSED, Outcome.NOT_APPLICABLE}


def test_what_was_skipped_is_a_finding():
    (finding,) = findings([skipped(Area.ENTROPY, "not asked", "ask")])
    assert finding.code == "entropy-all"


GOOD = {
    platform.CPUINFO: "flags\t\t: fpu nx smep smap umip\n",
    platform.KALLSYMS: "ffffffffa2000000 T _text\n",
    platform.KSM: "0\n",
    platform.LANDLOCK: "7",
    platform.LOCKDOWN: "none [integrity] confidentiality\n",
    platform.TAINTED: "0\n",
    platform.MEMFD: "2\n",
    **{one.path: f"{one.wanted}\n" for one in platform.SYSCTLS},
}


def test_a_good_platform_passes_every_rule():
    assert {row.outcome for row in platform.judge(GOOD)} == {Outcome.PASSED}


@pytest.mark.parametrize("path", sorted(GOOD.keys() - {platform.KSM}))
def test_what_is_absent_fails(path):
    texts = {key: value for key, value in GOOD.items() if key != path}
    assert any(row.outcome is Outcome.FAILED for row in platform.judge(texts))


@pytest.mark.parametrize(
    ("path", "text", "rule"),
    [
        (platform.KALLSYMS, "ffffffff81000000 T _text\n", "random-base"),
        (platform.KALLSYMS, "0000000000000000 T _text\n", "random-base"),
        (platform.KSM, "1\n", "no-page-merging"),
        (platform.TAINTED, "8192\n", "untainted"),
        (platform.MEMFD, "0\n", "memfd-noexec"),
        (platform.CPUINFO, "flags : smep smap umip\n", "nx"),
        ("/proc/sys/fs/suid_dumpable", "2\n", "fs.suid_dumpable"),
        ("/proc/sys/kernel/randomize_va_space", "1\n", "kernel.randomize_va_space"),
        (platform.VULNERABILITIES + "meltdown", "Vulnerable\n", "meltdown"),
    ],
)
def test_a_weak_platform_is_found(path, text, rule):
    bad = [row.rule for row in platform.judge(GOOD | {path: text}) if row.outcome is Outcome.FAILED]
    assert bad == [rule]


def test_the_baseline_never_weakens():
    strict = {one.path: "9999" for one in platform.SYSCTLS if not one.exact}
    assert platform.to_set(strict) == {}


def test_a_host_that_was_violated_is_never_whole_again():
    good = tuple(Row(area, "x", "", "r", Weight.REQUIRED, Outcome.PASSED) for area in Area)
    seen = Finding("process-wx", "VM 1", "Writable code.", "End it.")
    assert score(good) == 100
    assert score((*good, *violation_rows([seen]))) < 100
