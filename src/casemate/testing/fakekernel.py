"""FakeKernel: a whole kernel in memory, behind the same interface as the real one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from casemate.calls import leases
from casemate.calls.autostart import AutoStart, AutoStop, SetAutoStart
from casemate.calls.hardening import HardeningAudit
from casemate.calls.maintenance import EnterMaintenance, ExitMaintenance
from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    CancelTask,
    Empty,
    EvidenceReply,
    FactReply,
    Identity,
    PowerOff,
    PowerOn,
    Quote,
    RegisterVm,
    Reset,
    ShutdownGuest,
    TaskReply,
    UnregisterVm,
)
from casemate.calls.statistics import QueryStats, Series, StatsReply
from casemate.calls.vmconsole import (
    OpenConsole,
)
from casemate.calls.vms import RebootGuest, StandbyGuest
from casemate.errors import FormatError
from casemate.hostd.kernelclient import KernelLink, RefusedError, Transfer
from casemate.machine.autostart import AutoStartFact, merged
from casemate.machine.facts import (
    Fact,
    FaultFact,
    HostFact,
    PowerState,
    TaskFact,
    TaskState,
    VmFact,
)
from casemate.machine.networks import FIRST
from casemate.testing.fakeadmin import ADMIN, READ_ONLY, FakeAdmin
from casemate.testing.fakeconsoles import FakeConsoles
from casemate.testing.fakefacts import (
    AUDIT,
    BOOT_TIME,
    DATASTORE,
    HARDWARE,
    HOST,
    POOL,
    Proof,
    fake_vm,
)
from casemate.testing.fakefiles import FakeFiles
from casemate.testing.fakeleases import FakeLeases
from casemate.testing.fakemodules import FakeModules
from casemate.testing.fakenetworks import FakeNetworks
from casemate.testing.fakescreen import FakeScreen
from casemate.testing.fakesessions import FakeSessions
from casemate.testing.fakevms import FakeVms

F = TypeVar("F")
R = TypeVar("R")

USER = "root"
PASSWORD = "correct horse"  # noqa: S105  (a fake's)
READER = "auditor"


class FakeKernel(KernelLink):
    """Holds facts, answers requests, finishes tasks after ``delay`` seconds.

    Files are real ones below ``volumes``, which holds the directory ``datastore1``.
    """

    def __init__(
        self,
        *,
        vms: int = 2,
        delay: float = 0.01,
        proof: Proof | None = None,
        volumes: Path | None = None,
    ) -> None:
        self.delay = delay
        self.proof = proof or Proof()
        self.asked: list[object] = []
        self._facts: dict[tuple[str, str], Fact] = {}
        self._streams: set[asyncio.Queue[FactReply]] = set()
        self._jobs: set[asyncio.Task[None]] = set()
        self._sequence = 0
        self.screen = FakeScreen()
        self.sessions = FakeSessions(self, (USER, READER), PASSWORD)
        self.consoles = FakeConsoles(self, self.screen)
        self.state(
            HOST, HARDWARE, POOL, replace(DATASTORE, path=str(volumes or "/none") + "/datastore1")
        )
        self.state(*FIRST.switches, *FIRST.groups)
        self.state(*(fake_vm(number) for number in range(1, vms + 1)))
        self.state(*self.proof.components)
        self._answers: dict[type, Callable[[object], object]] = {
            HardeningAudit: lambda _: AUDIT,
            PowerOn: self._power,
            PowerOff: self._power,
            Reset: self._power,
            ShutdownGuest: self._shutdown,
            RebootGuest: self._reboot,
            StandbyGuest: self._reboot,
            RegisterVm: self._register,
            UnregisterVm: self._unregister,
            Identity: lambda _request: self.proof.identity,
            ActivateCredential: _activate,
            Quote: self._quote,
            QueryStats: _stats,
            CancelTask: self._cancel,
            SetAutoStart: self._set_autostart,
            AutoStart: lambda _request: Empty(),
            AutoStop: lambda _request: Empty(),
            EnterMaintenance: self._maintenance,
            ExitMaintenance: self._maintenance,
        }
        self._answers |= self.sessions.answers() | self.consoles.answers()
        admin = FakeAdmin(self, {USER: ADMIN, READER: READ_ONLY})
        self._answers |= admin.answers()
        self._answers |= FakeVms(self).answers()
        self.leases = FakeLeases(self)
        self._answers |= self.leases.answers()
        self._files = FakeFiles(self, dict.fromkeys(leases.TRANSFERS, self.leases.transfer))
        self._answers |= FakeNetworks(self).answers()
        self._answers |= FakeModules().answers()

    def state(self, *facts: Fact) -> None:
        """State facts."""
        for fact in facts:
            kind = type(fact).__name__
            self._facts[kind, fact.key] = fact
            self._tell(kind, fact.key, fact)

    def retract(self, kind: type, key: str) -> None:
        """State that an object is gone."""
        if self._facts.pop((kind.__name__, key), None) is not None:
            self._tell(kind.__name__, key, None)

    def find(self, kind: type, key: str) -> Fact | None:
        """Return a fact."""
        return self._facts.get((kind.__name__, key))

    def answer(self, kind: type, reply: Callable[[object], object]) -> None:
        """Answer requests of a kind so from now on."""
        self._answers[kind] = reply

    def all(self, kind: type[F]) -> tuple[F, ...]:
        """Return all facts of a kind."""
        return tuple(fact for fact in self._facts.values() if isinstance(fact, kind))

    def user(self, session: str) -> str:
        """Return whose session it is. Raises RefusedError."""
        return self.sessions.find(session).user

    def run(
        self, session: str, entity: str, kind: str, operation: str, finish: Callable[[], str]
    ) -> TaskReply:
        """Run a task that succeeds."""
        user = self.sessions.find(session).user
        return self._task(entity, kind, operation, user, finish, None)

    def fresh(self) -> VmFact:
        """Return a VM with a new id."""
        return fake_vm(1 + max((int(k) for kind, k in self._facts if kind == "VmFact"), default=0))

    def vm(self, key: str) -> VmFact | None:
        """Return a VM."""
        fact = self._facts.get(("VmFact", key))
        return fact if isinstance(fact, VmFact) else None

    def machines(self) -> tuple[VmFact, ...]:
        """Return all VMs."""
        return tuple(fact for fact in self._facts.values() if isinstance(fact, VmFact))

    def _tell(self, kind: str, key: str, fact: Fact | None) -> None:
        self._sequence += 1
        for stream in self._streams:
            stream.put_nowait(FactReply("fake", self._sequence, kind, key, fact, fact is None))

    async def ask(self, request: object, kind: type[R]) -> R:
        """See ``KernelLink.ask``."""
        self.asked.append(request)
        await asyncio.sleep(0)
        if type(request) in self._files.handlers:
            reply = await self._files.ask(request)
        else:
            answer = self._answers.get(type(request))
            if answer is None:
                raise _refused("NotSupported", f"The fake has no {type(request).__name__}.")
            reply = answer(request)
        if not isinstance(reply, kind):
            raise FormatError(f"a {type(request).__name__} is not answered with a {kind.__name__}")
        return reply

    @asynccontextmanager
    async def transfer(self, request: object) -> AsyncIterator[Transfer]:
        """See ``KernelLink.transfer``."""
        self.asked.append(request)
        async with self._files.transfer(request) as transfer:
            yield transfer

    async def facts(self) -> AsyncIterator[FactReply | None]:
        """See ``KernelLink.facts``."""
        stream: asyncio.Queue[FactReply] = asyncio.Queue()
        self._streams.add(stream)
        try:
            yield None
            for (kind, key), fact in tuple(self._facts.items()):
                yield FactReply("fake", self._sequence, kind, key, fact)
            while True:
                yield await stream.get()
        finally:
            self._streams.discard(stream)

    async def console(
        self, ticket: str, peer: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See ``KernelLink.console``."""
        self.asked.append(OpenConsole(ticket, peer))
        return await self.consoles.open(ticket)

    async def close(self) -> None:
        """See ``KernelLink.close``."""
        await self.screen.close()
        for job in tuple(self._jobs):
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def _machine(self, key: str) -> VmFact:
        vm = self.vm(key)
        if vm is None:
            raise _refused("ManagedObjectNotFound", "There is no such VM.")
        return vm

    def _power(self, request: object) -> TaskReply:
        assert isinstance(request, PowerOn | PowerOff | Reset)
        vm = self._machine(request.vm)
        operation = {PowerOn: "powerOn", PowerOff: "powerOff", Reset: "reset"}[type(request)]
        wanted = PowerState.POWERED_OFF if operation == "powerOff" else PowerState.POWERED_ON
        right = (vm.power is PowerState.POWERED_ON) == (operation != "powerOn")
        error = None if right else _wrong_state(wanted, vm.power)

        def finish() -> str:
            running = wanted is PowerState.POWERED_ON
            self.state(replace(vm, power=wanted, boot_time=BOOT_TIME + 60 if running else None))
            return ""

        user = self.sessions.find(request.session).user
        return self._task(request.vm, "VirtualMachine", operation, user, finish, error)

    def _shutdown(self, request: object) -> Empty:
        assert isinstance(request, ShutdownGuest)
        vm = self._machine(request.vm)
        if vm.power is not PowerState.POWERED_ON:
            raise RefusedError(_wrong_state(PowerState.POWERED_ON, vm.power))
        self.state(replace(vm, power=PowerState.POWERED_OFF, boot_time=None))
        return Empty()

    def _reboot(self, request: object) -> Empty:
        assert isinstance(request, RebootGuest | StandbyGuest)
        if not self.must_run(request.vm).guest.agent:
            raise _refused("ToolsUnavailable", "No agent runs in the guest.")
        return Empty()

    def _register(self, request: object) -> TaskReply:
        assert isinstance(request, RegisterVm)
        number = 1 + max((int(key) for kind, key in self._facts if kind == "VmFact"), default=0)
        fresh = fake_vm(number)

        def finish() -> str:
            self.state(replace(fresh, config=replace(fresh.config, vmx_path=request.path)))
            return fresh.vm

        user = self.sessions.find(request.session).user
        return self._task("ha-folder-vm", "Folder", "registerVm", user, finish, None)

    def _unregister(self, request: object) -> Empty:
        assert isinstance(request, UnregisterVm)
        vm = self._machine(request.vm)
        if vm.power is not PowerState.POWERED_OFF:
            raise RefusedError(_wrong_state(PowerState.POWERED_OFF, vm.power))
        self.retract(VmFact, vm.vm)
        return Empty()

    def _cancel(self, request: object) -> Empty:
        assert isinstance(request, CancelTask)
        fact = self.find(TaskFact, request.task)
        assert isinstance(fact, TaskFact)
        if fact.completed is not None:
            raise _refused("InvalidState", "The task has ended already.")
        raise _refused("NotSupported", "This task cannot be cancelled.")

    def _set_autostart(self, request: object) -> Empty:
        assert isinstance(request, SetAutoStart)
        present = self.find(AutoStartFact, AutoStartFact().key)
        setting = present if isinstance(present, AutoStartFact) else AutoStartFact()
        if request.defaults is not None:
            setting = replace(setting, defaults=request.defaults)
        self.state(merged(setting, request.entries))
        return Empty()

    def _maintenance(self, request: object) -> TaskReply:
        assert isinstance(request, EnterMaintenance | ExitMaintenance)
        inside = isinstance(request, EnterMaintenance)
        host = self.find(HostFact, "ha-host")
        assert isinstance(host, HostFact)

        def finish() -> str:
            self.state(replace(host, in_maintenance_mode=inside))
            return ""

        operation = "enterMaintenanceMode" if inside else "exitMaintenanceMode"
        return self.run(request.session, "ha-host", "HostSystem", operation, finish)

    def must_run(self, key: str) -> VmFact:
        """Return a running VM. Raises RefusedError."""
        vm = self._machine(key)
        if vm.power is not PowerState.POWERED_ON:
            raise RefusedError(_wrong_state(PowerState.POWERED_ON, vm.power))
        return vm

    def _quote(self, request: object) -> EvidenceReply:
        assert isinstance(request, Quote)
        pcrs = tuple(bank for bank in self.proof.pcrs if bank.algorithm in request.banks)
        quotes = tuple((b"attest " + request.nonce, b"signature") for _ in request.banks)
        return EvidenceReply(
            quotes,
            pcrs,
            self.proof.log,
            self.proof.components,
            self.proof.boot_complete,
            BOOT_TIME,
        )

    def _task(
        self,
        entity: str,
        kind: str,
        operation: str,
        user: str,
        finish: Callable[[], str],
        error: FaultFact | None,
    ) -> TaskReply:
        key = f"haTask-{entity}-vim.{kind}.{operation}-{secrets.token_hex(4)}"
        fact = TaskFact(
            key, entity, kind, operation, TaskState.RUNNING, 0, BOOT_TIME, user, started=BOOT_TIME
        )
        self.state(fact)
        job = asyncio.ensure_future(self._finish(fact, finish, error))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return TaskReply(key)

    async def _finish(
        self, fact: TaskFact, finish: Callable[[], str], error: FaultFact | None
    ) -> None:
        await asyncio.sleep(self.delay)
        self.state(replace(fact, progress=50))
        await asyncio.sleep(self.delay)
        if error is None:
            result = finish()
            done = replace(fact, state=TaskState.SUCCESS, progress=100, result=result)
        else:
            done = replace(fact, state=TaskState.ERROR, error=error)
        self.state(replace(done, completed=BOOT_TIME + 1))


def _stats(request: object) -> StatsReply:
    assert isinstance(request, QueryStats)
    times = tuple(BOOT_TIME + 20.0 * number for number in range(min(request.limit, 5)))
    series = tuple(Series(name, tuple(range(len(times)))) for name in request.counters)
    return StatsReply(request.entity, request.interval, times, series)


def _activate(request: object) -> ActivationReply:
    assert isinstance(request, ActivateCredential)
    return ActivationReply(request.credential_blob[::-1])


def _refused(fault: str, reason: str) -> RefusedError:
    return RefusedError(FaultFact(fault, "fake", reason, "none"))


def _wrong_state(requested: PowerState, existing: PowerState) -> FaultFact:
    details = (("requestedState", requested.value), ("existingState", existing.value))
    return FaultFact("InvalidPowerState", "power-state", "Wrong power state.", "none", details)
