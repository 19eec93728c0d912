"""Who looks at which VM: a console ends when whoever opened it may not look any more.

The kernel gives tickets and hands connections over; from then on only hostd is between viewer and
guest. A ticket that this hostd has not given out itself opens nothing: nobody could tell whose
console it would be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from casemate.calls.vmconsole import AcquireTicket
from casemate.hostd.world import World
from casemate.policy.quotas import displaced

TICKETS: Final = 256
"""Tickets that wait for their viewer: as many as the kernel keeps."""
OF_ONE: Final = 40
"""... of one session, as in the kernel."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whose console of which VM: the session's public key, its user, the VM."""

    key: str
    user: str
    vm: str


class Viewers:
    """The tickets that were given out and the consoles that are open."""

    def __init__(self) -> None:
        self._tickets: dict[str, Viewer] = {}
        self._open: dict[asyncio.Event, Viewer] = {}

    def issued(self, ticket: str, viewer: Viewer) -> None:
        """Remember whose ticket it is."""
        owners = {name: one.key for name, one in self._tickets.items()}
        if (old := displaced(owners, viewer.key, of_one=OF_ONE, limit=TICKETS)) is not None:
            del self._tickets[old]
        self._tickets[ticket] = viewer

    @contextmanager
    def redeemed(self, ticket: str) -> Iterator[asyncio.Event]:
        """Use a ticket up for a console; the event is set when that must end, or never may begin.

        Its viewer passes from the tickets to the open consoles at once: who loses the right
        meanwhile is in one of them.
        """
        over = asyncio.Event()
        viewer = self._tickets.pop(ticket, None)
        if viewer is None:
            over.set()
        else:
            self._open[over] = viewer
        try:
            yield over
        finally:
            self._open.pop(over, None)

    def revoke(self, key: str) -> None:
        """End what a session opened: somebody ended the session for its user."""
        self._end({one for one in self._all() if one.key == key})

    def look(self, world: World) -> None:
        """End what its user has no right to any more."""
        self._end({one for one in self._all() if not _may(world, one)})

    def _all(self) -> tuple[Viewer, ...]:
        return (*self._tickets.values(), *self._open.values())

    def _end(self, viewers: set[Viewer]) -> None:
        if not viewers:
            return
        self._tickets = {name: one for name, one in self._tickets.items() if one not in viewers}
        for over, one in self._open.items():
            if one in viewers:
                over.set()


def _may(world: World, viewer: Viewer) -> bool:
    if world.locked_out(viewer.user):
        return False
    entity = ("VirtualMachine", viewer.vm)
    return world.rights.gives(viewer.user, entity, AcquireTicket.privilege)
