"""FakeKernel: a whole kernel in memory, behind the same interface as the real one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from casemate.calls.autostart import AutoStart, AutoStop, SetAutoStart
from casemate.calls.hardening import HardeningAudit, HardeningReply
from casemate.calls.maintenance import EnterMaintenance, ExitMaintenance
from casemate.calls.messages import (
    ActivateCredential,
    ActivationReply,
    BankValues,
    CancelTask,
    CloneSession,
    Empty,
    EvidenceReply,
    FactReply,
    Identity,
    IdentityReply,
    Login,
    Logout,
    PowerOff,
    PowerOn,
    Quote,
    RegisterVm,
    Reset,
    ResumeSession,
    SessionReply,
    ShutdownGuest,
    TaskReply,
    UnregisterVm,
)
from casemate.calls.statistics import QueryStats, Series, StatsReply
from casemate.calls.vmconsole import (
    AcquireTicket,
    OpenConsole,
    SendKeys,
    TakeScreenshot,
    TicketReply,
)
from casemate.calls.vms import RebootGuest
from casemate.errors import FormatError
from casemate.hostd.kernelclient import KernelLink, RefusedError, Transfer
from casemate.machine.autostart import AutoStartFact, merged
from casemate.machine.facts import (
    Allocation,
    ComponentFact,
    DatastoreFact,
    DiskSpec,
    Fact,
    FaultFact,
    HardwareFact,
    HostDisk,
    HostFact,
    HostNic,
    NicSpec,
    NumaNode,
    PciDevice,
    PoolFact,
    PoolUsage,
    PowerState,
    TaskFact,
    TaskState,
    VmConfig,
    VmFact,
)
from casemate.machine.governance import SessionFact
from casemate.machine.networks import FIRST
from casemate.policy.hardening import Weight
from casemate.policy.hardeningreport import Area, EntropyRow, Outcome, Row
from casemate.testing.fakeadmin import ADMIN, READ_ONLY, FakeAdmin
from casemate.testing.fakefiles import FakeFiles
from casemate.testing.fakemodules import FakeModules
from casemate.testing.fakenetworks import FakeNetworks
from casemate.testing.fakescreen import FakeScreen
from casemate.testing.fakevms import FakeVms

F = TypeVar("F")
R = TypeVar("R")

USER = "root"
PASSWORD = "correct horse"  # noqa: S105  (a fake's)
READER = "auditor"
BOOT_TIME = 1_700_000_000.0
GIB = 1 << 30

HOST = HostFact(
    name="fake.example",
    uuid="4c4c4544-0042-3610-8058-b4c04f4e3132",
    product_version="0.1.0",
    build="1",
    boot_time=BOOT_TIME,
    cpu_model="Fake CPU",
    cpu_vendor="fake",
    cpu_mhz=2000,
    cpu_packages=1,
    cpu_cores=2,
    cpu_threads=4,
    memory_size=8 * GIB,
    numa_nodes=1,
    acceptance_level="partner",
    image_profile="casemate-0.1.0",
    image_vendor="Casemate",
    tpm_version="2.0",
    drtm_type="none",
    accelerator="tcg",
    accelerator_reason="a fake has no KVM",
)

HARDWARE = HardwareFact(
    pci=(
        PciDevice("0000:00:1f.2", 0x8086, 0x2922, 0x1AF4, 0x1100, 0x010601, "ahci", -1, -1),
        PciDevice("0000:80:03.0", 0x1AF4, 0x1000, 0x1AF4, 0x0001, 0x020000, "virtio-pci", -1, -1),
    ),
    disks=(HostDisk("sda", "Disk 1", "Fake", "F1", 100 * GIB, 512, True, False, "0000:00:1f.2"),),
    nics=(HostNic("eth0", "52:54:00:00:00:01", "virtio", 1000, True, True, 1500, "0000:80:03.0"),),
    numa=(NumaNode(0, (0, 1, 2, 3), 8 * GIB),),
    iommu=False,
    system_vendor="Fake Systems",
    system_model="Fake 1",
    bios_version="1.0",
)

DATASTORE = DatastoreFact(
    "5f1c8b7e-0a1b2c3d-4e5f-001122334455",
    "datastore1",
    "/volumes/datastore1",
    100 * GIB,
    60 * GIB,
)


def fake_vm(number: int) -> VmFact:
    """Return a powered-off VM with a disk, a CD drive and a network card."""
    name = f"vm{number}"
    config = VmConfig(
        name=name,
        uuid=f"564d0000-0000-4000-8000-{number:012x}",
        vmx_path=f"[datastore1] {name}/{name}.vmx",
        guest_id="debian12_64Guest",
        cpus=1,
        memory_mib=256,
        firmware="efi",
        disks=(
            DiskSpec(f"{name}.vmdk", "disk", "vmdk", 4 * GIB, "scsi0", 0),
            DiskSpec("seed.iso", "cdrom", "raw", 1 << 20, "sata0", 0),
        ),
        nics=(NicSpec(f"00:50:56:00:00:{number % 256:02x}", "VM Network", "vmxnet3"),),
        extra=(("guestinfo.note", "<fake & small>"),),
    )
    return VmFact(str(number), config, PowerState.POWERED_OFF, "ha-root-pool", DATASTORE.datastore)


@dataclass(slots=True)
class Proof:
    """What the fake shows as its TPM's identity and evidence."""

    identity: IdentityReply = field(
        default_factory=lambda: IdentityReply(b"ek certificate", b"ek", b"ak", "FAKE", "1", "fake")
    )
    log: bytes = b""
    pcrs: tuple[BankValues, ...] = ()
    components: tuple[ComponentFact, ...] = ()
    boot_complete: bool = True


