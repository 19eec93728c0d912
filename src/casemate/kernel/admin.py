"""Accounts, roles, permissions, sessions, options and lockdown: kept in the store, told as facts.

``demand`` is the check of every call: lockdown first, then what the session's user was given on
the entity that the call is about.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from casemate.calls import admin as a
from casemate.calls.messages import Empty, Logout, Snapshot, Status
from casemate.errors import (
    ArgumentError,
    NotFoundError,
    PermissionDeniedError,
    StateError,
)
from casemate.kernel.accounts import LOCAL_ROOT, PLATE, Accounts, Session
from casemate.kernel.background import background
from casemate.kernel.lockdown import DENIED, Lockdown
from casemate.kernel.logins import Logins
from casemate.kernel.store import Account, Store, StoredSession
from casemate.kernel.stream import FactStream
from casemate.machine.facts import DatastoreFact, Fact, PoolFact, VmFact
from casemate.machine.governance import (
    AccountFact,
    OptionFact,
    PermissionFact,
    RoleFact,
    SessionFact,
)
from casemate.policy import options
from casemate.policy.passwords import check_name, check_password
from casemate.policy.privileges import ROLES, Role, role_named
from casemate.policy.rights import ROOT, Entity, Permission, Rights

ROLE_LIMIT = 200
"""Added roles: as many as anybody can tell apart, and more."""

ACCOUNT_LIMIT = 1000
PERMISSION_LIMIT = 10_000
PRIVILEGE_LIMIT = 1000
"""Privileges of one role: vSphere has about 480."""

TEXT_LIMIT = 256
"""Characters of a role's name or an account's description."""

FIRST_NUMBER = 1000
"""Number of the first account after root's 0."""

_PRIVILEGE = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}(\.[A-Za-z][A-Za-z0-9]{0,63}){1,4}")
_ADMIN = role_named("Admin").number
_ENTITIES: Mapping[type[Fact], str] = {
    VmFact: "VirtualMachine",
    PoolFact: "ResourcePool",
    DatastoreFact: "Datastore",
}
_BY_NAME = {role.name: role.number for role in ROLES}


