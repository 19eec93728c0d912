"""Sessions as hostd keeps them: who is asking, and what belongs to the session.

Accounts and rights live in the kernel, which checks every call again. The cookie holds the
kernel's handle, so a session survives a restart of hostd; its public name is another value.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Protocol

from casemate.calls.messages import Empty, Logout, ResumeSession, SessionReply
from casemate.errors import CasemateError, LimitError
from casemate.hostd.kernelclient import KernelLink, RefusedError
from casemate.hostd.lease import Lease
from casemate.hostd.limits import Bucket, PerPeer, Rate
from casemate.hostd.objects.base import moment
from casemate.hostd.objects.service import OWN_LIMIT
from casemate.hostd.tickets import Tickets
from casemate.hostd.viewers import Viewers
from casemate.hostd.world import World
from casemate.machine.governance import SessionFact
from casemate.vim25.values import MoRef, Obj, Value

COOKIE = "vmware_soap_session"

IDLE_SECONDS = 1800.0
"""A session idle for longer is ended: ESXi's default of 30 minutes."""

COOKIES_READ = 4
"""Session cookies of one request that are looked at: clients send one, at times an old one too."""

RESUMES = Rate(5.0, 50.0)
"""Unknown handles of one peer that the kernel is asked about: after a restart of hostd, a peer's
sessions come back at once; whoever has not logged in makes no more work than this."""

ALL_RESUMES = Rate(50.0, 200.0)
"""Those of all peers together."""

REFUSED_KEPT = 1000
"""Handles remembered that the kernel did not know; it never will."""

_WORD = "[0-9A-Za-z_-]"
_COOKIE = re.compile(rf'(?<!{_WORD}){COOKIE}\s*=\s*"?({_WORD}{{16,256}})"?(?!{_WORD})')


class Own(Protocol):
    """An object that belongs to a session: a view, a filter, a collector."""

    @property
    def ref(self) -> MoRef:
        """Its reference."""

    def properties(self) -> Mapping[str, Value]:
        """Return its set properties."""

    def close(self) -> None:
        """Give back what it holds."""


@dataclass(slots=True)
class Session:
    """One login."""

    handle: str
    key: str
    user: str
    full_name: str
    login_time: float
    last_active: datetime
    peer: str
    agent: str
    calls: int = 0
    running: int = 0
    own: dict[MoRef, Own] = field(default_factory=dict)

    def new_id(self) -> str:
        """Return an id for an object of this session. Raises LimitError."""
        if len(self.own) >= OWN_LIMIT:
            raise LimitError(
                f"a session may hold {OWN_LIMIT} views, filters and collectors",
                remedy="Destroy those that are no longer needed.",
            )
        return f"session[{self.key}]{secrets.token_hex(16)}"

    def add(self, own: Own) -> None:
        """Keep an object of the session."""
        self.own[own.ref] = own

    def drop(self, ref: MoRef) -> None:
        """End an object of the session."""
        if (own := self.own.pop(ref, None)) is not None:
            own.close()

    def refs(self, type_name: str) -> tuple[MoRef, ...]:
        """Return the session's objects of one type family (by the end of its name)."""
        return tuple(ref for ref in self.own if ref.type.endswith(type_name))

    def user_session(self) -> Obj:
        """Return the UserSession."""
        return Obj(
            "UserSession",
            key=self.key,
            userName=self.user,
            fullName=self.full_name,
            loginTime=moment(self.login_time),
            lastActiveTime=self.last_active,
            locale="en",
            messageLocale="en",
            extensionSession=False,
            ipAddress=self.peer,
            userAgent=self.agent,
            callCount=self.calls,
        )

    def close(self) -> None:
        """End everything that belongs to the session."""
        for ref in tuple(self.own):
            self.drop(ref)


def _known_of(login: SessionFact, full_name: str) -> Obj:
    """Return the UserSession of a session that has not spoken to this hostd."""
    return Obj(
        "UserSession",
        key=login.session,
        userName=login.user,
        fullName=full_name,
        loginTime=moment(login.login_time),
        lastActiveTime=moment(login.login_time),
        locale="en",
        messageLocale="en",
        extensionSession=False,
        ipAddress=login.peer,
        userAgent="",
        callCount=0,
    )


