"""The governing part of FakeKernel: accounts, roles, permissions, options, kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from casemate.calls import admin as a
from casemate.calls.messages import Empty
from casemate.hostd.kernelclient import RefusedError
from casemate.machine.facts import Fact, FaultFact
from casemate.machine.governance import (
    AccountFact,
    LockdownFact,
    LockdownMode,
    OptionFact,
    PermissionFact,
    RoleFact,
    SessionFact,
)
from casemate.policy import options

ADMIN, READ_ONLY = -1, -2
_NOBODY = FaultFact("ManagedObjectNotFound", "not-found", "There is no such thing.", "none")


class States(Protocol):
    """What the fake administration needs of the fake kernel."""

    def state(self, *facts: Fact) -> None:
        """State facts."""

    def retract(self, kind: type, key: str) -> None:
        """State that an object is gone."""

    def find(self, kind: type, key: str) -> Fact | None:
        """Return a fact."""


class FakeAdmin:
    """Answers the requests of ``calls.admin`` without checking who asks."""

    def __init__(self, kernel: States, users: Mapping[str, int]) -> None:
        self._kernel = kernel
        self._role = 9
        for number, (user, role) in enumerate(users.items()):
            kernel.state(AccountFact(user, user.capitalize(), number))
            permission = PermissionFact("Folder", "ha-folder-root", user, role, propagate=True)
            kernel.state(permission)
        for name, option in options.OPTIONS.items():
            kernel.state(OptionFact(name, option.default))
        kernel.state(LockdownFact(LockdownMode.DISABLED))

    def answers(self) -> dict[type, Callable[[object], object]]:
        """Return the answer to each request."""
        return {
            a.AddRole: self._add_role,
            a.UpdateRole: self._update_role,
            a.RemoveRole: self._remove_role,
            a.SetPermission: self._set_permission,
            a.RemovePermission: self._remove_permission,
            a.CreateAccount: self._account,
            a.UpdateAccount: self._account,
            a.RemoveAccount: self._remove_account,
            a.ChangePassword: lambda _request: Empty(),
            a.TerminateSession: self._terminate,
            a.SetMessage: self._message,
            a.SetOption: self._option,
            a.SetLockdown: self._lockdown,
            a.SetLockdownExceptions: self._exceptions,
            a.ReadLog: _read_log,
        }

    def _add_role(self, request: object) -> a.RoleReply:
        assert isinstance(request, a.AddRole)
        self._role += 1
        self._kernel.state(RoleFact(self._role, request.name, request.privileges))
        return a.RoleReply(self._role)

    def _update_role(self, request: object) -> Empty:
        assert isinstance(request, a.UpdateRole)
        self._kernel.state(RoleFact(request.role, request.name, request.privileges))
        return Empty()

    def _remove_role(self, request: object) -> Empty:
        assert isinstance(request, a.RemoveRole)
        self._kernel.retract(RoleFact, str(request.role))
        return Empty()

    def _set_permission(self, request: object) -> Empty:
        assert isinstance(request, a.SetPermission)
        self._kernel.state(
            PermissionFact(
                request.entity_kind,
                request.entity,
                request.principal,
                request.role,
                request.propagate,
            )
        )
        return Empty()

    def _remove_permission(self, request: object) -> Empty:
        assert isinstance(request, a.RemovePermission)
        key = f"{request.entity_kind}:{request.entity}:{request.principal}"
        self._kernel.retract(PermissionFact, key)
        return Empty()

    def _account(self, request: object) -> Empty:
        assert isinstance(request, a.CreateAccount | a.UpdateAccount)
        self._kernel.state(AccountFact(request.user, request.full_name, 1000))
        return Empty()

    def _remove_account(self, request: object) -> Empty:
        assert isinstance(request, a.RemoveAccount)
        self._kernel.retract(AccountFact, request.user)
        return Empty()

    def _terminate(self, request: object) -> Empty:
        assert isinstance(request, a.TerminateSession)
        found = self._kernel.find(SessionFact, request.key)
        if not isinstance(found, SessionFact):
            raise RefusedError(_NOBODY)
        self._kernel.state(replace(found, revoked=True))
        self._kernel.retract(SessionFact, request.key)
        return Empty()

    def _message(self, request: object) -> Empty:
        assert isinstance(request, a.SetMessage)
        self._kernel.state(OptionFact(options.MESSAGE, request.message))
        return Empty()

    def _option(self, request: object) -> Empty:
        assert isinstance(request, a.SetOption)
        self._kernel.state(OptionFact(request.name, options.check(request.name, request.value)))
        return Empty()

    def _lockdown(self, request: object) -> Empty:
        assert isinstance(request, a.SetLockdown)
        self._kernel.state(LockdownFact(LockdownMode(request.mode), self._present().exceptions))
        return Empty()

    def _exceptions(self, request: object) -> Empty:
        assert isinstance(request, a.SetLockdownExceptions)
        self._kernel.state(LockdownFact(self._present().mode, request.users))
        return Empty()

    def _present(self) -> LockdownFact:
        fact = self._kernel.find(LockdownFact, "lockdown")
        assert isinstance(fact, LockdownFact)
        return fact


def _read_log(request: object) -> a.LogReply:
    assert isinstance(request, a.ReadLog)
    lines = tuple(f"{request.log} line {number}" for number in range(1, 101))
    first = max(request.start, 1)
    return a.LogReply(first, 100, lines[first - 1 : first - 1 + request.count])
