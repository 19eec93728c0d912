"""The machine's side of NAT: interfaces, addresses, filters and switches in its own network.

All of it carries the home's name, is made anew where it is lacking, and is taken away with the
home. Nothing of the machine's own is changed but that the interfaces of its default routes pass
packets on while a home has NAT, and then for guests alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.kernel.sys.libc import from_os_error
from casemate.kernel.sys.netlink import Links
from casemate.kernel.sys.nftables import IPV4, Nftables
from casemate.kernel.sys.routerfilter import OPENED, chains_of
from casemate.machine.nat import overlapping
from casemate.machine.networkplan import Router, routers_of

_SETTINGS: Final = Path("/proc/sys/net")
_OURS: Final = "cm-"
_END_SETTINGS: Final = {
    "ipv6/conf/{}/disable_ipv6": "1",
    "ipv4/conf/{}/rp_filter": "1",
    "ipv4/conf/{}/accept_local": "0",
    "ipv4/conf/{}/accept_redirects": "0",
    "ipv4/conf/{}/accept_source_route": "0",
    "ipv4/conf/{}/arp_ignore": "1",
    "ipv4/conf/{}/proxy_arp": "0",
    "ipv4/conf/{}/route_localnet": "0",
    "ipv4/conf/{}/secure_redirects": "0",
    "ipv4/conf/{}/send_redirects": "0",
    "ipv4/conf/{}/forwarding": "1",
}
"""Of the machine's ends: they hear IPv4 alone, from those who are behind them, about nothing but
packets, and tell of no other address of the machine."""


class Routing:
    """All routers of a home; to be used in one thread, which is in the machine's network.

    ``marker`` is a file that is there while there may be something of the home's.
    """

    def __init__(self, identifier: str, marker: Path | None = None) -> None:
        self._identifier = identifier
        self._marker = marker
        self._name = routers_of(identifier)
        self._done: tuple[object, ...] | None = None

    def clear(self, routers: Sequence[Router]) -> None:
        """Remove what was made by a former life of the home, and what is planned no more."""
        if not routers:
            if self._done or self._marker is None or self._marker.exists():
                remove(self._identifier)
                if self._marker is not None:
                    self._marker.unlink(missing_ok=True)
            self._done = None
            return
        if self._marker is not None:
            self._marker.touch()
        kept = {router.outside(self._identifier) for router in routers}
        with Links() as links:
            for link in links.all().values():
                if link.name.startswith(f"{self._name}-") and link.name not in kept:
                    with contextlib.suppress(HostError):  # its other end may take it along
                        links.remove(link.index)

    def there(self, router: Router) -> bool:
        """Tell whether the machine's end of a cable is there."""
        with Links() as links:
            return router.outside(self._identifier) in links.all()

    def drop_end(self, router: Router) -> None:
        """Remove a machine's end that has no other end in this home. Raises HostError."""
        with Links() as links:
            links.remove(links.index(router.outside(self._identifier)))

    def apply(self, routers: Sequence[Router]) -> None:
        """Have the machine's ends, which are there, lead outside. Raises HostError."""
        named = [(router.outside(self._identifier), router) for router in routers]
        with Links() as links, contextlib.closing(Nftables(IPV4)) as tables:
            self._check_networks(links, routers)
            opened = self._open(links, tables)
            wanted = (tuple(named), opened)
            if self._done != wanted or self._name not in tables.tables():
                chains = chains_of(named, opened)
                tables.put([(IPV4, self._name, chains)], self._name)
            for name in opened:
                _set(f"ipv4/conf/{name}/forwarding", "1")
            for outside, router in named:
                self._connect(links, outside, router)
            self._done = wanted

    def _check_networks(self, links: Links, routers: Sequence[Router]) -> None:
        foreign = [
            network
            for network, by in links.networks().items()
            if not by.startswith(f"{self._name}-")
        ]
        for router in routers:
            if taken := overlapping(router.nat.network, foreign):
                raise HostError(
                    f"the machine itself has a route to {taken}",
                    code="nat-network",
                    component=router.nat.network,
                    remedy="Give the switch another network: casemate network set-nat.",
                )

    def _open(self, links: Links, tables: Nftables) -> frozenset[str]:
        """Return the interfaces that pass packets on because of homes.

        Those that did before any home wanted it are the machine's own affair.
        """
        own, others = _claims(tables, self._name)
        ways = {name for name in links.ways() if not name.startswith(_OURS)}
        wanted = {
            name for name in ways if name in own | others or not _is(f"ipv4/conf/{name}/forwarding")
        }
        for name in own - wanted - others:
            _set(f"ipv4/conf/{name}/forwarding", "0")
        return frozenset(wanted)

    def _connect(self, links: Links, outside: str, router: Router) -> None:
        link = links.one(links.index(outside))
        if link is None:
            return
        for place, value in _END_SETTINGS.items():
            _set(place.format(outside), value)
        if link.address != router.mac:
            links.set_up(link.index, up=False)
            links.set_mac(link.index, router.mac)
        if link.mtu != router.mtu:
            links.set_mtu(link.index, router.mtu)
        links.set_ipv4(link.index, str(router.nat.gateway), router.nat.net.prefixlen)
        links.set_up(link.index, up=True)
        links.set_neighbours(link.index, {address: mac for mac, address in router.cards})


def remove(identifier: str) -> None:
    """Take away what a home has in the machine's network; nothing happens where it has nothing.

    Its interfaces end with their other ends, in the home's own network. Raises HostError.
    """
    name = routers_of(identifier)
    with Links() as links, contextlib.closing(Nftables(IPV4)) as tables:
        for link in links.all().values():
            if link.name.startswith(f"{name}-"):
                with contextlib.suppress(HostError):
                    links.remove(link.index)
        if name not in tables.tables():
            return
        own, others = _claims(tables, name)
        for opened in own - others:
            _set(f"ipv4/conf/{opened}/forwarding", "0")
        tables.put([(IPV4, name, ())], name)


def _claims(tables: Nftables, name: str) -> tuple[set[str], set[str]]:
    """Return the interfaces that pass packets on because of this home, and because of others."""
    own: set[str] = set()
    others: set[str] = set()
    for table, chain in tables.chains():
        if table.startswith(_OURS) and chain.startswith(OPENED):
            (own if table == name else others).add(chain.removeprefix(OPENED))
    return own, others


def _is(place: str) -> bool:
    return (_SETTINGS / place).read_text().strip() == "1"


def _set(place: str, value: str) -> None:
    """Change a setting of Linux, where it has it and has it otherwise. Raises HostError."""
    path = _SETTINGS / place
    try:
        if path.exists() and path.read_text().strip() != value:
            path.write_text(value)
    except OSError as error:
        raise from_os_error(f"{path} cannot be set", error, component=place) from error
