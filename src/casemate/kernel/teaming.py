"""Which uplinks of teams have a link, and what physical switches are told when cards move.

Linux tells of every change at once; nobody is asked as long as no switch has several uplinks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from casemate.errors import CasemateError, Finding
from casemate.kernel.stream import FactStream
from casemate.kernel.sys.linkstate import drain
from casemate.kernel.wires import Wires
from casemate.machine.networkplan import NetworkPlan, Notice
from casemate.machine.networks import Networks
from casemate.machine.teaming import ALL_UP, LinkState, UplinksFact

_PAUSE: Final = 0.05
"""Seconds between two looks: links that flap do not keep the host busy."""
_log = logging.getLogger(__name__)


class Teaming:
    """The links of all uplinks that are in a team; ``stream`` is told of them."""

    def __init__(self, wires: Wires, stream: FactStream) -> None:
        self._wires = wires
        self._stream = stream
        self._watch: socket.socket | None = None
        self._changed = asyncio.Event()
        self._told: frozenset[Notice] = frozenset()
        self._uplinks: frozenset[str] = frozenset()
        self._wired: LinkState = ALL_UP
        self.state: LinkState = ALL_UP

    async def look(self, networks: Networks) -> bool:
        """Look which uplinks have a link; tell whether what is wired knows otherwise.

        Raises HostError.
        """
        known, self._uplinks = self._uplinks, networks.teams()
        before = self.state
        if not self._uplinks:
            self._end()
            self.state = ALL_UP
            self._stream.retract(UplinksFact, UplinksFact().key)
            return self.state != self._wired
        if self._watch is None:
            self._watch = await self._wires.open_watch()
            asyncio.get_running_loop().add_reader(self._watch, self._hear)
        down = await self._wires.without_link(sorted(self._uplinks))
        self.state = before.seen(self._uplinks, down, known)
        self._stream.publish(UplinksFact(tuple(sorted(down)), self.state.late))
        for name in sorted((down - before.down) & known):
            _log.warning("the uplink %s has no link", name)
        for name in sorted((before.down - down) & self._uplinks):
            _log.warning("the uplink %s has a link", name)
        return self.state != self._wired

    async def follow(self, look: Callable[[], Awaitable[None]]) -> None:
        """Have this called whenever something became of an interface."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await look()
            except CasemateError as error:
                _log.warning("%s", error.reason)
            await asyncio.sleep(_PAUSE)

    async def tell(self, plan: NetworkPlan) -> None:
        """Take note of what is wired now; tell physical switches which cards have moved."""
        self._wired = self.state
        fresh = tuple(notice for notice in plan.notices if notice not in self._told)
        self._told = frozenset(plan.notices)
        if fresh:
            await self._wires.announce(fresh)

    def findings(self, networks: Networks) -> tuple[Finding, ...]:
        """Return the uplinks of teams that have no link."""
        return tuple(
            Finding(
                "uplink-down",
                name,
                f"this uplink has no link: {switch.name} has "
                + (
                    "lost redundancy."
                    if set(switch.uplinks) - self.state.down
                    else "no connection."
                ),
                "Look at the cable and at the port of the physical switch.",
            )
            for switch in networks.switches
            if len(switch.uplinks) > 1
            for name in switch.uplinks
            if name in self.state.down
        )

    def close(self) -> None:
        """Watch no more."""
        self._end()

    def _hear(self) -> None:
        if self._watch is not None:
            drain(self._watch)
            self._changed.set()

    def _end(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(watch)
            watch.close()
