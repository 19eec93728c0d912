"""Appraisal for a fleet: several references at once, and nothing compared twice.

Hosts boot rarely and are asked often, so log and PCR values are mostly those of the last round,
and mostly those of their neighbours. The comparison, which is pure, is remembered by the SHA-256
of everything that goes into it; quotes, nonces and keys are checked every time.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from casemate.errors import Finding
from casemate.formats.manifest import Manifest
from casemate.policy.appraise import Appraisal, Comparison, Evidence, Verdict, appraise, compare
from casemate.policy.auditheads import LogHead, check_log
from casemate.policy.continuity import check_continuity
from casemate.policy.imaseen import Seen
from casemate.policy.quotes import Clock
from casemate.policy.ruled import Ruled, Rules, appraise_by_rules
from casemate.policy.tpmidentity import TpmIdentity

REMEMBERED = 2048
"""Comparisons kept: some 20 KiB each."""

LISTS = 16_384
"""Hosts whose IMA list is not judged from its beginning again: some 2 KiB each."""

LARGEST = 256 << 10
"""Bytes of a log whose comparison is remembered."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reference that may apply: its identifier and the verified manifest."""

    identifier: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Assigned:
    """A policy as it applies to a host; references are added by who judges."""

    identifier: str
    rules: Rules


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, and the reference it was made by; empty where there is none.

    ``key`` stands for all that was compared, where nothing else but quotes and keys is in it.
    ``ruled`` is what a policy made of it, for a host that has one, and ``policy`` its identifier.
    ``head`` is that of the host's audit log, if it has shown one.
    """

    appraisal: Appraisal
    reference: str
    key: bytes = b""
    ruled: Ruled | None = None
    policy: str = ""
    head: LogHead | None = None


class Judge:
    """Judges evidence; safe to use from several threads."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._known: OrderedDict[bytes, Comparison] = OrderedDict()
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._turn = threading.Lock()

    def judge(
        self,
        evidence: Evidence,
        candidates: Sequence[Candidate],
        identity: TpmIdentity,
        nonce: bytes,
        previous: Clock | None = None,
        known: bytes = b"",
    ) -> Judged:
        """Judge by the candidate that fits best; the first of those that fit alike.

        Args:
            evidence: the host's answer.
            candidates: references in force, the preferred one first; not empty.
            identity: the TPM's, proven.
            nonce: of this challenge.
            previous: the TPM's counters in the last good round of the same key.
            known: SHA-256 of values, log and claims as they were sent, where that is at hand.
        """
        ordered = list(candidates)
        if len(ordered) > 1:
            ordered.sort(key=lambda one: -_fitting(evidence, one.manifest))
        best: Judged | None = None
        for candidate in ordered:
            name = candidate.identifier
            key = known + name.encode() if known else _key(evidence, name)
            comparer = partial(self._compare, key)
            found = appraise(evidence, candidate.manifest, identity, nonce, comparer)
            compared = key if found.clock is not None else b""
            judged = Judged(_continued(found, previous), name, compared)
            if judged.appraisal.verdict is Verdict.TRUSTED or found.clock is None:
                return judged
            if best is None or len(found.findings) < len(best.appraisal.findings):
                best = judged
        return best or Judged(Appraisal(Verdict.UNDECIDED, (NO_REFERENCE,)), "")

    def judge_by_policy(
        self,
        evidence: Evidence,
        assigned: Assigned,
        candidates: Sequence[Candidate],
        identity: TpmIdentity,
        nonce: bytes,
        now: datetime,
        previous: Clock | None = None,
    ) -> Judged:
        """Judge by a policy; of the references in force the one that fits best counts."""
        rules = assigned.rules
        overlaps = rules.policy.overlap is not None and now < rules.policy.overlap
        known: list[Candidate | None] = [*(candidates if overlaps else candidates[:1])]
        best: Judged | None = None
        for candidate in known or [None]:
            references = () if candidate is None else (candidate.manifest,)
            found = appraise_by_rules(
                evidence,
                replace(rules, references=references),
                identity,
                nonce,
                now,
                identifier=assigned.identifier,
                seen=self._seen.get(identity.fingerprint),
            )
            self._remember(identity.fingerprint, found.seen)
            appraisal = _continued(found.appraisal, previous)
            name = "" if candidate is None else candidate.identifier
            judged = Judged(appraisal, name, b"", found, assigned.identifier)
            if best is None or len(appraisal.findings) < len(best.appraisal.findings):
                best = judged
        if best is None:
            raise AssertionError
        return best

    def _remember(self, fingerprint: str, seen: Seen | None) -> None:
        """Keep how far a host's IMA list was good, for its next round."""
        with self._turn:
            self._seen.pop(fingerprint, None)
            if seen is not None:
                self._seen[fingerprint] = seen
            while len(self._seen) > LISTS:
                self._seen.popitem(last=False)

    def _compare(self, key: bytes, evidence: Evidence, reference: Manifest) -> Comparison:
        with self._turn:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        found = compare(evidence, reference)
        if len(evidence.log) > LARGEST:
            return found
        with self._turn:
            self._known[key] = found
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        return found


NO_REFERENCE = Finding(
    "not-appraised",
    "reference",
    "no reference is in force for this host, so nothing was compared",
    "Add one: casemate verifier reference add FILE.",
)


def _fitting(evidence: Evidence, manifest: Manifest) -> int:
    return sum(
        evidence.pcrs.get(bank, {}).get(pcr) == value
        for bank, values in manifest.pcrs.items()
        for pcr, value in values.items()
    )


def _key(evidence: Evidence, identifier: str) -> bytes:
    values = sorted((bank, sorted(pcrs.items())) for bank, pcrs in evidence.pcrs.items())
    rest = repr((identifier, values, evidence.claims)).encode()
    # Two digests: where one part ends and the next begins is nobody's choice.
    return hashlib.sha256(hashlib.sha256(evidence.log).digest() + rest).digest()


def with_log(judged: Judged, known: LogHead | None, shown: Sequence[LogHead]) -> Judged:
    """Add what the host's audit log says to a verdict on a good quote, and its head."""
    found = judged.appraisal
    head = shown[0] if shown and shown[0].number else None
    findings = () if found.clock is None else check_log(known, shown)
    if findings:
        found = replace(found, verdict=Verdict.UNTRUSTED, findings=(*findings, *found.findings))
    return replace(judged, appraisal=found, head=head)


def _continued(found: Appraisal, previous: Clock | None) -> Appraisal:
    """Add what the TPM's counters say; each boot is judged by its log, so a reset alone is none."""
    if found.clock is None or previous is None:
        return found
    rebooted = found.clock.reset_count != previous.reset_count
    seen = check_continuity(previous, found.clock, new_boot=rebooted)
    if not seen.findings and not seen.warnings:
        return found
    return replace(
        found,
        verdict=Verdict.UNTRUSTED if seen.findings else found.verdict,
        findings=(*seen.findings, *found.findings),
        warnings=(*found.warnings, *(w for w in seen.warnings if w not in found.warnings)),
    )