class Admin:
    """Governs who may do what."""

    def __init__(
        self, store: Store, stream: FactStream, accounts: Accounts, logins: Logins
    ) -> None:
        self._store = store
        self._stream = stream
        self._accounts = accounts
        self._logins = logins
        self._turn = asyncio.Semaphore(1)
        self._workers = background(1, "password")
        self.rights = Rights(self._pool_of)
        self._lockdown = Lockdown(store, stream, self.rights)
        accounts.hooks.role_of = self._role_of
        accounts.hooks.admit = self._lockdown.admit
        accounts.hooks.opened = lambda session: stream.publish(_session_fact(session))
        accounts.hooks.ended = self._ended
        stream.on_gone(self._gone)
        self._load()

    def handlers(self) -> Mapping[type, Callable[..., Awaitable[object]]]:
        """Return the handler of each request."""
        return {
            a.AddRole: self._add_role,
            a.UpdateRole: self._update_role,
            a.RemoveRole: self._remove_role,
            a.SetPermission: self._set_permission,
            a.RemovePermission: self._remove_permission,
            a.CreateAccount: self._create_account,
            a.UpdateAccount: self._update_account,
            a.RemoveAccount: self._remove_account,
            a.ChangePassword: self._change_password,
            a.TerminateSession: self._terminate,
            a.SetMessage: self._set_message,
            a.SetOption: self._set_option,
            **self._lockdown.handlers(),
        }

    def demand(self, session: Session, privilege: str, request: object) -> None:
        """Raise PermissionDeniedError unless the session may do what it asks for."""
        if session is PLATE:
            allowed = isinstance(request, Snapshot | Status)
        elif session is LOCAL_ROOT:
            # In strict lockdown the local administrator only looks, and may end the lockdown.
            reads = privilege.startswith("System.") or isinstance(request, a.SetLockdown)
            allowed = not self._lockdown.strict or reads
        else:
            passes = self._lockdown.passes(session.user, session.peer)
            given = self.rights.gives(session.user, entity_of(request), privilege)
            allowed = (passes or isinstance(request, Logout)) and given
        if allowed:
            return
        raise PermissionDeniedError(
            DENIED, privilege=privilege, component=":".join(entity_of(request))
        )

    def _ended(self, session: StoredSession, revoked: bool) -> None:  # noqa: FBT001  (a hook)
        if revoked:
            # Said before it is gone: what the session opened ends with it.
            self._stream.publish(replace(_session_fact(session), revoked=True))
        self._stream.retract(SessionFact, session.key)

    def _gone(self, kind: type[Fact], key: str) -> None:
        """Forget the permissions on an object that is gone: nobody is to have them on another."""
        if kind not in _ENTITIES:
            return
        entity = (_ENTITIES[kind], key)
        for one in self._exactly_on(entity):
            self._drop(entity, one.principal)

    def _load(self) -> None:
        for account in self._store.accounts():
            if account.role:
                # What an account was made with becomes a permission like all others.
                seed = Permission(ROOT, account.name, _BY_NAME[account.role], propagate=True)
                self._store.put_permission(seed)
                self._store.put_account(replace(account, role=""))
            self._publish_account(account)
        for number, name, privileges in self._store.roles():
            self.rights.put_role(Role(number, name, name, frozenset(privileges)))
            self._stream.publish(RoleFact(number, name, privileges))
        for permission in self._store.permissions():
            self.rights.put(permission)
            self._stream.publish(_permission_fact(permission))
        for session in self._accounts.sessions():
            self._stream.publish(_session_fact(session))
        for name, option in options.OPTIONS.items():
            value = self._store.value(f"option.{name}")
            self._stream.publish(OptionFact(name, option.default if value is None else value))
        self._apply()

    def _publish_account(self, account: Account) -> None:
        known = self._stream.fact("AccountFact", account.name)
        if isinstance(known, AccountFact):
            number = known.number
        elif account.name == "root":
            number = 0
        else:
            taken = (f.number for f in self._stream.facts() if isinstance(f, AccountFact))
            number = max(FIRST_NUMBER, *(n + 1 for n in taken), FIRST_NUMBER)
        self._stream.publish(AccountFact(account.name, account.full_name, number))

    def _option(self, name: str) -> str:
        fact = self._stream.fact("OptionFact", name)
        return fact.value if isinstance(fact, OptionFact) else options.OPTIONS[name].default

    def _apply(self) -> None:
        rules = self._accounts.rules
        rules.free_failures = int(self._option(options.LOCK_FAILURES))
        rules.lock_limit = float(self._option(options.UNLOCK_TIME))
        rules.idle_seconds = 60.0 * int(self._option(options.SESSION_TIMEOUT))

    def _pool_of(self, kind: str, key: str) -> str | None:
        fact: Fact | None = None
        if kind == "VirtualMachine":
            fact = self._stream.fact("VmFact", key)
        elif kind == "ResourcePool":
            fact = self._stream.fact("PoolFact", key)
        if isinstance(fact, VmFact):
            return fact.pool
        return (fact.parent or None) if isinstance(fact, PoolFact) else None

    def _role_of(self, account: Account) -> Role:
        found = self.rights.roles_on(account.name, ROOT)
        return found[0] if found else role_named("NoAccess")

    async def _add_role(self, request: a.AddRole, _: Session) -> a.RoleReply:
        self._check_role(request.name, request.privileges)
        if len(self.rights.roles) - len(ROLES) >= ROLE_LIMIT:
            raise StateError(f"there are {ROLE_LIMIT} added roles already")
        number = self._store.add_role(request.name, request.privileges)
        self._put_role(number, request.name, request.privileges)
        return a.RoleReply(number)

    async def _update_role(self, request: a.UpdateRole, _: Session) -> Empty:
        self._added_role(request.role)
        self._check_role(request.name, request.privileges, but=request.role)
        self._store.put_role(request.role, request.name, request.privileges)
        self._put_role(request.role, request.name, request.privileges)
        return Empty()

    async def _remove_role(self, request: a.RemoveRole, _: Session) -> Empty:
        self._added_role(request.role)
        through = [one for one in self.rights.all() if one.role == request.role]
        if through and request.fail_if_used:
            raise StateError("the role is in use", component=str(request.role))
        self._store.drop_role(request.role)
        for one in through:
            self._drop(one.entity, one.principal)
        self.rights.drop_role(request.role)
        self._stream.retract(RoleFact, str(request.role))
        return Empty()

    def _put_role(self, number: int, name: str, privileges: tuple[str, ...]) -> None:
        self.rights.put_role(Role(number, name, name, frozenset(privileges)))
        self._stream.publish(RoleFact(number, name, tuple(sorted(privileges))))

    def _added_role(self, number: int) -> None:
        if number < 0 or number not in self.rights.roles:
            raise ArgumentError("there is no such role that can be changed", argument="roleId")

    def _check_role(self, name: str, privileges: tuple[str, ...], but: int = 0) -> None:
        if not 0 < len(name) <= TEXT_LIMIT or not name.isprintable():
            raise ArgumentError("a role has a printable name", argument="name")
        if any(role.name == name and role.number != but for role in self.rights.roles.values()):
            raise ArgumentError("another role has this name", argument="name", component=name)
        wrong = [one for one in privileges if not _PRIVILEGE.fullmatch(one)]
        if wrong or len(privileges) > PRIVILEGE_LIMIT:
            raise ArgumentError("these are no privileges", argument="privIds")

    async def _set_permission(self, request: a.SetPermission, _: Session) -> Empty:
        if request.role not in self.rights.roles:
            raise ArgumentError("there is no such role", argument="permission.roleId")
        self._account(request.principal)
        entity = (request.entity_kind, request.entity)
        one = Permission(entity, request.principal, request.role, request.propagate)
        if request.role != _ADMIN:
            self._keep_administrator(entity, request.principal)
        if len(self.rights.all()) >= PERMISSION_LIMIT:
            raise StateError(f"there are {PERMISSION_LIMIT} permissions already")
        self._store.put_permission(one)
        self.rights.put(one)
        self._stream.publish(_permission_fact(one))
        return Empty()

    async def _remove_permission(self, request: a.RemovePermission, _: Session) -> Empty:
        entity = (request.entity_kind, request.entity)
        if not any(one.principal == request.principal for one in self._exactly_on(entity)):
            raise NotFoundError("there is no such permission", component=request.principal)
        self._keep_administrator(entity, request.principal)
        self._drop(entity, request.principal)
        return Empty()

    def _exactly_on(self, entity: Entity) -> tuple[Permission, ...]:
        return self.rights.on(entity, inherited=False)

    def _keep_administrator(self, entity: Entity, principal: str) -> None:
        admins = {one.principal for one in self._exactly_on(ROOT) if one.role == _ADMIN}
        if entity == ROOT and admins == {principal}:
            raise StateError(
                "the last administrator of the host cannot lose its role",
                code="last-administrator",
                component=principal,
                remedy="Give another account the role Admin on the root folder first.",
            )

    def _drop(self, entity: Entity, principal: str) -> None:
        self._store.drop_permission(entity, principal)
        self.rights.drop(entity, principal)
        fact = PermissionFact(*entity, principal, 0, propagate=False)
        self._stream.retract(PermissionFact, fact.key)

    def _account(self, user: str) -> Account:
        account = self._store.account(user)
        if account is None:
            raise NotFoundError(f"there is no account {user!r:.60}", component=user[:40])
        return account

    def _demand_free(self, user: str) -> None:
        if self._store.account(user) is not None:
            raise ArgumentError("the account exists already", argument="user.id")
        if len(self._store.accounts()) >= ACCOUNT_LIMIT:
            raise StateError(f"there are {ACCOUNT_LIMIT} accounts already")

    async def _create_account(self, request: a.CreateAccount, _: Session) -> Empty:
        check_name(request.user)
        check_password(request.user, request.password)
        _check_text(request.full_name)
        self._demand_free(request.user)
        hashed = await self._hashed(request.password)
        # Meanwhile somebody else may have made it.
        self._demand_free(request.user)
        account = Account(request.user, request.full_name, hashed, "", failures=0, locked_until=0)
        self._store.put_account(account)
        self._publish_account(account)
        return Empty()

    async def _update_account(self, request: a.UpdateAccount, _: Session) -> Empty:
        self._account(request.user)
        _check_text(request.full_name)
        hashed = ""
        if request.password:
            check_password(request.user, request.password)
            hashed = await self._hashed(request.password)
        # As it is now: meanwhile it may have been removed or changed.
        account = replace(self._account(request.user), full_name=request.full_name)
        if hashed:
            account = replace(account, hash=hashed, failures=0, locked_until=0.0)
            self._end_sessions_of(request.user)
        self._store.put_account(account)
        self._publish_account(account)
        return Empty()

    async def _remove_account(self, request: a.RemoveAccount, _: Session) -> Empty:
        self._account(request.user)
        self._keep_administrator(ROOT, request.user)
        self._lockdown.forget(request.user)
        for entity, _permission in self.rights.reach(request.user):
            self._drop(entity, request.user)
        self._end_sessions_of(request.user)
        self._store.drop_account(request.user)
        self._stream.retract(AccountFact, request.user)
        return Empty()

    async def _change_password(self, request: a.ChangePassword, _: None) -> Empty:
        proven = await self._logins.prove(request.user, request.old_password, request.peer)
        self._lockdown.admit(request.user, request.peer)
        check_password(request.user, request.new_password)
        fresh = await self._hashed(request.new_password)
        # Whose old password was replaced meanwhile, or whose account was removed, is nobody now.
        account = self._accounts.check(request.user, proven.hash)
        self._store.put_account(replace(account, hash=fresh))
        self._end_sessions_of(request.user)
        return Empty()

    async def _hashed(self, password: str) -> str:
        async with self._turn:
            return await asyncio.get_running_loop().run_in_executor(
                self._workers, self._accounts.hash_new, password
            )

    def _end_sessions_of(self, user: str) -> None:
        self._accounts.end([one for one in self._accounts.sessions() if one.user == user])

    async def _terminate(self, request: a.TerminateSession, _: Session) -> Empty:
        found = [one for one in self._accounts.sessions() if one.key == request.key]
        if not found:
            raise NotFoundError("there is no such session", component=request.key[:40])
        self._accounts.end(found)
        return Empty()

    async def _set_message(self, request: a.SetMessage, _: Session) -> Empty:
        self._set(options.MESSAGE, request.message)
        return Empty()

    async def _set_option(self, request: a.SetOption, _: Session) -> Empty:
        self._set(request.name, request.value)
        return Empty()

    def _set(self, name: str, value: str) -> None:
        checked = options.check(name, value)
        self._store.set_value(f"option.{name}", checked)
        self._stream.publish(OptionFact(name, checked))
        self._apply()


def entity_of(request: object) -> Entity:
    """Return the entity that a request is about; the root folder when it names none."""
    if vm := getattr(request, "vm", ""):
        return ("VirtualMachine", str(vm))
    if pool := getattr(request, "pool", "") or getattr(request, "parent", ""):
        return ("ResourcePool", str(pool))
    if datastore := getattr(request, "datastore", ""):
        return ("Datastore", str(datastore))
    if isinstance(request, a.SetPermission | a.RemovePermission):
        return (request.entity_kind, request.entity)
    return ROOT


def _check_text(text: str) -> None:
    if len(text) > TEXT_LIMIT or not text.isprintable():
        raise ArgumentError("a description is printable and short", argument="user.description")


def _session_fact(session: StoredSession) -> SessionFact:
    return SessionFact(session.key, session.user, session.peer, session.login_time)


def _permission_fact(one: Permission) -> PermissionFact:
    return PermissionFact(*one.entity, one.principal, one.role, one.propagate)
