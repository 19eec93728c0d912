"""From evidence to a verdict, in numbered steps. Pure: the same evidence is always judged alike.

1. Identity: the EK is genuine and the AK is its TPM's (``policy.tpmidentity``, before this).
2. Quote: the PCR values are signed by that AK, fresh, and cover what the reference needs.
3. Launch: where the reference expects a D-RTM launch, one has taken place.
4. Replay: the log gives exactly the quoted values, in every bank and PCR.
5. Comparison: event by event with the signed reference, naming what differs.

What a PCR proves is kept apart: it is the expected value; or another one, which the log explains;
or one that the log does not explain; or one where the log lacks its end; or it has no reference.
Nothing here turns an error into trust: whatever is not proven is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from casemate.errors import AppraisalError, Finding, FormatError, VerificationError
from casemate.formats import eventlog
from casemate.formats.algorithms import ALGORITHMS, digest
from casemate.formats.eventlog import Event
from casemate.formats.eventtypes import EV_NO_ACTION
from casemate.formats.manifest import Manifest
from casemate.policy.auditheads import LogHead
from casemate.policy.compare import differences
from casemate.policy.describe import Kind, describe
from casemate.policy.explain import ComponentClaim, ComponentResult, component_table, explain
from casemate.policy.isolation import EMULATED, TCG
from casemate.policy.measure import DRTM_PCRS
from casemate.policy.quotes import Clock, Values, check_coverage, check_quotes
from casemate.policy.tpmidentity import TpmIdentity
from casemate.policy.waivers import option_finding

FALSIFIED_REMEDY = "Do not trust this host. Boot it again from a good image; keep log and quote."


class Verdict(StrEnum):
    """What is to be thought of a host."""

    TRUSTED = "trusted"
    UNTRUSTED = "untrusted"
    UNDECIDED = "undecided"


class PcrStatus(StrEnum):
    """What a quoted PCR value proves."""

    EXPECTED = "expected"
    EXPLAINED = "explained"
    UNEXPLAINED = "unexplained"
    LOG_INCOMPLETE = "log-incomplete"
    NOT_APPRAISED = "not-appraised"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a host answered: quotes, PCR values (bank → PCR → value), raw log, and its claims.

    ``accelerator`` is what the host says that it runs VMs with: no quote proves it, but a host
    whose quote is good runs software that tells the truth. ``measurements`` is its IMA list.
    ``heads`` are of its audit log: the present one, and the one that was asked for.
    """

    quotes: tuple[tuple[bytes, bytes], ...]
    pcrs: Values
    log: bytes
    claims: tuple[ComponentClaim, ...] = ()
    accelerator: str = ""
    measurements: bytes = b""
    heads: tuple[LogHead, ...] = ()


@dataclass(frozen=True, slots=True)
class PcrResult:
    """One PCR of one bank; ``replayed`` is None where no event extends it."""

    quoted: bytes
    replayed: bytes | None
    expected: bytes | None
    status: PcrStatus


@dataclass(frozen=True, slots=True)
class Appraisal:
    """A verdict and everything behind it; ``pcrs`` maps bank → PCR → result."""

    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    components: tuple[ComponentResult, ...] = ()
    pcrs: dict[str, dict[int, PcrResult]] | None = None
    clock: Clock | None = None


