"""Bad inputs, quotes: entries BI-001 to BI-026 of the catalogue, a test each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from casemate.formats import tpm
from casemate.formats.algorithms import ALGORITHMS
from casemate.formats.tpm import Quote, Selection, pcr_digest, write_quote
from casemate.policy.appraise import Appraisal, Evidence, Verdict, appraise
from casemate.policy.continuity import check_continuity, check_tpm_firmware
from casemate.policy.enrolment import (
    Issued,
    Pinned,
    check_key,
    check_nonce_record,
)
from casemate.policy.quotes import Clock
from casemate.policy.tpmidentity import TpmIdentity, check_identity
from casemate.testing.expect import codes, refused
from casemate.testing.pki import NOW
from casemate.testing.smallhost import SmallHost, SmallImage, ek_maker
from casemate.testing.softkeys import SoftKey

NONCE = b"\x11" * 32
REFERENCE = SmallImage().reference()
HOST = SmallHost()
T0 = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


def identity(host: SmallHost = HOST) -> TpmIdentity:
    return check_identity(host.claim(), [ek_maker().certificate], NOW)


def judge(evidence: Evidence, host: SmallHost = HOST, nonce: bytes = NONCE) -> Appraisal:
    return appraise(evidence, REFERENCE, identity(host), nonce)


def rejected(evidence: Evidence, host: SmallHost = HOST) -> set[str]:
    result = judge(evidence, host)
    assert result.verdict is not Verdict.TRUSTED
    return codes(result.findings)


def requoted(
    key: SoftKey, attest: bytes, change: Callable[[tpm.Attest], tpm.Attest]
) -> tuple[bytes, bytes]:
    """Change what was quoted and sign it again with the real key."""
    data = tpm.write_attest(change(tpm.parse_attest(attest)))
    return data, tpm.write_signature(key.sign(data))


def with_first_quote(evidence: Evidence, quote: tuple[bytes, bytes]) -> Evidence:
    return replace(evidence, quotes=(quote, *evidence.quotes[1:]))


def test_bi_001_replayed_quote() -> None:
    assert rejected(HOST.evidence(b"\x22" * 32)) == {"stale-nonce"}


def test_bi_002_nonce_used_twice() -> None:
    record_ = Issued("h", NONCE, T0, timedelta(seconds=60))
    assert check_nonce_record(record_, "h", T0) == NONCE
    spent = replace(record_, spent=True)
    assert refused(lambda: check_nonce_record(spent, "h", T0)) == "nonce-reused"
    assert refused(lambda: check_nonce_record(record_, "other", T0)) == "stale-nonce"


def test_bi_003_nonce_expired() -> None:
    record_ = Issued("h", NONCE, T0, timedelta(seconds=60))
    late = T0 + timedelta(seconds=61)
    assert refused(lambda: check_nonce_record(record_, "h", late)) == "nonce-expired"


def test_bi_004_nonce_as_text() -> None:
    assert rejected(HOST.evidence(NONCE.hex().encode()[:64])) == {"stale-nonce"}


def test_bi_005_no_nonce_in_the_quote() -> None:
    assert rejected(HOST.evidence(b"")) == {"stale-nonce"}


def test_bi_006_not_made_by_a_tpm() -> None:
    evidence = HOST.evidence(NONCE)
    data = b"\xff\x54\x43\x48" + evidence.quotes[0][0][4:]
    signed = (data, tpm.write_signature(HOST.ak.sign(data)))
    assert rejected(with_first_quote(evidence, signed)) == {"not-tpm-generated"}


@pytest.mark.parametrize("kind", [0x8014, 0x8017, 0x8019, 0x801A, 0x8000])
def test_bi_007_another_attestation_as_a_quote(kind: int) -> None:
    evidence = HOST.evidence(NONCE)
    attest = evidence.quotes[0][0]
    data = attest[:4] + kind.to_bytes(2, "big") + attest[6:]
    signed = (data, tpm.write_signature(HOST.ak.sign(data)))
    assert rejected(with_first_quote(evidence, signed)) == {"wrong-attest-type"}


def test_bi_008_other_pcrs_claimed_than_selected() -> None:
    few = HOST.evidence(NONCE, (11,))
    claimed = {bank: {12: values[11]} for bank, values in few.pcrs.items()}
    assert rejected(replace(few, pcrs=claimed)) <= {"missing-pcr", "unquoted-pcr"}


def test_bi_009_too_few_pcrs_selected() -> None:
    assert rejected(HOST.evidence(NONCE, (11, 12, 13, 14))) == {"missing-pcr"}


def test_bi_010_a_value_that_was_not_quoted() -> None:
    evidence = HOST.evidence(NONCE)
    more = {
        bank: {**values, 7: bytes(ALGORITHMS[bank].size)} for bank, values in evidence.pcrs.items()
    }
    assert rejected(replace(evidence, pcrs=more)) == {"unquoted-pcr"}


def test_bi_011_another_bank_quoted() -> None:
    host = SmallHost(banks=("sha1", "sha256", "sha384"))
    weak = host.evidence(NONCE, banks=("sha1",))
    assert rejected(weak, host) == {"bank-not-quoted"}


def test_bi_012_values_of_another_bank_relabelled() -> None:
    evidence = HOST.evidence(NONCE)
    swapped = {**evidence.pcrs, "sha256": evidence.pcrs["sha384"]}
    assert rejected(replace(evidence, pcrs=swapped)) == {"bank-mismatch"}


@pytest.mark.parametrize("size", [0, 20, 31, 33])
def test_bi_013_values_of_the_wrong_size(size: int) -> None:
    evidence = HOST.evidence(NONCE)
    values = {**evidence.pcrs["sha256"], 12: bytes(size)}
    assert rejected(replace(evidence, pcrs={**evidence.pcrs, "sha256": values})) == {
        "bank-mismatch"
    }


def test_bi_014_digest_by_another_hash_than_the_signature() -> None:
    evidence = HOST.evidence(NONCE)

    def change(attest: tpm.Attest) -> tpm.Attest:
        selections = attest.quoted().selections
        values = [evidence.pcrs[str(s.bank)][pcr] for s in selections for pcr in s.pcrs]
        quote = Quote(selections, pcr_digest(values, "sha384"))
        return replace(attest, quote=quote, attested=write_quote(quote))

    made = requoted(HOST.ak, evidence.quotes[0][0], change)
    assert rejected(with_first_quote(evidence, made)) == {"pcr-digest"}


def test_bi_015_sha1_signature() -> None:
    evidence = HOST.evidence(NONCE)
    attest, signature = evidence.quotes[0]
    weak = replace(tpm.parse_signature(signature), hash="sha1")
    made = (attest, tpm.write_signature(weak))
    assert rejected(with_first_quote(evidence, made)) == {"weak-alg"}


def test_bi_016_signature_of_another_kind() -> None:
    evidence = HOST.evidence(NONCE)
    attest = evidence.quotes[0][0]
    other = SoftKey(rsa.generate_private_key(65537, 2048)).sign(attest)
    pss = replace(other, scheme="rsapss")
    for signature in (other, pss):
        made = (attest, tpm.write_signature(signature))
        assert rejected(with_first_quote(evidence, made)) == {"alg-mismatch"}


def test_bi_017_ecdsa_numbers_out_of_range() -> None:
    evidence = HOST.evidence(NONCE)
    attest, signature = evidence.quotes[0]
    r, s = tpm.parse_signature(signature).values
    order = (0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551).to_bytes(32, "big")
    for values in ((bytes(32), s), (r, bytes(32)), (order, s), (b"\0" * 168 + r, s), (r, b"")):
        made = (attest, tpm.write_signature(tpm.Signature("ecdsa", "sha256", values)))
        assert rejected(with_first_quote(evidence, made)) == {"signature-invalid"}


def test_bi_018_truncated_everywhere() -> None:
    attest, signature = HOST.evidence(NONCE).quotes[0]
    for size in range(len(attest)):
        assert refused(lambda n=size: tpm.parse_attest(attest[:n])) in {
            "malformed",
            "not-tpm-generated",
        }
    for size in range(len(signature)):
        assert refused(lambda n=size: tpm.parse_signature(signature[:n])) == "malformed"


def test_bi_019_bytes_behind_the_end() -> None:
    evidence = HOST.evidence(NONCE)
    attest, signature = evidence.quotes[0]
    signed = attest + b"\0"
    longer = (signed, tpm.write_signature(HOST.ak.sign(signed)))
    assert rejected(with_first_quote(evidence, longer)) == {"malformed"}
    assert rejected(with_first_quote(evidence, (attest, signature + b"\0"))) == {"malformed"}


def test_bi_020_impossible_selections() -> None:
    attest = tpm.parse_attest(HOST.evidence(NONCE).quotes[0][0])
    one = write_quote(Quote((Selection("sha256", (0,)),), bytes(32)))
    twice = b"\0\0\0\2" + one[4:10] * 2 + one[10:]
    for body in (b"\xff\xff\xff\xff" + one[4:], one[:6] + b"\xff" + one[7:], twice):
        raw = tpm.write_attest(replace(attest, attested=body))
        assert refused(lambda data=raw: tpm.parse_attest(data)) == "malformed"


CLOCK = Clock(10_000, 5, 0, safe=True, firmware_version=7)


def test_bi_021_clock_went_backwards() -> None:
    found = check_continuity(CLOCK, replace(CLOCK, clock=9_999), new_boot=False)
    assert codes(found.findings) == {"clock-rollback"}
    back = replace(CLOCK, reset_count=4, clock=20_000)
    assert codes(check_continuity(CLOCK, back, new_boot=True).findings) == {"clock-rollback"}
    assert not check_continuity(CLOCK, replace(CLOCK, clock=10_001), new_boot=False).findings


def test_bi_022_reset_without_a_boot() -> None:
    reset = replace(CLOCK, reset_count=6, clock=10)
    assert codes(check_continuity(CLOCK, reset, new_boot=False).findings) == {"unexpected-reset"}
    assert check_continuity(CLOCK, reset, new_boot=True).rebooted


def test_bi_023_resume_is_a_warning() -> None:
    found = check_continuity(CLOCK, replace(CLOCK, restart_count=1), new_boot=False)
    assert (found.findings, codes(found.warnings), found.resumed) == ((), {"resume"}, True)


def test_bi_024_unsafe_clock_is_a_warning() -> None:
    found = check_continuity(CLOCK, replace(CLOCK, safe=False), new_boot=False)
    assert (found.findings, codes(found.warnings)) == ((), {"clock-unsafe"})


def test_bi_025_bad_tpm_firmware() -> None:
    assert codes(check_tpm_firmware(CLOCK, {7})) == {"tpm-firmware"}
    assert check_tpm_firmware(CLOCK, {8}) == ()


def test_bi_026_evidence_of_another_host() -> None:
    pinned = Pinned("b", identity().fingerprint, HOST.ak.public.name())
    other = SoftKey().public.name()
    assert refused(lambda: check_key(pinned, other, "a")) == "key-not-of-host"
    host = SmallHost()
    assert rejected(host.evidence(NONCE)) == {"signature-invalid"}
