"""What was found becomes a result that is never better than what was appraised."""

from __future__ import annotations

from dataclasses import replace

import pytest

from casemate.errors import Finding
from casemate.formats.ear import CRYPTO_FAILED, Section, Tier
from casemate.policy.appraise import Appraisal, Verdict, appraise
from casemate.policy.tpmidentity import check_identity
from casemate.policy.verdict import Judged, from_appraisal, overall, section_of, submodules
from casemate.testing.pki import NOW
from casemate.testing.smallhost import SmallHost, SmallImage, ek_maker

NONCE = b"\x11" * 32
NEEDED = (Section.IDENTITY, Section.KERNEL, Section.VIBS, Section.DRTM, Section.HARDENING)


def _judge(host: SmallHost, nonce: bytes = NONCE) -> Appraisal:
    identity = check_identity(host.claim(), [ek_maker().certificate], NOW)
    return appraise(host.evidence(nonce), SmallImage().reference(), identity, NONCE)


def test_a_good_host_is_affirmed_in_what_was_appraised_and_in_nothing_else() -> None:
    sections = submodules([from_appraisal(_judge(SmallHost()), drtm=True)], "p 1")
    affirmed = {name for name, one in sections.items() if one.status is Tier.AFFIRMING}
    assert affirmed == {section.value for section in NEEDED}
    assert all(sections[name].policy_id == "p 1" for name in affirmed)
    assert overall(sections, NEEDED) is Tier.AFFIRMING
    assert overall(sections, [*NEEDED, Section.FIRMWARE]) is Tier.NONE


def test_another_vib_is_contraindicated_in_its_section() -> None:
    host = SmallHost(SmallImage(versions={"nic-driver": "1.9-1"}))
    sections = submodules([from_appraisal(_judge(host), drtm=True)], "p 1")
    assert sections["vibs"].status is Tier.CONTRAINDICATED
    assert "nic" in sections["vibs"].findings[0].component
    assert sections["identity"].status is Tier.AFFIRMING


def test_a_refused_quote_affirms_nothing() -> None:
    sections = submodules([from_appraisal(_judge(SmallHost(), b"other"), drtm=True)], "p 1")
    assert sections["identity"].status is Tier.CONTRAINDICATED
    assert {one.status for name, one in sections.items() if name != "identity"} == {Tier.NONE}


def test_an_appraisal_without_end_is_not_taken_for_good() -> None:
    undecided = replace(_judge(SmallHost()), verdict=Verdict.UNDECIDED)
    sections = submodules([from_appraisal(undecided, drtm=False)], "p 1")
    assert overall(sections, [Section.IDENTITY]) is Tier.CONTRAINDICATED


def _finding(code: str, component: str = "x") -> Finding:
    return Finding(code, component, "a reason", "a remedy")


@pytest.mark.parametrize(
    ("finding", "section"),
    [
        (_finding("ek-expired"), Section.IDENTITY),
        (_finding("duplicate-separator"), Section.FIRMWARE),
        (_finding("replay-mismatch", "PCR 2"), Section.FIRMWARE),
        (_finding("replay-mismatch", "PCR 5"), Section.BOOT),
        (_finding("replay-mismatch", "PCR 13"), Section.VIBS),
        (_finding("pcr-changed", "PCR 14"), Section.KERNEL),
        (_finding("replay-mismatch", "PCR 18"), Section.DRTM),
        (_finding("ima-digest"), Section.RUNTIME),
        (_finding("boot-aggregate"), Section.RUNTIME),
        (_finding("boot-option-changed"), Section.KERNEL),
        (_finding("hardening-pie"), Section.HARDENING),
        (_finding("something-new"), Section.BOOT),
        (_finding("replay-mismatch", "PCR 99"), Section.BOOT),
    ],
)
def test_every_finding_has_a_section(finding: Finding, section: Section) -> None:
    assert section_of(finding) is section


def test_tiers_of_unknown_files_warnings_and_broken_signatures() -> None:
    runtime = frozenset({Section.RUNTIME})

    def tier(*codes: str, warned: bool = False) -> Tier:
        warnings = (_finding("ima-violation"),) if warned else ()
        judged = Judged(runtime, tuple(map(_finding, codes)), warnings)
        return submodules([judged], "p")["runtime"].status

    assert tier() is Tier.AFFIRMING
    assert tier(warned=True) is Tier.WARNING
    assert tier("ima-unknown-file") is Tier.WARNING
    assert tier("ima-unknown-file", "ima-digest") is Tier.CONTRAINDICATED
    broken = submodules([Judged(frozenset(), (_finding("signature-invalid"),))], "p")
    assert broken["identity"].vector.instance_identity == CRYPTO_FAILED
    absent = Judged(frozenset({Section.BOOT}), (_finding("no-reference", "PCR 4"),))
    assert submodules([absent], "p")["boot"].status is Tier.NONE
