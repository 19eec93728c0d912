"""Carries out the plan of a host's wires, in a network namespace of the home's own.

The machine's interfaces are not touched but for those that its operator made uplinks. One thread
lives in the namespace and does all of it, one thing after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from casemate.errors import CasemateError
from casemate.kernel.sys.netlink import Link, Links
from casemate.kernel.sys.packetfilter import PacketFilters
from casemate.kernel.sys.taps import enter_namespace, open_namespace, open_tap
from casemate.machine.networkplan import Filter, NetworkPlan, Port
from casemate.machine.networks import AddressFact

_TAKEN: Final = ("", "veth")
"""Kinds of interfaces that can be uplinks: hardware, and what stands for it in a container."""
P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger(__name__)


class Wires:
    """The links of one home. ``holder`` keeps the namespace; None: it ends with this object."""

    def __init__(self, holder: Path | None) -> None:
        self._holder = holder
        self._machine = open_namespace()
        self._thread = ThreadPoolExecutor(1, "wires")
        self._entered = False
        self._ports: dict[tuple[str, int], Port] = {}
        self._filters: dict[tuple[str, int], tuple[Filter, dict[str, int]]] = {}

    async def close(self) -> None:
        """Let go; what is wired stays as long as the namespace does."""
        await asyncio.to_thread(self._thread.shutdown)
        os.close(self._machine)

    async def apply(self, plan: NetworkPlan) -> None:
        """Make the wires be as planned, touching only what is not.

        Raises:
            HostError: Linux refuses a part; what is open after that is less than what was planned.
        """
        if plan.uplinks:
            home = await self._run(open_namespace)
            try:
                await asyncio.to_thread(_take, plan.uplinks, home)
            finally:
                os.close(home)
        await self._run(self._apply, plan)

    async def open_tap(self, name: str) -> int:
        """Make the interface of a card; the caller closes the descriptor. Raises HostError."""
        return await self._run(open_tap, name)

    async def links(self) -> dict[str, Link]:
        """Return all interfaces of the namespace. Raises HostError."""
        return await self._run(_links)

    async def addresses(self) -> tuple[AddressFact, ...]:
        """Return the addresses of the machine itself. Raises HostError."""
        return await asyncio.to_thread(_addresses)

    async def can_tag(self) -> bool:
        """Tell whether this Linux knows VLAN tags (its driver 8021q is there)."""
        return await self._run(_can_tag)

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run something in the namespace."""
        return await self._run(work, *args, **kwargs)

    async def _run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        def inside() -> R:
            if not self._entered:
                enter_namespace(self._holder)
                self._entered = True
            return work(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._thread, inside)

    def _apply(self, plan: NetworkPlan) -> None:
        with Links() as links, contextlib.closing(PacketFilters()) as filters:
            self._give_back(plan, links)
            present = links.all()
            for bridge in plan.bridges:
                if bridge.name not in present:
                    links.add_bridge(bridge.name)
                    links.set_up(links.index(bridge.name), up=True)
            present = links.all()
            for vlan in plan.vlans:
                if vlan.name not in present and vlan.parent in present:
                    links.add_vlan(vlan.name, present[vlan.parent].index, vlan.vlan)
            present = links.all()
            self._remove(plan, links, present)
            self._filter(plan, filters, present)
            for port in plan.ports:
                if port.name in present:
                    self._put(port, links, present)
            for bridge in plan.bridges:
                if present[bridge.name].mtu != bridge.mtu:
                    links.set_mtu(present[bridge.name].index, bridge.mtu)

    def _give_back(self, plan: NetworkPlan, links: Links) -> None:
        """Give back the machine's interfaces that are uplinks no more."""
        for link in links.all().values():
            if link.name not in plan.uplinks and link.name != "lo" and link.kind in _TAKEN:
                links.give(link.index, self._machine)

    def _remove(self, plan: NetworkPlan, links: Links, present: dict[str, Link]) -> None:
        """Remove what is not planned; the interfaces of cards are only cut off."""
        kept = {bridge.name for bridge in plan.bridges} | {vlan.name for vlan in plan.vlans}
        ports = {port.name for port in plan.ports}
        for link in present.values():
            if link.kind in {"bridge", "vlan"} and link.name not in kept:
                links.remove(link.index)
            elif link.kind == "tun" and link.name not in ports and (link.master or link.up):
                links.set_up(link.index, up=False)
                links.join(link.index, 0)
                self._ports.pop((link.name, link.index), None)

    def _filter(self, plan: NetworkPlan, filters: PacketFilters, present: dict[str, Link]) -> None:
        wanted = {one.name: one for one in plan.filters if one.name in present}
        indexes = {name: link.index for name, link in present.items()}
        known = filters.names()
        for one in wanted.values():
            named = {mirror.name: indexes.get(mirror.name, 0) for mirror in one.mirrors}
            there = Filter(
                one.name,
                one.source,
                one.tags,
                one.guest,
                tuple(mirror for mirror in one.mirrors if named[mirror.name]),
            )
            key = (one.name, indexes[one.name])
            if one.name not in known or self._filters.get(key) != (there, named):
                filters.put(there, named)
                self._filters[key] = (there, named)
        for name in known - wanted.keys():
            filters.drop(name)
        alive = {(name, indexes[name]) for name in wanted}
        self._filters = {key: value for key, value in self._filters.items() if key in alive}

    def _put(self, port: Port, links: Links, present: dict[str, Link]) -> None:
        """Wire one port, whose filter is in place."""
        link, bridge = present[port.name], present[port.bridge]
        key = (port.name, link.index)
        if self._ports.get(key) == port and link.master == bridge.index and link.up == port.up:
            return
        if link.mtu != port.mtu:
            links.set_mtu(link.index, port.mtu)
        before = self._ports.get(key)
        if link.master and (before is None or before.mac != port.mac):
            # A port that leaves its bridge takes all that the bridge knows of it along.
            links.join(link.index, 0)
            links.join(link.index, bridge.index)
        elif link.master != bridge.index:
            links.join(link.index, bridge.index)
        links.set_port(link.index, learning=port.learning, flood=port.flood)
        if port.mac:
            links.set_station(link.index, port.mac)
        if link.up != port.up:
            links.set_up(link.index, up=port.up)
        self._ports = {k: v for k, v in self._ports.items() if k[0] != port.name}
        self._ports[key] = port


def _take(uplinks: Iterable[str], home: int) -> None:
    """Move interfaces of this namespace to the home's; those that are not here are there."""
    with Links() as links:
        present = links.all()
        for name in uplinks:
            if name in present:
                links.give(present[name].index, home)


def _addresses() -> tuple[AddressFact, ...]:
    with Links() as links:
        return links.addresses()


def _links() -> dict[str, Link]:
    with Links() as links:
        return links.all()


def _can_tag() -> bool:
    """Try it, between two interfaces that nobody uses."""
    with Links() as links:
        try:
            links.add_bridge("probe0")
            links.add_vlan("probe1", links.index("probe0"), 1)
        except CasemateError:
            return False
        finally:
            with contextlib.suppress(CasemateError):
                links.remove(links.index("probe0"))
        return True
