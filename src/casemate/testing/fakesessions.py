"""The sessions of FakeKernel: some accounts with one password."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

from casemate.calls.messages import CloneSession, Empty, Login, Logout, ResumeSession, SessionReply
from casemate.hostd.kernelclient import RefusedError
from casemate.machine.facts import Fact, FaultFact
from casemate.machine.governance import SessionFact
from casemate.testing.fakefacts import BOOT_TIME


class States(Protocol):
    """What the fake sessions need of the fake kernel."""

    def state(self, *facts: Fact) -> None:
        """State facts."""

    def retract(self, kind: type, key: str) -> None:
        """State that an object is gone."""


class FakeSessions:
    """Answers logins of these users and what sessions ask about themselves.

    The first user is the administrator; all have one password.
    """

    def __init__(self, kernel: States, users: tuple[str, ...], password: str) -> None:
        self._kernel = kernel
        self._users = users
        self._password = password
        self._sessions: dict[str, SessionReply] = {}

    def answers(self) -> dict[type, Callable[[object], object]]:
        """Return the answer to each request."""
        return {
            Login: self._login,
            Logout: self._logout,
            CloneSession: self._clone,
            ResumeSession: self._resume,
        }

    def find(self, handle: str) -> SessionReply:
        """Return the session of a handle. Raises RefusedError."""
        if handle not in self._sessions:
            raise _refused("NotAuthenticated", "The session is not authenticated.")
        return self._sessions[handle]

    def _login(self, request: object) -> SessionReply:
        assert isinstance(request, Login)
        if request.user not in self._users or request.password != self._password:
            raise _refused("InvalidLogin", "Cannot complete login.")
        return self._open(request.user, request.peer)

    def _open(self, user: str, peer: str) -> SessionReply:
        reader = ("System.Anonymous", "System.View", "System.Read")
        reply = SessionReply(
            secrets.token_hex(32),
            secrets.token_hex(16),
            user,
            user.capitalize(),
            ("Admin",) if user == self._users[0] else reader,
            BOOT_TIME,
        )
        self._sessions[reply.handle] = reply
        self._kernel.state(SessionFact(reply.key, reply.user, peer, BOOT_TIME))
        return reply

    def _clone(self, request: object) -> SessionReply:
        assert isinstance(request, CloneSession)
        return self._open(self.find(request.session).user, request.peer)

    def _logout(self, request: object) -> Empty:
        assert isinstance(request, Logout)
        if (ended := self._sessions.pop(request.session, None)) is not None:
            self._kernel.retract(SessionFact, ended.key)
        return Empty()

    def _resume(self, request: object) -> SessionReply:
        assert isinstance(request, ResumeSession)
        return self.find(request.session)


def _refused(fault: str, reason: str) -> RefusedError:
    return RefusedError(FaultFact(fault, "fake", reason, "none"))