AUDIT = HardeningReply(
    (
        Row(Area.COMPONENTS, "/usr/bin/one", "base", "pie", Weight.REQUIRED, Outcome.PASSED),
        Row(Area.PROCESSES, "hostd (7)", "hostdDom", "wx", Weight.REQUIRED, Outcome.PASSED),
        Row(
            *(Area.PLATFORM, "cpu", "cpu", "nx", Weight.REQUIRED, Outcome.FAILED),
            *("The processor has no NX.", "Use another machine."),
        ),
    ),
    (EntropyRow("hostd", "mmap", 28, 28, 64, 64),),
    70,
    (),
)
"""What the audit of the host says."""


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
        self._sessions: dict[str, SessionReply] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._sequence = 0
        self._tickets: set[str] = set()
        self.screen = FakeScreen()
        pool = Allocation(4000, 4000, expandable=True)
        memory = Allocation(8192, 8192, expandable=True)
        whole = PoolFact(
            "ha-root-pool",
            "Resources",
            "",
            pool,
            memory,
            cpu_usage=PoolUsage(max_usage=4000, unreserved=4000),
            memory_usage=PoolUsage(max_usage=8 * GIB, unreserved=8 * GIB),
        )
        self.state(
            HOST, HARDWARE, whole, replace(DATASTORE, path=str(volumes or "/none") + "/datastore1")
        )
        self.state(*FIRST.switches, *FIRST.groups)
        self.state(*(fake_vm(number) for number in range(1, vms + 1)))
        self.state(*self.proof.components)
        self._answers: dict[type, Callable[[object], object]] = {
            Login: self._login,
            HardeningAudit: lambda _: AUDIT,
            Logout: self._logout,
            CloneSession: self._clone,
            ResumeSession: self._resume,
            PowerOn: self._power,
            PowerOff: self._power,
            Reset: self._power,
            ShutdownGuest: self._shutdown,
            RebootGuest: self._reboot,
            RegisterVm: self._register,
            UnregisterVm: self._unregister,
            Identity: lambda _request: self.proof.identity,
            ActivateCredential: _activate,
            Quote: self._quote,
            QueryStats: _stats,
            CancelTask: self._cancel,
            AcquireTicket: self._ticket,
            TakeScreenshot: self._screenshot,
            SendKeys: self._keys,
            SetAutoStart: self._set_autostart,
            AutoStart: lambda _request: Empty(),
            AutoStop: lambda _request: Empty(),
            EnterMaintenance: self._maintenance,
            ExitMaintenance: self._maintenance,
        }
        admin = FakeAdmin(self, {USER: ADMIN, READER: READ_ONLY})
        self._answers |= admin.answers()
        self._answers |= FakeVms(self).answers()
        self._files = FakeFiles(self)
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
        return self._session(session).user

    def run(
        self, session: str, entity: str, kind: str, operation: str, finish: Callable[[], str]
    ) -> TaskReply:
        """Run a task that succeeds."""
        user = self._session(session).user
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
        if ticket not in self._tickets:
            raise _refused("SecurityError", "The ticket is not, or no longer, good.")
        self._tickets.discard(ticket)
        return await self.screen.connect()

    async def close(self) -> None:
        """See ``KernelLink.close``."""
        await self.screen.close()
        for job in tuple(self._jobs):
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def _login(self, request: object) -> SessionReply:
        assert isinstance(request, Login)
        if request.user not in {USER, READER} or request.password != PASSWORD:
            raise _refused("InvalidLogin", "Cannot complete login.")
        return self._open(request.user, request.peer)

    def _open(self, user: str, peer: str) -> SessionReply:
        reader = ("System.Anonymous", "System.View", "System.Read")
        reply = SessionReply(
            secrets.token_hex(32),
            secrets.token_hex(16),
            user,
            user.capitalize(),
            ("Admin",) if user == USER else reader,
            BOOT_TIME,
        )
        self._sessions[reply.handle] = reply
        self.state(SessionFact(reply.key, reply.user, peer, BOOT_TIME))
        return reply

    def _clone(self, request: object) -> SessionReply:
        assert isinstance(request, CloneSession)
        return self._open(self._session(request.session).user, request.peer)

    def _logout(self, request: object) -> Empty:
        assert isinstance(request, Logout)
        if (ended := self._sessions.pop(request.session, None)) is not None:
            self.retract(SessionFact, ended.key)
        return Empty()

    def _resume(self, request: object) -> SessionReply:
        assert isinstance(request, ResumeSession)
        return self._session(request.session)

    def _session(self, handle: str) -> SessionReply:
        if handle not in self._sessions:
            raise _refused("NotAuthenticated", "The session is not authenticated.")
        return self._sessions[handle]

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

        user = self._session(request.session).user
        return self._task(request.vm, "VirtualMachine", operation, user, finish, error)

    def _shutdown(self, request: object) -> Empty:
        assert isinstance(request, ShutdownGuest)
        vm = self._machine(request.vm)
        if vm.power is not PowerState.POWERED_ON:
            raise RefusedError(_wrong_state(PowerState.POWERED_ON, vm.power))
        self.state(replace(vm, power=PowerState.POWERED_OFF, boot_time=None))
        return Empty()

    def _reboot(self, request: object) -> Empty:
        assert isinstance(request, RebootGuest)
        if not self._must_run(request.vm).guest.agent:
            raise _refused("ToolsUnavailable", "No agent runs in the guest.")
        return Empty()

    def _register(self, request: object) -> TaskReply:
        assert isinstance(request, RegisterVm)
        number = 1 + max((int(key) for kind, key in self._facts if kind == "VmFact"), default=0)
        fresh = fake_vm(number)

        def finish() -> str:
            self.state(replace(fresh, config=replace(fresh.config, vmx_path=request.path)))
            return fresh.vm

        user = self._session(request.session).user
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

    def _ticket(self, request: object) -> TicketReply:
        assert isinstance(request, AcquireTicket)
        self._must_run(request.vm)
        ticket = secrets.token_hex(32)
        self._tickets.add(ticket)
        return TicketReply(ticket, 60)

    def _screenshot(self, request: object) -> TaskReply:
        assert isinstance(request, TakeScreenshot)
        vm = self._must_run(request.vm)
        path = vm.config.vmx_path.replace(".vmx", "-1.png")
        return self.run(request.session, vm.vm, "VirtualMachine", "createScreenshot", lambda: path)

    def _keys(self, request: object) -> Empty:
        assert isinstance(request, SendKeys)
        self._must_run(request.vm)
        return Empty()

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

    def _must_run(self, key: str) -> VmFact:
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
