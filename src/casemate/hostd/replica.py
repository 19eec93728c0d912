"""The read replica: managed objects as views of the facts, kept until their object changes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from casemate.calls.messages import BankValues, FactReply
from casemate.hostd.events import EventLog
from casemate.hostd.objects import catalog
from casemate.hostd.objects.base import Scope
from casemate.hostd.wellknown import EVENT_MANAGER, HOST
from casemate.hostd.world import Endpoint, World
from casemate.machine.facts import FaultFact, TaskFact, TaskState
from casemate.vim25.values import MoRef, Value

OWN_SECONDS = 2.0
"""How long an answer is held back until what the call changed can be read."""

CONTENTS_KEPT = 4
"""Selections of properties of one object that are kept together: each client asks for its own."""

FRAGMENTS_KEPT = 128
"""Encoded properties of one object that are kept: a VM has 50; paths into arrays have no end."""

VERSIONS_KEPT = 3
"""API versions whose encoded properties are kept; the one that was asked for longest ago goes."""

LOCAL_TASKS = 50
"""Tasks remembered for calls that are done at once, where the API answers with a task."""

SETTLE_SECONDS = 1.0
"""After a new start of the stream: facts not stated again within this time are gone."""


@dataclass(slots=True, eq=False)
class Listener:
    """Somebody who waits for changes: what was touched since it last looked."""

    dirty: set[MoRef] = field(default_factory=set)
    structure: bool = False
    event: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Encoded:
    """What is kept in one API version: single properties, and selections of them."""

    fragments: dict[MoRef, dict[str, str | None]] = field(default_factory=dict)
    contents: dict[MoRef, dict[tuple[str, tuple[str, ...]], str]] = field(default_factory=dict)


class Replica:
    """Folds the stream, answers reads, wakes listeners. ``clock`` gives the time in UTC."""

    def __init__(self, clock: Callable[[], datetime], endpoint: Endpoint | None = None) -> None:
        self.world = World(endpoint)
        self.clock = clock
        self.events = EventLog()
        self.history: set[MoRef] = set()
        """The collectors whose latest page changes with every event or task."""
        self._values: dict[MoRef, dict[str, Value]] = {}
        self._versions: OrderedDict[str, _Encoded] = OrderedDict()
        self._listeners: set[Listener] = set()
        self._done = 0
        self._local: deque[str] = deque()
        self._watchers: set[asyncio.Event] = set()
        self._stale: set[tuple[str, str]] = set()
        self.ready = asyncio.Event()

    def restart(self) -> None:
        """Note that the stream begins anew: what it does not state again is gone."""
        self._stale = self.world.keys()

    def settle(self) -> None:
        """Drop the facts that a new stream did not state again."""
        for kind, key in self._stale:
            self._apply(FactReply("", 0, kind, key, None, gone=True))
        self._stale = set()

    def fold(self, reply: FactReply) -> None:
        """Take in one entry of the stream."""
        self._stale.discard((reply.kind, reply.key))
        self._apply(reply)

    def set_pcrs(self, values: tuple[BankValues, ...]) -> None:
        """Take in the TPM's PCR values, which are shown at the host."""
        if values != self.world.pcrs:
            self.world.pcrs = values
            self.touch({HOST})

    def _apply(self, reply: FactReply) -> None:
        before = self.world.known(reply.kind, reply.key)
        change = self.world.fold(reply)
        if self.events.note(self.world, reply, before, self.clock()):
            change.touched.update(self.history, (EVENT_MANAGER,))
        if self.world.ready:
            self.ready.set()
        for watcher in self._watchers:
            watcher.set()
        self.touch(change.touched, structure=change.structure)

    def said(self, entity: MoRef, name: str, text: str, user: str) -> None:
        """Keep what a user says of an object as an event."""
        self.events.add_said(self.world, entity, name, text, user, self.clock())
        self.touch({*self.history, EVENT_MANAGER})

    def finished(
        self, ref: MoRef, operation: str, user: str, error: FaultFact | None = None
    ) -> MoRef:
        """Return a task for what was done, or failed, at once; the latest such tasks are kept."""
        now = self.clock().timestamp()
        self._done += 1
        state = TaskState.SUCCESS if error is None else TaskState.ERROR
        key = f"haTask-{ref.value}-vim.{ref.type}.{operation}-hostd{self._done}"
        fact = TaskFact(
            *(key, ref.value, ref.type, operation, state, 100, now, user, now, now), error=error
        )
        self._local.append(key)
        if len(self._local) > LOCAL_TASKS:
            old = FactReply("", 0, "TaskFact", self._local.popleft(), None, gone=True)
            self.touch(self.world.fold(old).touched)
        change = self.world.fold(FactReply("", 0, "TaskFact", key, fact))
        self.touch(change.touched, structure=change.structure)
        return MoRef("Task", key)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a change to arrive, so that a client can read what it wrote; not for ever."""
        watcher = asyncio.Event()
        self._watchers.add(watcher)
        try:
            async with asyncio.timeout(OWN_SECONDS):
                while not condition():
                    watcher.clear()
                    await watcher.wait()
        except TimeoutError:
            return
        finally:
            self._watchers.discard(watcher)

    def touch(self, refs: Iterable[MoRef], *, structure: bool = False) -> None:
        """Forget what was kept of these objects and wake the listeners."""
        touched = set(refs)
        for ref in touched:
            self._values.pop(ref, None)
            for encoded in self._versions.values():
                encoded.fragments.pop(ref, None)
                encoded.contents.pop(ref, None)
        if not touched and not structure:
            return
        for listener in self._listeners:
            listener.dirty |= touched
            listener.structure |= structure
            listener.event.set()

    def listen(self) -> Listener:
        """Return a new listener; give it back with ``forget``."""
        listener = Listener()
        self._listeners.add(listener)
        return listener

    def forget(self, listener: Listener) -> None:
        """Stop telling a listener."""
        self._listeners.discard(listener)

    def value(self, ref: MoRef, name: str, scope: Scope) -> Value:
        """Return the value of a property; None: unset. The object must exist."""
        getter = catalog.GETTERS.get(ref.type, {}).get(name)
        if getter is None:
            return None
        if (ref.type, name) in catalog.LIVE:
            return getter(scope, ref.value)
        kept = self._values.setdefault(ref, {})
        if name not in kept:
            kept[name] = getter(scope, ref.value)
        return kept[name]

    def _encoded(self, version: str) -> _Encoded:
        encoded = self._versions.get(version)
        if encoded is None:
            encoded = self._versions[version] = _Encoded()
            if len(self._versions) > VERSIONS_KEPT:
                self._versions.popitem(last=False)
        self._versions.move_to_end(version)
        return encoded

    def content(self, ref: MoRef, key: tuple[str, tuple[str, ...]], version: str) -> str | None:
        """Return what was kept of an object under a tag and paths in a version."""
        kept = self._encoded(version).contents.get(ref)
        return None if kept is None else kept.get(key)

    def keep_content(
        self, ref: MoRef, key: tuple[str, tuple[str, ...]], version: str, text: str
    ) -> None:
        """Keep it until the object changes."""
        kept = self._encoded(version).contents.setdefault(ref, {})
        if len(kept) < CONTENTS_KEPT:
            kept[key] = text

    def fragment(
        self, ref: MoRef, path: str, version: str, make: Callable[[], str | None]
    ) -> str | None:
        """Return the encoded property, made at most once until the object changes."""
        if (ref.type, path.partition(".")[0]) in catalog.LIVE:
            return make()
        kept = self._encoded(version).fragments.setdefault(ref, {})
        if path in kept:
            return kept[path]
        made = make()
        if len(kept) < FRAGMENTS_KEPT:
            kept[path] = made
            if "." not in path:
                # Who reads the whole reads its bytes from now on: the value is made again at need.
                self._values.get(ref, {}).pop(path, None)
        return made
