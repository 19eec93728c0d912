"""The table of served methods, and the order in which a call is decided.

Every served method is declared once: on which type, with which privilege, by which function, and
which requests it may send to the kernel. Everything else of the API's table is refused, and the
same for everybody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from casemate.hostd.kernelclient import KernelLink
from casemate.hostd.reader import ANONYMOUS, Reader
from casemate.hostd.replica import Replica
from casemate.hostd.session import Session, Sessions
from casemate.vim25 import decode, faults, types
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Obj, Value


@dataclass(slots=True)
class Context:
    """What a handler works with. ``session`` may be set by a login, and None by a logout."""

    replica: Replica
    sessions: Sessions
    link: KernelLink
    session: Session | None
    version: str
    peer: str
    agent: str
    this: MoRef
    arguments: Mapping[str, Value]

    @property
    def reader(self) -> Reader:
        """A reader for this call."""
        return Reader(self.replica, self.sessions, self.session, self.version)

    @property
    def who(self) -> Session:
        """The session. Raises FaultError (NotAuthenticated) when there is none."""
        if self.session is None:
            raise faults.not_authenticated(self.this, "System.View")
        return self.session


Handler = Callable[[Context], Awaitable[Value]]


class Ring(StrEnum):
    """Why a method is served: to manage VMs, to govern the host, for compatibility."""

    VMS = "A"
    HOST = "B"
    COMPATIBILITY = "C"


@dataclass(frozen=True, slots=True)
class Served:
    """One declared method.

    ``rule`` says in words what is demanded beyond ``privilege``, where that depends on the
    arguments. ``lacking`` says why this host refuses the method although it is on the list.
    ``session``: one is needed, whatever the privilege says.
    """

    owner: str
    name: str
    privilege: str
    handler: Handler
    calls: tuple[type, ...] = ()
    waits: bool = False
    ring: Ring = Ring.VMS
    rule: str = ""
    lacking: str = ""
    session: bool = False


def refused(
    owner: str, name: str, privilege: str, reason: str, *, ring: Ring = Ring.VMS, rule: str = ""
) -> Served:
    """Declare a method that is on the list and that this host does not offer (NotSupported)."""

    async def handler(_context: Context) -> Value:
        raise FaultError(Obj("NotSupported"), reason)

    return Served(owner, name, privilege, handler, ring=ring, rule=rule, lacking=reason)


class Registry:
    """All declared methods by name."""

    def __init__(self, served: Iterable[Served]) -> None:
        self._served: dict[str, Served] = {}
        for one in served:
            if one.name in self._served:
                raise ValueError(f"{one.name} is declared twice")
            self._served[one.name] = one

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def get(self, name: str) -> Served | None:
        """Return the declared method, or None."""
        return self._served.get(name)

    def offered(self, name: str, *, compatibility: bool = False) -> Served | None:
        """Return the method if it is declared and its ring is switched on.

        ``compatibility`` is what the host was booted with: it switches ring C on.
        """
        served = self._served.get(name)
        if served and served.ring is Ring.COMPATIBILITY and not compatibility:
            return None
        return served

    def decide(self, call: decode.Call, reader: Reader) -> Served:
        """Return the method if this session may call it on this object. Raises FaultError."""
        this, name = call.this, call.method.name
        served = self.offered(name, compatibility=reader.replica.world.compatibility)
        needed = served.privilege if served else call.method.privilege or "System.View"
        open_to_all = served and not (served.lacking or served.session) and needed == ANONYMOUS
        if reader.session is None and not open_to_all:
            raise faults.not_authenticated(this, needed)
        if served is None:
            if name in VCENTER_ONLY:
                raise FaultError(Obj("NotSupported"))
            raise faults.method_not_found(this, name)
        reader.require(this)
        if not types.is_subtype(this.type, served.owner):
            raise faults.invalid_argument("_this", f"A {this.type} has no method {name}.")
        reader.allow(this, needed)
        return served


def check_parameters(call: decode.Call, arguments: Mapping[str, Value], reader: Reader) -> None:
    """Raise FaultError unless the session has the privileges that the parameters demand."""
    for parameter in call.method.parameters:
        if parameter.privilege is None:
            continue
        given = arguments.get(parameter.name)
        for ref in given if isinstance(given, tuple) and not isinstance(given, MoRef) else (given,):
            if isinstance(ref, MoRef):
                if not parameter.type.array:
                    reader.require(ref)
                reader.allow(ref, parameter.privilege)


VCENTER_ONLY = frozenset(
    {
        "AddHost_Task",
        "AddStandaloneHost_Task",
        "CloneVM_Task",
        "CreateCluster",
        "CreateClusterEx",
        "CreateDatacenter",
        "CreateDVS_Task",
        "CreateFolder",
        "CreateStoragePod",
        "DisconnectHost_Task",
        "EnterLockdownMode",
        "ExitLockdownMode",
        "InstantClone_Task",
        "MigrateVM_Task",
        "MoveIntoFolder_Task",
        "PowerOnMultiVM_Task",
        "ReconnectHost_Task",
        "RelocateVM_Task",
    }
)
"""Methods that a host knows but leaves to a management server: NotSupported, as ESXi answers."""
