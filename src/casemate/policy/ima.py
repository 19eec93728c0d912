"""Appraisal of an IMA list: what the host has run since it booted, against a runtime policy.

1. Every record's template hash is that of its data.
2. The list leads to the quoted PCR at some record; later records are pending, not judged.
3. The first record ties the list to the boot: the boot aggregate is that of the quoted PCR 0-9.
4. Each file is one the policy knows, or is signed by a key of the policy, or is left out by it.

The order matters: nothing in a list is believed before step 2 has proven it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Final

from casemate.errors import Finding, FormatError, SignatureError
from casemate.formats.ima import IMA_PCR, ImaEntry, ImaList
from casemate.formats.imafields import BOOT_AGGREGATE, Measurement, measurement
from casemate.formats.imareplay import ImaState, KnownData, boot_aggregates, match
from casemate.formats.imasign import (
    KeyringKey,
    key_id_of,
    parse_file_signature,
    verify_file_signature,
)
from casemate.formats.text import escape
from casemate.policy.paths import PathSet

MAX_FINDINGS: Final = 1000
"""Findings of one appraisal: a hostile list could make hundreds of thousands."""
PROGRESS_ROUNDS: Final = 3
"""Rounds in which records stay pending before that is a finding."""
COMPONENT: Final = "IMA list"
_U32: Final = struct.Struct("<I")
_USUAL: Final = "ima-ng"
_REMEDY_FILE: Final = (
    "If the file is wanted, add its digest to the runtime policy; if not, look at who put it there."
)
_REMEDY_LIST: Final = "Do not trust this host. Boot it again from a good image; keep the list."


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key that may sign files; ``not_after`` None: without end."""

    name: str
    key: KeyringKey
    not_after: datetime | None = None


@dataclass(frozen=True)
class RuntimePolicy:
    r"""What a host may run.

    Attributes:
        version: of the policy.
        digests: path or buffer name → accepted digests, each ``algorithm:\0digest`` as IMA
            writes it.
        excludes: files that are not judged.
        keys: whose signature makes a file good.
        reject_violations: whether a file that was written to while it was measured is a finding
            or a warning.
        old_kernel: the host's kernel is older than 5.8, which pads SHA-1 into other banks and
            leaves PCR 8 and 9 out of the boot aggregate.
    """

    version: int
    digests: Mapping[bytes, frozenset[bytes]]
    excludes: PathSet = field(default_factory=PathSet)
    keys: tuple[TrustedKey, ...] = ()
    reject_violations: bool = False
    old_kernel: bool = False

    @cached_property
    def templates(self) -> frozenset[bytes]:
        """The template data of every record of ``ima-ng`` that is good.

        The boot aggregate is never among them: it is compared with the quoted PCRs.
        """
        return frozenset(
            _U32.pack(len(one)) + one + _U32.pack(len(path) + 1) + path + b"\0"
            for path, digests in self.digests.items()
            if path != BOOT_AGGREGATE
            for one in digests
        )

    @cached_property
    def known(self) -> KnownData:
        """The hashes of ``templates`` that any host has shown."""
        return KnownData(self.templates)


@dataclass(frozen=True, slots=True)
class ImaResult:
    """What came out.

    ``state`` is how far the list is proven, None where it is not; ``pending`` counts the records
    behind that; ``appraised`` those judged in this round.
    """

    findings: tuple[Finding, ...]
    warnings: tuple[Finding, ...] = ()
    state: ImaState | None = None
    appraised: int = 0
    pending: int = 0


