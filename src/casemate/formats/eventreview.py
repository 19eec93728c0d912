"""What is wrong with a log that can be told from the log alone, without any policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from casemate.errors import Finding, FormatError
from casemate.formats.eventdata import check_structure, is_contradicted, is_firmware_error
from casemate.formats.eventlog import Event, EventLog, incomplete_banks
from casemate.formats.eventtypes import EV_NO_ACTION, event_name

WARNINGS: Final = frozenset({"bank-incomplete", "no-action-digest"})
"""Codes that by themselves do not make a log bad."""
MAX_FINDINGS: Final = 1000
"""Findings of one log; a hostile one could make tens of thousands."""


def review(log: EventLog) -> tuple[Finding, ...]:
    """Return what is wrong, in log order, at most ``MAX_FINDINGS``.

    Codes: ``event-data`` (data that its digest contradicts, or that is not what the type
    promises), ``depth-limit`` (nested without end), ``firmware-error`` (an error separator),
    ``bank-incomplete``, ``no-action-digest`` (EV_NO_ACTION with a digest; it is ignored).
    """
    findings: list[Finding] = []
    for finding in _findings(log):
        findings.append(finding)
        if len(findings) == MAX_FINDINGS:
            break
    return tuple(findings)


def _findings(log: EventLog) -> Iterator[Finding]:
    for bank in sorted(incomplete_banks(log), key=str):
        yield Finding(
            "bank-incomplete",
            str(bank),
            "Some events carry no digest for this bank, so it cannot be replayed in full.",
            "Appraise another bank.",
        )
    spec_id = log.spec_id
    if spec_id is not None and any(spec_id.digest):
        yield _no_action_digest("event 0")
    first, banks = log.count - len(log.events), log.banks
    for index, event in enumerate(log.events, first):
        yield from _event_findings(event, f"event {index}", banks)


def _event_findings(event: Event, component: str, banks: tuple[str, ...]) -> Iterator[Finding]:
    if event.type == EV_NO_ACTION:
        if any(any(digest) for _, digest in event.digests):
            yield _no_action_digest(component)
        return
    where = f"PCR {event.pcr}, {event_name(event.type)}"
    remedy = "Get the log again from the host; a log that was changed on the way must not be used."
    try:
        check_structure(event)
    except FormatError as error:
        yield Finding(error.code, component, f"{where}: {error.reason}.", remedy)
    if is_firmware_error(event):
        yield Finding(
            "firmware-error",
            component,
            f"{where}: firmware reports that it failed to measure.",
            "Look at the machine's firmware; update it, or reset its settings.",
        )
    if is_contradicted(event, banks):
        yield Finding(
            "event-data", component, f"{where}: the digest is not that of the data.", remedy
        )


def _no_action_digest(component: str) -> Finding:
    return Finding(
        "no-action-digest",
        component,
        "An informative event carries a digest, which is ignored.",
        "Nothing to do; tell the firmware's vendor.",
    )
