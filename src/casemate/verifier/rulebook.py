"""Policies in force: signed, never rolled back, assigned to hosts, with each host's own values.

A host with a policy is judged by it (``policy.ruled``); one without must run exactly what a
reference says. A runtime policy belongs to a policy by its name.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from casemate.errors import ArgumentError, CasemateError, NotFoundError, StateError
from casemate.machine.fleet import StoredPolicy
from casemate.policy.exchange import accept_corim
from casemate.policy.hostpolicy import HostValues
from casemate.policy.language import Policy, parse_policy
from casemate.policy.ruled import Rules
from casemate.policy.runtimefile import parse_runtime
from casemate.policy.signedtext import check_newer, split_signed, verify_signed
from casemate.policy.trust import TrustStore
from casemate.verifier import audit, roundstore, rulestore, store
from casemate.verifier.database import Database, Transaction
from casemate.verifier.judge import Assigned
from casemate.verifier.records import values_from
from casemate.verifier.references import Age, Anchors


class Kind(StrEnum):
    """What a stored text is."""

    POLICY = "policy"
    RUNTIME = "runtime"
    CORIM = "corim"


class RuleBook:
    """Verified policies by name, read again when the policy version changes, and with time."""

    def __init__(self, database: Database, anchors: Anchors, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._anchors = anchors
        self._clock = clock
        self._turn = threading.Lock()
        self._version = -1
        self._age = Age()
        self._known: dict[str, Assigned] = {}

    def add(self, body: bytes, who: str) -> StoredPolicy:
        """Verify a signed policy and put it in force.

        Raises:
            FormatError, SignatureError: as ``parse_policy`` and ``verify_signed`` say.
            VerificationError: ``rollback``: older than the one in force.
        """
        policy, signer = self._policy(body)
        return self._put(Kind.POLICY, policy.name, policy.version, signer, body, who)

    def add_runtime(self, name: str, body: bytes, who: str) -> StoredPolicy:
        """Put a signed runtime policy in force for hosts with the policy ``name``.

        Raises as ``add``, and NotFoundError where there is no such policy.
        """
        signed = split_signed(body)
        signer = self._signer(body, "runtime policy")
        runtime = parse_runtime(signed.body)
        with self._database.transaction() as step:
            _newest(step, name)
        return self._put(Kind.RUNTIME, name, runtime.version, signer, body, who)

    def add_corim(self, name: str, body: bytes, who: str) -> StoredPolicy:
        """Put a signed CoRIM in force for hosts with the policy ``name``.

        Raises as ``accept_corim``, VerificationError (``rollback``), and NotFoundError where there
        is no such policy.
        """
        corim, signer = accept_corim(body, self._anchors.trust(), self._clock())
        with self._database.transaction() as step:
            _newest(step, name)
        version = max(comid.version for comid in corim.comids)
        return self._put(Kind.CORIM, name, version, signer, body, who)

    def check(self, body: bytes) -> Assigned:
        """Verify a signed policy without putting it in force; raises as ``add``.

        A runtime policy of the same name applies.
        """
        policy, _ = self._policy(body)
        with self._database.transaction() as step:
            return self._made(step, policy, body, self._anchors.trust())

    def check_more(self, name: str, kind: Kind, body: bytes) -> Assigned:
        """Verify a runtime policy or a CoRIM without putting it in force.

        Raises as ``add_runtime`` and ``add_corim``, but for ``rollback``.
        """
        with self._database.transaction() as step:
            text = _newest(step, name)
            policy = parse_policy(split_signed(text).body)
            return self._made(step, policy, text, self._anchors.trust(), {kind: body})

    def assign(self, host: str, name: str, who: str, why: str = "") -> None:
        """Judge a host by the policy of a name; no name: by references alone.

        Raises NotFoundError.
        """
        with self._database.exclusive("audit") as step:
            store.get_host(step, host)
            if name:
                _newest(step, name)
            rulestore.assign(step, host, name)
            rulestore.next_policy(step)
            audit.append(step, who, "policy-assign", host, f"{name or 'none'} {why}".strip())

    def approve_values(self, host: str, who: str, number: int, why: str = "") -> HostValues:
        """Take what a round of the host, the one that was looked at, showed as its own.

        Raises NotFoundError, StateError.
        """
        with self._database.exclusive("audit") as step:
            store.get_host(step, host)
            one = roundstore.latest_round(step, host, number)
            seen = json.loads(one.result).get("own") if one and one.result else None
            # Evidence that was refused shows nothing: to approve that would approve anything.
            if not seen or not (seen["events"] or any(seen["pcrs"].values())):
                raise StateError(
                    f"{host} has shown no values of its own",
                    component=host,
                    remedy="Assign a policy with per-host rules, and attest the host.",
                )
            rulestore.approve_values(step, host, json.dumps(seen), who)
            rulestore.next_policy(step)
            shown = f"round {one.number}" if one else ""
            audit.append(step, who, "approve-values", host, f"{shown} {why}".strip())
        return values_from(seen)

    def of(self, step: Transaction, host: store.Current) -> Assigned | None:
        """Return what a host is judged by, None where it has no policy.

        Raises:
            ArgumentError: its policy is not backed by this verifier's anchors.
        """
        name, own = host.policy, host.own
        if name is None:
            return None
        self._refresh(step, host.version)
        known = self._known.get(name)
        if known is None:
            raise ArgumentError(
                f"the policy {name!r} is not backed by what this verifier trusts",
                argument="policy",
                component=host.host.name,
            )
        if not own:
            return known
        rules = known.rules
        mine = replace(rules, host=values_from(json.loads(own)))
        digest = hashlib.sha256(own.encode()).hexdigest()[:8]
        return Assigned(f"{known.identifier}+{digest}", mine)

    def _policy(self, body: bytes) -> tuple[Policy, str]:
        signer = self._signer(body, "policy")
        return parse_policy(split_signed(body).body), signer

    def _signer(self, body: bytes, component: str) -> str:
        signed, trust = split_signed(body), self._anchors.trust()
        return verify_signed(signed, trust, self._clock(), component=component)

    def _put(
        self, kind: Kind, name: str, version: int, signer: str, body: bytes, who: str
    ) -> StoredPolicy:
        identifier = hashlib.sha256(body).hexdigest()
        with self._database.exclusive("audit") as step:
            same = [one for one in rulestore.policies(step) if (one.kind, one.name) == (kind, name)]
            found = next((one for one in same if one.identifier == identifier), None)
            if found is not None:
                return found
            newest = max((one.version for one in same), default=None)
            check_newer(newest, version, component=kind.value)
            if newest == version:
                raise StateError(
                    f"another {kind.value} {name!r} of version {version} is in force",
                    component=name,
                    remedy="Sign what you want under a higher version.",
                )
            now = step.now()
            added = StoredPolicy(identifier, kind, name, version, signer, now, who, body)
            rulestore.put_policy(step, added)
            rulestore.next_policy(step)
            audit.append(step, who, f"{kind.value}-add", identifier[:16], f"{name} {version}")
        return added

    def _refresh(self, step: Transaction, version: int) -> None:
        with self._turn:
            if version == self._version and self._age.young(self._clock()):
                return
            trust = self._anchors.trust()
            known = {}
            for name in {one.name for one in rulestore.policies(step) if one.kind == Kind.POLICY}:
                body = rulestore.policy_body(step, Kind.POLICY, name)
                try:
                    self._signer(body, "policy")
                    policy = parse_policy(split_signed(body).body)
                    known[name] = self._made(step, policy, body, trust)
                except CasemateError:
                    continue  # not backed by this verifier's anchors: hosts with it are not judged
            self._known, self._version = known, version
            self._age = Age(self._clock())

    def _made(
        self,
        step: Transaction,
        policy: Policy,
        body: bytes,
        trust: TrustStore,
        instead: Mapping[Kind, bytes] = MappingProxyType({}),
    ) -> Assigned:
        runtime, foreign = (
            instead[kind] if kind in instead else rulestore.policy_body(step, kind, policy.name)
            for kind in (Kind.RUNTIME, Kind.CORIM)
        )
        rules = Rules(policy)
        if runtime:
            signed = split_signed(runtime)
            verify_signed(signed, trust, self._clock(), component="runtime policy")
            rules = replace(rules, runtime=parse_runtime(signed.body, policy))
        if foreign:
            rules = replace(rules, corim=accept_corim(foreign, trust, self._clock())[0])
        parts = (hashlib.sha256(one).digest() for one in (body, runtime, foreign))
        return Assigned(hashlib.sha256(b"".join(parts)).hexdigest(), rules)


def _newest(step: Transaction, name: str) -> bytes:
    body = rulestore.policy_body(step, Kind.POLICY, name)
    if not body:
        raise NotFoundError(
            f"there is no policy {name!r}",
            component=name,
            remedy="Add it: casemate verifier policy add FILE.",
        )
    return body
