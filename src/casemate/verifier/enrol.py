"""How a host comes into the fleet: it shows its TPM, the TPM is pinned, a person approves.

A pulled host is challenged by the verifier. A pushing host's agent gets a secret from an operator
and answers the same challenge over its own connection. The TPM of an enrolled host never changes
by itself: another one (a swapped board) is proposed by one person and approved by a second.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import dataclass, replace
from typing import Final

from casemate.calls.messages import ActivateCredential, IdentityReply
from casemate.errors import ArgumentError, StateError
from casemate.formats.tpm import ENTROPY_SIZE
from casemate.machine.fleet import FleetHost, Mode, Proposal
from casemate.policy.auditheads import AUDIT_CODES
from casemate.policy.enrolment import Pinned, check_registration
from casemate.policy.statemachine import Event, HostRecord, State, Step, enrolled, operator
from casemate.policy.tpmidentity import SECRET_SIZE, TpmIdentity, check_identity, make_challenge
from casemate.verifier import alarmstore, audit, nonces, rulestore, store
from casemate.verifier.client import prove_identity
from casemate.verifier.database import Database, Transaction
from casemate.verifier.records import (
    claim_of,
    moment,
    read_clock,
    read_record,
    write_claim,
    write_counters,
    write_record,
)
from casemate.verifier.references import Anchors
from casemate.verifier.rounds import ClientMaker

CADENCE: Final = 60.0
"""Seconds between rounds: a hardware TPM is then busy for a hundredth of its time."""

CADENCES: Final = (1.0, 86_400.0)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\[\]-]{0,252}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an operator says about a host."""

    name: str
    address: str = ""
    mode: Mode = Mode.PULL
    profile: str = ""
    cadence: float = CADENCE


