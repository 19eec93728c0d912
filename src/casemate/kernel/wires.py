"""Carries out the plan of a host's wires, in a network namespace of the home's own.

The machine's interfaces are not touched but for those that its operator made uplinks. One thread
lives in the namespace and does all of it, one thing after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from casemate.errors import CasemateError, HostError
from casemate.kernel import linkjobs
from casemate.kernel.routing import Routing
from casemate.kernel.sys.linkstate import open_watch, send_frames, without_link
from casemate.kernel.sys.netlink import Link, Links
from casemate.kernel.sys.packetfilter import PacketFilters
from casemate.kernel.sys.taps import (
    enter_namespace,
    join_namespace,
    open_dhcp,
    open_namespace,
    open_tap,
)
from casemate.machine.networkplan import (
    Filter,
    NetworkPlan,
    Notice,
    Port,
    Router,
    routers_of,
)
from casemate.machine.networks import AddressFact
from casemate.machine.teaming import announcement

_INSIDE: Final = re.compile("r[0-9]{1,3}")
"""Names of the ends of routers' cables (``networkplan.Router``)."""
_BETWEEN: Final = re.compile("p[0-9]{1,3}v[0-9]{1,4}u[0-9]{2}")
"""Names of the ends of cables between bridges (``networkplan.Cable``)."""
_TAKEN: Final = ("", "veth")
"""Kinds of interfaces that can be uplinks: hardware, and what stands for it in a container."""
_TEXT: Final = 300  # characters of a reason
_FEW: Final = 8
"""Interfaces that are looked at one by one: all at once cost a millisecond each as well."""
P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger(__name__)


