"""The kernel: answers the calls, one handler a request, each checked for session and privilege.

Reads go to hostd's replica and never come here. What changes something runs as a task; a refusal
is typed and already names its fault.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from casemate import __version__
from casemate.calls import messages as m
from casemate.calls.console import ConsoleLogin
from casemate.calls.pools import AssignVm
from casemate.errors import (
    CasemateError,
    Finding,
    NotAuthenticatedError,
    NotFoundError,
    PermissionDeniedError,
    StateError,
)
from casemate.kernel.accounts import CONSOLE, LOCAL_ROOT, PLATE, Accounts, Session
from casemate.kernel.cells.cell import CellExit
from casemate.kernel.cells.manager import Cells
from casemate.kernel.elsewhere import demand_elsewhere
from casemate.kernel.home import CONSOLE_UID, HOSTD_UID
from casemate.kernel.inventory import BROWSE, ROOT_POOL, Destination, Inventory
from casemate.kernel.leftovers import tidy
from casemate.kernel.logins import Logins
from casemate.kernel.measurements import Measurements
from casemate.kernel.server import Caller
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import Job, Tasks, Work
from casemate.kernel.vmcontext import VmContext
from casemate.kernel.vmfiles import disks_of_snapshots
from casemate.machine.facts import PowerState, VmConfig, VmFact
from casemate.machine.power import Operation, next_state
from casemate.machine.vmconfig import resting_state
from casemate.policy.privileges import ANONYMOUS, demand

Handler = Callable[..., Awaitable[object]]
_AUDITED = 256
"""Characters of each text in the audit log: strangers write some of them."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class About:
    """What the kernel says of itself."""

    home: str
    api: str
    boot_time: float


