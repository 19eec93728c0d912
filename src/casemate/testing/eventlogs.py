"""Hypothesis strategies for TCG event logs."""

from __future__ import annotations

from hypothesis import strategies as st

from casemate.formats.algorithms import ALGORITHMS, NAME_BY_ID, Algorithm
from casemate.formats.eventlog import STARTUP_LOCALITY_SIGNATURE, Event, EventLog, SpecId
from casemate.formats.eventtypes import (
    EV_EFI_HCRTM_EVENT,
    EV_NO_ACTION,
    EVENT_NAMES,
    SLAUNCH_END,
    SLAUNCH_START,
)

U32 = st.integers(0, 0xFFFF_FFFF)
BANKS = ("sha1", "sha256", "sha384", "sha512")
_EXTENDING = sorted(
    set(EVENT_NAMES) - {EV_NO_ACTION, EV_EFI_HCRTM_EVENT, SLAUNCH_START, SLAUNCH_END}
)


def bank_sets(banks: tuple[str, ...] = BANKS) -> st.SearchStrategy[tuple[str, ...]]:
    """One to all of ``banks``, in any order."""
    return st.lists(st.sampled_from(banks), min_size=1, unique=True).map(tuple)


def unknown_algorithms() -> st.SearchStrategy[Algorithm]:
    """Algorithms that nobody has heard of, with their sizes."""
    numbers = st.integers(1, 0xFFFF).filter(lambda number: number not in NAME_BY_ID)
    return st.builds(Algorithm, numbers, st.integers(1, 128))


@st.composite
def events(
    draw: st.DrawFn,
    algorithms: tuple[Algorithm, ...],
    *,
    pcrs: st.SearchStrategy[int] = U32,
    types: st.SearchStrategy[int] = U32,
) -> Event:
    """One event with a digest for each algorithm."""
    digests = tuple(
        (algorithm.name, draw(st.binary(min_size=algorithm.size, max_size=algorithm.size)))
        for algorithm in algorithms
    )
    return Event(draw(pcrs), draw(types), digests, draw(st.binary(max_size=64)))


def extending_events(banks: tuple[str, ...]) -> st.SearchStrategy[Event]:
    """Events that extend a static PCR."""
    algorithms = tuple(ALGORITHMS[bank] for bank in banks)
    pcrs = st.sampled_from((*range(17), 23))
    return events(algorithms, pcrs=pcrs, types=st.sampled_from(_EXTENDING))


def locality_event(banks: tuple[str, ...], locality: int) -> Event:
    """The StartupLocality event."""
    digests = tuple((bank, bytes(ALGORITHMS[bank].size)) for bank in banks)
    data = STARTUP_LOCALITY_SIGNATURE + bytes((locality,))
    return Event(0, EV_NO_ACTION, digests, data)


def spec_ids() -> st.SearchStrategy[SpecId]:
    """What a Spec ID event may say."""
    byte = st.integers(0, 255)
    return st.builds(
        SpecId,
        pcr=U32,
        digest=st.binary(min_size=20, max_size=20),
        platform_class=U32,
        version_minor=byte,
        version_major=byte,
        errata=byte,
        uintn_size=byte,
        vendor_info=st.none() | st.binary(max_size=255),
    )


@st.composite
def event_logs(draw: st.DrawFn) -> EventLog:
    """Any well-formed log, crypto-agile or legacy, padded or not."""
    fill = draw(st.sampled_from((0x00, 0xFF)))
    count = draw(st.integers(0, 100))
    padding = (fill if count else 0, count)
    if draw(st.booleans()):
        legacy = (ALGORITHMS["sha1"],)
        entries = st.lists(events(legacy, pcrs=st.integers(0, 23)), min_size=1, max_size=8)
        chosen = tuple(e for e in draw(entries) if e.type not in {0, EV_NO_ACTION})
        first = Event(0, 8, (("sha1", bytes(20)),), b"")
        return EventLog(legacy, (first, *chosen), None, padding)
    algorithms = tuple(ALGORITHMS[bank] for bank in draw(bank_sets()))
    stranger = draw(st.none() | unknown_algorithms())
    if stranger is not None:
        algorithms += (stranger,)
    some = st.permutations(algorithms).flatmap(
        lambda order: st.integers(1, len(order)).map(lambda n: tuple(order[:n]))
    )
    entries = st.lists(some.flatmap(events), max_size=8)
    return EventLog(algorithms, tuple(draw(entries)), draw(spec_ids()), padding)