class Wires:
    """The links of one home. ``holder`` keeps the namespace; None: it ends with this object.

    The network of the thread that makes this object is the machine's. ``identifier`` is the
    home's, of 8 characters; ``marker`` a file that tells whether there is something of it there.
    """

    def __init__(
        self, holder: Path | None, identifier: str = "00000000", marker: Path | None = None
    ) -> None:
        self._holder = holder
        self._machine = open_namespace()
        self._thread = ThreadPoolExecutor(1, "wires")
        self._outside = ThreadPoolExecutor(1, "machine")
        self._standing = False
        self._identifier = identifier
        self._routing = Routing(identifier, marker)
        self._entered = False
        self._links: dict[str, Link] = {}
        self._tables: set[str] | None = None
        self._ports: dict[tuple[str, int], Port] = {}
        self._filters: dict[tuple[str, int], tuple[Filter, dict[str, int]]] = {}

    async def close(self) -> None:
        """Let go; what is wired stays as long as the namespace does."""
        await asyncio.to_thread(self._thread.shutdown)
        await asyncio.to_thread(self._outside.shutdown)
        os.close(self._machine)

    async def apply(self, plan: NetworkPlan) -> None:
        """Make the wires be as planned, touching only what is not.

        Raises:
            HostError: Linux refuses a part; what is open after that is less than what was planned.
        """
        if plan.uplinks:
            home = await self._run(open_namespace)
            try:
                await self._beyond(linkjobs.take, plan.uplinks, home)
            finally:
                os.close(home)
        await self._beyond(self._routing.clear, plan.routers)
        for router in plan.routers:
            await self._lay(router)
        if plan.routers:
            await self._beyond(self._routing.apply, plan.routers)
        await self._run(self._apply, plan)

    async def part(self) -> None:
        """Take away what this home has in the machine's network. Raises HostError."""
        await self._beyond(self._routing.clear, ())

    async def open_listener(self, name: str) -> int:
        """Make the interface of a DHCP server; the caller closes it. Raises HostError."""
        return await self._run(open_dhcp, name)

    async def networks(self) -> frozenset[str]:
        """Return the IPv4 networks that the machine has routes to. Raises HostError."""
        return await self._beyond(linkjobs.networks, routers_of(self._identifier))

    async def _lay(self, router: Router) -> None:
        """Lay the cable of a router where it is not: its two ends come and go together."""
        if router.inside in await self.links():
            return
        if await self._beyond(self._routing.there, router):
            await self._beyond(self._routing.drop_end, router)
        await self._run(
            linkjobs.lay, router.inside, router.outside(self._identifier), self._machine
        )

    async def open_tap(self, name: str, *, header: bool = True) -> int:
        """Make the interface of a card; the caller closes the descriptor. Raises HostError."""
        return await self._run(open_tap, name, header=header)

    async def links(self) -> dict[str, Link]:
        """Return all interfaces of the namespace. Raises HostError."""
        return await self._run(linkjobs.all_links)

    async def traffic(self) -> dict[str, tuple[int, int]]:
        """Return bytes that each running VM has received and sent."""
        return await self._run(linkjobs.traffic)

    async def addresses(self) -> tuple[AddressFact, ...]:
        """Return the addresses of the machine itself. Raises HostError."""
        return await self._beyond(linkjobs.addresses)

    async def occupied(self) -> frozenset[str]:
        """Return the interfaces that the machine itself uses. Raises HostError."""
        return await self._beyond(linkjobs.occupied)

    async def without_link(self, names: Iterable[str]) -> frozenset[str]:
        """Return those uplinks that have no link. Raises HostError."""
        return await self._run(without_link, names)

    async def open_watch(self) -> socket.socket:
        """Return a socket that tells when something became of an interface. Raises HostError."""
        return await self._run(open_watch)

    async def announce(self, notices: Iterable[Notice]) -> None:
        """Tell the physical switches by which uplinks cards are found."""
        frames = [(notice.by, announcement(notice.mac)) for notice in notices]
        await self._run(send_frames, frames)

    async def can_tag(self) -> bool:
        """Tell whether this Linux knows VLAN tags (its driver 8021q is there)."""
        return await self._run(linkjobs.can_tag)

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run something in the namespace."""
        return await self._run(work, *args, **kwargs)

    async def _run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        def inside() -> R:
            if not self._entered:
                enter_namespace(self._holder)
                self._entered = True
            return work(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._thread, _guarded, inside)

    async def _beyond(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run something in the machine's own network."""

        def there() -> R:
            if not self._standing:
                join_namespace(self._machine)
                self._standing = True
            return work(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._outside, _guarded, there)

    def _apply(self, plan: NetworkPlan) -> None:
        with Links() as links, contextlib.closing(PacketFilters()) as filters:
            self._look(links)
            self._take_out(plan, links)
            self._give_back(plan, links)
            for bridge in plan.bridges:
                if bridge.name not in self._links:
                    links.add_bridge(bridge.name)
                    links.set_up(links.index(bridge.name), up=True)
            self._look(links)
            self._tag(plan, links)
            for cable in plan.cables:
                if cable.one not in self._links:
                    links.add_cable(cable.one, cable.other)
            self._look(links)
            self._remove(plan, links)
            self._filter(plan, filters)
            for port in plan.ports:
                if port.name in self._links:
                    self._put(port, links)
            for bridge in plan.bridges:
                self._resize(bridge.name, bridge.mtu, links)

    def _look(self, links: Links) -> None:
        """Find out which interfaces there are; Linux is asked only about those that are new.

        Nobody else changes them: this thread alone has the rights, and cells may only end theirs.
        """
        present = {name: index for index, name in socket.if_nameindex()}
        self._links = {
            name: link for name, link in self._links.items() if present.get(name) == link.index
        }
        new = [index for name, index in present.items() if name not in self._links]
        found = links.all().values() if len(new) > _FEW else filter(None, map(links.one, new))
        self._links.update({link.name: link for link in found if link.name not in self._links})

    def _note(self, name: str, **changes: int | bool) -> None:
        self._links[name] = replace(self._links[name], **changes)  # type: ignore[arg-type]  # fields of Link

    def _take_out(self, plan: NetworkPlan, links: Links) -> None:
        """Take what leads outside out of the bridges that it leaves, before any is joined.

        Two uplinks in one bridge were a loop, if only for a moment.
        """
        for port in plan.ports:
            link, bridge = self._links.get(port.name), self._links.get(port.bridge)
            if port.flood and link and link.master and (not bridge or link.master != bridge.index):
                links.join(link.index, 0)
                self._note(port.name, master=0)

    def _tag(self, plan: NetworkPlan, links: Links) -> None:
        """Make the interfaces of VLANs; those of an uplink that took another's place are new."""
        parents = {vlan.name: self._links.get(vlan.parent) for vlan in plan.vlans}
        for link in tuple(self._links.values()):
            parent = parents.get(link.name)
            if link.kind == "vlan" and (not parent or link.parent != parent.index):
                links.remove(link.index)
                del self._links[link.name]
        for vlan in plan.vlans:
            parent = parents[vlan.name]
            if parent and vlan.name not in self._links:
                links.add_vlan(vlan.name, parent.index, vlan.vlan)

    def _give_back(self, plan: NetworkPlan, links: Links) -> None:
        """Give back the machine's interfaces that are uplinks no more, and end other cables."""
        kept = {*plan.uplinks, *(router.inside for router in plan.routers), "lo"}
        kept |= {end for cable in plan.cables for end in (cable.one, cable.other)}
        for link in tuple(self._links.values()):
            if link.name in kept or link.name not in self._links:
                continue
            if link.kind == "veth" and _BETWEEN.fullmatch(link.name):
                links.remove(link.index)
                # Its other end, whose name has the numbers the other way round, goes with it.
                for end in (link.name, link.name[:-2] + link.name[-1] + link.name[-2]):
                    self._links.pop(end, None)
            elif link.kind == "veth" and _INSIDE.fullmatch(link.name):
                links.remove(link.index)
                del self._links[link.name]
            elif link.kind in _TAKEN:
                links.give(link.index, self._machine)
                # Interfaces of its VLANs stay, switched off: they are looked at again.
                self._links = {
                    name: other
                    for name, other in self._links.items()
                    if name != link.name and other.parent != link.index
                }

    def _remove(self, plan: NetworkPlan, links: Links) -> None:
        """Remove what is not planned; the interfaces of cards are only cut off."""
        kept = {bridge.name for bridge in plan.bridges}
        ports = {port.name for port in plan.ports}
        for link in tuple(self._links.values()):
            if link.kind == "bridge" and link.name not in kept:
                links.remove(link.index)
                del self._links[link.name]
            elif link.kind == "tun" and link.name not in ports and (link.master or link.up):
                links.set_up(link.index, up=False)
                links.join(link.index, 0)
                self._note(link.name, up=False, master=0)
                self._ports.pop((link.name, link.index), None)

    def _filter(self, plan: NetworkPlan, filters: PacketFilters) -> None:
        wanted = {one.name: one for one in plan.filters if one.name in self._links}
        if self._tables is None:
            self._tables = filters.names()
        for one in wanted.values():
            mirrors = tuple(mirror for mirror in one.mirrors if mirror.name in self._links)
            there = replace(one, mirrors=mirrors)
            named = {mirror.name: self._links[mirror.name].index for mirror in mirrors}
            key = (one.name, self._links[one.name].index)
            if one.name not in self._tables or self._filters.get(key) != (there, named):
                filters.put(there, named)
                self._tables.add(one.name)
                self._filters[key] = (there, named)
        for name in self._tables - wanted.keys():
            filters.drop(name)
            self._tables.discard(name)
        alive = {(name, self._links[name].index) for name in wanted}
        self._filters = {key: value for key, value in self._filters.items() if key in alive}
        self._ports = {key: value for key, value in self._ports.items() if key in alive}

    def _resize(self, name: str, mtu: int, links: Links) -> None:
        if self._links[name].mtu != mtu:
            links.set_mtu(self._links[name].index, mtu)
            self._note(name, mtu=mtu)

    def _put(self, port: Port, links: Links) -> None:
        """Wire one port, whose filter is in place."""
        link, bridge = self._links[port.name], self._links[port.bridge]
        key = (port.name, link.index)
        before = self._ports.get(key)
        if before == port and link.master == bridge.index and link.up == port.up:
            return
        self._resize(port.name, port.mtu, links)
        known = before.beyond if before is not None and link.master == bridge.index else ()
        if link.master and (before is None or before.mac != port.mac):
            # A port that leaves its bridge takes all that the bridge knows of it along.
            links.join(link.index, 0)
            links.join(link.index, bridge.index)
        elif link.master != bridge.index:
            links.join(link.index, bridge.index)
        links.set_port(link.index, learning=port.learning, flood=port.flood, isolated=port.isolated)
        if port.mac:
            links.set_station(link.index, port.mac)
        for mac in set(known).difference(port.beyond):
            links.drop_station(link.index, mac)
        for mac in set(port.beyond).difference(known):
            links.set_station(link.index, mac)
        if link.up != port.up:
            links.set_up(link.index, up=port.up)
        self._note(port.name, master=bridge.index, up=port.up)
        self._ports[key] = port


def _guarded(work: Callable[[], R]) -> R:
    """Do something; whatever the library raises, it is one of our errors then."""
    try:
        return work()
    except CasemateError:
        raise
    except Exception as error:
        raise HostError(
            f"the network cannot be worked on: {error!r}"[:_TEXT],
            code="network",
            component="network",
            remedy="Look at the log of the kernel.",
        ) from error
