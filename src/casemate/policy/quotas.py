"""Who gives way when something is full: whoever holds most, never all others."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K")

_PREFIX = 64


def displaced(kept: Mapping[K, str], owner: str, *, of_one: int, limit: int) -> K | None:
    """Return which kept thing makes room for another one of ``owner``; None: there is room.

    Args:
        kept: Who holds each thing, the oldest first.
        owner: Who wants to hold one more.
        of_one: How many one may hold: beyond them its own oldest goes.
        limit: How many there may be: beyond them the oldest of whoever holds most goes.
    """
    held = Counter(kept.values())
    if held[owner] >= of_one:
        loser = owner
    elif len(kept) >= limit:
        loser = held.most_common(1)[0][0]
    else:
        return None
    return next(key for key, one in kept.items() if one == loser)


def peer_of_address(address: str) -> str:
    """Return who an address stands for: of IPv6, a whole /64 belongs to one subscriber."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _PREFIX), strict=False))
    return str(parsed)
