"""What Windows measures: SIPA events, nested in one another (wbcl.h).

An event is u32 type, u32 size, data; where the type is an aggregation, the data is a sequence of
events. Aggregations are taken apart with a stack of our own and a limit of depth, so that nesting
costs neither stack nor time.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from casemate.errors import FormatError, LimitError

MAX_DEPTH: Final = 8
"""Aggregations inside one another; Windows writes three."""
MAX_EVENTS: Final = 32_768
"""Events of one measured event."""
AGGREGATION: Final = 0x4000_0000
_HEAD: Final = struct.Struct("<II")


class SipaEvent(NamedTuple):
    """An event: how deep it lies, its type, its data (of an aggregation: with all in it)."""

    depth: int
    type: int
    data: bytes


def parse_sipa(data: bytes) -> tuple[SipaEvent, ...]:
    """Read the data of one EV_EVENT_TAG event of a Windows log, in order, flat.

    Raises:
        FormatError: ``event-data``: sizes that do not fit.
        LimitError: ``depth-limit`` or ``limit``.
    """
    events: list[SipaEvent] = []
    ends = [len(data)]
    position = 0
    while ends:
        if position == ends[-1]:
            ends.pop()
            continue
        if position + _HEAD.size > ends[-1]:
            raise FormatError("SIPA: it ends inside an event", code="event-data")
        kind, size = _HEAD.unpack_from(data, position)
        position += _HEAD.size
        if size > ends[-1] - position:
            raise FormatError(f"SIPA: an event of {size} bytes ends behind it", code="event-data")
        depth = len(ends) - 1
        if kind & AGGREGATION and depth >= MAX_DEPTH:
            raise LimitError(f"SIPA: aggregations more than {MAX_DEPTH} deep", code="depth-limit")
        if len(events) == MAX_EVENTS:
            raise LimitError(f"SIPA: more than {MAX_EVENTS} events")
        nested = bool(kind & AGGREGATION)
        events.append(SipaEvent(depth, kind, data[position : position + size]))
        if nested:
            ends.append(position + size)
        else:
            position += size
    return tuple(events)


def is_sipa(data: bytes) -> bool:
    """Tell whether a tagged event is of Windows: its tag is an aggregation (0x4001....)."""
    return len(data) >= _HEAD.size and _HEAD.unpack_from(data)[0] >> 16 == AGGREGATION >> 16 | 1


def check_nesting(data: bytes) -> None:
    """Refuse nesting without end; sizes that do not fit are left to whoever reads the events.

    Raises:
        LimitError: as ``parse_sipa`` says.
    """
    try:
        parse_sipa(data)
    except LimitError:
        raise
    except FormatError:
        return
