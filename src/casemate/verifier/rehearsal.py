"""Who would fail? A reference tried out on the stored evidence of the whole fleet.

No host is asked: the evidence of each host's last round is judged again, with the nonce it was
asked with, by the reference in question alone. Nothing is written down.
"""

from __future__ import annotations

from dataclasses import dataclass

from casemate.calls import evidence as wire
from casemate.calls.messages import EvidenceReply
from casemate.errors import CasemateError, Finding
from casemate.machine.fleet import FleetHost, Round
from casemate.policy.appraise import Verdict
from casemate.policy.tpmidentity import check_identity
from casemate.verifier import store
from casemate.verifier.client import evidence_of
from casemate.verifier.database import Database
from casemate.verifier.judge import Candidate, Judge
from casemate.verifier.ledger import sentence
from casemate.verifier.records import moment, read_claim
from casemate.verifier.references import Anchors

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What would become of a host; ``unknown`` where no evidence of it is kept."""

    host: str
    state: str
    would: str
    sentence: str
    findings: tuple[Finding, ...] = ()


def rehearse(database: Database, anchors: Anchors, candidate: Candidate) -> list[Rehearsed]:
    """Judge every host of the reference's profile (and those without one) by it alone."""
    profile = candidate.manifest.profile_name
    with database.transaction() as step:
        hosts = [one for one in store.all_hosts(step) if one.profile in {"", profile}]
    judge = Judge()
    result: list[Rehearsed] = []
    for host in hosts:
        with database.transaction() as step:
            last = store.latest_round(step, host.name)
        if last is None or not last.evidence or not host.identity:
            words = "no evidence of it is kept: attest it first"
            result.append(Rehearsed(host.name, host.state, UNKNOWN, words))
        else:
            result.append(_judged(judge, anchors, candidate, host, last))
    return result


def _judged(
    judge: Judge, anchors: Anchors, candidate: Candidate, host: FleetHost, last: Round
) -> Rehearsed:
    try:
        evidence = evidence_of(wire.decode(EvidenceReply, last.evidence))
        claim, roots = read_claim(host.identity), anchors.ek_roots()
        identity = check_identity(claim, roots, moment(last.time))
    except CasemateError as error:
        return Rehearsed(host.name, host.state, UNKNOWN, error.reason)
    found = judge.judge(evidence, [candidate], identity, last.nonce).appraisal
    would = "pass" if found.verdict is Verdict.TRUSTED else "fail"
    return Rehearsed(host.name, host.state, would, sentence(found), found.findings)
