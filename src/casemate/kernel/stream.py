"""The kernel's event stream: what is true now, then every change, in one order for everybody.

A subscriber gets the present facts and then the changes through a bounded queue; one that does
not keep up is cut off and subscribes anew, so that nobody can make the kernel remember.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from casemate.calls.messages import FactReply
from casemate.machine.facts import Fact

QUEUE_LIMIT = 4096
"""Changes a subscriber may lag behind: some seconds of a host with 1,000 VMs."""


class Subscription:
    """One reader of the stream."""

    def __init__(self, backlog: list[FactReply]) -> None:
        self.queue: asyncio.Queue[FactReply | None] = asyncio.Queue()
        for reply in backlog:
            self.queue.put_nowait(reply)
        self.allowed = self.queue.qsize() + QUEUE_LIMIT


class FactStream:
    """Holds the present facts and tells the subscribers what changes."""

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(8)
        self.subscribed = asyncio.Event()
        self._sequence = 0
        self._facts: dict[tuple[str, str], Fact] = {}
        self._subscriptions: set[Subscription] = set()
        self._watchers: list[Callable[[type[Fact], str], None]] = []

    def on_gone(self, watcher: Callable[[type[Fact], str], None]) -> None:
        """Tell this, too, of which kind and key an object was that is gone."""
        self._watchers.append(watcher)

    def publish(self, fact: Fact) -> None:
        """State a fact; nothing happens when it is already known."""
        kind = type(fact).__name__
        if self._facts.get((kind, fact.key)) == fact:
            return
        self._facts[kind, fact.key] = fact
        self._tell(kind, fact.key, fact)

    def retract(self, kind: type[Fact], key: str) -> None:
        """State that the object is gone."""
        if self._facts.pop((kind.__name__, key), None) is not None:
            self._tell(kind.__name__, key, None)
            for watcher in self._watchers:
                watcher(kind, key)

    def fact(self, kind: str, key: str) -> Fact | None:
        """Return the fact of this kind and key."""
        return self._facts.get((kind, key))

    def facts(self) -> tuple[Fact, ...]:
        """Return all present facts."""
        return tuple(self._facts.values())

    def subscribe(self) -> Subscription:
        """Open a subscription that starts with all present facts."""
        backlog = [
            FactReply(self.epoch, self._sequence, kind, key, fact)
            for (kind, key), fact in self._facts.items()
        ]
        subscription = Subscription(backlog)
        self._subscriptions.add(subscription)
        self.subscribed.set()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Close a subscription."""
        self._subscriptions.discard(subscription)

    def _tell(self, kind: str, key: str, fact: Fact | None) -> None:
        self._sequence += 1
        reply = FactReply(self.epoch, self._sequence, kind, key, fact, gone=fact is None)
        for subscription in tuple(self._subscriptions):
            if subscription.queue.qsize() >= subscription.allowed:
                self._subscriptions.discard(subscription)
                subscription.queue.put_nowait(None)
            else:
                subscription.queue.put_nowait(reply)
