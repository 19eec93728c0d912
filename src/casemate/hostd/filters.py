"""PropertyCollectors: filters, update sets and the versions between them, and paged retrievals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from casemate.hostd.reader import Reader
from casemate.hostd.replica import Listener
from casemate.hostd.selection import STEP_LIMIT, Selection, Selector
from casemate.vim25.encode import escape
from casemate.vim25.faults import FaultError
from casemate.vim25.paths import PATHS_KEPT
from casemate.vim25.values import MoRef, Obj, Raw, Value

PAGE_LIMIT = 1000
"""Objects of one answer when the client names no number."""

PENDING_LIMIT = 10
"""Unfinished paged retrievals of one collector; the oldest is forgotten."""

TURN_SECONDS = 0.005
"""How long one retrieval works at a stretch."""

TURN_OBJECTS = 16
"""How often it looks at the clock."""

WEIGHT_LIMIT = 1_000_000
"""Paths of objects, and steps to them, that all filters of a session remember together.

Twenty times what all properties of 1,000 VMs take; some 100 MiB at most.
"""

CANCELLED = "The request was canceled."

MakeReader = Callable[[], Reader]


def reference(tag: str, ref: MoRef) -> str:
    """Return a reference as an element."""
    return f'<{tag} type="{ref.type}">{escape(ref.value)}</{tag}>'


@lru_cache(PATHS_KEPT)
def _name(path: str) -> str:
    return f"<name>{escape(path)}</name>"


def content(tag: str, ref: MoRef, wanted: tuple[str, ...], reader: Reader) -> list[str]:
    """Return an ObjectContent as element ``tag``, in pieces: what is kept is not copied."""
    if (kept := reader.content(ref, tag, wanted)) is not None:
        return [kept]
    out = [f"<{tag}>", reference("obj", ref)]
    missing: list[str] = []
    for path in wanted:
        try:
            value = reader.fragment(ref, path)
        except FaultError as error:
            missing.append(reader.missing(path, error))
            continue
        if value is not None:
            out += (f"<propSet>{_name(path)}", value, "</propSet>")
    out += missing
    out.append(f"</{tag}>")
    if not missing:
        reader.keep_content(ref, tag, wanted, out)
    return out


async def contents(
    tag: str, items: Iterable[tuple[MoRef, tuple[str, ...]]], reader: Reader
) -> list[str]:
    """Return the pieces of ObjectContents; while there are many, others get their turn."""
    loop = asyncio.get_running_loop()
    begin, shared = loop.time(), False
    made: list[str] = []
    for number, (ref, wanted) in enumerate(items, 1):
        # What ended while others had their turn is left out.
        if not shared or reader.exists(ref):
            made += content(tag, ref, wanted, reader)
        if number % TURN_OBJECTS == 0 and loop.time() - begin > TURN_SECONDS:
            await asyncio.sleep(0)
            begin, shared = loop.time(), True
    return made


def retrieve(specs: tuple[Obj, ...], reader: Reader) -> dict[tuple[int, MoRef], tuple[str, ...]]:
    """Return what several specs select, in order."""
    found: dict[tuple[int, MoRef], tuple[str, ...]] = {}
    left = STEP_LIMIT
    for number, spec in enumerate(specs):
        selector = Selector(spec)
        selected = selector.select(reader, steps=left)
        left -= selector.steps + len(selected)
        for ref, wanted in selected.items():
            found[number, ref] = wanted
    return found


class Filter:
    """A PropertyFilter: remembers what the client was told of each object."""

    def __init__(self, ref: MoRef, spec: Obj, *, partial: bool, make: MakeReader) -> None:
        self.ref = ref
        self._spec = spec
        self._partial = partial
        self._make = make
        self._selector = Selector(spec)
        self._told: dict[MoRef, dict[str, str | None]] = {}
        self._selection: Selection = {}
        self._leaving: list[MoRef] = []
        self._entering: list[MoRef] = []
        self._dirty: set[MoRef] = set()
        self._stale = True
        self._listener: Listener = make().replica.listen()
        # A spec that selects nothing that exists is refused when the filter is made.
        self.weight = self._weigh(self._selector.select(make()))

    def properties(self) -> Mapping[str, Value]:
        """See ``Own``."""
        return {"spec": self._spec, "partialUpdates": self._partial}

    def close(self) -> None:
        """See ``Own``."""
        self._make().replica.forget(self._listener)

    @property
    def event(self) -> asyncio.Event:
        """Set when something may have changed."""
        return self._listener.event

    def reset(self) -> None:
        """Forget what the client was told."""
        self._told = {}
        self._stale = True

    def updates(self) -> Iterator[str]:
        """Yield the ObjectUpdates that the client does not know yet; each counts as told."""
        reader = self._make()
        listener = self._listener
        listener.event.clear()
        dirty, listener.dirty = listener.dirty, set()
        structure, listener.structure = listener.structure, False
        self._dirty |= dirty
        if self._stale or structure or self._concerned(dirty, reader):
            self._reselect(reader)
        while self._leaving:
            ref = self._leaving.pop()
            self._told.pop(ref, None)
            yield f"<objectSet><kind>leave</kind>{reference('obj', ref)}</objectSet>"
        while self._entering:
            ref = self._entering.pop()
            if not reader.exists(ref):
                # It ended while others had their turn: nobody was told of it.
                continue
            self._dirty.discard(ref)
            yield self._enter(ref, self._selection[ref], reader)
        while self._dirty:
            ref = self._dirty.pop()
            if ref not in self._told or not reader.exists(ref):
                continue
            if update := self._modify(ref, self._selection[ref], reader):
                yield update

    def _concerned(self, dirty: set[MoRef], reader: Reader) -> bool:
        """Tell whether these changes may decide on the selection, or ended something in it."""
        if not dirty.isdisjoint(self._selector.walked):
            return True
        return any(ref in self._selection and not reader.exists(ref) for ref in dirty)

    def _reselect(self, reader: Reader) -> None:
        try:
            self._selection = self._selector.select(reader, gone=True)
        except FaultError:
            self._selection = {}
        self.weight = self._weigh(self._selection)
        self._stale = False
        self._leaving = [ref for ref in self._told if ref not in self._selection]
        self._entering = [ref for ref in self._selection if ref not in self._told]
        self._entering.reverse()

    def _weigh(self, selection: Selection) -> int:
        """Return how much is kept of a selection: paths of objects, and steps that led there."""
        return self._selector.steps + sum(map(len, selection.values()))

    def _enter(self, ref: MoRef, wanted: tuple[str, ...], reader: Reader) -> str:
        known, changes, missing = self._read(ref, wanted, reader)
        self._told[ref] = known
        body = "".join(changes) + "".join(missing)
        return f"<objectSet><kind>enter</kind>{reference('obj', ref)}{body}</objectSet>"

    def _modify(self, ref: MoRef, wanted: tuple[str, ...], reader: Reader) -> str | None:
        known = self._told[ref]
        fresh, _, missing = self._read(ref, wanted, reader)
        changed = [path for path in wanted if fresh.get(path) != known.get(path)]
        self._told[ref] = fresh
        if not changed:
            return None
        body = "".join(_change(path, fresh.get(path)) for path in changed) + "".join(missing)
        return f"<objectSet><kind>modify</kind>{reference('obj', ref)}{body}</objectSet>"

    def _read(
        self, ref: MoRef, wanted: tuple[str, ...], reader: Reader
    ) -> tuple[dict[str, str | None], list[str], list[str]]:
        known: dict[str, str | None] = {}
        missing: list[str] = []
        for path in wanted:
            try:
                known[path] = reader.fragment(ref, path)
            except FaultError as error:
                missing.append(reader.missing(path, error))
        changes = [_change(path, value) for path, value in known.items() if value is not None]
        return known, changes, missing


def _change(path: str, value: str | None) -> str:
    return f"<changeSet>{_name(path)}<op>assign</op>{value or ''}</changeSet>"


@dataclass(slots=True, eq=False)
class Collector:
    """A PropertyCollector of one session."""

    ref: MoRef
    filters: dict[MoRef, Filter] = field(default_factory=dict)
    version: int = 0
    waiting: asyncio.Event | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    pending: dict[str, list[tuple[MoRef, tuple[str, ...]]]] = field(default_factory=dict)
    counter: int = 0

    def properties(self) -> Mapping[str, Value]:
        """See ``Own``."""
        return {"filter": tuple(self.filters)}

    def close(self) -> None:
        """See ``Own``."""
        self.cancel()
        for one in self.filters.values():
            one.close()
        self.filters = {}

    def add(self, one: Filter) -> None:
        """Add a filter; a waiting call sees it at once."""
        self.filters[one.ref] = one
        self.changed.set()

    def remove(self, ref: MoRef) -> None:
        """Forget a filter, if it is one of this collector's."""
        if self.filters.pop(ref, None) is not None:
            self.changed.set()

    def cancel(self) -> None:
        """End a waiting call."""
        if self.waiting is not None:
            self.waiting.set()

    async def page(
        self,
        items: list[tuple[MoRef, tuple[str, ...]]],
        limit: int,
        reader: Reader,
    ) -> Obj | None:
        """Return one page as a RetrieveResult and remember the rest; None: nothing selected."""
        if not items:
            return None
        now, rest = items[:limit], items[limit:]
        token: str | None = None
        if rest:
            self.counter += 1
            token = str(self.counter)
            self.pending[token] = rest
            while len(self.pending) > PENDING_LIMIT:
                del self.pending[next(iter(self.pending))]
        objects = await contents("objects", now, reader)
        return Obj("RetrieveResult", token=token, objects=Raw("", tuple(objects)))

    async def changes(self, limit: int | None, stop: asyncio.Event) -> Obj | None:
        """Return what is new as an UpdateSet, or None; ``limit`` is a number of objects.

        While there is much, others get their turn; once ``stop`` is set nothing counts as told.
        """
        try:
            return await self._collect(limit, stop)
        except BaseException:
            # What was gathered reaches nobody: it is told again.
            for one in self.filters.values():
                one.reset()
            raise

    async def _collect(self, limit: int | None, stop: asyncio.Event) -> Obj | None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        sets: list[str] = []
        count = 0
        truncated = False
        for one in tuple(self.filters.values()):
            updates: list[str] = []
            for update in one.updates():
                updates.append(update)
                count += 1
                if loop.time() - begin > TURN_SECONDS:
                    await asyncio.sleep(0)
                    begin = loop.time()
                    if stop.is_set():
                        raise FaultError(Obj("RequestCanceled"), CANCELLED)
                if limit is not None and count >= limit:
                    truncated = True
                    one.event.set()
                    break
            if updates:
                filter_ref = reference("filter", one.ref)
                sets.append(f"<filterSet>{filter_ref}{''.join(updates)}</filterSet>")
            if truncated:
                break
        if not sets:
            return None
        self.version += 1
        return Obj(
            "UpdateSet",
            version=str(self.version),
            filterSet=Raw("".join(sets)),
            truncated=truncated or None,
        )
