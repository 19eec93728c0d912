"""Accounts, roles, permissions, sessions, options, lockdown, logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.calls.messages import Empty


@dataclass(frozen=True, slots=True)
class RoleReply:
    """The number of a role."""

    role: int


@dataclass(frozen=True, slots=True)
class LogReply:
    """Lines of a log: the number of the first one shown, of the last one there is, the lines."""

    start: int
    end: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddRole:
    """Add a role that gives these privileges."""

    session: str
    name: str
    privileges: tuple[str, ...]
    reply: ClassVar = RoleReply
    privilege: ClassVar[str] = "Authorization.ModifyRoles"


@dataclass(frozen=True, slots=True)
class UpdateRole:
    """Rename a role and replace its privileges; built-in roles stay as they are."""

    session: str
    role: int
    name: str
    privileges: tuple[str, ...]
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Authorization.ModifyRoles"


@dataclass(frozen=True, slots=True)
class RemoveRole:
    """Remove a role, with all permissions through it unless ``fail_if_used``."""

    session: str
    role: int
    fail_if_used: bool
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Authorization.ModifyRoles"


@dataclass(frozen=True, slots=True)
class SetPermission:
    """Give a principal a role on an entity; replaces what it had there."""

    session: str
    entity_kind: str
    entity: str
    principal: str
    role: int
    propagate: bool
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Authorization.ModifyPermissions"


@dataclass(frozen=True, slots=True)
class RemovePermission:
    """Take away what a principal has on an entity; the last administrator stays."""

    session: str
    entity_kind: str
    entity: str
    principal: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Authorization.ModifyPermissions"


@dataclass(frozen=True, slots=True)
class CreateAccount:
    """Add a local account; it may do nothing until it is given a permission."""

    session: str
    user: str
    full_name: str
    password: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Host.Local.ManageUserGroups"


@dataclass(frozen=True, slots=True)
class UpdateAccount:
    """Change an account's description and, unless empty, its password."""

    session: str
    user: str
    full_name: str
    password: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Host.Local.ManageUserGroups"


@dataclass(frozen=True, slots=True)
class RemoveAccount:
    """Remove an account, its permissions and its sessions."""

    session: str
    user: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Host.Local.ManageUserGroups"


@dataclass(frozen=True, slots=True)
class ChangePassword:
    """Change one's own password; counts like a login."""

    user: str
    old_password: str
    new_password: str
    peer: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "System.Anonymous"


@dataclass(frozen=True, slots=True)
class TerminateSession:
    """End the session with this public key."""

    session: str
    key: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Sessions.TerminateSession"


@dataclass(frozen=True, slots=True)
class SetMessage:
    """Set the message that is shown to those who are logged in."""

    session: str
    message: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Sessions.GlobalMessage"


@dataclass(frozen=True, slots=True)
class SetOption:
    """Set an advanced option."""

    session: str
    name: str
    value: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Host.Config.AdvancedConfig"


@dataclass(frozen=True, slots=True)
class SetLockdown:
    """Set the lockdown mode: lockdownDisabled, lockdownNormal or lockdownStrict."""

    session: str
    mode: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Host.Config.Settings"


@dataclass(frozen=True, slots=True)
class SetLockdownExceptions:
    """Set who may still use the API while the host is in lockdown."""

    session: str
    users: tuple[str, ...]
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Global.Settings"


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Read lines of one of the host's own logs: audit, hostd, init or kernel."""

    session: str
    log: str
    start: int
    count: int
    reply: ClassVar = LogReply
    privilege: ClassVar[str] = "Global.Diagnostics"
    audited: ClassVar[bool] = False


REQUESTS: tuple[type, ...] = (
    AddRole,
    ChangePassword,
    CreateAccount,
    ReadLog,
    RemoveAccount,
    RemovePermission,
    RemoveRole,
    SetLockdown,
    SetLockdownExceptions,
    SetMessage,
    SetOption,
    SetPermission,
    TerminateSession,
    UpdateAccount,
    UpdateRole,
)