class Enrolment:
    """Enrols, approves, re-enrols and removes hosts; every step is in the audit log."""

    def __init__(self, database: Database, anchors: Anchors, connect: ClientMaker) -> None:
        self._database = database
        self._anchors = anchors
        self._connect = connect

    def pull(self, wanted: Wanted, who: str) -> FleetHost:
        """Challenge a host and enrol it, pending approval.

        Raises:
            HostError: it does not answer.
            AppraisalError, FormatError: its TPM is not genuine, or cannot prove itself.
            ArgumentError: the name, or the TPM, is enrolled already.
        """
        _check(wanted)
        address = wanted.address or wanted.name
        identity, reply = self._challenge(address)
        with self._database.exclusive("audit") as step:
            host = self._new(step, replace(wanted, address=address))
            host = replace(
                host,
                ek=identity.fingerprint,
                issuer=identity.issuer,
                identity=write_claim(claim_of(reply)),
                verdict="waits for approval",
            )
            store.add_host(step, host)
            audit.append(step, who, "enrol", host.name, f"TPM {host.ek}")
        return host

    def invite(self, wanted: Wanted, who: str) -> tuple[FleetHost, str]:
        """Expect a host that pushes; returns it and the secret for its agent, shown this once."""
        _check(wanted)
        token = secrets.token_urlsafe(32)
        with self._database.exclusive("audit") as step:
            host = replace(
                self._new(step, replace(wanted, mode=Mode.PUSH, address="")),
                token=token_digest(token),
                verdict="its agent has not called yet",
            )
            store.add_host(step, host)
            audit.append(step, who, "invite", host.name)
        return host, token

    def introduce(self, host: FleetHost, reply: IdentityReply) -> ActivateCredential | None:
        """Challenge the TPM that an agent shows; None where it is the one proven before.

        Raises:
            AppraisalError, FormatError: it is not genuine, or not the pinned one.
        """
        claim = claim_of(reply)
        if host.identity and write_claim(claim) == host.identity:
            return None
        with self._database.transaction() as step:
            now = moment(step.now())
        identity = check_identity(claim, self._anchors.ek_roots(), now)
        pinned = Pinned(host.name, host.ek, identity.ak.name()) if host.ek else None
        check_registration(pinned, host.name, identity)
        secret = secrets.token_bytes(SECRET_SIZE)
        credential = make_challenge(identity, secret, secrets.token_bytes(ENTROPY_SIZE))
        payload = json.dumps([identity.fingerprint, identity.issuer, write_claim(claim)])
        with self._database.transaction() as step:
            nonces.open_challenge(step, host.name, secret, payload)
        return ActivateCredential(credential.blob, credential.encrypted_secret)

    def prove(self, host: FleetHost, answer: bytes) -> FleetHost:
        """Check an agent's answer to the challenge and pin its TPM.

        Raises:
            AppraisalError: ``activation``...
            ArgumentError: the TPM is enrolled under another name.
            StateError: another TPM was pinned meanwhile.
        """
        payload = nonces.answer_challenge(self._database, host.name, answer)
        fingerprint, issuer, identity = json.loads(payload)
        with self._database.exclusive("audit") as step:
            current = store.get_host(step, host.name)
            other = step.one("SELECT name FROM host WHERE ek=? AND name<>?", fingerprint, host.name)
            if other is not None:
                raise ArgumentError(
                    f"this TPM is enrolled as {other[0]}", argument="name", component=host.name
                )
            if current.ek not in {"", fingerprint}:
                # Of two that were challenged before either was pinned, only one is.
                raise StateError(
                    f"{host.name} has shown another TPM meanwhile", component=host.name
                )
            words = "waits for approval" if not current.ek else current.verdict
            after = replace(
                current,
                ek=fingerprint,
                issuer=issuer,
                identity=identity,
                counters="",
                verdict=words,
            )
            if not store.update_host(step, current, after):
                raise StateError("the host changed meanwhile", component=host.name)
            audit.append(step, host.name, "show-tpm", host.name, f"TPM {fingerprint}")
        return after

    def approve(self, name: str, who: str, why: str = "") -> FleetHost:
        """Approve a pending host, or, as a second person, its new TPM.

        Raises:
            StateError: there is nothing to approve, or its TPM has not shown itself.
            PermissionDeniedError: ``two-people``: who proposed a TPM cannot approve it.
        """
        with self._database.exclusive("audit") as step:
            host = store.get_host(step, name)
            proposal = store.find_proposal(step, name)
            if proposal is not None:
                taken = _do(step, host, Event.REENROL, (proposal.proposer, who))
                store.swap_tpm(
                    step, name, proposal, write_record(taken.record), taken.record.state.value
                )
                alarmstore.clear_alarms(step, name)
                audit.append(step, who, "approve-tpm", name, f"TPM {proposal.ek} {why}".strip())
                return store.get_host(step, name)
            if not host.ek:
                raise StateError(
                    f"{name} has not shown its TPM yet",
                    component=name,
                    remedy="Start its agent with the secret: casemate agent.",
                )
            after = self._change(step, host, Event.APPROVE, who)
            audit.append(step, who, "approve", name, f"TPM {host.ek} {why}".strip())
            return after

    def propose(self, name: str, who: str, why: str = "") -> Proposal:
        """Challenge a pulled host with a new TPM; a second person must approve it."""
        with self._database.transaction() as step:
            host = store.get_host(step, name)
        if host.mode != Mode.PULL:
            raise StateError(f"{name} pushes: remove it and invite it again", component=name)
        identity, reply = self._challenge(host.address)
        if identity.fingerprint == host.ek:
            raise StateError(f"{name} has the TPM it was enrolled with", component=name)
        with self._database.exclusive("audit") as step:
            proposal = Proposal(
                name,
                identity.fingerprint,
                identity.issuer,
                write_claim(claim_of(reply)),
                who,
                step.now(),
            )
            store.put_proposal(step, proposal)
            audit.append(step, who, "propose-tpm", name, f"TPM {proposal.ek} {why}".strip())
        return proposal

    def clear(self, name: str, who: str, why: str) -> FleetHost:
        """Let a failed host be judged afresh. Raises StateError where nothing is latched."""
        if not why.strip():
            raise ArgumentError("say why the failure is over", argument="why", component=name)
        with self._database.exclusive("audit") as step:
            host = store.get_host(step, name)
            if read_record(host.record).codes & AUDIT_CODES:
                # What the log is from now on counts.
                host = replace(host, counters=write_counters(read_clock(host.counters), None))
            after = self._change(step, host, Event.CLEAR, who)
            alarmstore.clear_alarms(step, name)
            audit.append(step, who, "clear", name, why)
            return after

    def again(self, name: str, who: str) -> None:
        """Make a host due now."""
        with self._database.exclusive("audit") as step:
            store.get_host(step, name)
            store.due_now(step, name)
            audit.append(step, who, "attest-now", name)

    def remove(self, name: str, who: str, why: str = "") -> None:
        """Forget a host and its TPM; its history stays."""
        with self._database.exclusive("audit") as step:
            store.get_host(step, name)
            store.remove_host(step, name)
            alarmstore.clear_alarms(step, name)
            audit.append(step, who, "remove", name, why)

    def _challenge(self, address: str) -> tuple[TpmIdentity, IdentityReply]:
        with self._database.transaction() as step:
            now = moment(step.now())
        client = self._connect(address)
        try:
            return prove_identity(client, self._anchors.ek_roots(), now)
        finally:
            client.close()

    def _new(self, step: Transaction, wanted: Wanted) -> FleetHost:
        now = step.now()
        record = enrolled(moment(now), rulestore.policy_version(step))
        return FleetHost(
            name=wanted.name,
            address=wanted.address,
            mode=wanted.mode.value,
            state=record.state.value,
            record=write_record(record),
            ek="",
            issuer="",
            identity="",
            profile=wanted.profile,
            cadence=wanted.cadence,
            next_due=now,
            lease_owner="",
            lease_until=0.0,
            last_tried=0.0,
            last_good=0.0,
            policy=0,
            reference="",
            verdict="",
            counters="",
            token="",
            added=now,
        )

    def _change(self, step: Transaction, host: FleetHost, event: Event, who: str) -> FleetHost:
        taken = _do(step, host, event, (who,))
        after = replace(
            host,
            state=taken.record.state.value,
            record=write_record(taken.record),
            next_due=0.0,
            verdict="waits for its first round" if taken.record.state is State.UNKNOWN else "",
        )
        if not store.update_host(step, host, after):
            raise StateError("the host changed meanwhile", component=host.name)
        return after


def token_digest(token: str) -> str:
    """Return what is kept of an agent's secret."""
    return hashlib.sha256(token.encode()).hexdigest()


def _do(step: Transaction, host: FleetHost, event: Event, people: tuple[str, ...]) -> Step:
    record: HostRecord = read_record(host.record)
    return operator(record, event, moment(step.now()), people=people)


def _check(wanted: Wanted) -> None:
    if not _NAME.fullmatch(wanted.name):
        raise ArgumentError(
            "a host's name has letters, digits, dots and hyphens", argument="name", component="name"
        )
    low, high = CADENCES
    if not low <= wanted.cadence <= high:
        raise ArgumentError(
            f"the cadence is {low:g} to {high:g} seconds", argument="cadence", component="cadence"
        )
