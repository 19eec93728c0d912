"""A host judged by a policy of the policy language: firmware, boot, run time, in numbered steps.

1. Quote: the PCR values are signed by the host's AK, fresh, and of one boot.
2. Log: it leads to the quoted values; what firmware must never log is found (``policy.firmware``).
3. Policy: PCRs and events against reference and host, as ``policy.hostpolicy`` says.
4. Launch, hardening: where the policy asks for them.
5. Run time: the IMA list leads to PCR 10, and each file is known (``policy.ima``).

What the policy does not mention is not appraised, and the result says so section by section.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from casemate.errors import Finding, FormatError, VerificationError
from casemate.formats import eventlog
from casemate.formats.algorithms import ALGORITHMS
from casemate.formats.corim import Corim
from casemate.formats.ear import Section
from casemate.formats.eventlog import EventLog
from casemate.formats.ima import IMA_PCR
from casemate.formats.manifest import Manifest
from casemate.policy.appraise import Appraisal, Evidence, PcrResult, PcrStatus, Verdict, refused
from casemate.policy.describe import Kind, contradiction, describe
from casemate.policy.drtm import LAUNCH_PCR, appraise_drtm
from casemate.policy.exchange import compare_with_corim, pcrs_of_corim
from casemate.policy.firmware import (
    FIRMWARE_PCRS,
    SECURE_BOOT_PCR,
    FirmwareRules,
    appraise_firmware,
    compare_quoted,
)
from casemate.policy.hostpolicy import HostValues, PolicyResult, apply_policy
from casemate.policy.ima import RuntimePolicy
from casemate.policy.imaseen import Seen, appraise_growing
from casemate.policy.language import Mode, Policy
from casemate.policy.quotes import Clock, check_quotes
from casemate.policy.tpmidentity import TpmIdentity
from casemate.policy.verdict import NOT_APPRAISED_CODES, Judged, section_of_pcr
from casemate.policy.waivers import option_finding

AGGREGATE_PCRS: Final = tuple(range(10))
"""What the boot aggregate of an IMA list covers."""
OPTION_PCRS: Final = (14, 21)
"""Where security options are measured, without and with a launch."""
_MISSING: Final = frozenset({"missing-pcr", "bank-not-quoted"})


@dataclass(frozen=True, slots=True)
class Rules:
    """What a host is judged by.

    Attributes:
        policy: in the policy language.
        runtime: which files it may run; None: its IMA list is not judged.
        references: in force, the preferred one first.
        host: what was approved as this host's own; None before anything was.
        corim: reference values of somebody else for components and PCRs, signed and valid.
    """

    policy: Policy
    runtime: RuntimePolicy | None = None
    references: tuple[Manifest, ...] = ()
    host: HostValues | None = None
    corim: Corim | None = None

    @property
    def pcrs(self) -> tuple[int, ...]:
        """What a host must quote."""
        asked = {p for p, rule in self.policy.rules.items() if rule.mode is not Mode.EXCLUDED}
        if "secure-boot" in self.policy.require:
            asked.add(SECURE_BOOT_PCR)
        if "drtm" in self.policy.require:
            asked |= {LAUNCH_PCR, LAUNCH_PCR + 1}
        if "hardening" in self.policy.require:
            asked |= set(OPTION_PCRS)
        if self.runtime is not None:
            asked |= {IMA_PCR, *AGGREGATE_PCRS}
        if self.corim is not None:
            asked |= set(pcrs_of_corim(self.corim))
        return tuple(sorted(asked))


@dataclass(frozen=True, slots=True)
class Ruled:
    """What came out; ``host`` are the host's own values as seen, to be approved.

    ``seen`` is for the next round of the host.
    """

    appraisal: Appraisal
    sections: Judged
    host: HostValues = field(default_factory=HostValues)
    seen: Seen | None = None

    @property
    def uncovered(self) -> bool:
        """Whether all that is wrong is that the evidence was asked for by other rules."""
        codes = {finding.code for finding in self.appraisal.findings}
        return bool(codes) and codes <= _MISSING


def appraise_by_rules(
    evidence: Evidence,
    rules: Rules,
    identity: TpmIdentity,
    nonce: bytes,
    now: datetime,
    *,
    identifier: str = "",
    seen: Seen | None = None,
) -> Ruled:
    """Judge evidence by a policy.

    Args:
        evidence: the host's answer.
        rules: verified policy, runtime policy and references.
        identity: of the TPM; its AK has answered a credential challenge.
        nonce: of this challenge.
        now: the present, for overlaps and for keys that end.
        identifier: of the exact content of the rules, where ``seen`` is kept.
        seen: of this host's IMA list, what an earlier round has judged.
    """
    try:
        clock = check_quotes(evidence.quotes, evidence.pcrs, identity.ak, nonce)
    except (VerificationError, FormatError) as error:
        return _refused(refused(error, "quote"))
    try:
        log = eventlog.parse(evidence.log)
        replayed = eventlog.replay(log)
    except (VerificationError, FormatError) as error:
        return _refused(refused(error, "event log"))
    return _Judge(evidence, rules, identity, log, replayed, now, (identifier, seen)).run(clock)


def _refused(appraisal: Appraisal) -> Ruled:
    return Ruled(appraisal, Judged(frozenset({Section.IDENTITY}), appraisal.findings))


class _Judge:
    def __init__(
        self,
        evidence: Evidence,
        rules: Rules,
        identity: TpmIdentity,
        log: EventLog,
        replayed: dict[str, dict[int, bytes]],
        now: datetime,
        before: tuple[str, Seen | None],
    ) -> None:
        self._identifier, self._seen = before
        self._evidence = evidence
        self._rules = rules
        self._policy = rules.policy
        self._log = log
        self._replayed = replayed
        self._now = now
        self._findings: list[Finding] = []
        self._warnings: list[Finding] = [*identity.warnings]
        self._covered = {Section.IDENTITY}

    def run(self, clock: Clock) -> Ruled:
        found = apply_policy(
            self._policy,
            self._rules.references,
            self._log,
            self._evidence.pcrs,
            self._rules.host,
            self._now,
        )
        self._findings += found.findings
        self._warnings += found.warnings
        self._covered |= {section_of_pcr(pcr) for pcr in found.appraised}
        self._firmware()
        self._launch()
        self._hardening()
        self._runtime()
        appraised = self._foreign() or bool(found.appraised)
        # A new host value is no fault, but what stands on it alone is not appraised.
        codes = {finding.code for finding in self._findings}
        if not appraised or (codes and codes <= NOT_APPRAISED_CODES):
            verdict = Verdict.UNDECIDED if codes <= NOT_APPRAISED_CODES else Verdict.UNTRUSTED
            self._findings += [] if codes else [_unapproved()]
        else:
            verdict = Verdict.UNTRUSTED if codes else Verdict.TRUSTED
        findings = tuple(dict.fromkeys(self._findings))
        warnings = tuple(dict.fromkeys(self._warnings))
        appraisal = Appraisal(verdict, findings, warnings, (), self._table(found), clock)
        judged = Judged(frozenset(self._covered), findings, warnings)
        return Ruled(appraisal, judged, found.host, self._seen if self._identifier else None)

    def _foreign(self) -> bool:
        """Compare with a CoRIM; tell whether there is one that says something."""
        corim = self._rules.corim
        if corim is None:
            return False
        pcrs = pcrs_of_corim(corim)
        banks = {b: v for b, v in self._evidence.pcrs.items() if b in self._policy.banks}
        missing = [pcr for pcr in pcrs if any(pcr not in values for values in banks.values())]
        for pcr in missing:
            reason = f"the CoRIM speaks of PCR {pcr}, which was not quoted"
            self._add("missing-pcr", f"PCR {pcr}", reason, f"Quote PCR {pcr} as well.")
        self._findings += compare_quoted(self._log, banks, self._replayed, pcrs)
        # What stands in other PCRs is not proven, so it counts for nothing.
        proven = tuple(event for event in self._log.events if event.pcr in pcrs)
        self._findings += compare_with_corim(corim, replace(self._log, events=proven), banks)
        self._covered |= {section_of_pcr(pcr) for pcr in pcrs if pcr not in missing}
        return True

    def _firmware(self) -> None:
        policy = self._policy
        wants = "secure-boot" in policy.require
        covered = [
            pcr
            for pcr, rule in policy.rules.items()
            if pcr in FIRMWARE_PCRS and rule.mode is not Mode.EXCLUDED
        ]
        if not covered and not wants:
            return
        if wants and SECURE_BOOT_PCR not in covered:
            banks = {b: v for b, v in self._evidence.pcrs.items() if b in policy.banks}
            if not all(SECURE_BOOT_PCR in values for values in banks.values()) or not banks:
                self._add("missing-pcr", "PCR 7", "PCR 7 was not quoted", "Quote PCR 7 as well.")
            self._findings += compare_quoted(self._log, banks, self._replayed, (SECURE_BOOT_PCR,))
            self._covered.add(section_of_pcr(SECURE_BOOT_PCR))
        result = appraise_firmware(
            self._log, FirmwareRules(wants, "debug" in policy.allow, "dma" in policy.allow)
        )
        self._findings += result.findings
        self._warnings += result.warnings
        self._covered.add(Section.FIRMWARE)

    def _launch(self) -> None:
        if "drtm" in self._policy.require:
            self._findings += appraise_drtm(self._log, self._evidence.pcrs, required=True)
            self._covered.add(Section.DRTM)

    def _hardening(self) -> None:
        if "hardening" not in self._policy.require:
            return
        banks = {b: self._evidence.pcrs.get(b, {}) for b in self._policy.banks}
        for pcr in OPTION_PCRS:
            if any(pcr not in values for values in banks.values()):
                reason = f"security options are in PCR {pcr}, which was not quoted"
                self._add("missing-pcr", f"PCR {pcr}", reason, f"Quote PCR {pcr} as well.")
                return
        # Without a launch PCR 21 holds ones, and nothing was measured there.
        proven = [
            pcr
            for pcr in OPTION_PCRS
            if any(values[pcr].strip(b"\xff") for values in banks.values())
        ]
        self._findings += compare_quoted(self._log, banks, self._replayed, proven)
        options = []
        # What stands in other PCRs is not proven, so it counts for nothing.
        for event in (one for one in self._log.events if one.pcr in proven):
            about = describe(event)
            if about.kind is Kind.SECURITY_OPTION and not contradiction(event):
                options.append(about.text)
            elif about.kind is Kind.SECURITY_OPTION:
                self._add(
                    "hardening-option",
                    f"PCR {event.pcr}",
                    f"the log says {about.text}, and something else was measured",
                    "Do not trust this log. Get it again from the host; keep quote and log.",
                )
        self._findings += (f for text in options if (f := option_finding(text)) is not None)
        if not options:
            self._add(
                "hardening-missing",
                "event log",
                "the host has measured no security option, so it keeps no hardening rules",
                "Boot a Casemate or ESXi image, or take the requirement out of the policy.",
            )
        self._covered.add(Section.HARDENING)

    def _runtime(self) -> None:
        rules, data = self._rules, self._evidence.measurements
        # Whoever has a runtime policy does not get out of it by sending no list.
        required = "runtime" in self._policy.require or rules.runtime is not None
        if rules.runtime is None or not data:
            if required:
                what = "the host sent no IMA list" if rules.runtime else "it has no runtime policy"
                self._add(
                    "runtime-missing",
                    "IMA list",
                    f"the policy asks what the host runs, but {what}",
                    "Let the host measure with IMA (ima_policy=tcb), and load a runtime policy.",
                )
            return
        self._covered.add(Section.RUNTIME)
        try:
            banks = {b: v for b, v in self._evidence.pcrs.items() if b in self._policy.banks}
            result, self._seen = appraise_growing(
                data, banks, rules.runtime, self._identifier, self._now, self._seen
            )
        except FormatError as error:
            self._findings.append(error.finding())
            return
        self._findings += result.findings
        self._warnings += result.warnings

    def _add(self, code: str, component: str, reason: str, remedy: str) -> None:
        self._findings.append(Finding(code, component, reason, remedy))

    def _table(self, found: PolicyResult) -> dict[str, dict[int, PcrResult]]:
        """Return every quoted PCR with what it proves."""
        bad = {finding.component for finding in found.findings}
        good = {pcr for pcr in found.appraised if f"PCR {pcr}" not in bad}
        return {
            bank: {pcr: self._row(bank, pcr, one, good) for pcr, one in sorted(values.items())}
            for bank, values in self._evidence.pcrs.items()
        }

    def _row(self, bank: str, pcr: int, quoted: bytes, good: set[int]) -> PcrResult:
        replayed = self._replayed.get(bank, {}).get(pcr)
        explained = quoted == (replayed or bytes(ALGORITHMS[bank].size))
        rule = self._policy.rules.get(pcr)
        if pcr in good and explained:
            status = PcrStatus.EXPECTED
        elif rule is None or rule.mode is Mode.EXCLUDED or pcr == IMA_PCR:
            status = PcrStatus.NOT_APPRAISED
        else:
            status = PcrStatus.EXPLAINED if explained else PcrStatus.UNEXPLAINED
        wanted = {
            one.pcrs[bank][pcr]
            for one in self._rules.references[:1]
            if pcr in one.pcrs.get(bank, {})
        }
        return PcrResult(quoted, replayed, wanted.pop() if wanted else None, status)


def _unapproved() -> Finding:
    return Finding(
        "not-appraised",
        "policy",
        "all that the policy asks for is this host's own, and nobody has approved it yet",
        "Approve its values once you trust them: casemate verifier policy approve-values HOST.",
    )
