"""A vSphere attestation report, ours or an ESXi host's, against itself and against the raw log.

``QueryTpmAttestationReport`` is neither signed nor fresh: it can refute, never prove. Its own
events must lead to its own PCR values; where a raw log was quoted, the report must tell the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from casemate.errors import Finding, FormatError
from casemate.formats.algorithms import ALGORITHMS, digest
from casemate.formats.eventlog import EventLog
from casemate.formats.eventtypes import EV_NO_ACTION
from casemate.formats.text import escape
from casemate.vim25.values import Obj

EVENT_LIMIT: Final = 1000
"""Events that ESXi's kernel records: a report with as many has probably lost some."""
MAX_NAME: Final = 512
"""Characters of a name that are shown."""
_NAMES: Final = ("componentName", "commandLine", "bootSecurityOption", "optionsFileName")
_VIB: Final = ("vibName", "vibVersion", "vibVendor")
OLD_EMPTY_SIZE: Final = 40
"""Bytes that vCenter 6.5 sends for an empty SHA-1 PCR, which has 20."""
_REMEDY: Final = "Ask for a quote and the raw log; where there is none, boot the host again."
_METHODS: Final = {
    "SHA1": "sha1",
    "SHA256": "sha256",
    "SHA384": "sha384",
    "SHA512": "sha512",
    "SM3_256": "sm3_256",
}


@dataclass(frozen=True, slots=True)
class ReportPcr:
    """HostTpmDigestInfo."""

    pcr: int
    method: str
    value: bytes


@dataclass(frozen=True, slots=True)
class ReportEvent:
    """HostTpmEventLogEntry; ``method`` is empty before vSphere 6.7, ``vib`` where none is named."""

    pcr: int
    method: str
    digest: bytes
    name: str = ""
    vib: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """HostTpmAttestationReport."""

    pcrs: tuple[ReportPcr, ...]
    events: tuple[ReportEvent, ...]
    reliable: bool


def unsigned(values: Iterable[int]) -> bytes:
    """Return the bytes of a digest that came as signed bytes (-128 to 127)."""
    return bytes(value & 0xFF for value in values)


def report_from(value: Obj) -> Report:
    """Return a HostTpmAttestationReport as the vSphere API gives it.

    Digests may come as bytes or as signed bytes (-128 to 127); our ``vim25`` codec and pyVmomi
    differ in that.

    Raises:
        FormatError: ``report-malformed``.
    """
    return Report(
        tuple(
            ReportPcr(
                _integer(row, "pcrNumber"), _text(row, "digestMethod"), _digest(row, "digestValue")
            )
            for row in _rows(value, "tpmPcrValues")
        ),
        tuple(_event(row) for row in _rows(value, "tpmEvents")),
        value.get("tpmLogReliable") is True,
    )


def _event(row: Obj) -> ReportEvent:
    details = row.get("eventDetails")
    if not isinstance(details, Obj):
        raise _malformed("eventDetails")
    given = [details.get(key) for key in _NAMES]
    name = next((one for one in given if isinstance(one, str) and one), details.type)
    vib = " ".join(one for key in _VIB if isinstance(one := details.get(key), str))
    return ReportEvent(
        _integer(row, "pcrIndex"),
        _text(details, "dataHashMethod") if details.get("dataHashMethod") is not None else "",
        _digest(details, "dataHash"),
        escape(name)[:MAX_NAME],
        escape(vib.strip())[:MAX_NAME],
    )


def _malformed(name: str) -> FormatError:
    return FormatError(
        f"attestation report: {name} is not what it should be",
        code="report-malformed",
        component="attestation report",
    )


def _rows(value: Obj, name: str) -> Sequence[Obj]:
    rows = value.get(name) or ()
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Obj) for row in rows):
        raise _malformed(name)
    return [row for row in rows if isinstance(row, Obj)]


def _integer(row: Obj, name: str) -> int:
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _malformed(name)
    return value


def _text(row: Obj, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise _malformed(name)
    return value


def _digest(row: Obj, name: str) -> bytes:
    value = row.get(name)
    if isinstance(value, bytes):
        return value
    if not isinstance(value, list | tuple):
        raise _malformed(name)
    numbers = [one for one in value if type(one) is int]
    if len(numbers) != len(value):
        raise _malformed(name)
    return unsigned(numbers)


def check_report(report: Report) -> tuple[Finding, ...]:
    """Check a report against itself.

    Codes: ``log-unreliable``, ``replay-mismatch`` (one for each PCR), ``bank-mismatch``.
    """
    findings: list[Finding] = []
    if not report.reliable or len(report.events) >= EVENT_LIMIT:
        why = "says so itself" if not report.reliable else f"has {len(report.events)} events"
        findings.append(
            Finding(
                "log-unreliable",
                "attestation report",
                f"the host's report is not complete: it {why}",
                _REMEDY,
            )
        )
    by_pcr: dict[int, list[ReportEvent]] = defaultdict(list)
    for event in report.events:
        by_pcr[event.pcr].append(event)
    for row in report.pcrs:
        bank = _METHODS.get(row.method, "")
        if not bank or len(row.value) != ALGORITHMS[bank].size:
            if bank == "sha1" and row.value == bytes(OLD_EMPTY_SIZE):
                continue
            findings.append(
                Finding(
                    "bank-mismatch",
                    f"PCR {row.pcr}",
                    f"PCR {row.pcr} has {len(row.value)} bytes, which is not {row.method[:16]!r}",
                    _REMEDY,
                )
            )
            continue
        events = by_pcr.pop(row.pcr, [])
        if events and _replay(bank, events) != row.value:
            findings.append(_mismatch(row.pcr, "its events do not lead to its value"))
    findings += (_mismatch(pcr, "it has events, but no value") for pcr in sorted(by_pcr))
    return tuple(findings)


def check_report_against_log(
    report: Report, log: EventLog, values: Mapping[int, bytes], bank: str
) -> tuple[Finding, ...]:
    """Check a report against the raw log and PCR values whose quote was verified.

    Code: ``report-differs``, one for each PCR that the report does not tell as the log does.
    """
    shown: dict[int, list[bytes]] = defaultdict(list)
    for event in report.events:
        shown[event.pcr].append(event.digest)
    logged: dict[int, list[bytes]] = defaultdict(list)
    for raw in log.events:
        value = raw.digest(bank)
        if raw.type != EV_NO_ACTION and value is not None:
            logged[raw.pcr].append(value)
    stated = {row.pcr: row.value for row in report.pcrs}
    return tuple(
        Finding(
            "report-differs",
            f"PCR {pcr}",
            f"the vSphere report tells something else about PCR {pcr} than the quoted log",
            "Do not trust what this host shows; its management agent lies or is broken.",
        )
        for pcr in sorted(shown.keys() | logged.keys() | stated.keys())
        if shown.get(pcr, []) != logged.get(pcr, [])
        or (pcr in stated and pcr in values and stated[pcr] != values[pcr])
    )


def _replay(bank: str, events: Sequence[ReportEvent]) -> bytes | None:
    """Return the PCR's value, None where an event is of another bank."""
    size = ALGORITHMS[bank].size
    value = bytes(size)
    for event in events:
        if len(event.digest) != size or _METHODS.get(event.method, bank) != bank:
            return None
        value = digest(bank, value + event.digest)
    return value


def _mismatch(pcr: int, why: str) -> Finding:
    return Finding("replay-mismatch", f"PCR {pcr}", f"PCR {pcr}: {why}", _REMEDY)