class Kernel:
    """Everything behind the calls socket. ``clock`` gives Unix seconds."""

    def __init__(
        self,
        store: Store,
        stream: FactStream,
        accounts: Accounts,
        inventory: Inventory,
        measurements: Measurements,
        start_cells: Callable[[Callable[[CellExit], None]], Cells],
        about: About,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._stream = stream
        self._accounts = accounts
        self._inventory = inventory
        self._measurements = measurements
        self._cells = start_cells(self.exited)
        self._about = about
        self._clock = clock
        self._tasks = Tasks(stream, clock)
        self._check: Callable[[Session, str, object], None] = _by_role
        self.logins = Logins(accounts, clock)
        """Whoever shows a password waits for the same turn."""
        self._watchers: list[Callable[[], tuple[Finding, ...]]] = []
        self._ended: list[Callable[[str], None]] = []
        self._handlers: dict[type, Handler] = {
            m.Login: self._login,
            ConsoleLogin: self._console_login,
            m.Logout: self._logout,
            m.ResumeSession: self._resume,
            m.CloneSession: self._clone,
            m.Reset: self._reset,
            m.RegisterVm: self._register,
            m.UnregisterVm: self._unregister,
            m.Identity: self._identity,
            m.ActivateCredential: self._activate,
            m.Quote: self._quote,
            m.Status: self._status,
            m.Snapshot: self._snapshot,
            m.CancelTask: self._cancel,
        }

    @property
    def vms(self) -> VmContext:
        """What operations on VMs need; nobody has said yet what they may have."""
        return VmContext(
            self._inventory, self._cells, self._tasks, self._store, self._clock, _nothing
        )

    def govern(self, check: Callable[[Session, str, object], None]) -> None:
        """Decide about privileges by ``check(session, privilege, request)`` from now on."""
        self._check = check

    def check(self, session: Session, privilege: str, request: object) -> None:
        """Raise PermissionDeniedError unless the session may do so to what ``request`` names."""
        self._check(session, privilege, request)

    def watch(self, findings: Callable[[], tuple[Finding, ...]]) -> None:
        """Ask this for findings whenever somebody asks for the status."""
        self._watchers.append(findings)

    def add(self, handlers: Mapping[type, Handler]) -> None:
        """Add the handlers of a topic: ``handler(request, session)``; no request has two.

        ``session`` is None for requests of privilege System.Anonymous.
        """
        if twice := self._handlers.keys() & handlers.keys():
            raise ValueError(f"{min(kind.__name__ for kind in twice)} has two handlers")
        self._handlers |= handlers

    async def handle(self, request: object, caller: Caller) -> object:
        """Answer one request. Raises our errors; every other escape is a defect."""
        kind = type(request)
        _check_console(request, caller)
        privilege: str = kind.privilege  # type: ignore[attr-defined]  # every request has one
        session = None
        if privilege != ANONYMOUS:
            # What nobody's session asks is not written down: strangers would fill the log.
            session = self._session(getattr(request, "session", ""), caller)
        try:
            if session is not None:
                self._check(session, privilege, request)
            reply = await self._handlers[kind](request, session)
        except CasemateError as error:
            self._audit(request, session, f"refused: {error.code}")
            raise
        self._audit(request, session, "ok")
        return reply

    async def adopt(self) -> None:
        """Find the VMs that ran before this life of the kernel."""
        for state in await self._cells.adopt_all():
            try:
                self.vms.adopt(state)
            except NotFoundError:
                _log.warning("VM %s runs and is registered no more: it is ended", state.vm)
                await self._cells.power_off(state.vm)
            except CasemateError as error:
                _log.warning("VM %s adopted: %s", state.vm, error.reason)
            else:
                _log.info("VM %s adopted", state.vm)
        await asyncio.to_thread(tidy, self.vms)

    @property
    def cells(self) -> Cells:
        """The running VMs."""
        return self._cells

    async def stop(self) -> None:
        """Power off every VM, asking the guests first; ends when all are off."""
        running = [f for f in self._inventory.vms() if f.power is PowerState.POWERED_ON]
        await asyncio.gather(*(self._stop_vm(fact) for fact in running))
        await self._tasks.drain()

    def on_exit(self, ended: Callable[[str], None]) -> None:
        """Tell this, too, which VM has ended."""
        self._ended.append(ended)

    def running(self) -> dict[str, VmConfig]:
        """Return what the running VMs are made of."""
        running = {state.vm for state in self._cells.running()}
        return {fact.vm: fact.config for fact in self._inventory.vms() if fact.vm in running}

    def exited(self, info: CellExit) -> None:
        """Take note that a cell has ended by itself."""
        for ended in self._ended:
            ended(info.vm)
        try:
            fact = self._inventory.vm(info.vm)
        except CasemateError:
            return
        _log.info("VM %s (%s) ended: %s", info.vm, fact.config.name, info.reason)
        self._off(fact)

    def _session(self, handle: str, caller: Caller) -> Session:
        if handle:
            return self._accounts.session(handle)
        if caller.uid == 0:
            return LOCAL_ROOT
        if caller.uid == CONSOLE_UID:
            return PLATE
        raise NotAuthenticatedError("The session is not authenticated.")

    def _audit(self, request: object, session: Session | None, outcome: str) -> None:
        if not vars(type(request)).get("audited", True):
            return
        user = session.user if session else getattr(request, "user", "")
        thing = str(getattr(request, "vm", "") or getattr(request, "path", ""))
        why = str(getattr(request, "why", "") or getattr(request, "peer", ""))
        texts = (text[:_AUDITED] for text in (thing, why, outcome))
        name = type(request).__name__
        self._store.audit.append(self._clock(), user[:_AUDITED], name, *texts)

    async def _console_login(self, request: ConsoleLogin, _: None) -> m.SessionReply:
        return await self._open(request.user, request.password, CONSOLE)

    async def _login(self, request: m.Login, _: None) -> m.SessionReply:
        return await self._open(request.user, request.password, request.peer)

    async def _open(self, user: str, password: str, peer: str) -> m.SessionReply:
        return _session_reply(*await self.logins.open(user, password, peer))

    async def _logout(self, request: m.Logout, _: Session) -> m.Empty:
        self._accounts.logout(request.session)
        return m.Empty()

    async def _resume(self, request: m.ResumeSession, session: Session) -> m.SessionReply:
        return _session_reply(request.session, session)

    async def _clone(self, request: m.CloneSession, session: Session) -> m.SessionReply:
        return _session_reply(*self._accounts.another(session.user, request.peer))

    async def _reset(self, request: m.Reset, session: Session) -> m.TaskReply:
        fact = self._demand(request.vm, Operation.RESET)

        async def work(_: Job) -> str:
            await self._cells.reset(fact.vm)
            self._inventory.update(replace(self._inventory.vm(fact.vm), boot_time=self._clock()))
            return ""

        return self._start(fact, Operation.RESET, session, work)

    async def _register(self, request: m.RegisterVm, session: Session) -> m.TaskReply:
        pool = request.into or ROOT_POOL
        if pool != ROOT_POOL:
            self._check(session, AssignVm.privilege, Destination(pool))
            self._inventory.demand_pool(pool)
        self._check(session, BROWSE, self._inventory.place_of(request.path))

        def allow(fact: VmFact) -> None:
            # Who wrote its files may have named disks of others.
            demand_elsewhere(
                self._check, self._inventory, session, fact.config, more=disks_of_snapshots(fact)
            )

        async def work(_: Job) -> str:
            return await self._inventory.register(request.path, pool, allow=allow)

        self._inventory.resolve(request.path)
        task = self._tasks.start(
            "ha-folder-vm", "Folder", "registerVm", session.user, work, exclusive=False
        )
        return m.TaskReply(task)

    async def _unregister(self, request: m.UnregisterVm, _: Session) -> m.Empty:
        self._demand(request.vm, Operation.UNREGISTER)
        self._tasks.demand_free(request.vm)
        self._inventory.unregister(request.vm)
        return m.Empty()

    async def _cancel(self, request: m.CancelTask, session: Session) -> m.Empty:
        fact = self._tasks.find(request.task)
        if request.vm != (fact.entity if fact.entity_kind == "VirtualMachine" else ""):
            raise NotFoundError("that VM has no such task", component=request.vm)
        if session.user != fact.user:
            self._check(session, "Global.CancelTask", request)
        self._tasks.cancel(request.task)
        return m.Empty()

    async def _identity(self, _request: m.Identity, _: None) -> m.IdentityReply:
        return await self._measurements.identity()

    async def _activate(self, request: m.ActivateCredential, _: None) -> m.ActivationReply:
        return await self._measurements.activate(request)

    async def _quote(self, request: m.Quote, _: None) -> m.EvidenceReply:
        return await self._measurements.quote(request)

    async def _snapshot(self, _request: m.Snapshot, _: Session) -> m.SnapshotReply:
        return m.SnapshotReply(self._stream.facts())

    async def _status(self, _request: m.Status, _: Session) -> m.StatusReply:
        record = self._measurements.record
        return m.StatusReply(
            state="running" if self._measurements.complete else "starting",
            home=self._about.home,
            api=self._about.api,
            version=__version__,
            boot_bank=record.bank,
            boot_time=self._about.boot_time,
            tpm=self._measurements.lost or "ok",
            findings=tuple(
                (found.code, found.component, found.reason, found.remedy)
                for watcher in self._watchers
                for found in watcher()
            ),
            processes=tuple(
                (fact.config.name, fact.pid, fact.domain)
                for fact in self._inventory.vms()
                if fact.pid is not None
            ),
        )

    def _demand(self, vm: str, operation: Operation) -> VmFact:
        fact = self._inventory.vm(vm)
        next_state(operation, fact.power, component=fact.config.name)
        return fact

    def _start(self, fact: VmFact, operation: str, session: Session, work: Work) -> m.TaskReply:
        task = self._tasks.start(fact.vm, "VirtualMachine", operation, session.user, work)
        return m.TaskReply(task)

    def _off(self, fact: VmFact) -> None:
        self._store.set_running(int(fact.vm), running=False)
        self._inventory.update(
            VmFact(
                vm=fact.vm,
                config=fact.config,
                power=resting_state(fact.config),
                pool=fact.pool,
                datastore=fact.datastore,
                snapshots=fact.snapshots,
                current_snapshot=fact.current_snapshot,
            )
        )

    async def _stop_vm(self, fact: VmFact) -> None:
        try:
            await self._cells.shutdown_guest(fact.vm)
            for _ in range(50):
                await asyncio.sleep(0.2)
                if self._inventory.vm(fact.vm).power is PowerState.POWERED_OFF:
                    return
            await self._cells.power_off(fact.vm)
        except CasemateError as error:
            _log.warning("VM %s did not stop in order: %s", fact.vm, error.reason)


def _check_console(request: object, caller: Caller) -> None:
    """Raise where hostd, which strangers talk to, claims to be in front of the host."""
    claims = isinstance(request, ConsoleLogin) or getattr(request, "peer", "") == CONSOLE
    if claims and caller.uid == HOSTD_UID:
        raise PermissionDeniedError(
            "Only the direct console may say so.", privilege="System.View", component="console"
        )


def _nothing(fact: VmFact, _config: VmConfig) -> None:
    """Refuse every change of what a VM has."""
    raise StateError(
        "nobody says what this host can give", code="not-admitted", component=fact.config.name
    )


def _by_role(session: Session, privilege: str, request: object) -> None:
    demand(session.role, privilege, getattr(request, "vm", "ha-host"))


def _session_reply(handle: str, session: Session) -> m.SessionReply:
    return m.SessionReply(
        handle=handle,
        key=session.key,
        user=session.user,
        full_name=session.full_name,
        privileges=tuple(sorted(session.role.privileges)) or (session.role.name,),
        login_time=session.login_time,
    )
