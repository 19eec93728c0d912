"""Events: what happened, derived from the changes of the facts, the latest thousand of them.

The first facts of a stream are what is true already; only what changes afterwards is an event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime

from casemate.calls.messages import FactReply
from casemate.hostd.wellknown import COMPUTE, DATACENTER, HOST
from casemate.hostd.world import World
from casemate.machine.facts import PowerState, TaskFact, TaskState, VmFact
from casemate.machine.governance import (
    AccountFact,
    LockdownFact,
    OptionFact,
    PermissionFact,
    RoleFact,
    SessionFact,
)
from casemate.machine.networks import PortGroupFact, SwitchFact
from casemate.machine.teaming import UplinksFact
from casemate.vim25.values import MoRef, Obj, Value

KEPT = 1000
"""Events remembered: what an ESXi host keeps."""

_SEVERITIES = {"lost": "error", "degraded": "warning", "restored": "info"}
"""By the last word of ESXi's events about networks."""
_SEVERAL = 2
_POWER = {
    PowerState.POWERED_ON: ("VmPoweredOnEvent", "powered on"),
    PowerState.POWERED_OFF: ("VmPoweredOffEvent", "powered off"),
    PowerState.SUSPENDED: ("VmSuspendedEvent", "suspended"),
}


class EventLog:
    """Keeps the latest events, oldest first. Keys count up and are never given twice."""

    def __init__(self) -> None:
        self.events: deque[Obj] = deque(maxlen=KEPT)
        self._key = 0
        self._epoch = ""
        self._first = 0
        self._users: dict[str, str] = {}

    @property
    def latest(self) -> Obj | None:
        """The latest event."""
        return self.events[-1] if self.events else None

    def note(self, world: World, reply: FactReply, before: object, now: datetime) -> bool:
        """Take in one entry of the stream; True when there is a new event."""
        if reply.epoch != self._epoch:
            self._epoch, self._first = reply.epoch, reply.sequence
        if reply.sequence <= self._first or not world.ready:
            return False
        made = list(self._made(world, reply.fact, before, now))
        self.events.extend(made)
        return bool(made)

    def add_said(
        self, world: World, entity: MoRef, name: str, text: str, user: str, now: datetime
    ) -> None:
        """Keep what a user says of an object."""
        vm = world.vms.get(entity.value) if entity.type == "VirtualMachine" else None
        about = Obj("ManagedEntityEventArgument", name=name, entity=entity)
        self.events.append(
            self._event(world, "GeneralUserEvent", text, now, user, vm, message=text, entity=about)
        )

    def _made(self, world: World, after: object, before: object, now: datetime) -> Iterator[Obj]:
        match after if after is not None else before:
            case VmFact() as vm:
                yield from self._vm(world, vm, before, now, gone=after is None)
            case TaskFact() as task if after is not None:
                yield from self._task(world, task, before, now)
            case SessionFact() as session if after is None or before is None:
                yield self._session(world, session, now, gone=after is None)
            case UplinksFact() as links if after is not None:
                known = before if isinstance(before, UplinksFact) else UplinksFact()
                for kind, text in _links(world.switches.values(), links.lost, known.lost):
                    yield self._event(
                        *(world, "EventEx", text, now, "", None),
                        eventTypeId=kind,
                        severity=_SEVERITIES[kind.rpartition(".")[2]],
                        message=text,
                    )
            case (
                AccountFact()
                | RoleFact()
                | PermissionFact()
                | OptionFact()
                | LockdownFact()
                | SwitchFact()
                | PortGroupFact() as f
            ):
                text = f"{_words(f)} {'removed' if after is None else 'set'}"
                yield self._event(
                    world,
                    "EventEx",
                    text,
                    now,
                    "",
                    None,
                    eventTypeId=f"casemate.{type(f).__name__.removesuffix('Fact').lower()}",
                    severity="info",
                    message=text,
                )
            case _:
                return

    def _vm(
        self, world: World, vm: VmFact, before: object, now: datetime, *, gone: bool
    ) -> Iterator[Obj]:
        user, name = self._users.get(vm.vm, ""), vm.config.name
        if gone:
            yield self._event(
                world, "VmRemovedEvent", f"{name} was removed", now, user, vm, template=False
            )
        elif not isinstance(before, VmFact):
            yield self._event(
                world, "VmRegisteredEvent", f"{name} was registered", now, user, vm, template=False
            )
        elif before.power is not vm.power:
            kind, words = _POWER[vm.power]
            yield self._event(world, kind, f"{name} is {words}", now, user, vm, template=False)
        elif before.config.name != vm.config.name:
            text = f"Renamed {before.config.name} to {name}"
            yield self._event(
                world,
                "VmRenamedEvent",
                text,
                now,
                user,
                vm,
                template=False,
                oldName=before.config.name,
                newName=name,
            )
        elif before.config != vm.config:
            yield self._event(
                world,
                "VmMessageEvent",
                f"{name} was reconfigured",
                now,
                user,
                vm,
                template=False,
                message=f"{name} was reconfigured",
            )

    def _task(self, world: World, task: TaskFact, before: object, now: datetime) -> Iterator[Obj]:
        self._users[task.entity] = task.user
        while len(self._users) > KEPT:
            del self._users[next(iter(self._users))]
        vm = world.vms.get(task.entity) if task.entity_kind == "VirtualMachine" else None
        about = vm.config.name if vm else task.entity
        if before is None:
            text = f"Task: {task.operation} on {about}"
        elif task.state is TaskState.ERROR and task.error is not None:
            text = f"{task.operation} on {about} failed: {task.error.reason}"
        else:
            return
        severity = "error" if task.state is TaskState.ERROR else "info"
        yield self._event(
            world,
            "EventEx",
            text,
            now,
            task.user,
            vm,
            eventTypeId=f"casemate.task.{task.operation}",
            severity=severity,
            message=text,
        )

    def _session(self, world: World, session: SessionFact, now: datetime, *, gone: bool) -> Obj:
        words = "logged out" if gone else "logged in"
        text = f"User {session.user}@{session.peer or 'unknown'} {words}"
        more: dict[str, Value] = {"ipAddress": session.peer, "sessionId": session.session}
        if not gone:
            more["locale"] = "en"
        kind = "UserLogoutSessionEvent" if gone else "UserLoginSessionEvent"
        return self._event(world, kind, text, now, session.user, None, **more)

    def _event(
        self,
        world: World,
        kind: str,
        text: str,
        now: datetime,
        user: str,
        vm: VmFact | None,
        **more: Value,
    ) -> Obj:
        self._key += 1
        name = world.host.name
        about: Value = None
        if vm is not None:
            about = Obj("VmEventArgument", name=vm.config.name, vm=MoRef("VirtualMachine", vm.vm))
        return Obj(
            kind,
            key=self._key,
            chainId=self._key,
            createdTime=now,
            userName=user,
            datacenter=Obj("DatacenterEventArgument", name="ha-datacenter", datacenter=DATACENTER),
            computeResource=Obj("ComputeResourceEventArgument", name=name, computeResource=COMPUTE),
            host=Obj("HostEventArgument", name=name, host=HOST),
            vm=about,
            fullFormattedMessage=text,
            **more,
        )


