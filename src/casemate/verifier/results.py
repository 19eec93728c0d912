"""What a round gave: the values that are written down, as JSON and in a sentence."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, replace

from casemate.calls.verdict import appraisal_json
from casemate.errors import Finding
from casemate.machine.fleet import FleetHost
from casemate.policy.appraise import Appraisal, Verdict
from casemate.policy.auditheads import LogHead
from casemate.policy.statemachine import HostRecord, Outcome, Result, State
from casemate.policy.verdict import Judged as Covered
from casemate.policy.verdict import from_appraisal, submodules
from casemate.verifier.judge import Judged
from casemate.verifier.records import values_to

RESULTS = 1024
"""Results remembered as they are written: some 4 KiB each."""

FAULT = Finding(
    "fault",
    "verifier",
    "the verifier failed while it judged this host; the host was not appraised",
    "Look at the verifier's log; the host is asked again by itself.",
)

FAULTY = Judged(Appraisal(Verdict.UNDECIDED, (FAULT,)), "")

_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b", re.ASCII)


@dataclass(frozen=True, slots=True)
class Done:
    """How a round ended: the host's state, and whether it should be asked again at once.

    ``silent``: the host gave no answer.
    """

    state: State
    again: bool
    sentence: str
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished appraisal with all that is written down of it.

    ``claim`` is the TPM's identity where it was proven anew, else empty. ``head`` is that of the
    host's audit log, if it has shown one.
    """

    judged: Judged
    claim: str
    result: Result
    nonce: bytes
    reply: bytes
    drtm: bool
    millis: float
    head: LogHead | None = None

    @property
    def good(self) -> bool:
        """Whether the host is as it should be."""
        return self.result.outcome is Outcome.GOOD


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished round of a host, which was read as ``host`` under a version of the rules."""

    host: FleetHost
    version: int
    outcome: Finished


def at_fault(entry: Entry) -> Entry:
    """Return a round as one in which the verifier failed, without what the host sent."""
    result = replace(entry.outcome.result, outcome=Outcome.FAULT, codes=frozenset({FAULT.code}))
    outcome = replace(entry.outcome, judged=FAULTY, result=result, claim="", reply=b"")
    return replace(entry, outcome=outcome)


class Results:
    """Results as JSON, written once for rounds whose comparison was remembered; from any thread."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._known: dict[object, bytes] = {}

    def written(self, outcome: Finished) -> bytes:
        """Return a result as JSON."""
        appraisal, reference = outcome.judged.appraisal, outcome.judged.reference
        key = (outcome.judged.key, reference, outcome.drtm, appraisal.findings, appraisal.warnings)
        known = self._known.get(key) if outcome.judged.key else None
        if known is not None:
            return known
        ruled = outcome.judged.ruled
        if ruled is None:
            judged, by = from_appraisal(appraisal, drtm=outcome.drtm), reference
        else:
            covered = ruled.sections.sections
            judged = Covered(covered, appraisal.findings, appraisal.warnings)
            by = outcome.judged.policy
        sections = submodules([judged], by[:16])
        value = {
            **appraisal_json(appraisal),
            "sections": {name: one.status.label for name, one in sections.items()},
            "reference": reference,
            "policy": outcome.judged.policy[:64],
            "own": values_to(ruled.host) if ruled else None,
        }
        made = json.dumps(value).encode()
        with self._turn:
            if len(self._known) >= RESULTS:
                self._known.clear()
            self._known[key] = made
        return made


def told(record: HostRecord, outcome: Finished) -> str:
    """Return what is said of a host after a round, in one sentence."""
    text = sentence(outcome.judged.appraisal)
    if outcome.good and record.state is not State.TRUSTED:
        codes = ", ".join(sorted(record.codes)) or record.state.value
        return f"failed before ({codes}) and stays so until an operator clears it; now it {text}"
    return text


def sentence(appraisal: Appraisal) -> str:
    """Return the verdict in one sentence; digests are shortened, the findings have them whole."""
    if appraisal.verdict is Verdict.TRUSTED and not appraisal.components:
        return "is what its policy asks for, proven by its TPM"
    if appraisal.verdict is Verdict.TRUSTED:
        return (
            f"runs exactly what its reference says: {len(appraisal.components)} components "
            "measured and proven by its TPM"
        )
    first = appraisal.findings[0]
    more = len(appraisal.findings) - 1
    text = f"{first.component}: {first.reason}" + (f" (and {more} more)" if more else "")
    return _DIGEST.sub(r"\1…", text)
