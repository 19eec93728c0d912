"""Reading properties for one session: existence, rights, paths, encoded fragments."""

from __future__ import annotations

from collections.abc import Container, Iterable

from casemate.hostd.objects import catalog
from casemate.hostd.objects.base import Scope
from casemate.hostd.replica import Replica
from casemate.hostd.session import Session, Sessions
from casemate.hostd.wellknown import ROOT_FOLDER
from casemate.vim25 import encode, faults, paths, types, versions
from casemate.vim25.faults import FaultError
from casemate.vim25.shapes import Kind, TypeRef
from casemate.vim25.values import MoRef, Obj, Value

ANONYMOUS = "System.Anonymous"
READ = "System.Read"
VIEW = "System.View"

CONTENT_LIMIT = 1 << 12
"""Characters of several properties that are kept together: longer ones cost more than they save."""


class Reader:
    """Reads as one session (None: nobody has logged in) in one API version."""

    def __init__(
        self, replica: Replica, sessions: Sessions, session: Session | None, version: str
    ) -> None:
        self.replica = replica
        self.session = session
        self.version = version
        self._sessions = sessions
        self._scope: Scope | None = None
        self._allowed: set[tuple[str, str]] = set()
        self._readable: set[tuple[str, tuple[str, ...]]] = set()
        # With one permission at the root, all objects of a type are alike.
        self._uniform = session is None or replica.world.rights.uniform(session.user)
        self._sees_all = session is None or (
            self._uniform and self._views(session.user, replica.world.place(ROOT_FOLDER))
        )

    @property
    def scope(self) -> Scope:
        """What the views may look at."""
        if self._scope is None:
            session = self.session
            self._scope = Scope(
                self.replica.world,
                self.replica.clock(),
                session.user_session() if session else None,
                self._sessions.listed(self.replica.world) if session else (),
                session.refs("PropertyFilter") if session else (),
                session.refs("View") if session else (),
                self.replica.events.latest,
            )
        return self._scope

    def _latest_event(self) -> Obj | None:
        """Return the latest event that is about no VM which is hidden from the session."""
        for event in reversed(self.replica.events.events):
            about = event.get("vm")
            if not isinstance(about, Obj) or self._names_no_hidden(about):
                return event
        return None

    def exists(self, ref: MoRef) -> bool:
        """Tell whether the object exists for this session."""
        if self.session is not None and ref in self.session.own:
            return True
        return catalog.exists(self.replica.world, ref)

    def present(self, refs: Iterable[MoRef]) -> list[MoRef]:
        """Return those of the objects that exist for this session and appear to it."""
        own: Container[MoRef] = () if self.session is None else self.session.own
        world = self.replica.world
        found = [ref for ref in refs if catalog.exists(world, ref) or ref in own]
        return found if self._sees_all else [ref for ref in found if self.sees(ref)]

    def require(self, ref: MoRef) -> None:
        """Raise FaultError (ManagedObjectNotFound) unless the object exists."""
        if not self.exists(ref):
            raise faults.not_found(ref)

    def allow(self, ref: MoRef, privilege: str) -> None:
        """Raise FaultError (NotAuthenticated, NoPermission) unless the session may."""
        if privilege == ANONYMOUS:
            return
        if self.session is None:
            raise faults.not_authenticated(ref, privilege)
        if not self.may(ref, privilege):
            raise faults.no_permission(ref, privilege)

    def may(self, ref: MoRef, privilege: str) -> bool:
        """Tell whether the session has a privilege on an object."""
        if self.session is None:
            return False
        world, user = self.replica.world, self.session.user
        if world.locked_out(user):
            return False
        return world.rights.gives(user, world.place(ref), privilege)

    def sees(self, ref: MoRef) -> bool:
        """Tell whether an object appears to the session.

        VMs, their tasks and their snapshots do to those who may view the VM; all else to all.
        """
        if self.session is None or self._sees_all:
            return True
        place = self.replica.world.place(ref)
        return place[0] != "VirtualMachine" or self._views(self.session.user, place)

    def _views(self, user: str, place: tuple[str, str]) -> bool:
        return any(role.gives(VIEW) for role in self.replica.world.rights.roles_on(user, place))

    def allow_property(self, ref: MoRef, name: str) -> None:
        """Raise FaultError unless the session may read this property."""
        declared = types.managed_type(ref.type).by_name.get(name)
        if declared is None or not versions.visible(self.version, declared.version):
            raise faults.invalid_property(name)
        # What belongs to the session itself needs no right on the inventory.
        own = self.session is not None and ref in self.session.own
        self.allow(ref, declared.privilege or (VIEW if own else READ))

    def value(self, ref: MoRef, name: str) -> Value:
        """Return the value of a property; None: unset."""
        if self.session is not None and (own := self.session.own.get(ref)) is not None:
            held = own.properties().get(name)
            return self._shown(held) if name == "view" else held
        if name == "latestEvent" and not self._sees_all:
            return self._latest_event()
        value = self.replica.value(ref, name, self.scope)
        return self._shown(value) if (ref.type, name) in catalog.NAMING else value

    def _shown(self, value: Value) -> Value:
        """Return a value without references to what does not appear to the session."""
        if self._sees_all:
            return value
        if isinstance(value, MoRef):
            return value if self.sees(value) else None
        if isinstance(value, Obj):
            return Obj(value.type, **{name: self._shown(one) for name, one in value.fields.items()})
        if isinstance(value, tuple):
            return tuple(self._shown(one) for one in value if self._names_no_hidden(one))
        return value

    def _names_no_hidden(self, item: Value) -> bool:
        """Tell whether an item of a list appears: neither it nor a field of it is hidden."""
        fields = item.fields.values() if isinstance(item, Obj) else (item,)
        return all(self.sees(one) for one in fields if isinstance(one, MoRef))

    def resolve(self, ref: MoRef, path: str) -> tuple[Value, TypeRef]:
        """Return value and type at a path. Raises FaultError (InvalidProperty, rights)."""
        owner = types.managed_type(ref.type)
        steps = paths.check(ref.type, path)
        first = steps[0]
        self.allow_property(ref, first.name)
        value = self.value(ref, first.name)
        return paths.resolve(value, owner.by_name[first.name].type, first.key, steps[1:])

    def fragment(self, ref: MoRef, path: str) -> str | None:
        """Return ``<val …>`` for a path, or None when it is unset. Raises FaultError."""
        name = paths.check(ref.type, path)[0].name
        if not self._uniform or (ref.type, name) not in self._allowed:
            self.allow_property(ref, name)
            self._allowed.add((ref.type, name))
        hiding = not self._sees_all and (ref.type, name) in catalog.NAMING
        if hiding or (self.session is not None and ref in self.session.own):
            return self._encode(ref, path)
        return self.replica.fragment(ref, path, self.version, lambda: self._encode(ref, path))

    def content(self, ref: MoRef, tag: str, wanted: tuple[str, ...]) -> str | None:
        """Return what was kept of several properties together, once one such object was read."""
        if not self._sees_all or (ref.type, wanted) not in self._readable:
            return None
        return self.replica.content(ref, (tag, wanted), self.version)

    def keep_content(
        self, ref: MoRef, tag: str, wanted: tuple[str, ...], pieces: list[str]
    ) -> None:
        """Keep several small properties together, where all objects of the type are alike."""
        own = self.session is None or ref in self.session.own
        if own or not self._sees_all or sum(map(len, pieces)) > CONTENT_LIMIT:
            return
        if any((ref.type, path.partition(".")[0]) in catalog.LIVE for path in wanted):
            return
        self._readable.add((ref.type, wanted))
        self.replica.keep_content(ref, (tag, wanted), self.version, "".join(pieces))

    def _encode(self, ref: MoRef, path: str) -> str | None:
        value, declared = self.resolve(ref, path)
        if value is None:
            return None
        return encode.encoder(self.version).any_element("val", value, declared)

    def property_names(self, type_name: str) -> tuple[str, ...]:
        """Return all properties of a type in this version."""
        return tuple(
            declared.name
            for declared in types.managed_type(type_name).properties
            if versions.visible(self.version, declared.version)
        )

    def missing(self, path: str, error: FaultError) -> str:
        """Return the ``missingSet`` element for a property that cannot be read."""
        fault = encode.encoder(self.version).element(
            "fault", error.localized(), TypeRef(Kind.DATA, "LocalizedMethodFault")
        )
        return f"<missingSet><path>{encode.escape(path)}</path>{fault}</missingSet>"
