"""Each attack on a host, its log or its quote is found, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.errors import CasemateError, Finding
from casemate.formats.ear import Section, Tier
from casemate.formats.eventlog import Event, parse
from casemate.formats.eventtypes import EV_EVENT_TAG
from casemate.formats.tagged import TAG_CMD_OPT, TAG_MOD, TaggedEvent, write_tagged
from casemate.formats.tpm import write_signature
from casemate.policy.appraise import Appraisal, Evidence, PcrStatus, Verdict, appraise
from casemate.policy.isolation import EMULATED
from casemate.policy.measure import measured_digests
from casemate.policy.predict import predict
from casemate.policy.processaudit import VIOLATION
from casemate.policy.tpmidentity import check_identity
from casemate.policy.verdict import from_appraisal, section_of, submodules
from casemate.testing.pki import NOW
from casemate.testing.smallhost import PCRS, SmallHost, SmallImage, ek_maker
from casemate.testing.softkeys import SoftKey

NONCE = b"\x11" * 32
REFERENCE = SmallImage().reference()


def judge(host: SmallHost, evidence: Evidence | None = None, nonce: bytes = NONCE) -> Appraisal:
    identity = check_identity(host.claim(), [ek_maker().certificate], NOW)
    return appraise(evidence or host.evidence(NONCE), REFERENCE, identity, nonce)


def codes(appraisal: Appraisal) -> list[str]:
    assert (appraisal.verdict is Verdict.TRUSTED) == (not appraisal.findings)
    for finding in appraisal.findings:
        assert finding.reason
        assert finding.remedy
        assert finding.component
    return [finding.code for finding in appraisal.findings]


def only(appraisal: Appraisal) -> Finding:
    (finding,) = appraisal.findings
    return finding


def find(host: SmallHost, name: str, pcr: int) -> int:
    return next(
        i
        for i, event in enumerate(host.log)
        if event.pcr == pcr and name.encode() + b"\0" in event.data
    )


def test_a_clean_boot_is_trusted_and_every_line_is_good() -> None:
    appraisal = judge(SmallHost())
    assert codes(appraisal) == []
    assert appraisal.pcrs is not None
    for bank in REFERENCE.algorithms:
        assert {r.status for r in appraisal.pcrs[bank].values()} == {PcrStatus.EXPECTED}
        assert {pcr: r.quoted for pcr, r in appraisal.pcrs[bank].items()} == REFERENCE.pcrs[bank]
    assert [(c.component.file_name, c.status) for c in appraisal.components] == [
        (module.name, "good") for module in SmallImage().cfg().files
    ]
    assert appraisal.components[0].pcrs == (17, 12)
    assert appraisal.components[1].pcrs == (12, 19)
    assert {c.component.level for c in appraisal.components[:-1]} == {
        "certified",
        "accepted",
        "partner",
    }


def test_per_host_words_of_the_command_line_do_not_matter() -> None:
    appraisal = judge(SmallHost(SmallImage(kernelopt="bootUUID=another")))
    assert codes(appraisal) == []
    assert appraisal.pcrs is not None
    assert appraisal.pcrs["sha256"][14].status is PcrStatus.EXPLAINED


# What was booted is another image.


def test_a_vib_swapped_for_an_older_signed_one_is_one_finding_that_names_it() -> None:
    appraisal = judge(SmallHost(SmallImage(versions={"nic-driver": "1.9-1"})))
    finding = only(appraisal)
    assert finding.code == "component-changed"
    assert finding.component == "nic.v00 (Casemate_bootbank_nic-driver_2.0-1)"
    expected = SmallImage().bank().digests["nic.v00"]["sha256"].hex()
    found = measured_digests(b"nic.v00 of version 1.9-1", ["sha256"])["sha256"].hex()
    for part in ("nic-driver 2.0-1", "Casemate", expected, found, "1.9-1", "PCR 13 and 20"):
        assert part in finding.reason
    row = next(c for c in appraisal.components if c.component.file_name == "nic.v00")
    assert (row.status, row.claimed_version) == ("changed", "1.9-1")


def test_one_byte_changed_in_a_payload_is_found_by_name() -> None:
    image = SmallImage()
    changed = image.content("qemu.v01")[:-1] + b"!"
    finding = only(judge(SmallHost(SmallImage(contents={"qemu.v01": changed}))))
    assert finding.code == "component-changed"
    assert finding.component.startswith("qemu.v01 ")


def test_another_loader_is_found_by_the_launch() -> None:
    finding = only(judge(SmallHost(SmallImage(contents={"b.b00": b"evil"}))))
    assert (finding.code, finding.component) == (
        "component-changed",
        "b.b00 (Casemate_bootbank_casemate-boot_2.0-1)",
    )
    assert "PCR 12 and 17" in finding.reason


def test_another_kernel_version_is_one_finding() -> None:
    finding = only(judge(SmallHost(SmallImage(versions={"casemate-kernel": "2.1-1"}))))
    assert finding.code == "component-changed"
    assert finding.component.startswith("k.b00 ")


def test_a_changed_option_file_is_found_by_name() -> None:
    finding = only(judge(SmallHost(SmallImage(contents={"useropts.gz": b"debug"}))))
    assert finding.component.startswith("useropts.gz ")


def test_changed_boot_options_are_found_with_both_texts() -> None:
    appraisal = judge(SmallHost(SmallImage(kernelopt="bootUUID=1 debugShell=1")))
    finding = only(appraisal)
    assert finding.code == "boot-option-changed"
    assert "'b.b00 bootUUID=1'" in finding.reason
    assert "'b.b00 bootUUID=1 debugShell=1'" in finding.reason


def test_exec_installed_only_switched_off_is_found_as_option_and_as_its_effect() -> None:
    appraisal = judge(SmallHost(SmallImage(kernelopt="bootUUID=1 execInstalledOnly=FALSE")))
    assert sorted(codes(appraisal)) == ["boot-option-changed", "security-option-changed"]


def test_an_extra_trust_anchor_on_the_host_is_found() -> None:
    host = SmallHost()
    host.extend(host.measurer.trust_anchor(("community",), b"stranger"))
    finding = only(judge(host))
    assert finding.code == "trust-anchor-added"
    assert "community" in finding.reason


def test_a_replaced_trust_anchor_is_one_finding() -> None:
    image = SmallImage()
    bank = image.bank()
    other = replace(bank.anchors[0], certificate=b"stranger")
    reference = predict(replace(bank, anchors=(other, *bank.anchors[1:])), created=NOW)
    host = SmallHost()
    identity = check_identity(host.claim(), [ek_maker().certificate], NOW)
    appraisal = appraise(host.evidence(NONCE), reference, identity, NONCE)
    assert codes(appraisal) == ["trust-anchor-changed"]


def test_something_loaded_after_boot_complete_is_found_as_such() -> None:
    host = SmallHost()
    digests = measured_digests(b"module", host.measurer.algorithms)
    host.extend(host.measurer.runtime_component("rootkit.ko", digests))
    finding = only(judge(host))
    assert (finding.code, finding.component) == ("runtime-component", "rootkit.ko")


def test_a_violation_that_the_host_measured_is_found_as_such() -> None:
    host = SmallHost()
    host.extend(host.measurer.security_option(f"{VIOLATION} = process-wx VM 1: writable code"))
    host.extend(host.measurer.security_option(f"{VIOLATION} = process-alias VM 2: the same"))
    appraisal = judge(host)
    assert appraisal.verdict is Verdict.UNTRUSTED
    assert set(codes(appraisal)) == {"hardening-violation"}
    assert {section_of(finding) for finding in appraisal.findings} == {Section.HARDENING}
    reasons = " ".join(finding.reason for finding in appraisal.findings)
    assert "process-wx VM 1" in reasons
    assert "process-alias VM 2" in reasons


def test_a_host_without_hardware_isolation_is_trusted_with_a_warning() -> None:
    host = SmallHost()
    identity = check_identity(host.claim(), [ek_maker().certificate], NOW)
    reference = SmallImage().reference()
    for accelerator, warnings in (("tcg", [EMULATED]), ("kvm", []), ("", [])):
        evidence = replace(host.evidence(NONCE), accelerator=accelerator)
        appraisal = appraise(evidence, reference, identity, NONCE)
        assert (appraisal.verdict, list(appraisal.warnings)) == (Verdict.TRUSTED, warnings)
        hardening = submodules([from_appraisal(appraisal, drtm=True)], "p")["hardening"]
        assert hardening.status is (Tier.WARNING if warnings else Tier.AFFIRMING)


def test_a_boot_that_stopped_midway_is_incomplete() -> None:
    host = SmallHost()
    host.tpm.restart()
    host.tpm.hash_launch(host.files["b.b00"])
    events, host.log = host.log[:-2], []
    for event in events:
        if event.pcr == 17:
            host.log.append(event)
            continue
        locality = 2 if event.pcr > 17 else 0
        host.tpm.extend(event.pcr, {str(b): v for b, v in event.digests}, locality)
        host.log.append(event)
    assert codes(judge(host)) == ["boot-incomplete"]


def test_without_a_launch_the_drtm_pcrs_prove_nothing_and_one_finding_says_so() -> None:
    appraisal = judge(SmallHost(drtm=False))
    assert codes(appraisal) == ["drtm-missing"]


# The log lies; the TPM does not.

Tamper = Callable[[SmallHost], Sequence[Event]]


def without(name: str, pcr: int) -> Tamper:
    def change(host: SmallHost) -> Sequence[Event]:
        index = find(host, name, pcr)
        return [*host.log[:index], *host.log[index + 1 :]]

    return change


def renamed(host: SmallHost) -> Sequence[Event]:
    index = find(host, "nic.v00", 13)
    name = write_tagged(TaggedEvent(TAG_MOD, b"good.v00\0"))
    return [*host.log[:index], host.log[index]._replace(data=name), *host.log[index + 1 :]]


def changed(host: SmallHost) -> Sequence[Event]:
    index = find(host, "nic.v00", 13)
    digests = tuple(measured_digests(b"other", ["sha256", "sha384"]).items())
    return [*host.log[:index], host.log[index]._replace(digests=digests), *host.log[index + 1 :]]


def added(host: SmallHost) -> Sequence[Event]:
    index = find(host, "nic.v00", 13)
    digests = tuple(measured_digests(b"other", ["sha256", "sha384"]).items())
    name = write_tagged(TaggedEvent(TAG_MOD, b"extra.v00\0"))
    return [*host.log[:index], Event(13, EV_EVENT_TAG, digests, name), *host.log[index:]]


def reordered(host: SmallHost) -> Sequence[Event]:
    first, second = find(host, "qemu.v00", 13), find(host, "nic.v00", 13)
    log = list(host.log)
    log[first], log[second] = log[second], log[first]
    return log


@pytest.mark.parametrize(
    ("tamper", "code", "component"),
    [
        (without("nic.v00", 13), "log-event-removed", "nic.v00"),
        (changed, "log-event-changed", "nic.v00"),
        (added, "log-event-added", "extra.v00"),
        (reordered, "log-events-reordered", "v00"),
    ],
    ids=["removed", "changed", "added", "reordered"],
)
def test_an_event_tampered_with_in_the_log_is_named_and_the_pcr_refutes_it(
    tamper: Tamper, code: str, component: str
) -> None:
    host = SmallHost()
    host.log = list(tamper(host))
    appraisal = judge(host)
    assert code in codes(appraisal)
    assert "replay-mismatch" in codes(appraisal)
    named = next(f for f in appraisal.findings if f.code == code)
    assert component in named.component
    assert appraisal.pcrs is not None
    assert appraisal.pcrs["sha256"][13].status is PcrStatus.UNEXPLAINED
    assert appraisal.pcrs["sha256"][20].status is PcrStatus.EXPECTED


def test_an_event_renamed_in_the_log_is_found_although_every_pcr_replays() -> None:
    host = SmallHost()
    host.log = list(renamed(host))
    finding = only(judge(host))
    assert finding.code == "event-data"
    assert "good.v00" in finding.reason


def test_a_command_line_rewritten_in_the_log_is_found_although_every_pcr_replays() -> None:
    host = SmallHost(SmallImage(kernelopt="bootUUID=1 debugShell=1"))
    honest = write_tagged(TaggedEvent(TAG_CMD_OPT, b"b.b00 bootUUID=1"))
    host.log = [
        event._replace(data=honest) if b"debugShell" in event.data else event for event in host.log
    ]
    finding = only(judge(host))
    assert finding.code == "event-data"


def test_a_log_without_its_end_is_incomplete_not_wrong() -> None:
    host = SmallHost()
    host.log = host.log[:-2]
    appraisal = judge(host)
    assert set(codes(appraisal)) == {"log-event-removed", "log-incomplete"}
    assert appraisal.pcrs is not None
    assert appraisal.pcrs["sha256"][21].status is PcrStatus.LOG_INCOMPLETE


def test_a_pcr_extended_behind_the_logs_back_is_named() -> None:
    host = SmallHost()
    host.tpm.extend(13, {"sha256": b"\x07" * 32, "sha384": b"\x07" * 48})
    finding = only(judge(host))
    assert (finding.code, finding.component) == ("replay-mismatch", "PCR 13")
    rows = {c.component.file_name: c.status for c in judge(host).components}
    assert rows["nic.v00"] == "unproven"
    assert rows["k.b00"] == "good"


def test_a_pcr_extended_in_one_bank_only_is_found() -> None:
    host = SmallHost()
    host.tpm.extend(13, {"sha384": b"\x07" * 48})
    appraisal = judge(host)
    assert codes(appraisal) == ["replay-mismatch"]
    assert appraisal.pcrs is not None
    assert appraisal.pcrs["sha256"][13].status is PcrStatus.EXPECTED
    assert appraisal.pcrs["sha384"][13].status is PcrStatus.UNEXPLAINED


def test_a_log_that_runs_ahead_of_the_quote_says_so() -> None:
    host = SmallHost()
    evidence = host.evidence(NONCE)
    digests = measured_digests(b"module", host.measurer.algorithms)
    host.extend(host.measurer.runtime_component("late.ko", digests))
    appraisal = judge(host, replace(evidence, log=host.log_bytes()))
    assert "quote-behind-log" in codes(appraisal)
    assert "replay-mismatch" not in codes(appraisal)


@pytest.mark.parametrize("log", [b"", b"\0" * 10, b"garbage" * 100])
def test_a_malformed_log_is_untrusted(log: bytes) -> None:
    host = SmallHost()
    appraisal = judge(host, replace(host.evidence(NONCE), log=log))
    assert appraisal.verdict is Verdict.UNTRUSTED


def test_a_log_of_one_bank_cannot_vouch_for_the_other() -> None:
    host, narrow = SmallHost(), SmallHost(banks=("sha256",))
    appraisal = judge(host, replace(host.evidence(NONCE), log=narrow.log_bytes()))
    assert codes(appraisal) == ["log-bank"]


# The quote lies.


def test_a_replayed_quote_is_refused() -> None:
    host = SmallHost()
    assert codes(judge(host, host.evidence(b"\x22" * 32))) == ["stale-nonce"]


def test_a_quote_without_nonce_is_refused() -> None:
    host = SmallHost()
    assert codes(judge(host, host.evidence(b""))) == ["stale-nonce"]
    assert codes(judge(host, host.evidence(b""), nonce=b"")) == ["stale-nonce"]


def test_a_quote_from_another_ak_is_refused() -> None:
    host = SmallHost()
    identity = host.claim()
    other = SmallHost()
    other.ek = host.ek
    evidence = other.evidence(NONCE)
    checked = check_identity(identity, [ek_maker().certificate], NOW)
    assert codes(appraise(evidence, REFERENCE, checked, NONCE)) == ["signature-invalid"]


def test_a_quote_over_other_pcrs_is_refused() -> None:
    host = SmallHost()
    few = host.evidence(NONCE, (11, 12, 13, 14))
    assert codes(judge(host, few)) == ["missing-pcr"]
    claimed = replace(few, pcrs=host.evidence(NONCE).pcrs)
    assert codes(judge(host, claimed)) == ["unquoted-pcr"]
    renamed_pcrs = {
        bank: {pcr + 1: value for pcr, value in values.items()} for bank, values in few.pcrs.items()
    }
    assert codes(judge(host, replace(few, pcrs=renamed_pcrs))) == ["missing-pcr"]


def test_only_one_bank_quoted_is_refused() -> None:
    host = SmallHost()
    one = host.evidence(NONCE, banks=("sha256",))
    assert codes(judge(host, one)) == ["bank-not-quoted"]
    both = replace(one, pcrs=host.evidence(NONCE).pcrs)
    assert codes(judge(host, both)) == ["bank-not-quoted"]


def test_changed_values_beside_a_quote_are_refused() -> None:
    host = SmallHost(SmallImage(versions={"nic-driver": "1.9-1"}))
    honest = host.evidence(NONCE)
    lie = replace(honest, pcrs=SmallHost().evidence(NONCE).pcrs, log=SmallHost().log_bytes())
    assert codes(judge(host, lie)) == ["pcr-digest"]


def test_no_quote_at_all_is_refused() -> None:
    host = SmallHost()
    assert codes(judge(host, replace(host.evidence(NONCE), quotes=()))) == ["no-quote"]


def test_a_reset_between_two_quotes_is_refused() -> None:
    host = SmallHost()
    values = host.tpm.values()
    first = host.tpm.quote(NONCE, {"sha256": PCRS}, host.ak)
    host.tpm.reset_count += 1
    second = host.tpm.quote(NONCE, {"sha384": PCRS}, host.ak)
    evidence = Evidence(
        tuple((attest, write_signature(signature)) for attest, signature in (first, second)),
        {bank: {pcr: values[bank][pcr] for pcr in PCRS} for bank in ("sha256", "sha384")},
        host.log_bytes(),
    )
    assert codes(judge(host, evidence)) == ["reset-between-quotes"]


def test_a_quote_signed_over_something_else_than_a_quote_is_refused() -> None:
    host = SmallHost()
    evidence = host.evidence(NONCE)
    attest, _ = evidence.quotes[0]
    certify = attest[:4] + b"\x80\x17" + attest[6:]
    quotes = ((certify, write_signature(host.ak.sign(certify))), *evidence.quotes[1:])
    assert codes(judge(host, replace(evidence, quotes=quotes))) == ["wrong-attest-type"]
    foreign = b"\0" * 4 + attest[4:]
    quotes = ((foreign, write_signature(host.ak.sign(foreign))), *evidence.quotes[1:])
    assert codes(judge(host, replace(evidence, quotes=quotes))) == ["not-tpm-generated"]


# Whatever is sent.


@settings(deadline=None)
@given(st.data())
def test_any_damaged_log_is_never_trusted(data: st.DataObject) -> None:
    host = SHARED
    log = CLEAN.log
    start = data.draw(st.integers(0, len(log) - 1))
    end = data.draw(st.integers(start, min(len(log), start + 200)))
    replacement = data.draw(st.binary(max_size=40))
    damaged = log[:start] + replacement + log[end:]
    appraisal = judge(host, replace(CLEAN, log=damaged))
    assert (appraisal.verdict is Verdict.TRUSTED) == _same_events(damaged)


@settings(deadline=None)
@given(st.permutations(range(12)), st.integers(0, 11))
def test_any_log_of_shuffled_events_is_untrusted_or_replays(order: list[int], drop: int) -> None:
    host = SHARED
    kept = [host.log[-12:][i] for i in order[: 12 - drop]]
    tampered = SmallHost.__new__(SmallHost)
    tampered.measurer = host.measurer
    tampered.log = [*host.log[:-12], *kept]
    appraisal = judge(host, replace(CLEAN, log=tampered.log_bytes()))
    expected = all(
        [e for e in tampered.log if e.pcr == pcr] == [e for e in host.log if e.pcr == pcr]
        for pcr in PCRS
    )
    assert (appraisal.verdict is Verdict.TRUSTED) == expected


@given(st.binary(max_size=120), st.binary(max_size=120))
def test_any_bytes_for_a_quote_give_a_verdict(attest: bytes, signature: bytes) -> None:
    appraisal = judge(SHARED, replace(CLEAN, quotes=((attest, signature), *CLEAN.quotes[1:])))
    assert appraisal.verdict is Verdict.UNTRUSTED


def test_the_attestation_key_of_another_hash_still_proves() -> None:
    host = SmallHost()
    host.ak = SoftKey(hash_name="sha384")
    assert codes(judge(host)) == []


SHARED = SmallHost()
CLEAN = SHARED.evidence(NONCE)


def _same_events(log: bytes) -> bool:
    """Padding, header details and bytes that happen to be replaced by themselves do no harm."""
    try:
        return list(parse(log).events) == SHARED.log
    except CasemateError:
        return False
