"""Collectors of events and tasks: a filter, a page of the latest, and a position in all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from casemate.errors import LimitError
from casemate.hostd.selection import texts
from casemate.vim25 import types
from casemate.vim25.values import MoRef, Obj, Value

PAGE_SIZE = 10
"""Items of the latest page until the client says otherwise: vSphere's default."""

PAGE_LIMIT = 1000
"""Items of one page or answer: vSphere's own limit."""

NAMED_LIMIT = 2000
"""Types, users, states and categories that one filter names: vSphere has some 900 events."""

_LISTS = ("type", "eventTypeId", "category", "state", "tag")

Fits = Callable[[Obj], bool]
Items = Callable[[], Sequence[Obj]]


class HistoryCollector:
    """An EventHistoryCollector or TaskHistoryCollector. ``items`` gives all, oldest first.

    The position lies between two items and is remembered as the key of the item before it, so that
    it stays where it is while items come and go at both ends.
    """

    def __init__(
        self, ref: MoRef, filter_spec: Obj, items: Items, forget: Callable[[], None]
    ) -> None:
        self.ref = ref
        self._filter = filter_spec
        self._items = items
        self._forget = forget
        self._page = PAGE_SIZE
        self._before: Value = None
        self._moved = False

    def properties(self) -> Mapping[str, Value]:
        """See ``Own``."""
        latest = tuple(reversed(self._items()[-self._page :]))
        shown: dict[str, Value] = {"filter": self._filter, "latestPage": latest}
        if self.ref.type == "EventHistoryCollector":
            shown["initialized"] = True
        return shown

    def close(self) -> None:
        """See ``Own``."""
        self._forget()

    def set_page_size(self, size: int) -> None:
        """Set how many items the latest page has."""
        self._page = max(1, min(size, PAGE_LIMIT))

    def rewind(self) -> None:
        """Go to before the oldest item."""
        self._before, self._moved = None, True

    def reset(self) -> None:
        """Go to after the newest item."""
        items = self._items()
        self._before, self._moved = (items[-1].get("key") if items else None), True

    def next(self, count: int) -> tuple[Obj, ...]:
        """Return the next newer items, oldest first, and move behind them."""
        items = self._items()
        place = self._place(items)
        found = tuple(items[place : place + min(count, PAGE_LIMIT)])
        self._stand(items, place + len(found))
        return found

    def previous(self, count: int) -> tuple[Obj, ...]:
        """Return the next older items, newest first, and move before them."""
        items = self._items()
        place = self._place(items) if self._moved else len(items)
        start = max(0, place - min(count, PAGE_LIMIT))
        self._stand(items, start)
        return tuple(reversed(items[start:place]))

    def _place(self, items: Sequence[Obj]) -> int:
        if self._before is None:
            return 0
        for place, item in enumerate(items):
            if item.get("key") == self._before:
                return place + 1
        return 0

    def _stand(self, items: Sequence[Obj], place: int) -> None:
        self._moved = True
        self._before = items[place - 1].get("key") if place else None


def _field(spec: Obj, name: str) -> Obj | None:
    value = spec.get(name)
    return value if isinstance(value, Obj) else None


def _users(spec: Obj) -> frozenset[str] | None:
    by_user = _field(spec, "userName")
    if by_user is None:
        return None
    users = set(texts(by_user.get("userList")))
    return frozenset(users | {""}) if by_user.get("systemUser") is True else frozenset(users)


def _within(moment: Value, begin: Value, end: Value) -> bool:
    if not isinstance(moment, datetime):
        return begin is None and end is None
    after = not isinstance(begin, datetime) or moment >= begin
    return after and (not isinstance(end, datetime) or moment <= end)


Inside = Callable[[MoRef, MoRef], bool]
"""Whether the first object is the second or stands below it."""


def _entity_fits(spec: Obj, about: Sequence[MoRef], inside: Inside) -> bool:
    by_entity = _field(spec, "entity")
    if by_entity is None:
        return True
    wanted, recursion = by_entity.get("entity"), by_entity.get("recursion")
    if not isinstance(wanted, MoRef):
        return False
    if wanted in about:
        return recursion != "children"
    return recursion != "self" and any(inside(ref, wanted) for ref in about)


def check_filter(spec: Obj) -> None:
    """Raise LimitError where a filter names more than there is to name."""
    by_user = _field(spec, "userName")
    lists = [spec.get(name) for name in _LISTS] + ([by_user.get("userList")] if by_user else [])
    named = sum(len(texts(one)) for one in lists)
    if named > NAMED_LIMIT:
        raise LimitError(
            f"a filter that names more than {NAMED_LIMIT} types, users, states or categories",
            remedy="Name a type that the others extend, such as VmEvent.",
        )


def event_filter(spec: Obj, inside: Inside) -> Fits:
    """Return what tells whether an event passes an EventFilterSpec."""
    named = texts(spec.get("type")) or texts(spec.get("eventTypeId"))
    kinds = {one.removeprefix("vim.event.") for one in named}
    categories, users = frozenset(texts(spec.get("category"))), _users(spec)
    by_time = _field(spec, "time")
    begin, end = (by_time.get("beginTime"), by_time.get("endTime")) if by_time else (None, None)

    def fits(event: Obj) -> bool:
        own = {event.type, event.get("eventTypeId"), *types.ancestors(event.type)}
        if kinds and kinds.isdisjoint(own):
            return False
        if categories and (event.get("severity") or "info") not in categories:
            return False
        if users is not None and event.get("userName") not in users:
            return False
        about = [
            ref
            for name in ("vm", "host")
            if (part := _field(event, name)) and isinstance(ref := part.get(name), MoRef)
        ]
        # An event about a VM is on the VM; the host is only where it happened.
        return _within(event.get("createdTime"), begin, end) and _entity_fits(
            spec, about[:1], inside
        )

    return fits


_TIMES = {"queuedTime": "queueTime", "startedTime": "startTime", "completedTime": "completeTime"}


def task_filter(spec: Obj, inside: Inside) -> Fits:
    """Return what tells whether a TaskInfo passes a TaskFilterSpec."""
    states, users = frozenset(texts(spec.get("state"))), _users(spec)
    by_time = _field(spec, "time")

    def fits(info: Obj) -> bool:
        if states and info.get("state") not in states:
            return False
        reason = _field(info, "reason")
        if users is not None and (reason is None or reason.get("userName") not in users):
            return False
        if by_time is not None:
            stamp = info.get(_TIMES.get(str(by_time.get("timeType")), "queueTime"))
            if not _within(stamp, by_time.get("beginTime"), by_time.get("endTime")):
                return False
        entity = info.get("entity")
        about = [entity] if isinstance(entity, MoRef) else []
        return _entity_fits(spec, about, inside)

    return fits