def _links(
    switches: Iterable[SwitchFact], now: frozenset[str], before: frozenset[str]
) -> Iterator[tuple[str, str]]:
    """Yield ESXi's event and what is said of it for each switch whose team lost links, or got them.

    ``now`` and ``before``: the uplinks without the link that they had.
    """
    for switch in switches:
        uplinks = frozenset(switch.uplinks)
        lost, back = sorted(uplinks & now - before), sorted(uplinks & before - now)
        if len(uplinks) < _SEVERAL:
            continue
        left = len(uplinks - now)
        if lost:
            words = f"virtual switch {switch.name}: {', '.join(lost)} has no link"
            if not left:
                yield "esx.problem.net.connectivity.lost", f"Lost connectivity of {words}"
            elif left < _SEVERAL:
                yield "esx.problem.net.redundancy.lost", f"Lost redundancy of {words}"
            else:
                yield "esx.problem.net.redundancy.degraded", f"Degraded redundancy of {words}"
        elif back:
            words = f"virtual switch {switch.name}: {', '.join(back)} has a link"
            if uplinks <= before:
                yield "esx.clear.net.connectivity.restored", f"Restored connectivity of {words}"
            if not uplinks & now:
                yield "esx.clear.net.redundancy.restored", f"Restored redundancy of {words}"


def _words(
    fact: AccountFact
    | RoleFact
    | PermissionFact
    | OptionFact
    | LockdownFact
    | SwitchFact
    | PortGroupFact,
) -> str:
    match fact:
        case SwitchFact() | PortGroupFact():
            words = "Virtual switch" if isinstance(fact, SwitchFact) else "Port group"
            return f"{words} {fact.name}"
        case AccountFact() | RoleFact():
            words = "Account" if isinstance(fact, AccountFact) else "Role"
            return f"{words} {fact.name}"
        case PermissionFact():
            place = f"{fact.entity_kind} {fact.entity}"
            return f"Permission of {fact.principal} on {place} (role {fact.role})"
        case OptionFact():
            return f"Option {fact.name}"
        case LockdownFact():
            return f"Lockdown mode {fact.mode.value}"