def refused(error: VerificationError | FormatError, step: str) -> Appraisal:
    """Return the verdict for evidence that failed a check before it could be compared.

    ``step`` names what was checked, where the error does not say.
    """
    return Appraisal(Verdict.UNTRUSTED, (_told(error, step),))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What steps 3 to 5 found: everything that depends only on values, log and reference."""

    findings: tuple[Finding, ...] = ()
    components: tuple[ComponentResult, ...] = ()
    pcrs: dict[str, dict[int, PcrResult]] | None = None
    waivers: tuple[Finding, ...] = ()


Comparer = Callable[[Evidence, Manifest], Comparison]
"""``compare``, or something that remembers its results."""


def compare(evidence: Evidence, reference: Manifest) -> Comparison:
    """Do steps 3 to 5; the PCR values must have been proven by the quotes."""
    try:
        events, replayed = _read_log(evidence.log, reference)
    except (VerificationError, FormatError) as error:
        return Comparison((_told(error, "event log"),), waivers=_waivers(reference))
    judge = _Judge(evidence, reference, events, replayed)
    launch = judge.launch()
    expected = [one for one in reference.events if not (launch and one.event.pcr in DRTM_PCRS)]
    found = [event for event in events if event.pcr in reference.indexes]
    unlike = differences(expected, found, reference.may_vary)
    falsified = frozenset(pcr for pcr in reference.indexes if judge.falsified(pcr))
    findings = (
        *launch,
        *explain(unlike, falsified, evidence.claims),
        *(f for pcr in reference.indexes if (f := judge.replay_finding(pcr)) and not launch),
    )
    unproven = frozenset(pcr for pcr in reference.indexes if not judge.explained(pcr))
    return Comparison(
        findings,
        component_table(reference.events, unlike, unproven, evidence.claims),
        judge.table(),
        _waivers(reference),
    )


def appraise(
    evidence: Evidence,
    reference: Manifest,
    identity: TpmIdentity,
    nonce: bytes,
    comparer: Comparer = compare,
) -> Appraisal:
    """Judge evidence against a reference whose signature was verified.

    Args:
        evidence: the host's answer.
        reference: what the host should have booted.
        identity: of the TPM; its AK has answered a credential challenge.
        nonce: of this challenge, made for it alone.
        comparer: does steps 3 to 5.
    """
    try:
        clock = check_quotes(evidence.quotes, evidence.pcrs, identity.ak, nonce)
        check_coverage(evidence.pcrs, reference.algorithms, reference.indexes)
    except (VerificationError, FormatError) as error:
        return refused(error, "quote")
    found = comparer(evidence, reference)
    warnings = (
        *identity.warnings,
        *_clock_warnings(clock),
        *found.waivers,
        *((EMULATED,) if evidence.accelerator == TCG else ()),
    )
    return Appraisal(
        Verdict.UNTRUSTED if found.findings else Verdict.TRUSTED,
        found.findings,
        warnings,
        found.components,
        found.pcrs,
        clock,
    )


def _told(error: VerificationError | FormatError, step: str) -> Finding:
    own = error.remedy != type(error).default_remedy
    return Finding(
        error.code,
        error.component or step,
        error.reason,
        error.remedy if own else "Ask for fresh evidence; if it stays so, do not trust this host.",
    )


def _read_log(data: bytes, reference: Manifest) -> tuple[list[Event], dict[str, dict[int, bytes]]]:
    log = eventlog.parse(data)
    broken = eventlog.incomplete_banks(log)
    for bank in reference.algorithms:
        if bank not in log.banks or bank in broken:
            raise AppraisalError(
                f"the log does not cover bank {bank}",
                code="log-bank",
                component="event log",
                remedy="Boot the host with this bank active in its TPM.",
            )
    events = [
        event._replace(digests=_of_banks(event, reference.algorithms))
        for event in log.events
        if event.type != EV_NO_ACTION
    ]
    return events, eventlog.replay(log)


def _of_banks(event: Event, banks: Sequence[str]) -> tuple[tuple[str, bytes], ...]:
    """Return the digests in the reference's banks: a machine's TPM may have others as well."""
    return tuple((bank, event.digest(bank) or b"") for bank in banks)


def _clock_warnings(clock: Clock) -> tuple[Finding, ...]:
    if clock.safe:
        return ()
    return (
        Finding(
            "clock-unsafe",
            "TPM",
            "the TPM lost power without an orderly shutdown, so its clock may repeat",
            "Nothing to do: it concerns only comparisons of the TPM's clock over time.",
        ),
    )


def _waivers(reference: Manifest) -> tuple[Finding, ...]:
    """Tell of every hardening waiver that the reference expects; others are differences."""
    texts = {
        about.text: None
        for one in reference.events
        if (about := describe(one.event)).kind is Kind.SECURITY_OPTION
    }
    return tuple(found for text in texts if (found := option_finding(text)) is not None)


class _Judge:
    """Relates quoted, replayed and expected values."""

    def __init__(
        self,
        evidence: Evidence,
        reference: Manifest,
        events: Sequence[Event],
        replayed: dict[str, dict[int, bytes]],
    ) -> None:
        self._quoted = evidence.pcrs
        self._reference = reference
        self._replayed = replayed
        self._banks = reference.algorithms
        self._events: dict[int, list[Event]] = {}
        for event in events:
            self._events.setdefault(event.pcr, []).append(event)

    def launch(self) -> tuple[Finding, ...]:
        """Return a finding where an expected D-RTM launch did not take place."""
        if not self._reference.launched:
            return ()
        for bank in self._banks:
            ones = b"\xff" * ALGORITHMS[bank].size
            if any(self._quoted[bank].get(pcr) == ones for pcr in DRTM_PCRS):
                return (
                    Finding(
                        "drtm-missing",
                        "D-RTM launch",
                        "no D-RTM launch took place: PCR 17-22 have their value from power-on",
                        "Boot the host with casemate up; on hardware, enable TXT in the firmware.",
                    ),
                )
        return ()

    def explained(self, pcr: int) -> bool:
        """Tell whether the log gives the quoted value in every bank."""
        return all(self._replay(bank, pcr) == self._quoted[bank][pcr] for bank in self._banks)

    def falsified(self, pcr: int) -> bool:
        """Tell whether the TPM has the expected values, and the log something else."""
        return self._is_expected(pcr) and not self.explained(pcr)

    def replay_finding(self, pcr: int) -> Finding | None:
        """Say what is wrong where the log does not give the quoted value."""
        if self.explained(pcr):
            return None
        component = f"PCR {pcr}"
        if self._incomplete(pcr):
            return Finding(
                "log-incomplete",
                component,
                f"the log ends before the last events of PCR {pcr}, which the TPM has seen",
                "Ask for the evidence again; if it stays so, boot the host again.",
            )
        if self._log_is_ahead(pcr):
            return Finding(
                "quote-behind-log",
                component,
                f"the log has events that PCR {pcr} has not seen",
                "Ask for the evidence again; if it stays so, do not trust this host.",
            )
        if self._is_expected(pcr):
            return Finding(
                "replay-mismatch",
                component,
                f"PCR {pcr} has the expected value, but the log does not lead to it: "
                "the log was falsified",
                FALSIFIED_REMEDY,
            )
        return Finding(
            "replay-mismatch",
            component,
            f"PCR {pcr} was extended with something that the log does not show",
            FALSIFIED_REMEDY,
        )

    def table(self) -> dict[str, dict[int, PcrResult]]:
        """Return every quoted PCR with what it proves."""
        return {
            bank: {pcr: self._result(bank, pcr) for pcr in sorted(values)}
            for bank, values in self._quoted.items()
        }

    def _result(self, bank: str, pcr: int) -> PcrResult:
        quoted = self._quoted[bank][pcr]
        replayed = self._replayed.get(bank, {}).get(pcr)
        expected = self._reference.pcrs.get(bank, {}).get(pcr)
        if expected is None:
            status = PcrStatus.NOT_APPRAISED
        elif self._replay(bank, pcr) != quoted:
            incomplete = self._incomplete(pcr)
            status = PcrStatus.LOG_INCOMPLETE if incomplete else PcrStatus.UNEXPLAINED
        else:
            status = PcrStatus.EXPECTED if quoted == expected else PcrStatus.EXPLAINED
        return PcrResult(quoted, replayed, expected, status)

    def _replay(self, bank: str, pcr: int) -> bytes:
        return self._replayed[bank].get(pcr, bytes(ALGORITHMS[bank].size))

    def _is_expected(self, pcr: int) -> bool:
        return all(
            self._quoted[bank][pcr] == self._reference.pcrs[bank][pcr] for bank in self._banks
        )

    def _incomplete(self, pcr: int) -> bool:
        expected = [one.event[1:] for one in self._reference.events if one.event.pcr == pcr]
        found = [event[1:] for event in self._events.get(pcr, [])]
        short = len(found) < len(expected) and expected[: len(found)] == found
        return short and self._is_expected(pcr)

    def _log_is_ahead(self, pcr: int) -> bool:
        bank = self._banks[0]
        value = bytes(ALGORITHMS[bank].size)
        for event in self._events.get(pcr, []):
            if value == self._quoted[bank][pcr]:
                return True
            value = digest(bank, value + (event.digest(bank) or b""))
        return False