def appraise_ima(
    measured: ImaList,
    pcrs: Mapping[str, Mapping[int, bytes]],
    policy: RuntimePolicy,
    now: datetime,
    *,
    start: ImaState | None = None,
) -> ImaResult:
    """Judge the records that follow ``start``.

    Args:
        measured: the records after ``start``, in order.
        pcrs: the quoted values, bank → PCR → value.
        policy: the runtime policy.
        now: the present, for keys that end.
        start: what an earlier appraisal of the same boot has proven.
    """
    quoted = {bank: values[IMA_PCR] for bank, values in pcrs.items() if IMA_PCR in values}
    if not quoted:
        return _unproven("missing-pcr", "PCR 10 was not quoted", "Quote PCR 10 as well.")
    entries, algorithm = measured.entries, measured.algorithm
    found = match(entries, quoted, start=start, algorithm=algorithm, known=policy.known)
    if found.state is None and policy.old_kernel and algorithm == "sha1":
        found = match(entries, quoted, start=start, padded=True)
    begun = start.count if start else 0
    if found.wrong is not None:
        return ImaResult((_wrong_template(begun + found.wrong),), pending=len(entries))
    if found.state is None:
        return _unproven(
            "ima-pcr",
            "no place in the list leads to the quoted PCR 10",
            "Ask for quote and list again; if it stays so, do not trust this host.",
        )
    count = found.state.count - begun
    judge = _Judge(policy, now, pcrs, begun)
    findings, warnings = judge.run(entries[:count])
    return ImaResult(findings, warnings, found.state, count, len(entries) - count)


def _unproven(code: str, reason: str, remedy: str) -> ImaResult:
    return ImaResult((Finding(code, COMPONENT, reason, remedy),))


def _wrong_template(index: int) -> Finding:
    return Finding(
        "ima-template",
        f"record {index}",
        f"the template hash of record {index} is not that of its data: the list was changed",
        _REMEDY_LIST,
    )


