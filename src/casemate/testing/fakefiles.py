"""The files of FakeKernel: the kernel's own handlers over a directory of the test's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from casemate.calls import files as c
from casemate.calls.codec import decode
from casemate.errors import CasemateError, NotFoundError, PermissionDeniedError
from casemate.hostd.kernelclient import RefusedError, Transfer
from casemate.kernel.accounts import LOCAL_ROOT, Session
from casemate.kernel.datastores import Datastores
from casemate.kernel.fileguard import Refuse
from casemate.kernel.foreigndisks import ForeignDisks
from casemate.kernel.plugins.runner import Session as PluginSession
from casemate.kernel.server import carry_out
from casemate.kernel.stream import FactStream
from casemate.kernel.tasks import Tasks, fault_of
from casemate.kernel.transfers import Transfers
from casemate.kernel.virtualdisks import VirtualDisks
from casemate.machine.facts import DatastoreFact, Fact, TaskFact, VmFact

F = TypeVar("F")
ADMINISTRATOR = "root"


class Facts(Protocol):
    """What the fake files need of the fake kernel."""

    def state(self, *facts: Fact) -> None:
        """State facts."""

    def retract(self, kind: type, key: str) -> None:
        """State that an object is gone."""

    def find(self, kind: type, key: str) -> Fact | None:
        """Return a fact."""

    def all(self, kind: type[F]) -> tuple[F, ...]:
        """Return all facts of a kind."""

    def user(self, session: str) -> str:
        """Return whose session it is."""


class _Stream(FactStream):
    """Hands on to the fake kernel what tasks say."""

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self._told = facts

    def publish(self, fact: Fact) -> None:
        self._told.state(fact)

    def retract(self, kind: type, key: str) -> None:
        self._told.retract(kind, key)

    def fact(self, kind: str, key: str) -> Fact | None:
        return self._told.find({"TaskFact": TaskFact}[kind], key)


class NoPlugins:
    """A host without plug-ins."""

    def storage(self, _suffix: str) -> str | None:
        """Return none."""
        return None

    def use(
        self, name: str, _told: Mapping[str, Any], _files: Mapping[str, int]
    ) -> AbstractContextManager[PluginSession]:
        """Raise NotFoundError."""
        raise NotFoundError(f"There is no plug-in {name}.")


class FakeFiles:
    """Answers the requests of ``calls.files``, and carries out ``others``, which are transfers."""

    def __init__(
        self, facts: Facts, others: Mapping[type, Callable[[object], Awaitable[object]]]
    ) -> None:
        self._facts = facts
        self._others = others
        tasks = Tasks(_Stream(facts), lambda: 1_700_000_000.0)
        datastores = Datastores(self, tasks, self._check)
        self._transfers = Transfers(datastores, self._session, self._check).handlers()
        self.handlers = {
            **datastores.handlers(),
            **VirtualDisks(datastores, ForeignDisks(NoPlugins())).handlers(),
        }

    async def ask(self, request: object) -> object:
        """Answer a request. Raises RefusedError."""
        try:
            return await self._handle(request)
        except CasemateError as error:
            raise RefusedError(fault_of(error)) from error

    @asynccontextmanager
    async def transfer(self, request: object) -> AsyncIterator[Transfer]:
        """Carry out a transfer over a pair of sockets."""
        here, there = socket.socketpair()
        ours, theirs = [await asyncio.open_connection(sock=one) for one in (here, there)]
        serving = asyncio.ensure_future(self._serve(*theirs))
        transfer = Transfer(*ours)
        try:
            await transfer.begin(request)
            yield transfer
        finally:
            await transfer.close()
            await serving

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4), "big")
        number, request = decode(await reader.readexactly(size), (*c.REQUESTS, *self._others))
        await carry_out(self._handle(request), reader, writer, number)
        writer.close()

    async def _handle(self, request: object) -> object:
        session = self._session(str(getattr(request, "session", "")))
        privilege: str = type(request).privilege  # type: ignore[attr-defined]  # every request has one
        self._check(session, privilege, request)
        if (other := self._others.get(type(request))) is not None:
            return await other(request)
        return await {**self.handlers, **self._transfers}[type(request)](request, session)

    def _session(self, handle: str) -> Session:
        return replace(LOCAL_ROOT, key=handle, user=self._facts.user(handle))

    def _check(self, session: Session, privilege: str, _request: object) -> None:
        if session.user != ADMINISTRATOR and not privilege.startswith("System."):
            raise PermissionDeniedError("no", privilege=privilege)

    def datastore(self, datastore: str) -> DatastoreFact:
        """See ``Places``."""
        fact = self._facts.find(DatastoreFact, datastore)
        if not isinstance(fact, DatastoreFact):
            raise NotFoundError("There is no such datastore.")
        return fact

    def datastores(self) -> tuple[DatastoreFact, ...]:
        """See ``Places``."""
        return self._facts.all(DatastoreFact)

    def make_datastore(self, name: str) -> str:
        """See ``Places``."""
        (known,) = self._facts.all(DatastoreFact)[:1]
        path = Path(known.path).with_name(name)
        path.mkdir()
        self._facts.state(replace(known, datastore=f"id-{name}", name=name, path=str(path)))
        return f"id-{name}"

    def remove_datastore(self, datastore: str) -> None:
        """See ``Places``."""
        Path(self.datastore(datastore).path).rmdir()
        self._facts.retract(DatastoreFact, datastore)

    def refresh_datastores(self) -> None:
        """See ``Places``."""

    def vms(self) -> tuple[VmFact, ...]:
        """See ``Places``."""
        return self._facts.all(VmFact)

    @contextmanager
    def guarded(self, refuse: Refuse, changed: Sequence[tuple[Path, str]] = ()) -> Iterator[None]:
        """See ``Places``."""
        assert all(place.is_absolute() for place, _ in changed)
        for fact in self.vms():
            refuse(fact, self.directory(fact))
        yield

    def directory(self, fact: VmFact) -> Path:
        """See ``Places``."""
        folder = fact.config.vmx_path.partition("] ")[2].rpartition("/")[0]
        return Path(self.datastore(fact.datastore).path, folder)
