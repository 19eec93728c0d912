"""What a policy asks of a host counts only where the quote proves it."""

from __future__ import annotations

from casemate.formats.eventlog import Event
from casemate.formats.tagged import TAG_SECURITY_OPTION, TaggedEvent, parse_tagged, write_tagged
from casemate.policy.describe import Kind, describe
from casemate.policy.language import parse_policy
from casemate.policy.ruled import OPTION_PCRS, Rules, appraise_by_rules
from casemate.policy.tpmidentity import check_identity
from casemate.testing.expect import codes
from casemate.testing.pki import NOW
from casemate.testing.smallhost import PCRS, SmallHost, SmallImage, ek_maker

NONCE = b"\x11" * 32
RULES = Rules(
    parse_policy(b'policy "hosts" version 1\nbanks sha256\npcr 12 equal\nrequire hardening\n'),
    references=(SmallImage().reference(),),
)


def found(host: SmallHost, *, pcrs: tuple[int, ...] = PCRS) -> set[str]:
    identity = check_identity(host.claim(), [ek_maker().certificate], NOW)
    evidence = host.evidence(NONCE, pcrs, banks=("sha256",))
    return codes(appraise_by_rules(evidence, RULES, identity, NONCE, NOW).appraisal.findings)


def options_of(host: SmallHost) -> list[Event]:
    return [one for one in host.log if describe(one).kind is Kind.SECURITY_OPTION]


def test_the_pcrs_of_security_options_are_asked_for() -> None:
    assert set(OPTION_PCRS) <= set(RULES.pcrs)
    assert {one.pcr for one in options_of(SmallHost())} <= set(OPTION_PCRS)
    for drtm in (True, False):
        assert found(SmallHost(drtm=drtm)) == set()


def test_options_that_no_quote_proves_keep_no_hardening_rule() -> None:
    unquoted = tuple(pcr for pcr in PCRS if pcr not in OPTION_PCRS)
    assert found(SmallHost(), pcrs=unquoted) == {"missing-pcr"}
    host = SmallHost()
    host.log = [one._replace(pcr=15) if one in options_of(host) else one for one in host.log]
    assert {"replay-mismatch", "hardening-missing"} <= found(host)
    host = SmallHost(drtm=False)
    host.log = [one._replace(pcr=21) if one in options_of(host) else one for one in host.log]
    assert {"replay-mismatch", "hardening-missing"} <= found(host)


def test_an_option_whose_text_was_changed_and_digest_kept_is_found() -> None:
    host = SmallHost()
    place = host.log.index(options_of(host)[0])
    item = TaggedEvent(TAG_SECURITY_OPTION, b"harmless = TRUE\0")
    assert parse_tagged(host.log[place].data).tag == item.tag
    host.log[place] = host.log[place]._replace(data=write_tagged(item))
    assert found(host) == {"hardening-option"}
