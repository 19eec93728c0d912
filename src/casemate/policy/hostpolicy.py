"""A policy applied to one host: quoted PCRs and a replayed log against a reference and the host.

For machines that are not ours there is no image to predict everything from; the policy says what
of a reference counts, what is this host's own, and what is left out. No PCR is believed unless it
was quoted, and no event unless the log leads to the quoted value of its PCR.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from casemate.errors import Finding
from casemate.formats.algorithms import ALGORITHMS
from casemate.formats.eventlog import STARTUP_LOCALITY_SIGNATURE, Event, EventLog, replay
from casemate.formats.eventtypes import EV_NO_ACTION, event_name
from casemate.formats.manifest import ExpectedEvent, Manifest
from casemate.policy.compare import differences
from casemate.policy.describe import describe
from casemate.policy.explain import explain
from casemate.policy.firmware import compare_quoted
from casemate.policy.language import Mode, Policy, Rule, Selector

Values = Mapping[str, Mapping[int, bytes]]
_REMEDY_REFERENCE = "Load a reference for this host, or take the rule out of its policy."
_REMEDY_HOST = "If the change was wanted, let an operator approve the host's new values."


@dataclass(frozen=True, slots=True)
class HostValues:
    """What was approved as this host's own.

    ``pcrs``: bank → PCR → value. ``events``: for each PCR and selector (its text), the digests by
    bank in log order.
    """

    pcrs: Values = field(default_factory=dict)
    events: Mapping[tuple[int, str], tuple[tuple[bytes, ...], ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What came out.

    ``appraised`` are the PCRs for which the policy could decide; none means that the host was not
    appraised at all. ``host`` are the values seen, to be stored where they are approved.
    """

    findings: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    appraised: tuple[int, ...]
    host: HostValues

    @property
    def is_good(self) -> bool:
        """Whether something was appraised and nothing was found."""
        return bool(self.appraised) and not self.findings


def apply_policy(
    policy: Policy | None,
    references: Sequence[Manifest],
    log: EventLog,
    quoted: Values,
    host: HostValues | None,
    now: datetime,
) -> PolicyResult:
    """Apply a policy; of several references the one that fits best counts.

    Args:
        policy: None where the host has none.
        references: the one in force, then older ones that count during an overlap.
        log: parsed and reviewed.
        quoted: verified PCR values.
        host: what was approved for this host, None before anything was.
        now: the present; older references count until the policy's overlap ends.

    Codes: ``not-appraised``, ``no-reference``, ``bank-not-quoted``, ``missing-pcr``,
    ``pcr-changed``, ``host-value-changed``, ``exception-count``, those of ``compare_quoted`` and of
    ``explain``; warning ``host-value-new``.
    """
    if policy is None:
        return PolicyResult((_not_appraised(),), (), (), HostValues())
    overlaps = policy.overlap is not None and now < policy.overlap
    known: list[Manifest | None] = [*(references if overlaps else references[:1])] or [None]
    judged = [_Judge(policy, one, log, quoted, host).run() for one in known]
    return min(judged, key=lambda result: len(result.findings))


def _not_appraised() -> Finding:
    return Finding(
        "not-appraised",
        "policy",
        "the host has no policy, so nothing was appraised",
        "Assign a policy to the host.",
    )


