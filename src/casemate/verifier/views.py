"""What is shown of a fleet, as plain values: the same for the REST interface and for the pages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from casemate.calls import evidence as wire
from casemate.calls.messages import EvidenceReply
from casemate.errors import CasemateError, DigestError, NotFoundError
from casemate.formats import eventlog
from casemate.formats.manifest import Manifest
from casemate.formats.tpm import parse_attest, parse_signature
from casemate.machine.fleet import FleetHost, Round, StoredReference
from casemate.policy.eventtree import EventRow, event_rows
from casemate.policy.hostpolicy import reference_from_log
from casemate.policy.signedtext import split_signed
from casemate.verifier import alarmstore, audit, roundstore, rulestore, store
from casemate.verifier.database import Database, Transaction
from casemate.verifier.ledger import DUE_FACTOR
from casemate.verifier.records import read_record
from casemate.verifier.references import ReferenceBook

View = dict[str, Any]
Later = Callable[[], View]
"""Works out a part of a view; it asks the store nothing."""


@dataclass(frozen=True, slots=True)
class Against:
    """A host whose log another is compared with, and the round of it; none: the last."""

    host: str = ""
    round: int | None = None


REFERENCE = Against()
"""Compare with the reference."""

EVENTS_SHOWN = 10_000
"""Events of one page; a log that has more is shown up to there, and says so."""


def fleet(step: Transaction) -> View:
    """Return all hosts in short, counts by state, standing alarms, verifiers."""
    now = step.now()
    known = {one.identifier: one for one in rulestore.references(step, whole=False)}
    hosts = store.all_hosts(step)
    return {
        "now": now,
        "policy": rulestore.policy_version(step),
        "counts": dict(Counter(host.state for host in hosts)),
        "hosts": [_short(host, now, known) for host in hosts],
        "alarms": [asdict(alarm) for alarm in alarmstore.alarms(step)],
        "verifiers": [
            {"name": name, "seen": seen, "stopped": stopped}
            for name, seen, stopped in alarmstore.workers(step)
        ],
    }


def host(step: Transaction, name: str) -> View:
    """Return one host with its rounds and its proposed TPM. Raises NotFoundError."""
    found = store.get_host(step, name)
    known = {one.identifier: one for one in rulestore.references(step, whole=False)}
    record = read_record(found.record)
    proposal = store.find_proposal(step, name)
    return {
        **_short(found, step.now(), known),
        "ek": found.ek,
        "issuer": found.issuer,
        "profile": found.profile,
        "added": found.added,
        "since": record.since.timestamp(),
        "validUntil": record.valid_until.timestamp() if record.valid_until else None,
        "codes": sorted(record.codes),
        "assigned": (rulestore.assignment(step, name) or ("", ""))[0],
        "counters": json.loads(found.counters) if found.counters else None,
        "proposal": {
            "ek": proposal.ek,
            "issuer": proposal.issuer,
            "proposer": proposal.proposer,
            "time": proposal.time,
        }
        if proposal
        else None,
        "rounds": [_round(one) for one in roundstore.rounds_of(step, name)],
        "alarms": [asdict(one) for one in alarmstore.alarms(step) if one.host == name],
    }


def evidence(
    step: Transaction,
    book: ReferenceBook,
    name: str,
    number: int | None = None,
    against: Against = REFERENCE,
) -> View:
    """Return a round in full: result, quotes, and the log event by event.

    With ``against`` the log is compared with that host's instead of the reference.

    Raises:
        NotFoundError: no such round, or its evidence was thinned out.
    """
    value, log = evidence_in_parts(step, book, name, number, against)
    return {**value, **log()}


def evidence_in_parts(
    step: Transaction,
    book: ReferenceBook,
    name: str,
    number: int | None = None,
    against: Against = REFERENCE,
) -> tuple[View, Later]:
    """Return what ``evidence`` does, but for the log, and what reads that: it can be long."""
    store.get_host(step, name)
    one = roundstore.latest_round(step, name, number)
    if one is None:
        raise NotFoundError(
            "there is no such round", component=name, remedy="Attest the host first."
        )
    value: View = {
        **_round(one),
        "result": json.loads(one.result) if one.result else None,
        "quotes": [],
        "against": against.host,
        "againstRound": against.round,
    }
    if not one.evidence:
        return value, lambda: dict(_NO_EVENTS)
    try:
        reply = wire.decode(EvidenceReply, one.evidence)
        value["quotes"] = [_quote(*pair) for pair in reply.quotes]
    except CasemateError as error:
        reason = error.reason
        return value, lambda: {**_NO_EVENTS, "unreadable": reason}
    reference = _reference(step, book, one.reference)
    if against.host:
        reference = _as_reference(step, against, reference)
    return value, lambda: _events(reply.log, reference)


_NO_EVENTS: View = {"events": [], "missing": [], "more": 0}


def _events(data: bytes, reference: Manifest | None) -> View:
    try:
        log = eventlog.parse(data)
    except CasemateError as error:
        return {**_NO_EVENTS, "unreadable": error.reason}
    rows, missing = event_rows(log.events[:EVENTS_SHOWN], reference)
    return {
        "events": [_event(row) for row in rows],
        "missing": [_event(row) for row in missing],
        "more": max(0, len(log.events) - EVENTS_SHOWN),
    }


def references(step: Transaction) -> View:
    """Return all references, newest first."""
    now = step.now()
    using = Counter(host.reference for host in store.all_hosts(step))
    return {
        "now": now,
        "policy": rulestore.policy_version(step),
        "references": [
            {**_reference_view(one, now), "hosts": using[one.identifier]}
            for one in rulestore.references(step, whole=False)
        ],
    }


def policies(step: Transaction) -> View:
    """Return all policies, those in force first, and who has which."""
    chosen = rulestore.assignments(step)
    newest: set[tuple[str, str]] = set()
    rows = []
    for one in rulestore.policies(step):
        first = (one.kind, one.name) not in newest
        newest.add((one.kind, one.name))
        rows.append(
            {
                "identifier": one.identifier,
                "kind": one.kind,
                "name": one.name,
                "version": one.version,
                "signer": one.signer,
                "added": one.added,
                "addedBy": one.added_by,
                "state": "in force" if first else "replaced",
                "text": _policy_text(step, one.name) if first and one.kind == "policy" else "",
                "hosts": [host for host, name in chosen.items() if name == one.name],
            }
        )
    return {"policy": rulestore.policy_version(step), "policies": rows, "assignments": chosen}


def _policy_text(step: Transaction, name: str) -> str:
    body = split_signed(rulestore.policy_body(step, "policy", name)).body
    return body.decode("utf-8", "replace")


def audit_log(database: Database, checker: audit.Checker, limit: int = 200) -> View:
    """Return the audit log's last lines, how many were checked, and what was found changed."""
    try:
        checked, broken = checker.look(), ""
    except DigestError as error:
        checked, broken = 0, error.reason
    with database.transaction() as step:
        lines, head = audit.last(step)
        entries = [asdict(one) for one in audit.entries(step, limit)]
    return {
        "lines": lines,
        "checked": checked,
        "broken": broken,
        "head": head,
        "entries": entries,
    }


