"""Links and bridges of the calling thread's network namespace, over netlink.

The library is loaded where it is first used, in a thread beside the rest of a host that starts,
and only the part of it that is: its package would load all it has, which is 17 MiB more.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType, TracebackType
from typing import Any, Final, Self

from casemate.errors import HostError
from casemate.kernel.sys.libc import host_error
from casemate.machine.networks import AddressFact

_NEVER_EXPIRES: Final = 0x40
_NOT_LEARNT: Final = 0x02 | _NEVER_EXPIRES  # NUD_REACHABLE beside NUD_NOARP: static, not the host's
_FOREVER: Final = 0x80  # NUD_PERMANENT
_OF_BRIDGE: Final = 0x04  # NTF_MASTER: the bridge's entry, not the interface's own
_STAYS: Final = 0x40  # NTF_STICKY: a frame from it at another port does not move it there
_LIBRARY: Final = "pyroute2"
_UP: Final = 1
_IPV4: Final = 2
_IPV6: Final = 10
_LINK_SCOPE: Final = 253
"""Scope of addresses that every interface gives itself (fe80::/10)."""
_MAIN: Final = 254
"""The table of routes that everything uses."""
_NETWORK: Final = 8
"""Bits that the address of a network has at least."""
_STACKED: Final = ("vlan", "macvlan", "macvtap", "ipvlan", "ipvtap")
"""Kinds of interfaces that are reached through another one."""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface. ``kind`` is ``bridge``, ``tun``, ``vlan``, ... or empty for hardware.

    ``parent``: of a VLAN's, the interface of this namespace whose tagged frames it has; 0: none.
    """

    name: str
    index: int
    kind: str
    master: int
    up: bool
    mtu: int
    address: str
    parent: int = 0


@contextmanager
def failing(what: str, component: str = "") -> Iterator[None]:
    """Turn the library's errors into ours."""
    try:
        _bare_package()
        from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 (see above)
    except ImportError as error:
        raise HostError(
            "the image lacks the library for netlink",
            code="network-library",
            component="pyroute2",
            remedy="Run make up: it installs what is missing and builds the image again.",
        ) from error
    try:
        yield
    except NetlinkError as error:
        raise host_error(what, int(error.code), component=component) from error
    except OSError as error:
        raise host_error(what, error.errno or 5, component=component) from error


def _bare_package() -> None:
    """Make the library's modules loadable without what its package loads. Raises ImportError."""
    if _LIBRARY in sys.modules:
        return
    found = find_spec(_LIBRARY)
    if found is None or found.submodule_search_locations is None:
        raise ImportError(_LIBRARY)
    package = ModuleType(_LIBRARY)
    package.__path__ = list(found.submodule_search_locations)
    package.__spec__ = found
    sys.modules[_LIBRARY] = package


