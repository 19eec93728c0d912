"""The events of a boot against the reference, event by event.

Only the order within one PCR is proven, so the comparison is per PCR: expected and found events
are paired by what they are about (kind and name), and what is left over was removed or added. The
same component stands in a static and in a D-RTM PCR; ``differences`` merges them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from casemate.formats.eventlog import Event
from casemate.formats.manifest import ComponentRef, ExpectedEvent
from casemate.policy.describe import FIRMWARE_KINDS, Description, Kind, contradiction, describe


class Change(StrEnum):
    """How what was found differs from what was expected."""

    CHANGED = "changed"
    REMOVED = "removed"
    ADDED = "added"
    RENAMED = "renamed"
    REORDERED = "reordered"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference, in all PCRs where it shows.

    ``expected`` is None for what was added, ``found`` for what was removed. ``late`` means that
    the log has it after Boot Complete.
    """

    change: Change
    about: Description
    pcrs: tuple[int, ...]
    expected: Event | None
    found: Event | None
    component: ComponentRef | None = None
    late: bool = False

    @property
    def found_about(self) -> Description:
        """What the found event says it is about."""
        return describe(self.found) if self.found else self.about


@dataclass(frozen=True, slots=True)
class _Found:
    event: Event
    about: Description
    late: bool


def differences(
    expected: Sequence[ExpectedEvent], found: Sequence[Event], may_vary: Sequence[str] = ()
) -> tuple[Difference, ...]:
    """Return every difference, merged over PCRs, in the order of the reference.

    Args:
        expected: the reference's events, in log order.
        found: the log's extending events, in log order.
        may_vary: words of the command line that do not count.
    """
    wanted: dict[int, list[tuple[ExpectedEvent, Description]]] = defaultdict(list)
    for one in expected:
        wanted[one.event.pcr].append((one, describe(one.event)))
    present: dict[int, list[_Found]] = defaultdict(list)
    late = False
    for event in found:
        about = describe(event)
        present[event.pcr].append(_Found(event, about, late))
        late = late or about.kind is Kind.BOOT_COMPLETE
    result: list[Difference] = []
    for pcr in sorted(wanted.keys() | present.keys()):
        result += _compare(wanted[pcr], present[pcr], frozenset(may_vary))
    return _merged(result)


def _compare(
    wanted: Sequence[tuple[ExpectedEvent, Description]],
    present: Sequence[_Found],
    may_vary: frozenset[str],
) -> list[Difference]:
    waiting: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, found in enumerate(present):
        waiting[found.about.key].append(position)
    for positions in waiting.values():
        positions.reverse()
    result: list[Difference] = []
    places: list[tuple[int, int]] = []
    missing: list[int] = []
    for position, (one, about) in enumerate(wanted):
        partners = waiting.get(about.key)
        if not partners:
            missing.append(position)
            continue
        partner = partners.pop()
        places.append((position, partner))
        other = present[partner]
        if not _same(one.event, other, may_vary):
            result.append(_difference(Change.CHANGED, wanted[position], other))
    extra = sorted(position for positions in waiting.values() for position in positions)
    result += _leftovers(wanted, missing, present, extra)
    for position, partner in _out_of_order(places):
        result.append(_difference(Change.REORDERED, wanted[position], present[partner]))
    return result


def _leftovers(
    wanted: Sequence[tuple[ExpectedEvent, Description]],
    missing: Sequence[int],
    present: Sequence[_Found],
    extra: Sequence[int],
) -> list[Difference]:
    """Pair what is left where it is plainly one thing; the rest was removed or added."""
    result: list[Difference] = []
    by_digests: dict[object, list[int]] = defaultdict(list)
    by_kind: dict[Kind, list[int]] = defaultdict(list)
    for position in extra:
        by_digests[present[position].event.digests].append(position)
        by_kind[present[position].about.kind].append(position)
    unpaired: list[int] = []
    taken: set[int] = set()
    for position in missing:
        same = [p for p in by_digests[wanted[position][0].event.digests] if p not in taken]
        if same:
            taken.add(same[0])
            result.append(_difference(Change.RENAMED, wanted[position], present[same[0]]))
        else:
            unpaired.append(position)
    lonely: dict[Kind, list[int]] = defaultdict(list)
    for position in unpaired:
        lonely[wanted[position][1].kind].append(position)
    for kind, positions in lonely.items():
        partners = [p for p in by_kind[kind] if p not in taken]
        if len(positions) == len(partners) == 1 and kind in {Kind.SIGNER, Kind.TRUST_ANCHOR}:
            taken.add(partners[0])
            result.append(_difference(Change.CHANGED, wanted[positions[0]], present[partners[0]]))
        else:
            result += (_difference(Change.REMOVED, wanted[p], None) for p in positions)
    result += (
        Difference(
            Change.ADDED,
            present[p].about,
            (present[p].event.pcr,),
            None,
            present[p].event,
            late=present[p].late,
        )
        for p in extra
        if p not in taken
    )
    return result


def _difference(
    change: Change, wanted: tuple[ExpectedEvent, Description], found: _Found | None
) -> Difference:
    expected, about = wanted
    return Difference(
        change,
        about,
        (expected.event.pcr,),
        expected.event,
        found.event if found else None,
        expected.component,
        late=found.late if found else False,
    )


def _same(expected: Event, found: _Found, may_vary: frozenset[str]) -> bool:
    if expected[1:] == found.event[1:]:
        return True
    if found.about.kind in FIRMWARE_KINDS:
        return expected.type == found.event.type and expected.digests == found.event.digests
    if (
        found.about.kind is not Kind.COMMAND_LINE
        or expected.type != found.event.type
        or contradiction(found.event)  # else the text could say anything under the old digest
    ):
        return False
    return _fixed_words(describe(expected).raw, may_vary) == _fixed_words(found.about.raw, may_vary)


def _fixed_words(command_line: bytes, may_vary: frozenset[str]) -> list[bytes]:
    names = {name.encode() for name in may_vary}
    return [word for word in command_line.split(b" ") if word.partition(b"=")[0] not in names]


def _out_of_order(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the fewest pairs without which the found positions ascend."""
    tails: list[int] = []
    lengths: list[int] = []
    for _, partner in places:
        length = bisect_left(tails, partner)
        tails[length : length + 1] = [partner]
        lengths.append(length)
    keep = len(tails) - 1
    result: list[tuple[int, int]] = []
    for pair, length in zip(reversed(places), reversed(lengths), strict=True):
        if length == keep:
            keep -= 1
        else:
            result.append(pair)
    return result[::-1]


def _merged(found: Iterable[Difference]) -> tuple[Difference, ...]:
    merged: dict[object, Difference] = {}
    for one in found:
        key = (
            one.change,
            one.about.key,
            one.expected and one.expected[1:],
            one.found and one.found[1:],
        )
        other = merged.get(key)
        if other is not None:
            pcrs: Mapping[int, None] = dict.fromkeys((*other.pcrs, *one.pcrs))
            merged[key] = Difference(
                one.change,
                other.about,
                tuple(pcrs),
                other.expected,
                other.found,
                other.component,
                late=other.late,
            )
        else:
            merged[key] = one
    return tuple(merged.values())
