"""Replay: the PCR values to which the events of a log lead.

TCG PC Client Platform Firmware Profile 1.06, sections 3.3.3 and 10.4.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from casemate.errors import FormatError
from casemate.formats.algorithms import ALGORITHMS, Hash, hash_function
from casemate.formats.eventrecords import Event, EventLog
from casemate.formats.eventtypes import (
    EV_EFI_HCRTM_EVENT,
    EV_NO_ACTION,
    SLAUNCH_END,
    SLAUNCH_START,
    TXT_PCR_MAPPING,
)

PCR_COUNT: Final = 24
"""PCRs of a PC Client TPM."""
NO_PCR: Final = 0xFF
"""The index in TXT logs of an event that extends nothing (Intel TXT guide, appendix G)."""
STARTUP_LOCALITY_SIGNATURE: Final = b"StartupLocality\0"
_LOCALITIES: Final = (0, 3, 4)
_MARKS: Final = frozenset({SLAUNCH_START, SLAUNCH_END})


def replay(log: EventLog) -> dict[str, dict[int, bytes]]:
    """Compute the PCR values that the log claims; see ``replay_events``."""
    return replay_events(log.events, log.banks)


def replay_events(events: Iterable[Event], banks: Iterable[str]) -> dict[str, dict[int, bytes]]:
    """Compute bank → PCR → value for every PCR that an event extends.

    EV_NO_ACTION never extends, nor does the TXT event that says how PCR 17 and 18 are used, nor
    the marks around Secure Launch's own events, whose digests are zero. PCR 0
    starts at the locality that a StartupLocality event states, or at 4 where the log has an H-CRTM
    event; all others start at zero, 17-22 too, because their events exist only after a D-RTM launch
    has reset them. An event without a digest for a bank leaves that bank's PCR alone: ask
    ``incomplete_banks`` before trusting such a bank.

    Raises:
        FormatError: ``pcr-index``, ``malformed-locality``, or a digest of a wrong size.
        NotSupportedError: a bank whose hash this machine lacks.
    """
    events = tuple(events)
    values: dict[str, dict[int, bytes]] = {name: {} for name in banks}
    table: dict[str | int, tuple[Callable[[bytes], Hash], int, dict[int, bytes]]] = {
        name: (hash_function(name), ALGORITHMS[name].size, bank) for name, bank in values.items()
    }
    locality = _startup_locality(events)
    for pcr, event_type, digests, _ in events:
        if event_type == EV_NO_ACTION or (event_type == TXT_PCR_MAPPING and pcr == NO_PCR):
            continue
        if event_type in _MARKS and not any(any(digest) for _, digest in digests):
            continue
        if pcr >= PCR_COUNT:
            raise FormatError(f"event log: an event extends PCR {pcr}", code="pcr-index")
        for name, digest in digests:
            row = table.get(name)
            if row is None:
                continue
            function, size, bank = row
            if len(digest) != size:
                raise FormatError(f"event log: a {name} digest of {len(digest)} bytes")
            value = bank.get(pcr)
            if value is None:
                value = bytes(size - 1) + (locality if pcr == 0 else b"\0")
            bank[pcr] = function(value + digest).digest()
    return values


def _startup_locality(events: tuple[Event, ...]) -> bytes:
    """Return the last byte of PCR 0 at the start."""
    stated: int | None = None
    extended = launched = False
    for pcr, event_type, _, data in events:
        if event_type == EV_NO_ACTION:
            if not data.startswith(STARTUP_LOCALITY_SIGNATURE[:-1]):
                continue
            value = data[len(STARTUP_LOCALITY_SIGNATURE) :]
            well_placed = pcr == 0 and stated is None and not extended
            well_formed = data.startswith(STARTUP_LOCALITY_SIGNATURE) and len(value) == 1
            if not well_placed or not well_formed or value[0] not in _LOCALITIES:
                raise FormatError(
                    "event log: a StartupLocality event that is not the first word on PCR 0, "
                    "comes twice, or states no possible locality",
                    code="malformed-locality",
                )
            stated = value[0]
        elif pcr == 0:
            extended = True
            launched = launched or event_type == EV_EFI_HCRTM_EVENT
    return b"\4" if launched else bytes((stated or 0,))


def incomplete_banks(log: EventLog) -> frozenset[str | int]:
    """Return the announced banks for which an extending event carries no digest."""
    announced = frozenset(a.name for a in log.algorithms)
    missing: set[str | int] = set()
    for event in log.events:
        if event.type != EV_NO_ACTION:
            missing |= announced.difference(name for name, _ in event.digests)
    return frozenset(missing)
