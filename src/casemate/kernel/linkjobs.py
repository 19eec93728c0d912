"""What is asked and done about links in one go, in the network namespace of the calling thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from casemate.errors import CasemateError, HostError
from casemate.kernel.sys.netlink import Link, Links
from casemate.machine.networkplan import traffic_of
from casemate.machine.networks import AddressFact

_COUNTERS: Final = Path("/proc/thread-self/net/dev")


def take(uplinks: Iterable[str], home: int) -> None:
    """Move interfaces of this namespace to the home's; those that are not here are there.

    Raises HostError.
    """
    with Links() as links:
        present, occupied = links.all(), links.occupied()
        for name in uplinks:
            if name in occupied:
                raise HostError(
                    f"{name} carries an address, a route, a bridge or a bond of the machine itself",
                    code="uplink-in-use",
                    component=name,
                    remedy="Take another network card, or take those from this one.",
                )
        for name in uplinks:
            if name in present:
                links.give(present[name].index, home)


def traffic() -> dict[str, tuple[int, int]]:
    """Return bytes that each VM's cards have received and sent."""
    return traffic_of(_COUNTERS.read_text())


def addresses() -> tuple[AddressFact, ...]:
    """Return the IPv4 addresses. Raises HostError."""
    with Links() as links:
        return links.addresses()


def occupied() -> frozenset[str]:
    """Return the interfaces by which the machine itself is reached, or reaches others."""
    with Links() as links:
        return links.occupied()


def lay(inside: str, outside: str, machine: int) -> None:
    """Lay a cable to the namespace of a descriptor. Raises HostError."""
    with Links() as links:
        links.add_cable(inside, outside, machine)


def networks(but: str) -> frozenset[str]:
    """Return the IPv4 networks with a route, ``but`` for interfaces named so at the beginning."""
    with Links() as links:
        return frozenset(net for net, by in links.networks().items() if not by.startswith(but))


def all_links() -> dict[str, Link]:
    """Return all interfaces. Raises HostError."""
    with Links() as links:
        return links.all()


def can_tag() -> bool:
    """Tell whether Linux knows VLAN tags: try it, between two interfaces that nobody uses."""
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