class _Judge:
    def __init__(
        self,
        policy: RuntimePolicy,
        now: datetime,
        pcrs: Mapping[str, Mapping[int, bytes]],
        begun: int,
    ) -> None:
        self._policy = policy
        self._now = now
        self._pcrs = pcrs
        self._begun = begun
        self._keys = {key_id_of(one.key): one for one in policy.keys}
        self._warnings: list[Finding] = []

    def run(self, entries: Sequence[ImaEntry]) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
        findings: list[Finding] = []
        for finding in self._findings(entries):
            findings.append(finding)
            if len(findings) >= MAX_FINDINGS:
                break
        return tuple(findings), tuple(self._warnings[:MAX_FINDINGS])

    def _findings(self, entries: Sequence[ImaEntry]) -> Iterator[Finding]:
        if not self._begun and entries:
            yield from self._first(entries[0])
        good = self._policy.templates
        violation = bytes(len(entries[0].template_hash)) if entries else b""
        for index, entry in enumerate(entries, self._begun):
            pcr, template_hash, template, data = entry
            # Nearly all records end here.
            usual = data in good and template == _USUAL and pcr == IMA_PCR
            if usual and template_hash != violation:
                continue
            yield from self._entry(index, entry)

    def _first(self, entry: ImaEntry) -> Iterator[Finding]:
        try:
            if measurement(entry).is_boot_aggregate:
                return
        except FormatError:
            pass
        yield Finding(
            "boot-aggregate",
            "record 0",
            "the list does not begin with the boot aggregate, so it may be of another boot",
            _REMEDY_LIST,
        )

    def _entry(self, index: int, entry: ImaEntry) -> Iterator[Finding]:
        component = f"record {index}"
        if entry.pcr != IMA_PCR:
            yield Finding(
                "ima-pcr-index",
                component,
                f"the record extends PCR {entry.pcr}, which proves nothing about it",
                "Let IMA measure into PCR 10 (no pcr= in its policy).",
            )
            return
        try:
            what = measurement(entry)
        except FormatError as error:
            yield Finding(error.code, component, error.reason, error.remedy)
            return
        if entry.is_violation:
            yield from self._violation(component, what)
        elif what.is_boot_aggregate:
            yield from self._aggregate(component, what)
        else:
            yield from self._file(component, what)

    def _violation(self, component: str, what: Measurement) -> Iterator[Finding]:
        # The name is shown as a hint only: a violation extends ones, not the hash of its data.
        finding = Finding(
            "ima-violation",
            component,
            f"a file was written to while it was measured, so nobody knows what ran; the list "
            f"says it was {_shown(what)}",
            "Look at who writes to that file, and let IMA not measure it if that is wanted.",
        )
        if self._policy.reject_violations:
            yield finding
        else:
            self._warnings.append(finding)

    def _aggregate(self, component: str, what: Measurement) -> Iterator[Finding]:
        expected = boot_aggregates(self._pcrs.get(what.algorithm, {}), what.algorithm)
        if not expected:
            self._warnings.append(
                Finding(
                    "boot-aggregate-unchecked",
                    component,
                    f"the boot aggregate is over bank {what.algorithm}, whose PCR 0-9 were not "
                    "quoted",
                    f"Quote PCR 0-9 of bank {what.algorithm} as well.",
                )
            )
        elif what.digest == expected.get("current") or (
            self._policy.old_kernel and what.digest == expected.get("old")
        ):
            return
        else:
            old = what.digest == expected.get("old")
            yield Finding(
                "boot-aggregate",
                component,
                "the boot aggregate covers PCR 0-7 only, as kernels before 5.8 have it"
                if old
                else "the boot aggregate is not that of the quoted PCRs: the list is of another "
                "boot or another host",
                "State the kernel's class in the runtime policy." if old else _REMEDY_LIST,
            )

    def _file(self, component: str, what: Measurement) -> Iterator[Finding]:
        known = self._policy.digests.get(what.path, frozenset())
        label = f"{what.kind}:{what.algorithm}" if what.kind else what.algorithm
        if label.encode() + b":\0" + what.digest in known or what.path in self._policy.excludes:
            return
        signature = what.signature
        if signature and self._policy.keys:
            try:
                self._verify(signature, what)
            except (SignatureError, FormatError) as error:
                yield Finding(
                    "ima-signature", component, f"{_shown(what)}: {error.reason}", _REMEDY_FILE
                )
            return
        found = f"{what.algorithm} {what.digest.hex()}"
        if known:
            reason = f"{_shown(what)} has {found}; the policy knows {_known(known)}"
            yield Finding("ima-digest", component, reason, _REMEDY_FILE)
        else:
            reason = f"the policy does not know {_shown(what)} ({found})"
            yield Finding("ima-unknown-file", component, reason, _REMEDY_FILE)

    def _verify(self, data: bytes, what: Measurement) -> None:
        signature = parse_file_signature(data)
        trusted = self._keys.get(signature.key_id)
        if trusted is None:
            raise SignatureError(
                f"it is signed with key {signature.key_id.hex()}, which is not in the policy"
            )
        if trusted.not_after is not None and self._now > trusted.not_after:
            raise SignatureError(
                f"the key {trusted.name} that signed it ended on {trusted.not_after:%Y-%m-%d}"
            )
        verify_file_signature(signature, what, trusted.key)


def _shown(what: Measurement) -> str:
    return escape(what.path.decode("utf-8", "surrogateescape"))


def _known(digests: frozenset[bytes]) -> str:
    shown = sorted(digests)[:3]
    return ", ".join(
        f"{label.decode('latin-1')} {value.hex()}"
        for label, _, value in (one.partition(b":\0") for one in shown)
    )


def check_progress(pending: Sequence[int]) -> tuple[Finding, ...]:
    """Find a host whose quotes never catch up with its list.

    Args:
        pending: records left pending in the last rounds, oldest first.
    """
    last = pending[-PROGRESS_ROUNDS:]
    if len(last) < PROGRESS_ROUNDS or not all(last) or list(last) != sorted(last):
        return ()
    return (
        Finding(
            "no-progress",
            COMPONENT,
            f"in {PROGRESS_ROUNDS} rounds the quote has not caught up with the list, "
            f"which is {last[-1]} records ahead",
            "Let the host quote again now; if it stays so, do not trust it.",
        ),
    )


def next_offset(state: ImaState | None, available: int, *, rebooted: bool) -> int:
    """Return the record from which a host should send its list.

    After a reboot, or where the list has become shorter, everything is asked for again; that by
    itself is no finding.
    """
    if state is None or rebooted or state.count > available:
        return 0
    return state.count
