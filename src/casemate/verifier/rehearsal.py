"""Who would fail? A reference tried out on the stored evidence of the whole fleet.

No host is asked: the evidence of each host's last round is judged again, with the nonce it was
asked with, by the reference in question alone. Nothing is written down.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from casemate.calls import evidence as wire
from casemate.calls.messages import EvidenceReply
from casemate.errors import CasemateError, Finding
from casemate.machine.fleet import FleetHost, Round
from casemate.policy.appraise import Verdict
from casemate.policy.tpmidentity import check_identity
from casemate.verifier import roundstore, rulestore, store
from casemate.verifier.client import evidence_of
from casemate.verifier.database import Database
from casemate.verifier.judge import Assigned, Candidate, Judge
from casemate.verifier.records import moment, read_claim, values_from
from casemate.verifier.references import Anchors, ReferenceBook
from casemate.verifier.results import sentence

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
            last = roundstore.latest_round(step, host.name)
        if last is None or not last.evidence or not host.identity:
            words = "no evidence of it is kept: attest it first"
            result.append(Rehearsed(host.name, host.state, UNKNOWN, words))
        else:
            result.append(_judged(judge, anchors, candidate, host, last))
    return result


def rehearse_policy(
    database: Database,
    anchors: Anchors,
    book: ReferenceBook,
    assigned: Assigned,
    *,
    everyone: bool = False,
) -> list[Rehearsed]:
    """Judge the hosts that have the policy of this name (or ``everyone``) by this version of it."""
    name = assigned.rules.policy.name
    result: list[Rehearsed] = []
    judge = Judge()
    with database.transaction() as step:
        chosen = rulestore.assignments(step)
        hosts = [h for h in store.all_hosts(step) if everyone or chosen.get(h.name) == name]
    for host in hosts:
        with database.transaction() as step:
            last = roundstore.latest_round(step, host.name)
            candidates = book.in_force(step, host.profile)
            row = rulestore.assignment(step, host.name)
        if last is None or not last.evidence or not host.identity:
            words = "no evidence of it is kept: attest it first"
            result.append(Rehearsed(host.name, host.state, UNKNOWN, words))
            continue
        own = values_from(json.loads(row[1])) if row and row[0] == name and row[1] else None
        mine = replace(assigned, rules=replace(assigned.rules, host=own))
        try:
            evidence = evidence_of(wire.decode(EvidenceReply, last.evidence))
            at = moment(last.time)
            identity = check_identity(read_claim(host.identity), anchors.ek_roots(), at)
        except CasemateError as error:
            result.append(Rehearsed(host.name, host.state, UNKNOWN, error.reason))
            continue
        lacking = [
            pcr
            for pcr in mine.rules.pcrs
            if any(pcr not in evidence.pcrs.get(bank, {}) for bank in mine.rules.policy.banks)
        ]
        if lacking:
            words = f"its last evidence lacks PCR {lacking[0]}, for which it would be asked"
            result.append(Rehearsed(host.name, host.state, UNKNOWN, words))
            continue
        found = judge.judge_by_policy(evidence, mine, candidates, identity, last.nonce, at)
        would = _WOULD[found.appraisal.verdict]
        if found.ruled is not None and found.ruled.uncovered:
            would = UNKNOWN
        told, findings = sentence(found.appraisal), found.appraisal.findings
        result.append(Rehearsed(host.name, host.state, would, told, findings))
    return result


_WOULD = {Verdict.TRUSTED: "pass", Verdict.UNTRUSTED: "fail", Verdict.UNDECIDED: UNKNOWN}


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
