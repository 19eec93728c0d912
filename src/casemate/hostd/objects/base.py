"""What the views of all types share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from casemate.hostd.world import World
from casemate.policy.rights import Permission
from casemate.vim25 import types
from casemate.vim25.shapes import Kind
from casemate.vim25.values import MoRef, Obj, Value


@dataclass(frozen=True, slots=True)
class Scope:
    """What a view may look at: the facts, and the asking session where that matters.

    ``session`` is the asker's UserSession, ``sessions`` all of them; ``now`` is the time.
    """

    world: World
    now: datetime
    session: Obj | None = None
    sessions: tuple[Obj, ...] = ()
    filters: tuple[MoRef, ...] = ()
    views: tuple[MoRef, ...] = ()
    latest_event: Obj | None = None


Getter = Callable[[Scope, str], Value]
Getters = Mapping[str, Getter]


def moment(stamp: float) -> datetime:
    """Return Unix seconds as a time."""
    return datetime.fromtimestamp(stamp, UTC)


def flags(type_name: str, *true: str, **fields: Value) -> Obj:
    """Return an object whose required flags are false, except those named ``true``."""
    values: dict[str, Value] = {}
    for declared in types.data_type(type_name).fields:
        boolean = declared.type.kind is Kind.PRIMITIVE and declared.type.name == "boolean"
        if boolean and not declared.optional:
            values[declared.name] = False
    values.update(dict.fromkeys(true, True))
    return Obj(type_name, **{**values, **fields})


def description(label: str, summary: str | None = None) -> Obj:
    """Return a Description."""
    return Obj("Description", label=label, summary=summary or label)


def element(key: str, label: str) -> Obj:
    """Return an ElementDescription."""
    return Obj("ElementDescription", label=label, summary=label, key=key)


def entity(kind: str) -> Getters:
    """Return the views of what every managed entity of this type has."""

    def ref(key: str) -> MoRef:
        return MoRef(kind, key)

    return {
        "overallStatus": lambda _scope, _key: "green",
        "configStatus": lambda _scope, _key: "green",
        "name": lambda scope, key: scope.world.entity_name(ref(key)),
        "parent": lambda scope, key: scope.world.parent(ref(key)),
        "recentTask": lambda scope, key: recent_tasks(scope, ref(key)),
        "effectiveRole": lambda scope, key: _roles(scope, ref(key)),
        "permission": lambda scope, key: _permissions(scope, ref(key)),
    }


def _roles(scope: Scope, entity: MoRef) -> tuple[int, ...]:
    user = scope.session.get("userName") if scope.session else None
    if not isinstance(user, str):
        return ()
    rights = scope.world.rights
    return tuple(role.number for role in rights.roles_on(user, (entity.type, entity.value)))


def permission(one: Permission) -> Obj:
    """Return a Permission."""
    return Obj(
        "Permission",
        entity=MoRef(*one.entity),
        principal=one.principal,
        group=False,
        roleId=one.role,
        propagate=one.propagate,
    )


def _permissions(scope: Scope, entity: MoRef) -> tuple[Obj, ...]:
    found = scope.world.rights.on((entity.type, entity.value), inherited=False)
    return tuple(map(permission, found))


def recent_tasks(scope: Scope, ref: MoRef | None = None) -> tuple[MoRef, ...]:
    """Return the tasks on an object (or all), newest last."""
    return tuple(
        MoRef("Task", task.task)
        for task in scope.world.tasks.values()
        if ref is None or (task.entity == ref.value and task.entity_kind == ref.type)
    )