class Links:
    """A connection to Linux about links; to be used in one thread."""

    def __init__(self) -> None:
        with failing("no netlink socket can be made"):
            from pyroute2.iproute.linux import IPRoute  # noqa: PLC0415 (see above)

            self._route: Any = IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._route.close()

    def all(self) -> dict[str, Link]:
        """Return all interfaces by name."""
        with failing("the interfaces cannot be listed"):
            return {link.name: link for link in map(_link, self._route.get_links())}

    def one(self, index: int) -> Link | None:
        """Return an interface; None where it has gone meanwhile."""
        try:
            with failing(f"the interface {index} cannot be looked at"):
                return next(map(_link, self._route.get_links(index)), None)
        except HostError as error:
            if error.code == "host-enodev":
                return None
            raise

    def addresses(self) -> tuple[AddressFact, ...]:
        """Return the IPv4 addresses of all interfaces but the loopback."""
        links = {link.index: link for link in self.all().values()}
        with failing("the addresses cannot be listed"):
            routes = {
                int(route.get_attr("RTA_OIF")): str(route.get_attr("RTA_GATEWAY") or "")
                for route in self._route.get_default_routes(family=_IPV4)
            }
            found = list(self._route.get_addr(family=_IPV4))
        return tuple(
            AddressFact(
                links[index].name,
                str(message.get_attr("IFA_ADDRESS")),
                int(message["prefixlen"]),
                links[index].address,
                links[index].mtu,
                routes.get(index, ""),
            )
            for message in found
            if (index := int(message["index"])) in links and links[index].name != "lo"
        )

    def occupied(self) -> frozenset[str]:
        """Return the interfaces by which the machine itself is reached, or reaches others.

        They carry an address that others know it by (IPv4, or IPv6 beyond the link), a route to
        elsewhere, or other interfaces; or they are a part of a bridge or bond.
        """
        with failing("the use of the interfaces cannot be found out"):
            links = {int(link["index"]): link for link in self._route.get_links()}
            used = {
                int(message["index"])
                for message in self._route.get_addr()
                if message["family"] == _IPV4 or int(message["scope"]) < _LINK_SCOPE
            }
            for family in (_IPV4, _IPV6):
                for route in self._route.get_routes(family=family, table=_MAIN):
                    used |= {int(way["oif"]) for way in route.get_attr("RTA_MULTIPATH") or ()}
                    if not route["dst_len"] or route.get_attr("RTA_GATEWAY"):
                        used.add(int(route.get_attr("RTA_OIF") or 0))
        for index, link in links.items():
            if link.get_attr("IFLA_MASTER"):
                used.add(index)
            if _link(link).kind in _STACKED and link.get_attr("IFLA_LINK_NETNSID") is None:
                used.add(int(link.get_attr("IFLA_LINK") or 0))
        return frozenset(_link(links[index]).name for index in used if index in links) - {"lo"}

    def index(self, name: str) -> int:
        """Return the number of an interface. Raises HostError (``host-enodev``)."""
        try:
            return socket.if_nametoindex(name)
        except OSError:
            what = f"the interface {name} cannot be found"
            raise host_error(what, errno.ENODEV, component=name) from None

    def add_bridge(self, name: str) -> None:
        """Make a bridge that passes every multicast and takes part in no spanning tree."""
        with failing(f"the bridge {name} cannot be made", name):
            self._route.link("add", ifname=name, kind="bridge", br_mcast_snooping=0)

    def add_vlan(self, name: str, parent: int, vlan: int) -> None:
        """Make an interface for one VLAN of another."""
        with failing(f"VLAN {vlan} cannot be taken from tagged frames", name):
            self._route.link("add", ifname=name, kind="vlan", link=parent, vlan_id=vlan)

    def add_cable(self, name: str, other: str, namespace: int | None = None) -> None:
        """Make two interfaces that are one cable; ``other`` in the namespace of a descriptor."""
        with failing(f"no cable can be laid to {other}", other):
            far = {"ifname": other} | ({} if namespace is None else {"net_ns_fd": namespace})
            self._route.link("add", ifname=name, kind="veth", peer=far)

    def set_mac(self, index: int, mac: str) -> None:
        """Give an interface its address on the link."""
        with failing(f"the interface {index} cannot have the address {mac}"):
            self._route.link("set", index=index, address=mac)

    def set_ipv4(self, index: int, address: str, prefix: int) -> None:
        """Have an interface have this IPv4 address and no other."""
        with failing(f"the interface {index} cannot have the address {address}"):
            for found in self._route.get_addr(family=_IPV4, index=index):
                if (found.get_attr("IFA_LOCAL"), found["prefixlen"]) != (address, prefix):
                    self._route.addr(
                        "del",
                        index=index,
                        address=found.get_attr("IFA_LOCAL"),
                        prefixlen=found["prefixlen"],
                    )
            self._route.addr("replace", index=index, address=address, prefixlen=prefix)

    def set_neighbours(self, index: int, wanted: Mapping[str, str]) -> None:
        """Say for good which link address each IPv4 address has beyond an interface."""
        with failing(f"the neighbours beyond the interface {index} cannot be set"):
            for found in self._route.get_neighbours(family=_IPV4, ifindex=index):
                if found.get_attr("NDA_DST") not in wanted:
                    self._route.neigh("del", ifindex=index, dst=found.get_attr("NDA_DST"))
            for address, mac in wanted.items():
                self._route.neigh("replace", ifindex=index, dst=address, lladdr=mac, state=_FOREVER)

    def ways(self) -> frozenset[str]:
        """Return the interfaces by which IPv4 packets leave for anywhere."""
        names = dict(socket.if_nameindex())
        with failing("the routes cannot be listed"):
            found = set()
            for route in self._route.get_default_routes(family=_IPV4):
                found |= {int(way["oif"]) for way in route.get_attr("RTA_MULTIPATH") or ()}
                found.add(int(route.get_attr("RTA_OIF") or 0))
        return frozenset(names[index] for index in found if index in names)

    def networks(self) -> dict[str, str]:
        """Return the IPv4 networks that have a route, and by which interface.

        Routes to half of everything and the like say where anywhere is, not where a network is.
        """
        names = dict(socket.if_nameindex())
        with failing("the routes cannot be listed"):
            return {
                f"{route.get_attr('RTA_DST')}/{route['dst_len']}": names.get(
                    int(route.get_attr("RTA_OIF") or 0), ""
                )
                for route in self._route.get_routes(family=_IPV4, table=_MAIN)
                if route["dst_len"] >= _NETWORK
            }

    def remove(self, index: int) -> None:
        """Remove an interface."""
        with failing(f"the interface {index} cannot be removed"):
            self._route.link("del", index=index)

    def set_up(self, index: int, *, up: bool) -> None:
        """Switch an interface on or off."""
        with failing(f"the interface {index} cannot be switched"):
            self._route.link("set", index=index, state="up" if up else "down")

    def set_mtu(self, index: int, mtu: int) -> None:
        """Set the size of the largest frame, in bytes."""
        with failing(f"the interface {index} cannot have an MTU of {mtu} bytes"):
            self._route.link("set", index=index, mtu=mtu)

    def join(self, index: int, bridge: int) -> None:
        """Put an interface into a bridge; 0 takes it out."""
        with failing(f"the interface {index} cannot be put into a bridge"):
            self._route.link("set", index=index, master=bridge)

    def set_port(self, index: int, *, learning: bool, flood: bool, isolated: bool) -> None:
        """Set what a bridge does at a port."""
        said = {"learning": int(learning), "unicast_flood": int(flood), "isolated": int(isolated)}
        with failing(f"the port {index} cannot be set"):
            self._route.brport("set", index=index, **said)

    def set_station(self, index: int, mac: str) -> None:
        """Tell the bridge that an address is behind a port, whoever else sends from it."""
        with failing(f"{mac} cannot be put behind the port {index}"):
            flags = _OF_BRIDGE | _STAYS
            self._route.fdb("replace", ifindex=index, lladdr=mac, state=_NOT_LEARNT, flags=flags)

    def drop_station(self, index: int, mac: str) -> None:
        """Tell the bridge that an address is not behind a port; it may be behind another."""
        try:
            with failing(f"{mac} cannot be taken from behind the port {index}"):
                self._route.fdb(
                    "del", ifindex=index, lladdr=mac, state=_NOT_LEARNT, flags=_OF_BRIDGE
                )
        except HostError as error:
            if error.code != "host-enoent":
                raise

    def give(self, index: int, namespace: int) -> None:
        """Move an interface to the namespace of a descriptor."""
        with failing(f"the interface {index} cannot be moved"):
            self._route.link("set", index=index, net_ns_fd=namespace)


def _link(message: Any) -> Link:  # noqa: ANN401 (the library's message)
    info = message.get_attr("IFLA_LINKINFO")
    kind = str(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else ""
    own = kind == "vlan" and message.get_attr("IFLA_LINK_NETNSID") is None
    return Link(
        name=str(message.get_attr("IFLA_IFNAME")),
        index=int(message["index"]),
        kind=kind,
        master=int(message.get_attr("IFLA_MASTER") or 0),
        up=bool(int(message["flags"]) & _UP),
        mtu=int(message.get_attr("IFLA_MTU") or 0),
        address=str(message.get_attr("IFLA_ADDRESS") or ""),
        parent=int(message.get_attr("IFLA_LINK") or 0) if own else 0,
    )
