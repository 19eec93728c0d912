"""The REST interface, one line an endpoint: routes and OpenAPI are made from this table."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import asdict
from datetime import timedelta
from typing import Final

from starlette.responses import PlainTextResponse

from casemate.calls import evidence as wire
from casemate.calls.messages import ActivationReply, IdentityReply, Quote
from casemate.errors import ArgumentError, FormatError
from casemate.formats.manifest import MAX_SIZE
from casemate.machine.fleet import FleetHost, Mode
from casemate.policy import language
from casemate.policy.runtimefile import MAX_SIZE as RUNTIME_SIZE
from casemate.verifier import metrics, views
from casemate.verifier.attempts import Answer, Arrival
from casemate.verifier.enrol import CADENCE, Wanted
from casemate.verifier.people import Role
from casemate.verifier.records import values_to
from casemate.verifier.rehearsal import rehearse, rehearse_policy
from casemate.verifier.rulebook import Kind
from casemate.verifier.service import Service
from casemate.verifier.web import DIGITS, Call, Endpoint, Field, number_of

API: Final = "/api/v1"
AGENT: Final = "/agent/v1"
_WHY: Final = {"why": Field(str, "reason, for the audit log", required=False)}


def _login(service: Service, call: Call) -> object:
    user, password = call.body["user"], call.body["password"]
    return {"session": service.people.login(user, password, call.peer)}


def _fleet(service: Service, _call: Call) -> object:
    with service.database.transaction() as step:
        return views.fleet(step)


def _host(service: Service, call: Call) -> object:
    with service.database.transaction() as step:
        return views.host(step, call.path["name"])


def _evidence(service: Service, call: Call) -> object:
    number = call.query.get("round", "")
    with service.database.transaction() as step:
        which = number_of(number)
        other = number_of(call.query.get("against-round", ""))
        against = views.Against(call.query.get("against", ""), other)
        return views.evidence(step, service.book, call.path["name"], which, against)


def _enrol(service: Service, call: Call) -> object:
    body = call.body
    wanted = Wanted(
        body["name"],
        body.get("address", ""),
        Mode.PUSH if body.get("push", False) else Mode.PULL,
        body.get("profile", ""),
        body.get("cadence", CADENCE),
    )
    if wanted.mode is Mode.PUSH:
        host, token = service.enrolment.invite(wanted, call.name)
        return {**_told(host), "token": token}
    return _told(service.enrolment.pull(wanted, call.name))


def _approve(service: Service, call: Call) -> object:
    why = call.body.get("why", "")
    return _told(service.enrolment.approve(call.path["name"], call.name, why))


def _propose(service: Service, call: Call) -> object:
    proposal = service.enrolment.propose(call.path["name"], call.name, call.body.get("why", ""))
    return {"host": proposal.host, "ek": proposal.ek, "issuer": proposal.issuer}


def _clear(service: Service, call: Call) -> object:
    return _told(service.enrolment.clear(call.path["name"], call.name, call.body["why"]))


def _attest(service: Service, call: Call) -> object:
    service.enrolment.again(call.path["name"], call.name)
    return {"name": call.path["name"], "due": "now"}


def _remove(service: Service, call: Call) -> object:
    service.enrolment.remove(call.path["name"], call.name, call.body.get("why", ""))
    return {"name": call.path["name"], "removed": True}


def _token(service: Service, call: Call) -> object:
    return asdict(service.tokens.issue(call.path["name"], call.query.get("nonce", "")))


def _keys(service: Service, _call: Call) -> object:
    return service.tokens.keys()


def _references(service: Service, _call: Call) -> object:
    with service.database.transaction() as step:
        return views.references(step)


def _add_reference(service: Service, call: Call) -> object:
    overlap = call.query.get("overlap", "")
    asked = number_of(overlap)
    hours = 24 if asked is None else min(asked, 24 * 365)
    one = service.book.add(call.raw, call.name, timedelta(hours=hours))
    return {"identifier": one.identifier, "profile": one.profile, "build": one.build}


def _rehearse(service: Service, call: Call) -> object:
    candidate = service.book.check(call.raw)
    hosts = rehearse(service.database, service.anchors, candidate)
    return {
        "identifier": candidate.identifier,
        "counts": dict(Counter(one.would for one in hosts)),
        "hosts": [asdict(one) for one in hosts],
    }


def _withdraw(service: Service, call: Call) -> object:
    one = service.book.withdraw(call.path["identifier"], call.name, call.body.get("why", ""))
    return {"identifier": one.identifier, "state": "ended"}


def _policies(service: Service, _call: Call) -> object:
    with service.database.transaction() as step:
        return views.policies(step)


def _add_policy(service: Service, call: Call) -> object:
    one = service.rules.add(call.raw, call.name)
    return {"identifier": one.identifier, "name": one.name, "version": one.version}


def _add_runtime(service: Service, call: Call) -> object:
    one = service.rules.add_runtime(call.path["policy"], call.raw, call.name)
    return {"identifier": one.identifier, "name": one.name, "version": one.version}


def _add_corim(service: Service, call: Call) -> object:
    one = service.rules.add_corim(call.path["policy"], call.raw, call.name)
    return {"identifier": one.identifier, "name": one.name, "version": one.version}


def _rehearse_policy(service: Service, call: Call) -> object:
    assigned = service.rules.check(call.raw)
    everyone = call.query.get("hosts", "") == "all"
    hosts = rehearse_policy(
        service.database, service.anchors, service.book, assigned, everyone=everyone
    )
    return {
        "policy": assigned.rules.policy.id,
        "counts": dict(Counter(one.would for one in hosts)),
        "hosts": [asdict(one) for one in hosts],
    }


def _rehearse_more(service: Service, call: Call) -> object:
    kind = call.query.get("kind", "")
    if kind not in {Kind.RUNTIME, Kind.CORIM}:
        raise ArgumentError("kinds are runtime and corim", argument="kind")
    assigned = service.rules.check_more(call.path["policy"], Kind(kind), call.raw)
    hosts = rehearse_policy(service.database, service.anchors, service.book, assigned)
    return {
        "policy": assigned.rules.policy.id,
        "counts": dict(Counter(one.would for one in hosts)),
        "hosts": [asdict(one) for one in hosts],
    }


def _assign(service: Service, call: Call) -> object:
    name = call.body["policy"]
    service.rules.assign(call.path["name"], name, call.name, call.body.get("why", ""))
    return {"name": call.path["name"], "policy": name}


def _approve_values(service: Service, call: Call) -> object:
    name, number = call.path["name"], call.body["round"]
    if not 0 < number < 10**DIGITS:
        raise ArgumentError("there is no such round", argument="round")
    found = service.rules.approve_values(name, call.name, number, call.body.get("why", ""))
    return {"name": call.path["name"], "own": values_to(found)}


def _audit(service: Service, _call: Call) -> object:
    return views.audit_log(service.database, service.audit)


def _forget_verifier(service: Service, call: Call) -> object:
    service.forget_verifier(call.path["name"], call.name, call.body.get("why", ""))
    return {"name": call.path["name"], "forgotten": True}


def _users(service: Service, _call: Call) -> object:
    return {"users": [{"name": one.name, "role": one.role} for one in service.people.all()]}


def _put_user(service: Service, call: Call) -> object:
    try:
        role = Role(call.body["role"])
    except ValueError:
        raise FormatError(f"roles are: {', '.join(Role)}", code="role") from None
    if password := call.body.get("password", ""):
        service.people.put(call.path["name"], role, password, call.name)
    else:
        service.people.set_role(call.path["name"], role, call.name)
    return {"name": call.path["name"], "role": role.value}


def _remove_user(service: Service, call: Call) -> object:
    service.people.remove(call.path["name"], call.name)
    return {"name": call.path["name"], "removed": True}


def _change_password(service: Service, call: Call) -> object:
    service.people.change_password(call.name, call.body["old"], call.body["new"], call.peer)
    return {"name": call.name, "changed": True}


def _metrics(service: Service, _call: Call) -> object:
    with service.database.transaction() as step:
        text = metrics.render(step, service.ledger.counts)
    return PlainTextResponse(text, headers={"content-type": "text/plain; version=0.0.4"})


def _introduce(service: Service, call: Call) -> object:
    host = service.agent(call.secret)
    challenge = service.enrolment.introduce(host, wire.decode(IdentityReply, call.raw))
    if challenge is None:
        return {"known": True}
    return {
        "known": False,
        "credentialBlob": base64.b64encode(challenge.credential_blob).decode(),
        "encryptedSecret": base64.b64encode(challenge.encrypted_secret).decode(),
    }


def _prove(service: Service, call: Call) -> object:
    host = service.agent(call.secret)
    reply = wire.decode(ActivationReply, call.raw)
    return _told(service.enrolment.prove(host, reply.secret))


def _nonce(service: Service, call: Call) -> object:
    host, asked = service.rounds.ask(call.secret)
    if asked is None:
        return {"state": host.state, "wait": host.cadence}
    return {"state": host.state, **_asked(asked)}


def _asked(asked: Quote) -> dict[str, object]:
    entry = {"entry": asked.entry} if asked.entry else {}
    return {
        "nonce": asked.nonce.hex(),
        "banks": list(asked.banks),
        "pcrs": list(asked.pcrs),
        **entry,
    }


def _push(service: Service, call: Call) -> object:
    return _answered(service.rounds.push(*_arrival(call)))


async def _push_together(service: Service, call: Call) -> object:
    return _answered(await service.intake.push(Arrival(*_arrival(call))))


def _arrival(call: Call) -> tuple[str, bytes, bytes]:
    try:
        nonce = bytes.fromhex(call.query.get("nonce", ""))
    except ValueError:
        raise FormatError("the nonce is not hexadecimal", code="nonce") from None
    return call.secret, nonce, call.raw


def _answered(answer: Answer) -> dict[str, object]:
    told: dict[str, object] = {
        "state": answer.state.value,
        "verdict": answer.verdict,
        "wait": answer.wait,
    }
    return told if answer.asked is None else {**told, **_asked(answer.asked)}


def _told(host: FleetHost) -> dict[str, object]:
    return {
        "name": host.name,
        "state": host.state,
        "mode": host.mode,
        "ek": host.ek,
        "issuer": host.issuer,
        "verdict": host.verdict,
    }


_NEW_HOST: Final = {
    "name": Field(str, "what to call the host"),
    "address": Field(str, "host:port of its API; the name unless given", required=False),
    "push": Field(
        bool, "its agent begins the rounds; the answer has the agent's secret", required=False
    ),
    "profile": Field(str, "image profile that it should run; any unless given", required=False),
    "cadence": Field(float, "seconds between two rounds", required=False),
}
_LOGIN: Final = {"user": Field(str, "name"), "password": Field(str, "password")}
_USER: Final = {
    "role": Field(str, ", ".join(Role)),
    "password": Field(
        str, "password; a user who is there keeps theirs unless given", required=False
    ),
}
_PASSWORDS: Final = {"old": Field(str, "present password"), "new": Field(str, "new password")}
_CLEAR: Final = {"why": Field(str, "why the failure is over")}
_POLICY: Final = {"policy": Field(str, "name of a policy"), **_WHY}
_VALUES: Final = {
    "round": Field(int, "number of the round that was looked at"),
    **_WHY,
}
_HOST: Final = API + "/hosts/{name}"

ENDPOINTS: Final = (
    Endpoint("POST", API + "/login", "Open a session", _login, role=None, fields=_LOGIN),
    Endpoint("GET", API + "/fleet", "All hosts in short, alarms, verifiers", _fleet),
    Endpoint("POST", API + "/hosts", "Enrol a host", _enrol, Role.OPERATOR, fields=_NEW_HOST),
    Endpoint("GET", _HOST, "One host with its timeline", _host),
    Endpoint("DELETE", _HOST, "Forget a host", _remove, Role.ADMINISTRATOR, fields=_WHY),
    Endpoint("GET", _HOST + "/evidence", "A round in full: quotes, PCRs, every event", _evidence,
             query={"round": "number of the round; the last unless given",
                    "against": "a host to compare the log with, instead of the reference",
                    "against-round": "the round of that host; the last unless given"}),
    Endpoint("POST", _HOST + "/approve", "Approve a host, or its new TPM as a second person",
             _approve, Role.OPERATOR, fields=_WHY),
    Endpoint("POST", _HOST + "/propose", "Propose the TPM that the host has now", _propose,
             Role.OPERATOR, fields=_WHY),
    Endpoint("POST", _HOST + "/clear", "Clear a latched failure", _clear, Role.OPERATOR,
             fields=_CLEAR),
    Endpoint("POST", _HOST + "/attest", "Ask the host now", _attest, Role.OPERATOR),
    Endpoint("GET", _HOST + "/token", "A signed result: may this host get secrets?", _token,
             Role.RELYING_PARTY, query={"nonce": "goes into the token"}),
    Endpoint("GET", API + "/keys", "Keys that check tokens", _keys, role=None),
    Endpoint("GET", API + "/references", "References, newest first", _references),
    Endpoint("POST", API + "/references", "Add a signed reference, or a RIM with its log",
             _add_reference, Role.OPERATOR, raw=MAX_SIZE,
             query={"overlap": "hours that the one before still counts"}),
    Endpoint("POST", API + "/rehearsal", "Who would fail by this reference? Nobody is asked",
             _rehearse, Role.OPERATOR, raw=MAX_SIZE),
    Endpoint("DELETE", API + "/references/{identifier}", "End a reference now", _withdraw,
             Role.OPERATOR, fields=_WHY),
    Endpoint("GET", API + "/policies", "Policies and to which hosts they are assigned", _policies),
    Endpoint("POST", API + "/policies", "Add a signed policy", _add_policy, Role.OPERATOR,
             raw=language.MAX_SIZE),
    Endpoint("POST", API + "/policies/{policy}/runtime", "Add its signed runtime policy",
             _add_runtime, Role.OPERATOR, raw=RUNTIME_SIZE),
    Endpoint("POST", API + "/policies/{policy}/corim", "Add a signed CoRIM of reference values",
             _add_corim, Role.OPERATOR, raw=MAX_SIZE),
    Endpoint("POST", API + "/policy-rehearsal", "Who would fail by this policy? Nobody is asked",
             _rehearse_policy, Role.OPERATOR, raw=language.MAX_SIZE,
             query={"hosts": "all: not only those that have the policy of this name"}),
    Endpoint("POST", API + "/policies/{policy}/rehearsal",
             "Who would fail with this runtime policy or CoRIM? Nobody is asked",
             _rehearse_more, Role.OPERATOR, raw=MAX_SIZE, query={"kind": "runtime or corim"}),
    Endpoint("PUT", _HOST + "/policy", "Judge a host by a policy; by references where it is empty",
             _assign, Role.OPERATOR, fields=_POLICY),
    Endpoint("POST", _HOST + "/approve-values", "Approve what a host showed as its own",
             _approve_values, Role.OPERATOR, fields=_VALUES),
    Endpoint("GET", API + "/audit", "The audit log, and how far its chain was checked", _audit),
    Endpoint("DELETE", API + "/verifiers/{name}", "Forget a verifier that is gone for good",
             _forget_verifier, Role.OPERATOR, fields=_WHY),
    Endpoint("GET", API + "/users", "Users and roles", _users, Role.ADMINISTRATOR),
    Endpoint("PUT", API + "/users/{name}", "Add or change a user", _put_user, Role.ADMINISTRATOR,
             fields=_USER),
    Endpoint("DELETE", API + "/users/{name}", "Remove a user", _remove_user, Role.ADMINISTRATOR),
    Endpoint("POST", API + "/password", "Change one's own password; all one's sessions end",
             _change_password, fields=_PASSWORDS),
    Endpoint("GET", "/metrics", "Metrics for Prometheus", _metrics),
    Endpoint("POST", AGENT + "/identity", "Show a TPM; the answer is a challenge", _introduce,
             agent=True, raw=wire.REQUEST_LIMIT),
    Endpoint("POST", AGENT + "/activate", "Answer the challenge", _prove, agent=True,
             raw=wire.REQUEST_LIMIT),
    Endpoint("POST", AGENT + "/nonce", "Ask for a nonce", _nonce, agent=True),
    Endpoint("POST", AGENT + "/evidence", "Send evidence; the answer may bring the next nonce",
             _push, agent=True, raw=wire.BODY_LIMIT, together=_push_together,
             query={"nonce": "that it answers, hexadecimal"}),
)  # fmt: skip
