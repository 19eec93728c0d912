"""Runtime policy: what IMA lists prove, and what a policy may say."""

from __future__ import annotations

import fnmatch
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError
from casemate.formats.algorithms import digest
from casemate.formats.ima import ImaEntry, ImaList
from casemate.formats.imareplay import ImaState
from casemate.formats.imasign import key_id_of
from casemate.policy.ima import RuntimePolicy, TrustedKey, appraise_ima, check_progress, next_offset
from casemate.policy.paths import compile_paths
from casemate.testing.imalists import aggregate, boot_pcrs, quoted, record, violation

NOW = datetime(2026, 6, 1, tzinfo=UTC)
FIRST = aggregate(boot_pcrs()["sha256"])
KNOWN = {b"/bin/ls": frozenset({b"sha256:\0" + digest("sha256", b"content")})}
POLICY = RuntimePolicy(1, KNOWN)


def _codes(*entries: ImaEntry, policy: RuntimePolicy = POLICY, now: datetime = NOW) -> list[str]:
    listed = (FIRST, *entries)
    result = appraise_ima(ImaList("sha1", listed), quoted(listed), policy, now)
    assert result.state is not None
    assert result.appraised == len(listed)
    return [finding.code for finding in result.findings]


def test_a_known_file_is_good_and_any_other_is_named() -> None:
    assert _codes(record(b"/bin/ls")) == []
    assert _codes(record(b"/bin/ls", b"other")) == ["ima-digest"]
    assert _codes(record(b"/bin/nc")) == ["ima-unknown-file"]
    assert _codes(record(b"/bin/ls", template="of-tomorrow")) == ["ima-template-unknown"]
    assert _codes(record(b"/bin/ls", pcr=11), record(b"/bin/ls")) == ["ima-pcr-index"]


@pytest.mark.parametrize("template", ["ima", "ima-sig", "ima-modsig"])
def test_other_templates_are_judged_by_the_same_digests(template: str) -> None:
    extra = {"ima": [], "ima-sig": [b""], "ima-modsig": [b"", b"", b""]}[template]
    algorithm = "sha1" if template == "ima" else "sha256"
    label = algorithm.encode() + b":\0" + digest(algorithm, b"content")
    policy = RuntimePolicy(1, {b"/bin/ls": frozenset({label})})
    assert _codes(record(b"/bin/ls", template=template, extra=extra), policy=policy) == []
    assert _codes(record(b"/bin/ls", b"?", template=template, extra=extra), policy=policy) == [
        "ima-digest"
    ]


def test_a_hostile_host_cannot_hide_a_violation_behind_a_known_or_excluded_name() -> None:
    hidden = record(b"/bin/ls")._replace(template_hash=bytes(20))
    policy = RuntimePolicy(1, KNOWN, compile_paths(["/tmp/**"]), reject_violations=True)
    assert _codes(hidden, policy=policy) == ["ima-violation"]
    assert _codes(violation(b"/tmp/x"), policy=policy) == ["ima-violation"]


def test_excluded_files_are_left_out_but_not_by_a_path_that_climbs() -> None:
    policy = RuntimePolicy(1, KNOWN, compile_paths(["/tmp/**", "/var/log/*.log"]))
    assert _codes(record(b"/tmp/a/b"), record(b"/var/log/x.log"), policy=policy) == []
    for path in (b"/tmp/../bin/sh", b"/tmp//x", b"tmp/x", b"/tmp", b"/var/log/a/x.log"):
        assert _codes(record(path), policy=policy) == ["ima-unknown-file"], path


def _sign(key: ec.EllipticCurvePrivateKey, content: bytes) -> bytes:
    value = key.sign(digest("sha256", content), ec.ECDSA(Prehashed(hashes.SHA256())))
    return b"\3\2\4" + key_id_of(key.public_key()) + len(value).to_bytes(2, "big") + value


def test_signed_files_need_a_key_that_is_in_the_policy_and_has_not_ended() -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    policy = RuntimePolicy(1, {}, keys=(TrustedKey("ours", key.public_key(), NOW),))
    good = record(b"/x", b"c", template="ima-sig", extra=[_sign(key, b"c")])
    assert _codes(good, policy=policy) == []
    assert _codes(good, policy=policy, now=NOW + timedelta(days=1)) == ["ima-signature"]
    stranger = record(b"/x", b"c", template="ima-sig", extra=[_sign(other, b"c")])
    assert _codes(stranger, policy=policy) == ["ima-signature"]
    wrong = record(b"/x", b"c", template="ima-sig", extra=[_sign(key, b"d")])
    assert _codes(wrong, policy=policy) == ["ima-signature"]
    mixed = record(b"/x", b"c", template="ima-sig", extra=[_sign(key, b"c")], algorithm="sha384")
    assert _codes(mixed, policy=policy) == ["ima-signature"]


def test_rounds_continue_where_the_last_one_ended() -> None:
    listed = (FIRST, record(b"/bin/ls"), record(b"/bin/ls", b"bad"))
    first = appraise_ima(ImaList("sha1", listed), quoted(listed[:2]), POLICY, NOW)
    assert (first.findings, first.appraised, first.pending) == ((), 2, 1)
    assert first.state is not None
    rest = ImaList("sha1", listed[first.state.count :])
    second = appraise_ima(rest, quoted(listed), POLICY, NOW, start=first.state)
    assert [finding.component for finding in second.findings] == ["record 2"]


def test_a_list_without_the_boot_aggregate_first_is_refused() -> None:
    listed = (record(b"/bin/ls"),)
    result = appraise_ima(ImaList("sha1", listed), quoted(listed), POLICY, NOW)
    assert [finding.code for finding in result.findings] == ["boot-aggregate"]


def test_progress_and_offsets() -> None:
    assert [f.code for f in check_progress([0, 1, 5, 9])] == ["no-progress"]
    assert check_progress([9, 5, 1]) == ()
    assert check_progress([1, 0, 1]) == ()
    state = ImaState(100, {})
    assert next_offset(state, 120, rebooted=False) == 100
    assert next_offset(state, 50, rebooted=False) == 0
    assert next_offset(state, 120, rebooted=True) == 0
    assert next_offset(None, 120, rebooted=False) == 0


@pytest.mark.parametrize(
    "pattern",
    ["", "tmp", "^/tmp/.*$", "(a+)+$", "/tmp/../etc/**", "/tmp//x", "/a/**/b", "/a**", "/./x"],
)
def test_patterns_that_could_mean_more_than_they_say_are_refused(pattern: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        compile_paths([pattern])
    assert caught.value.code == "policy-pattern"


@pytest.mark.parametrize("pattern", ["/**", "/*", "/*/*", "/*/**"])
def test_patterns_that_match_everything_are_refused(pattern: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        compile_paths([pattern])
    assert caught.value.code == "policy-too-wide"


def test_no_pattern_takes_long() -> None:
    patterns = compile_paths(["/" + "a*" * 2000 + "b", "/x/" + "*a" * 1000])
    assert b"/" + b"a" * 100_000 not in patterns
    assert b"/x/" + b"a" * 100_000 in patterns


@given(st.text("ab*", min_size=1, max_size=6), st.text("ab", max_size=8))
def test_stars_mean_what_they_mean_in_a_shell(pattern: str, name: str) -> None:
    if "**" in pattern or not pattern.strip("*") or not name:
        return
    found = f"/d/{name}".encode() in compile_paths([f"/d/{pattern}"])
    assert found == fnmatch.fnmatchcase(name, pattern)