class _Judge:
    def __init__(
        self,
        policy: Policy,
        reference: Manifest | None,
        log: EventLog,
        quoted: Values,
        host: HostValues | None,
    ) -> None:
        self._policy = policy
        self._reference = reference
        self._quoted = quoted
        self._host = host
        self._events: dict[int, list[Event]] = {}
        for event in log.events:
            if event.type != EV_NO_ACTION:
                self._events.setdefault(event.pcr, []).append(event)
        self._log = log
        self._findings: list[Finding] = []
        self._warnings: list[Finding] = []
        self._seen_events: dict[tuple[int, str], tuple[tuple[bytes, ...], ...]] = {}

    def run(self) -> PolicyResult:
        rules = {p: r for p, r in self._policy.rules.items() if r.mode is not Mode.EXCLUDED}
        covered = [pcr for pcr in rules if self._is_quoted(pcr)]
        banks = {bank: self._quoted[bank] for bank in self._policy.banks if bank in self._quoted}
        unlike = compare_quoted(self._log, banks, replay(self._log), covered)
        self._findings += unlike
        broken = {finding.component for finding in unlike}
        appraised: list[int] = []
        for pcr in covered:
            if f"PCR {pcr}" not in broken and "event log" not in broken:
                appraised += [pcr] if self._rule(pcr, rules[pcr]) else []
        per_host = [pcr for pcr in covered if rules[pcr].mode is Mode.PER_HOST]
        seen = {bank: {p: values[p] for p in per_host} for bank, values in banks.items()}
        return PolicyResult(
            tuple(self._findings),
            tuple(self._warnings),
            tuple(appraised),
            HostValues(seen, self._seen_events),
        )

    def _is_quoted(self, pcr: int) -> bool:
        for bank in self._policy.banks:
            if bank not in self._quoted:
                self._add("bank-not-quoted", bank, f"bank {bank} was not quoted", "Quote it.")
                return False
            if pcr not in self._quoted[bank]:
                reason = f"PCR {pcr} of bank {bank} was not quoted"
                self._add("missing-pcr", f"PCR {pcr}", reason, f"Quote PCR {pcr} as well.")
                return False
        return True

    def _add(self, code: str, component: str, reason: str, remedy: str) -> None:
        finding = Finding(code, component, reason, remedy)
        if finding not in self._findings:
            self._findings.append(finding)

    def _rule(self, pcr: int, rule: Rule) -> bool:
        """Apply one rule; tell whether it could be decided."""
        if rule.mode is Mode.PER_HOST:
            return self._own_value(pcr)
        reference = self._reference
        if reference is None or not set(self._policy.banks) <= set(reference.algorithms):
            what = "no reference" if reference is None else "no reference for these banks"
            reason = f"the policy compares PCR {pcr}, but there is {what}"
            self._add("no-reference", f"PCR {pcr}", reason, _REMEDY_REFERENCE)
            return False
        if rule.mode is Mode.EQUAL:
            return self._equal(pcr, reference)
        self._compare(pcr, rule, reference)
        return True

    def _own_value(self, pcr: int) -> bool:
        """Compare with what was approved; tell whether something was, for this very PCR."""
        values = {bank: self._quoted[bank][pcr] for bank in self._policy.banks}
        known = {b: (self._host.pcrs if self._host else {}).get(b, {}).get(pcr) for b in values}
        approved = any(known.values())
        self._own(f"PCR {pcr}", values == known, is_new=not approved)
        return approved

    def _own(self, component: str, same: bool, *, is_new: bool) -> None:  # noqa: FBT001  # a verdict
        if same:
            return
        if is_new:
            self._warnings.append(
                Finding(
                    "host-value-new",
                    component,
                    f"{component} is this host's own, and nobody has approved it yet",
                    "Approve the host's values once you trust them.",
                )
            )
            return
        reason = f"{component} is not what was approved for this host"
        self._add("host-value-changed", component, reason, _REMEDY_HOST)

    def _equal(self, pcr: int, reference: Manifest) -> bool:
        expected = {bank: reference.pcrs[bank].get(pcr) for bank in self._policy.banks}
        if None in expected.values():
            reason = f"the reference has no value for PCR {pcr}"
            self._add("no-reference", f"PCR {pcr}", reason, _REMEDY_REFERENCE)
            return False
        if all(self._quoted[bank][pcr] == value for bank, value in expected.items()):
            return True
        unlike = differences(_of_pcr(reference, pcr), self._events.get(pcr, []))
        explained = explain(unlike, frozenset())
        self._findings += explained
        if not explained:
            self._add(
                "pcr-changed",
                f"PCR {pcr}",
                f"PCR {pcr} is {self._quoted[self._policy.banks[0]][pcr].hex()}, which is not "
                "the reference's value",
                "If the change was wanted, load a reference that has it.",
            )
        return True

    def _compare(self, pcr: int, rule: Rule, reference: Manifest) -> None:
        wanted = _of_pcr(reference, pcr)
        found = self._events.get(pcr, [])
        for selector in rule.excluded:
            self._count(pcr, selector, wanted, found)
        skipped = (*rule.excluded, *rule.per_host)
        for selector in rule.per_host:
            self._own_events(pcr, selector, [e for e in found if _selected(e, (selector,))])
        unlike = differences(
            [one for one in wanted if not _selected(one.event, skipped)],
            [event for event in found if not _selected(event, skipped)],
            reference.may_vary,
        )
        self._findings += explain(unlike, frozenset())

    def _count(
        self, pcr: int, selector: Selector, wanted: Iterable[ExpectedEvent], found: Iterable[Event]
    ) -> None:
        """Let an exception cover no more events than the reference has, at least one.

        An event's name proves nothing: without this, anything could be called by the name.
        """
        most = max(1, sum(_selected(one.event, (selector,)) for one in wanted))
        count = sum(_selected(event, (selector,)) for event in found)
        if count > most:
            self._add(
                "exception-count",
                f"PCR {pcr}",
                f"{count} events of PCR {pcr} claim to be the exception {selector}; "
                f"there should be {most}",
                "Look at what the host loaded under that name.",
            )

    def _own_events(self, pcr: int, selector: Selector, events: Sequence[Event]) -> None:
        key = (pcr, str(selector))
        digests = tuple(
            tuple(event.digest(bank) or b"" for bank in self._policy.banks) for event in events
        )
        self._seen_events[key] = digests
        known = self._host.events.get(key) if self._host else None
        self._own(f"{selector} in PCR {pcr}", digests == known, is_new=known is None)


def _of_pcr(reference: Manifest, pcr: int) -> list[ExpectedEvent]:
    return [
        one for one in reference.events if one.event.pcr == pcr and one.event.type != EV_NO_ACTION
    ]


def _selected(event: Event, selectors: Sequence[Selector]) -> bool:
    if not selectors:
        return False
    about = describe(event)
    name = event_name(event.type)
    return any(
        name == s.name
        if s.kind == "event"
        else about.kind.value == s.kind and s.name in {"", about.name}
        for s in selectors
    )


def reference_from_log(log: EventLog, base: Manifest) -> Manifest:
    """Return a reference whose events and values are those of a log known to be good.

    Args:
        log: of a machine that was inspected, or of a reference integrity manifest.
        base: supplies name, serial and time; its events and values are replaced.
    """
    # The one informative event that counts says where PCR 0 starts.
    events = tuple(
        ExpectedEvent(e)
        for e in log.events
        if e.type != EV_NO_ACTION or e.data.startswith(STARTUP_LOCALITY_SIGNATURE)
    )
    replayed = replay(log)
    banks = tuple(bank for bank in log.banks if bank != "sha1")
    pcrs = {
        bank: {
            pcr: replayed[bank].get(pcr, bytes(ALGORITHMS[bank].size))
            for pcr in sorted({e.event.pcr for e in events if e.event.type != EV_NO_ACTION})
        }
        for bank in banks
    }
    return Manifest(
        base.profile_name,
        base.profile_vendor,
        base.acceptance_level,
        base.build,
        base.serial,
        base.created,
        banks,
        events,
        pcrs,
        base.may_vary,
    )
