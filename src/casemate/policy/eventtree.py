"""Every event of a log with its verdict: what a page shows, PCR by PCR."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from casemate.formats import eventdata
from casemate.formats.eventlog import Event
from casemate.formats.eventtypes import EV_NO_ACTION, event_name
from casemate.formats.manifest import ComponentRef, Manifest
from casemate.policy.compare import Difference, differences
from casemate.policy.describe import Kind, contradiction, describe

EXPECTED = "expected"
INFORMATION = "information"
NOT_APPRAISED = "not-appraised"


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event: its place, what it claims to be about, and what the comparison says.

    ``verdict`` is ``expected``, ``information`` (extends nothing), ``not-appraised``, or a change
    of ``policy.compare``; then ``wanted`` says what the reference has instead. ``proven`` is false
    where the text beside the digest is not what was measured. All text is safe to print.
    """

    number: int
    pcr: int
    type: str
    kind: str
    text: str
    digests: tuple[tuple[str, str], ...]
    verdict: str
    component: ComponentRef | None = None
    wanted: str = ""
    proven: bool = True


def event_rows(
    events: Sequence[Event], reference: Manifest | None
) -> tuple[tuple[EventRow, ...], tuple[EventRow, ...]]:
    """Return the rows of a log, and rows for what the reference has and the log has not."""
    if reference is None:
        return tuple(_row(n, event, NOT_APPRAISED) for n, event in enumerate(events)), ()
    indexes = frozenset(reference.indexes)
    found = [event for event in events if event.type != EV_NO_ACTION and event.pcr in indexes]
    unlike = differences(reference.events, found, reference.may_vary)
    changed = {(pcr, one.found[1:]): one for one in unlike if one.found for pcr in one.pcrs}
    known = {one.event: one.component for one in reference.events}
    open_ = Counter(one.event for one in reference.events)
    rows: list[EventRow] = []
    for number, event in enumerate(events):
        change = changed.get((event.pcr, event[1:]))
        if event.type == EV_NO_ACTION:
            rows.append(_row(number, event, INFORMATION))
        elif event.pcr not in indexes:
            rows.append(_row(number, event, NOT_APPRAISED))
        elif change is not None and open_[event] <= 0:
            rows.append(_row(number, event, change.change.value, change))
        else:
            open_[event] -= 1
            rows.append(_row(number, event, EXPECTED, component=known.get(event)))
    missing = (_missing(one, pcr) for one in unlike if one.found is None for pcr in one.pcrs)
    return tuple(rows), tuple(row for row in missing if row is not None)


def _missing(one: Difference, pcr: int) -> EventRow | None:
    if one.expected is None:
        return None
    row = _row(-1, one.expected, one.change.value, component=one.component)
    return EventRow(-1, pcr, row.type, row.kind, row.text, row.digests, row.verdict, row.component)


def _row(
    number: int,
    event: Event,
    verdict: str,
    change: Difference | None = None,
    component: ComponentRef | None = None,
) -> EventRow:
    about = describe(event)
    # What is not compared by name is told as its type has it: firmware's and boot loaders' events.
    text = eventdata.describe(event) if about.kind is Kind.OTHER else about.text
    banks = [bank for bank, _ in event.digests if isinstance(bank, str)]
    wanted = ""
    if change is not None and change.expected is not None:
        bank, value = change.expected.digests[0]
        wanted = f"{change.about.text}, {bank} {value.hex()}"
    return EventRow(
        number,
        event.pcr,
        event_name(event.type),
        about.kind.value,
        text,
        tuple((str(bank), value.hex()) for bank, value in event.digests),
        verdict,
        change.component if change else component,
        wanted,
        not contradiction(event) and not eventdata.is_contradicted(event, banks),
    )
