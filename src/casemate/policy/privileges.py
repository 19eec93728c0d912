"""Roles and the privileges they give, with the ids and names of an ESXi host.

Privilege ids are vSphere's own (``VirtualMachine.Interact.PowerOn``). A role either gives
everything, or a closed set of ids. What is not given is denied.
"""

from __future__ import annotations

from dataclasses import dataclass

from casemate.errors import NotFoundError, PermissionDeniedError

ANONYMOUS = "System.Anonymous"
VIEW = "System.View"
READ = "System.Read"


@dataclass(frozen=True, slots=True)
class Role:
    """A role: vSphere's number and name, and what it gives (``everything`` or ``privileges``)."""

    number: int
    name: str
    label: str
    privileges: frozenset[str] = frozenset()
    everything: bool = False

    def gives(self, privilege: str) -> bool:
        """Tell whether the role gives the privilege."""
        return self.everything or privilege in self.privileges


ROLES = (
    Role(-5, "NoAccess", "No access"),
    Role(-4, "Anonymous", "Anonymous", frozenset({ANONYMOUS})),
    Role(-3, "View", "View", frozenset({ANONYMOUS, VIEW})),
    Role(-2, "ReadOnly", "Read-only", frozenset({ANONYMOUS, VIEW, READ})),
    Role(-1, "Admin", "Administrator", everything=True),
)

_BY_NAME = {role.name: role for role in ROLES}


def role_named(name: str) -> Role:
    """Return the role of this name. Raises NotFoundError."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise NotFoundError(f"there is no role {name!r}", component="role") from None


def demand(role: Role, privilege: str, component: str) -> None:
    """Raise PermissionDeniedError unless the role gives the privilege."""
    if not role.gives(privilege):
        raise PermissionDeniedError(
            "Permission to perform this operation was denied.",
            privilege=privilege,
            component=component,
        )
