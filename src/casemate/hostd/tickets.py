"""Tickets for one HTTP request each: what AcquireGenericServiceTicket gives out."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl, unquote

from casemate.policy.quotas import displaced

COOKIE: Final = "vmware_cgi_ticket"
PREFIXES: Final = ("/folder", "/nfc/")
"""Where a ticket is good."""
SECONDS: Final = 60
"""How long a ticket waits for its request: a client makes it at once."""
LIMIT: Final = 1000
"""Tickets at once; then whoever holds most gives way."""
OF_ONE: Final = 100
"""... of one session; its oldest goes: a client asks for one a request."""


@dataclass(frozen=True, slots=True)
class _Ticket:
    handle: str
    method: str
    target: tuple[str, frozenset[tuple[str, str]]]
    until: datetime


class Tickets:
    """All tickets. ``clock`` gives the time in UTC."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._tickets: dict[str, _Ticket] = {}

    def issue(self, handle: str, method: str, path: str, query: str) -> str:
        """Return a ticket by which a request is made in the name of a session."""
        owners = {name: one.handle for name, one in self._tickets.items()}
        if (old := displaced(owners, handle, of_one=OF_ONE, limit=LIMIT)) is not None:
            del self._tickets[old]
        name = secrets.token_hex(32)
        until = self._clock() + timedelta(seconds=SECONDS)
        self._tickets[name] = _Ticket(handle, method, _target(path, query), until)
        return name

    def redeem(self, name: str, method: str, path: str, query: str) -> str | None:
        """Return the session's handle if the ticket is for this request; it is used up then."""
        ticket = self._tickets.get(name)
        if ticket is None:
            return None
        if self._clock() > ticket.until:
            del self._tickets[name]
            return None
        if (ticket.method, ticket.target) != (method, _target(path, query)):
            return None
        del self._tickets[name]
        return ticket.handle


def _target(path: str, query: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return unquote(path), frozenset(parse_qsl(query, keep_blank_values=True))
