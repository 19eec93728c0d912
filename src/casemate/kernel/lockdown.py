"""Lockdown: who is let in while the host is administered from its console alone."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from casemate.calls import admin as a
from casemate.calls.messages import Empty
from casemate.errors import ArgumentError, NotFoundError, PermissionDeniedError, StateError
from casemate.kernel.accounts import CONSOLE, Session
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.machine.governance import LockdownFact, LockdownMode
from casemate.policy.rights import ROOT, Rights

DENIED = "Permission to perform this operation was denied."
_KEPT = "lockdown"
_ADMINISTERS = "Host.Config.Settings"


class Lockdown:
    """The host's lockdown, kept in the store, told as a fact."""

    def __init__(self, store: Store, stream: FactStream, rights: Rights) -> None:
        self._store = store
        self._stream = stream
        self._rights = rights
        self._fact = _stored(store.value(_KEPT))
        stream.publish(self._fact)

    def handlers(self) -> Mapping[type, Callable[..., Awaitable[object]]]:
        """Return the handler of each request."""
        return {
            a.SetLockdown: self._set_mode,
            a.SetLockdownExceptions: self._set_exceptions,
        }

    @property
    def strict(self) -> bool:
        """Whether even the local administrator is kept out."""
        return self._fact.mode is LockdownMode.STRICT

    def passes(self, user: str, peer: str) -> bool:
        """Tell whether the lockdown lets a user in: the console closes in strict lockdown only."""
        if self.strict and peer == CONSOLE:
            return False
        if self._fact.mode is LockdownMode.DISABLED or user in self._fact.exceptions:
            return True
        return (
            self._fact.mode is LockdownMode.NORMAL
            and peer == CONSOLE
            and self._rights.gives(user, ROOT, _ADMINISTERS)
        )

    def admit(self, user: str, peer: str) -> None:
        """Raise PermissionDeniedError when the lockdown keeps the user out."""
        if not self.passes(user, peer):
            raise PermissionDeniedError(DENIED, privilege="System.View", component=user)

    def forget(self, user: str) -> None:
        """Let an account that goes be no exception: another may get its name.

        Raises:
            StateError: Nobody could administer the host in strict lockdown then.
        """
        if user in self._fact.exceptions:
            kept = tuple(one for one in self._fact.exceptions if one != user)
            self._put(replace(self._fact, exceptions=kept))

    async def _set_mode(self, request: a.SetLockdown, _: Session) -> Empty:
        if request.mode not in {mode.value for mode in LockdownMode}:
            raise ArgumentError("there is no such lockdown mode", argument="mode")
        self._put(replace(self._fact, mode=LockdownMode(request.mode)))
        return Empty()

    async def _set_exceptions(self, request: a.SetLockdownExceptions, _: Session) -> Empty:
        for user in request.users:
            if self._store.account(user) is None:
                raise NotFoundError(f"there is no account {user!r:.60}", component=user[:40])
        users = tuple(dict.fromkeys(request.users))
        self._put(replace(self._fact, exceptions=users))
        return Empty()

    def _put(self, fact: LockdownFact) -> None:
        admins = [u for u in fact.exceptions if self._rights.gives(u, ROOT, _ADMINISTERS)]
        if fact.mode is LockdownMode.STRICT and not admins:
            raise StateError(
                "nobody could administer the host in strict lockdown",
                remedy="Make an administrator an exception first.",
            )
        self._fact = fact
        text = json.dumps({"mode": fact.mode.value, "exceptions": fact.exceptions})
        self._store.set_value(_KEPT, text)
        self._stream.publish(fact)


def _stored(text: str | None) -> LockdownFact:
    if text is None:
        return LockdownFact(LockdownMode.DISABLED)
    stored = json.loads(text)
    return LockdownFact(LockdownMode(stored["mode"]), tuple(stored["exceptions"]))
