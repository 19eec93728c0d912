"""What is true about who may do what: accounts, roles, permissions, sessions, options, lockdown.

Facts as those of ``facts``, which holds them in its union. None of them carries a secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from casemate.policy.rights import Permission


class LockdownMode(StrEnum):
    """Lockdown modes, in the words of vSphere."""

    DISABLED = "lockdownDisabled"
    NORMAL = "lockdownNormal"
    STRICT = "lockdownStrict"


@dataclass(frozen=True, slots=True)
class AccountFact:
    """A local account."""

    name: str
    full_name: str
    number: int

    @property
    def key(self) -> str:
        """The name."""
        return self.name


@dataclass(frozen=True, slots=True)
class RoleFact:
    """A role that somebody added; the built-in ones are the same everywhere."""

    number: int
    name: str
    privileges: tuple[str, ...]

    @property
    def key(self) -> str:
        """The number."""
        return str(self.number)


@dataclass(frozen=True, slots=True)
class PermissionFact:
    """A permission: one principal, one role, one entity."""

    entity_kind: str
    entity: str
    principal: str
    role: int
    propagate: bool

    @property
    def key(self) -> str:
        """Entity and principal."""
        return f"{self.entity_kind}:{self.entity}:{self.principal}"

    @property
    def permission(self) -> Permission:
        """The permission as ``policy.rights`` has it."""
        entity = (self.entity_kind, self.entity)
        return Permission(entity, self.principal, self.role, self.propagate)


@dataclass(frozen=True, slots=True)
class SessionFact:
    """A session by its public key; ``revoked``: it is being ended, and not by its user."""

    session: str
    user: str
    peer: str
    login_time: float
    revoked: bool = False

    @property
    def key(self) -> str:
        """The public key."""
        return self.session


@dataclass(frozen=True, slots=True)
class OptionFact:
    """An advanced option as it is set."""

    name: str
    value: str

    @property
    def key(self) -> str:
        """The name."""
        return self.name


@dataclass(frozen=True, slots=True)
class LockdownFact:
    """The lockdown mode and who is excepted."""

    mode: LockdownMode
    exceptions: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """There is one."""
        return "lockdown"
