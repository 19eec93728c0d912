"""nftables in the machine's own network: what guests behind NAT may do there.

A table of the home's own, beside whatever the machine has; it judges only what comes from or goes
to the interfaces of the home, and what the machine would pass on for strangers because of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from typing import Final

from casemate.kernel.sys.nftables import (
    ACCEPT,
    CAME_IN_BY,
    DROP,
    EQUAL,
    ESTABLISHED,
    FOR_US,
    FOR_WHOM,
    GOES_OUT_BY,
    NETWORK_LAYER,
    NEW,
    RELATED,
    RETURN,
    UNEQUAL,
    Chain,
    Rule,
    compare,
    connections_over,
    expression,
    interface,
    jump,
    load,
    mask,
    meta,
    packets_over,
    states,
    verdict,
)
from casemate.machine.networkplan import Router

OPENED: Final = "forwarding."
"""What the name of a chain begins with that says for which interface passing on was switched on."""
ALL_OURS: Final = "cm-*"
NEW_RATE: Final = 200
NEW_BURST: Final = 500
"""Connections that a guest may begin in a second, and at once."""
CONNECTIONS: Final = 16384
"""That Linux remembers for all guests of a switch: a quarter of the least that it has room for."""
MOST_OF_ONE: Final = 1024
"""Connections of one guest."""
_LOCAL, _FORWARD, _LEAVING = 1, 2, 4
_SOURCE_NAT: Final = 100
_SENDER: Final = (12, 4)


def chains_of(routers: Iterable[tuple[str, Router]], opened: Iterable[str]) -> tuple[Chain, ...]:
    """Return the chains of a home's table.

    Args:
        routers: with the names of the machine's ends.
        opened: interfaces of the machine that pass packets on because of this home.
    """
    routers, opened = tuple(routers), sorted(opened)
    news = tuple(Chain(f"new.{outside}", tuple(_new(router))) for outside, router in routers)
    shut = tuple(
        Chain(
            f"{OPENED}{name}",
            ([*interface(GOES_OUT_BY, EQUAL, ALL_OURS), verdict(RETURN)], [verdict(DROP)]),
        )
        for name in opened
    )
    forward = [
        *(rule for outside, _ in routers for rule in _forward(outside)),
        *([*interface(CAME_IN_BY, EQUAL, name), jump(f"{OPENED}{name}")] for name in opened),
    ]
    return (
        *news,
        *shut,
        Chain("input", tuple(rule for one in routers for rule in _input(*one)), _LOCAL),
        Chain("forward", tuple(forward), _FORWARD),
        Chain(
            "leaving",
            tuple(_masquerade(*one) for one in routers),
            _LEAVING,
            _SOURCE_NAT,
            "nat",
        ),
    )


def _input(outside: str, router: Router) -> Iterator[Rule]:
    """Yield what guests may say to the machine itself: answers, and more where it wants that."""
    ours = interface(CAME_IN_BY, EQUAL, outside)
    # A card is bound to its address in what it sends to the gateway, not in what it sends to all.
    yield [*ours, meta(FOR_WHOM), compare(UNEQUAL, FOR_US), verdict(DROP)]
    yield [*ours, *states(ESTABLISHED | RELATED), verdict(ACCEPT)]
    if router.nat.reach_host:
        yield [*ours, *states(NEW), jump(f"new.{outside}")]
    else:
        yield [*ours, verdict(DROP)]


def _forward(outside: str) -> Iterator[Rule]:
    """Yield what guests may say to others, and others to them: answers alone."""
    ours = interface(CAME_IN_BY, EQUAL, outside)
    theirs = interface(GOES_OUT_BY, EQUAL, outside)
    yield [*theirs, *states(ESTABLISHED | RELATED, EQUAL), verdict(DROP)]
    yield [*ours, *states(ESTABLISHED | RELATED | NEW, EQUAL), verdict(DROP)]
    yield [*ours, *states(NEW), jump(f"new.{outside}")]


def _new(router: Router) -> Iterator[Rule]:
    """Yield, for each guest, that it may begin no more than its part of connections."""
    each = min(MOST_OF_ONE, CONNECTIONS // max(len(router.cards), 1))
    for _, address in router.cards:
        own = [load(*_SENDER, NETWORK_LAYER), compare(EQUAL, IPv4Address(address).packed)]
        yield [*own, packets_over(NEW_RATE, NEW_BURST), verdict(DROP)]
        yield [*own, connections_over(each), verdict(DROP)]
    # Who is none of those that have an address is nobody.
    known = [compare(UNEQUAL, IPv4Address(address).packed) for _, address in router.cards]
    yield [load(*_SENDER, NETWORK_LAYER), *known, verdict(DROP)]


def _masquerade(outside: str, router: Router) -> Rule:
    net = router.nat.net
    return [
        *(load(*_SENDER, NETWORK_LAYER), mask(net.netmask.packed)),
        compare(EQUAL, net.network_address.packed),
        *interface(GOES_OUT_BY, UNEQUAL, outside),
        expression("masq"),
    ]