def _short(host: FleetHost, now: float, known: dict[str, StoredReference]) -> View:
    reference = known.get(host.reference)
    return {
        "name": host.name,
        "address": host.address,
        "mode": host.mode,
        "state": host.state,
        "verdict": host.verdict,
        "age": now - host.last_good if host.last_good else None,
        "lastTried": host.last_tried or None,
        "lastGood": host.last_good or None,
        "stale": bool(host.last_good) and now - host.last_good > DUE_FACTOR * host.cadence,
        "cadence": host.cadence,
        "policy": host.policy,
        "reference": host.reference,
        "image": f"{reference.profile} {reference.build}" if reference else "",
    }


def _round(one: Round) -> View:
    return {
        "number": one.number,
        "time": one.time,
        "outcome": one.outcome,
        "state": one.state,
        "reference": one.reference,
        "policy": one.policy,
        "millis": round(one.millis, 2),
        "nonce": one.nonce.hex(),
    }


def _reference_view(one: StoredReference, now: float) -> View:
    state = "in force" if one.until is None else "overlap" if one.until > now else "ended"
    return {
        "identifier": one.identifier,
        "profile": one.profile,
        "build": one.build,
        "serial": one.serial,
        "signer": one.signer,
        "added": one.added,
        "addedBy": one.added_by,
        "until": one.until,
        "state": state,
    }


def _reference(step: Transaction, book: ReferenceBook, identifier: str) -> Manifest | None:
    return book.manifest(step, identifier) if identifier else None


def _as_reference(step: Transaction, against: Against, base: Manifest | None) -> Manifest:
    """Return a host's log as if it were a reference."""
    name = against.host
    store.get_host(step, name)
    last = roundstore.latest_round(step, name, against.round)
    if last is None or not last.evidence or base is None:
        which = "" if against.round is None else f" in round {against.round}"
        raise NotFoundError(
            f"there is nothing of {name}{which} to compare with",
            component=name,
            remedy="Attest both hosts first, with a reference in force, and choose a round whose "
            "evidence is kept.",
        )
    log = eventlog.parse(wire.decode(EvidenceReply, last.evidence).log)
    return reference_from_log(log, base)


def _event(row: EventRow) -> View:
    ref = row.component
    return {
        "number": row.number,
        "pcr": row.pcr,
        "type": row.type,
        "kind": row.kind,
        "text": row.text,
        "digests": dict(row.digests),
        "verdict": row.verdict,
        "vib": ref.vib_name if ref else "",
        "version": ref.vib_version if ref else "",
        "vendor": ref.vib_vendor if ref else "",
        "level": ref.level if ref else "",
        "wanted": row.wanted,
        "proven": row.proven,
    }


def _quote(attest_bytes: bytes, signature_bytes: bytes) -> View:
    attest, signature = parse_attest(attest_bytes), parse_signature(signature_bytes)
    quote = attest.quoted()
    return {
        "signer": attest.signer.hex(),
        "nonce": attest.extra_data.hex(),
        "clock": attest.clock,
        "resets": attest.reset_count,
        "restarts": attest.restart_count,
        "safe": attest.safe,
        "firmware": f"{attest.firmware_version:016x}",
        "selections": {str(one.bank): sorted(one.pcrs) for one in quote.selections},
        "digest": quote.digest.hex(),
        "hash": str(signature.hash),
        "algorithm": signature.scheme,
        "bytes": attest_bytes.hex(),
        "signature": signature_bytes.hex(),
    }