def cookie_handles(header: str) -> Iterator[str]:
    """Yield the handles in a Cookie header, which some clients send back with its attributes."""
    for match in islice(_COOKIE.finditer(header), COOKIES_READ):
        yield match[1]


class Sessions:
    """All sessions. ``clock`` gives the time in UTC."""

    def __init__(self, link: KernelLink, clock: Callable[[], datetime]) -> None:
        self._link = link
        self._clock = clock
        self._by_handle: dict[str, Session] = {}
        self._resumes = PerPeer(RESUMES, lambda: clock().timestamp())
        self._all_resumes = Bucket(ALL_RESUMES, clock().timestamp())
        self._refused: OrderedDict[str, None] = OrderedDict()
        self.tickets = Tickets(clock)
        self.leases: dict[str, Lease] = {}
        self.viewers = Viewers()

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._by_handle.values()))

    def listed(self, world: World) -> tuple[Obj, ...]:
        """Return the UserSession of every session that the kernel keeps.

        Those at the direct console, and of before a restart of hostd, have not spoken to it.
        """
        own = {one.key: one for one in self}
        others = (o for key, o in world.logins.items() if key not in own and not o.revoked)
        accounts = world.accounts
        return (
            *(one.user_session() for one in own.values()),
            *(
                _known_of(one, accounts[one.user].full_name if one.user in accounts else one.user)
                for one in others
            ),
        )

    def user_of(self, key: str, world: World) -> str | None:
        """Return whose session has this public key; None: there is no such session."""
        found = next((one.user for one in self if one.key == key), None)
        login = world.logins.get(key)
        return found or (login.user if login is not None and not login.revoked else None)

    def open(self, reply: SessionReply, peer: str, agent: str) -> Session:
        """Keep the session that the kernel opened."""
        session = Session(
            reply.handle,
            reply.key,
            reply.user,
            reply.full_name,
            reply.login_time,
            self._clock(),
            peer,
            agent,
        )
        self._by_handle[reply.handle] = session
        return session

    async def find(self, header: str, peer: str, agent: str) -> Session | None:
        """Return the session of a Cookie header and note that it was used."""
        for handle in cookie_handles(header):
            if (session := await self.with_handle(handle, peer, agent)) is not None:
                return session
        return None

    async def with_handle(self, handle: str, peer: str, agent: str) -> Session | None:
        """Return the session of a handle and note that it was used."""
        session = self._by_handle.get(handle) or await self._resume(handle, peer, agent)
        if session is not None:
            self.touch(session)
            session.calls += 1
        return session

    def touch(self, session: Session) -> None:
        """Note that a session is in use."""
        session.last_active = self._clock()

    async def _resume(self, handle: str, peer: str, agent: str) -> Session | None:
        if handle in self._refused or not self._may_resume(peer):
            return None
        try:
            reply = await self._link.ask(ResumeSession(handle), SessionReply)
        except RefusedError as error:
            if error.fact.fault == "NotAuthenticated":
                self._refused[handle] = None
                if len(self._refused) > REFUSED_KEPT:
                    self._refused.popitem(last=False)
            return None
        except CasemateError:
            return None
        # Another request with the same cookie may have been first: one login is one session.
        return self._by_handle.get(handle) or self.open(reply, peer, agent)

    def _may_resume(self, peer: str) -> bool:
        return self._resumes.take(peer) and self._all_resumes.take(self._clock().timestamp())

    async def end(self, session: Session) -> None:
        """Log the session out."""
        self._by_handle.pop(session.handle, None)
        session.close()
        await self._link.ask(Logout(session.handle), Empty)

    def forget(self, key: str) -> None:
        """Forget the session with this public key: the kernel has ended it."""
        for session in self:
            if session.key == key:
                self._by_handle.pop(session.handle, None)
                session.close()

    def reap(self, idle_seconds: float = IDLE_SECONDS) -> None:
        """Forget the sessions that have been idle too long; the kernel ends them by itself."""
        now = self._clock()
        for session in tuple(self._by_handle.values()):
            if (now - session.last_active).total_seconds() > idle_seconds:
                del self._by_handle[session.handle]
                session.close()
