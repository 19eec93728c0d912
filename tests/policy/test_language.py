"""The policy language, and policies applied to real logs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError, SignatureError, VerificationError
from casemate.formats import tagged
from casemate.formats.algorithms import ALGORITHMS, digest
from casemate.formats.ear import Section, Tier
from casemate.formats.eventlog import Event, EventLog, parse, replay
from casemate.formats.eventtypes import EV_EVENT_TAG
from casemate.formats.manifest import Manifest
from casemate.policy.hostpolicy import HostValues, apply_policy, reference_from_log
from casemate.policy.language import Mode, Policy, Selector, parse_policy
from casemate.policy.signedtext import check_newer, join_signed, split_signed, verify_signed
from casemate.policy.trust import Anchor, Level, TrustStore
from casemate.policy.verdict import Judged, overall, section_of, submodules
from casemate.testing.pki import NOW, shared_pki

FULL = b"""
# how our hosts must boot
policy "esx hosts" version 7
banks sha256
pcr 0,2-3 equal
pcr 1,7 per-host
pcr 12 events
pcr 13 events except component "state.tgz", event EV_IPL  # changes with every boot
pcr 13 per-host component "imgdb.tgz"
pcr 22 excluded
require secure-boot
allow debug
runtime exclude "/var/log/**"
runtime violations reject
runtime kernel before-5.8
overlap until 2026-12-01
"""
BASE = Manifest("x", "y", "certified", "1", 1, datetime(2026, 1, 1, tzinfo=UTC), (), (), {})


def test_every_statement_means_what_it_says() -> None:
    policy = parse_policy(FULL)
    assert policy.id == "esx hosts 7"
    assert {pcr: rule.mode for pcr, rule in policy.rules.items()} == {
        0: Mode.EQUAL,
        1: Mode.PER_HOST,
        2: Mode.EQUAL,
        3: Mode.EQUAL,
        7: Mode.PER_HOST,
        12: Mode.EVENTS,
        13: Mode.EVENTS,
        22: Mode.EXCLUDED,
    }
    rule = policy.rules[13]
    assert rule.excluded == (Selector("component", "state.tgz"), Selector("event", "EV_IPL"))
    assert rule.per_host == (Selector("component", "imgdb.tgz"),)
    assert (policy.require, policy.allow) == ({"secure-boot"}, {"debug"})
    assert (policy.runtime_excludes, policy.old_kernel) == (("/var/log/**",), True)
    assert policy.overlap == datetime(2026, 12, 1, tzinfo=UTC)


HEAD = 'policy "p" version 1\n'


@pytest.mark.parametrize(
    ("text", "line", "code"),
    [
        ("pcr 0 equal", 0, "policy-syntax"),
        (HEAD, 0, "policy-empty"),
        (HEAD + "pcr 0 excluded", 0, "policy-empty"),
        (HEAD + "pcr 0 equal\nfoo", 3, "policy-syntax"),
        (HEAD + "pcr 24 equal", 2, "policy-syntax"),
        (HEAD + "pcr 3-1 equal", 2, "policy-syntax"),
        (HEAD + "pcr 0,0 equal", 2, "policy-syntax"),
        (HEAD + "pcr 0 same", 2, "policy-syntax"),
        (HEAD + "pcr 0 equal equal", 2, "policy-syntax"),
        (HEAD + "pcr 0 equal\npcr 0 per-host", 3, "policy-duplicate"),
        (HEAD + HEAD, 2, "policy-duplicate"),
        (HEAD + "banks sha1", 2, "policy-weak"),
        (HEAD + "banks sha256\nbanks sha384", 3, "policy-duplicate"),
        (HEAD + "banks sha256 sha256", 2, "policy-syntax"),
        (HEAD + "pcr 13 events except thing", 2, "policy-syntax"),
        (HEAD + "pcr 13 events except event EV_NONE", 2, "policy-syntax"),
        (HEAD + 'pcr 13 per-host component "a"\npcr 12 equal', 0, "policy-syntax"),
        (HEAD + 'runtime exclude "/tmp/../x"', 2, "policy-pattern"),
        (HEAD + 'runtime exclude "(a+)+$"', 2, "policy-pattern"),
        (HEAD + 'runtime exclude "/**"', 2, "policy-too-wide"),
        (HEAD + "runtime violations maybe", 2, "policy-syntax"),
        (HEAD + "overlap until tomorrow", 2, "policy-syntax"),
        (HEAD + "pcr 0 equal; pcr 1 equal", 2, "policy-syntax"),
        ('policy "a" version 1e9', 1, "policy-syntax"),
        ("policy a version 1", 1, "policy-syntax"),
        ('policy "\x1b[2J" version 1', 1, "policy-syntax"),
    ],
)
def test_errors_name_the_line_and_what_to_write(text: str, line: int, code: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_policy(text.encode())
    error = caught.value
    assert error.code == code
    assert error.remedy != FormatError.default_remedy
    assert (f"line {line}:" in error.reason) == bool(line)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_text_is_read_or_refused(data: bytes) -> None:
    for text in (data, FULL + data):
        try:
            assert parse_policy(text).rules
        except CasemateError:
            continue


def _log(corpus: Path) -> EventLog:
    return parse((corpus / "evlogs" / "google+go-tpm-tools--rhel8-uefi.bin").read_bytes())


EVENTS = parse_policy(HEAD.encode() + b"pcr 0-9,14 events")


def _codes(
    policy: Policy | None, references: list[Manifest], log: EventLog, host: HostValues | None = None
) -> set[str]:
    result = apply_policy(policy, references, log, replay(log), host, NOW)
    assert result.is_good == (not result.findings and bool(result.appraised))
    return {finding.code for finding in result.findings}


def test_a_log_equals_itself_and_one_changed_event_is_named(corpus: Path) -> None:
    log = _log(corpus)
    reference = reference_from_log(log, BASE)
    assert _codes(EVENTS, [reference], log) == set()
    equal = parse_policy(HEAD.encode() + b"pcr 0-9,14 equal")
    assert _codes(equal, [reference], log) == set()
    place = next(n for n, event in enumerate(log.events) if event.pcr == 4 and event.type != 4)
    changed = list(log.events)
    values = tuple((bank, digest(str(bank), b"evil")) for bank, _ in changed[place].digests)
    changed[place] = changed[place]._replace(digests=values)
    evil = replace(log, events=tuple(changed))
    for policy in (EVENTS, equal):
        findings = apply_policy(policy, [reference], evil, replay(evil), None, NOW).findings
        assert any("PCR 4" in f"{f.component} {f.reason}" for f in findings)


def test_without_a_policy_or_a_reference_nothing_passes(corpus: Path) -> None:
    log = _log(corpus)
    assert _codes(None, [], log) == {"not-appraised"}
    assert _codes(EVENTS, [], log) == {"no-reference"}
    assert not apply_policy(EVENTS, [], log, replay(log), None, NOW).appraised
    assert _codes(EVENTS, [reference_from_log(log, BASE)], replace(log, events=())) != set()
    unquoted = apply_policy(EVENTS, [reference_from_log(log, BASE)], log, {}, None, NOW)
    assert {finding.code for finding in unquoted.findings} == {"bank-not-quoted"}


def test_a_log_that_does_not_lead_to_the_quote_proves_nothing(corpus: Path) -> None:
    log = _log(corpus)
    quoted = replay(log)
    quoted["sha256"][4] = bytes(32)
    quoted["sha256"][5] = digest("sha256", b"x")
    reference = reference_from_log(log, BASE)
    found = apply_policy(EVENTS, [reference], log, quoted, None, NOW)
    assert {(f.code, f.component) for f in found.findings} == {
        ("quote-behind-log", "PCR 4"),
        ("replay-mismatch", "PCR 5"),
    }
    assert not set(found.appraised) & {4, 5}


def test_values_of_a_host_are_pinned_once_and_then_must_stay(corpus: Path) -> None:
    log = _log(corpus)
    policy = parse_policy(HEAD.encode() + b"pcr 1,7 per-host")
    first = apply_policy(policy, [], log, replay(log), None, NOW)
    assert [warning.code for warning in first.warnings] == ["host-value-new"] * 2
    assert not first.is_good
    assert _codes(policy, [], log, first.host) == set()
    other = HostValues({"sha256": {**first.host.pcrs["sha256"], 7: bytes(32)}})
    assert _codes(policy, [], log, other) == {"host-value-changed"}


def test_what_was_approved_of_one_pcr_says_nothing_of_another(corpus: Path) -> None:
    log = _log(corpus)
    approved = HostValues({"sha256": {1: replay(log)["sha256"][1]}})
    for host in (approved, HostValues()):
        policy = parse_policy(HEAD.encode() + b"pcr 7 per-host")
        found = apply_policy(policy, [], log, replay(log), host, NOW)
        assert [warning.code for warning in found.warnings] == ["host-value-new"]
        assert found.appraised == ()
        assert not found.is_good


def _module(name: str, content: bytes) -> Event:
    data = tagged.write_tagged(tagged.TaggedEvent(tagged.TAG_MOD, name.encode() + b"\0"))
    return Event(13, EV_EVENT_TAG, (("sha256", digest("sha256", content)),), data)


def _modules(*names: str) -> EventLog:
    events = tuple(_module(name, name.encode()) for name in names)
    return EventLog((ALGORITHMS["sha256"],), events)


def test_an_exception_covers_no_more_than_the_reference_has() -> None:
    policy = parse_policy(HEAD.encode() + b'pcr 13 events except component "imgdb.tgz"')
    good = _modules("a.v00", "imgdb.tgz")
    reference = reference_from_log(good, BASE)
    other = replace(good, events=(good.events[0], _module("imgdb.tgz", b"new")))
    assert _codes(policy, [reference], other) == set()
    evil = replace(good, events=(*good.events, _module("imgdb.tgz", b"evil")))
    assert _codes(policy, [reference], evil) == {"exception-count"}
    own = parse_policy(HEAD.encode() + b'pcr 13 events\npcr 13 per-host component "imgdb.tgz"\n')
    first = apply_policy(own, [reference], good, replay(good), None, NOW)
    assert [warning.code for warning in first.warnings] == ["host-value-new"]
    assert _codes(own, [reference], good, first.host) == set()
    assert _codes(own, [reference], evil, first.host) == {"host-value-changed"}


def test_old_references_count_only_during_the_overlap() -> None:
    old, new = _modules("a.v00"), _modules("b.v00")
    references = [reference_from_log(new, BASE), reference_from_log(old, BASE)]
    text = HEAD.encode() + b"pcr 13 events\n"
    assert _codes(parse_policy(text), references, old) != set()
    assert _codes(parse_policy(text + b"overlap until 2026-06-02"), references, old) == set()
    assert _codes(parse_policy(text + b"overlap until 2026-06-01"), references, old) != set()


def test_policies_are_signed_and_never_go_back() -> None:
    pki = shared_pki()
    trust = TrustStore(
        tuple(
            Anchor(pki.issuers[level].certificate, frozenset({Level(level)}))
            for level in pki.issuers
        )
    )
    signed = split_signed(join_signed(FULL, pki.sign(FULL, "certified")))
    assert parse_policy(signed.body).version == 7
    assert "certified" in verify_signed(signed, trust, NOW, component="policy")
    for data, code in (
        (FULL, "signature-missing"),
        (FULL + b"pcr 9 excluded\n" + pki.sign(FULL, "certified"), "content-changed"),
        (join_signed(FULL, pki.sign(FULL, "community")), "signer-untrusted"),
    ):
        with pytest.raises(SignatureError) as caught:
            verify_signed(split_signed(data), trust, NOW, component="policy")
        assert caught.value.code == code
    check_newer(7, 7, component="policy")
    check_newer(None, 1, component="policy")
    with pytest.raises(VerificationError) as old:
        check_newer(7, 6, component="policy")
    assert old.value.code == "rollback"


def test_sections_of_a_result_are_never_better_than_what_was_appraised(corpus: Path) -> None:
    log = _log(corpus)
    evil = replay(log)
    evil["sha256"][4] = digest("sha256", b"x")
    bad = apply_policy(EVENTS, [reference_from_log(log, BASE)], log, evil, None, NOW).findings
    sections = submodules(
        [
            Judged(frozenset({Section.IDENTITY, Section.FIRMWARE})),
            Judged(frozenset({Section.BOOT}), bad),
        ],
        "p 1",
    )
    assert set(sections) == {section.value for section in Section}
    assert sections["identity"].status is Tier.AFFIRMING
    assert sections["boot"].status is Tier.CONTRAINDICATED
    assert sections["runtime"].status is Tier.NONE
    assert section_of(bad[0]) is Section.BOOT
    assert overall(sections, [Section.IDENTITY]) is Tier.CONTRAINDICATED
    alone = submodules([Judged(frozenset({Section.IDENTITY}))], "p 1")
    assert overall(alone, [Section.IDENTITY]) is Tier.AFFIRMING
    assert overall(alone, [Section.IDENTITY, Section.VIBS]) is Tier.NONE
