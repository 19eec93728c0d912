"""IMA lists judged from where the last round ended: never another result than the whole gives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.formats.algorithms import digest
from casemate.formats.ima import ImaEntry, parse_ima, write_ima
from casemate.policy import imaseen
from casemate.policy.ima import ImaResult, RuntimePolicy, TrustedKey, appraise_ima
from casemate.policy.imaseen import Seen, appraise_growing
from casemate.testing.imalists import aggregate, boot_pcrs, quoted, record, violation

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PCRS = boot_pcrs()
FIRST = aggregate(PCRS["sha256"])
FILES = tuple(b"/bin/%d" % n for n in range(6))
POLICY = RuntimePolicy(
    1, {one: frozenset({b"sha256:\0" + digest("sha256", b"content")}) for one in FILES[:5]}
)
RECORDS = st.one_of(
    st.sampled_from(FILES).map(record),
    st.sampled_from(FILES).map(lambda path: record(path, b"other")),
    st.sampled_from(FILES).map(violation),
    st.sampled_from(FILES).map(lambda path: record(path, pcr=11)),
)
GOOD = st.one_of(st.sampled_from(FILES[:5]).map(record), st.sampled_from(FILES).map(violation))


def judged(
    entries: list[ImaEntry], until: int, seen: Seen | None, policy: RuntimePolicy = POLICY
) -> tuple[ImaResult, Seen | None]:
    values = quoted(entries[:until])
    return appraise_growing(write_ima(tuple(entries)), values, policy, "id", NOW, seen)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(GOOD, max_size=8),
    st.lists(st.lists(RECORDS, max_size=4), max_size=4),
    st.lists(st.integers(0, 3), min_size=6, max_size=6),
)
def test_each_round_gives_what_the_whole_list_gives(
    good: list[ImaEntry], more: list[list[ImaEntry]], behind: list[int]
) -> None:
    entries, seen, reached = [FIRST, *good], None, 0
    for added, pending in zip([[], *more], behind, strict=False):
        entries += added
        reached = max(reached, len(entries) - pending, 1)
        result, seen = judged(entries, reached, seen)
        whole = appraise_ima(
            parse_ima(write_ima(tuple(entries))), quoted(entries[:reached]), POLICY, NOW
        )
        assert (result.findings, result.pending) == (whole.findings, whole.pending)
        assert set(result.warnings) == set(whole.warnings)
        assert result.state == whole.state


@settings(max_examples=40, deadline=None)
@given(st.lists(GOOD, max_size=6), st.lists(RECORDS, max_size=6), st.integers(1, 7))
def test_another_boot_gives_what_its_own_list_gives(
    good: list[ImaEntry], after: list[ImaEntry], until: int
) -> None:
    before = [FIRST, *good]
    _, seen = judged(before, len(before), None)
    entries = [FIRST, *after]
    until = min(until, len(entries))
    result, _ = judged(entries, until, seen)
    whole = appraise_ima(parse_ima(write_ima(tuple(entries))), quoted(entries[:until]), POLICY, NOW)
    assert (result.findings, result.state) == (whole.findings, whole.state)


def test_only_what_is_new_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [FIRST, *map(record, FILES[:5])]
    _, seen = judged(entries, 6, None)
    assert seen is not None
    looked: list[int] = []
    parse = parse_ima

    def count(data: bytes) -> object:
        looked.append(len(data))
        return parse(data)

    monkeypatch.setattr(imaseen, "parse_ima", count)
    entries.append(record(FILES[0]))
    result, after = judged(entries, 7, seen)
    assert result.findings == ()
    assert looked == [len(write_ima((entries[-1],)))]
    assert after is not None
    assert after.size == len(write_ima(tuple(entries)))


def test_other_policy_other_pcrs_a_changed_beginning_and_an_ended_key_begin_anew() -> None:
    entries = [FIRST, *map(record, FILES[:5])]
    data, values = write_ima(tuple(entries)), quoted(entries)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    ending = RuntimePolicy(1, POLICY.digests, keys=(TrustedKey("k", key, NOW),))
    _, seen = appraise_growing(data, values, ending, "id", NOW, None)
    assert seen is not None
    assert seen.until == NOW
    against = seen.against
    less = RuntimePolicy(2, {})
    other, _ = appraise_growing(data, values, less, "other", NOW, seen)
    assert {one.code for one in other.findings} == {"ima-unknown-file"}
    bent = data.replace(b"/bin/0", b"/bin/9")
    assert appraise_growing(bent, values, ending, "id", NOW, seen)[0].findings
    moved = {"sha256": {**values["sha256"], 0: bytes(32)}}
    found, _ = appraise_growing(data, moved, ending, "id", NOW, seen)
    assert {one.code for one in found.findings} == {"boot-aggregate"}
    late = NOW + timedelta(seconds=1)
    _, again = appraise_growing(data, values, ending, "id", late, seen)
    assert again is not None
    assert again.against == against
