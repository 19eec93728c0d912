"""What the host has: its VMs, its pool, its datastores, kept in the store and told as facts.

Datastore paths are vSphere's: ``[datastore1] demo/demo.vmx``. They are resolved below the
datastore's directory; no component may be a link or lead out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from casemate.errors import (
    ArgumentError,
    CasemateError,
    DatastorePathError,
    DuplicateNameError,
    FileLockedError,
    NotFoundError,
)
from casemate.formats import vmx
from casemate.kernel.cells import disks
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.store import Store, StoredVm
from casemate.kernel.stream import FactStream
from casemate.kernel.sys.libc import from_os_error
from casemate.machine.facts import (
    Allocation,
    DatastoreFact,
    DiskSpec,
    PoolFact,
    PowerState,
    SnapshotSpec,
    VmConfig,
    VmFact,
)
from casemate.machine.snapshots import snapshots_of
from casemate.machine.vmconfig import resting_state, vm_config

ROOT_POOL = "ha-root-pool"
VMX_LIMIT = 1 << 18
"""Bytes of a .vmx file: real ones have some kilobytes."""

_log = logging.getLogger(__name__)
_DATASTORE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,41}")
_PATH = re.compile(r"\[([A-Za-z0-9_.-]{1,42})\] ?([^\x00-\x1f]{1,255})")


ALLOCATE = "Datastore.AllocateSpace"
"""Privilege of who makes VMs, disks or copies on a datastore."""

BROWSE = "Datastore.Browse"
"""Privilege of who has a file of a datastore read."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where something is moved to or taken from, as the checks of privileges see it."""

    pool: str = ""
    datastore: str = ""


class Inventory:
    """Publishes and finds the objects of the host. ``volumes`` holds one directory a datastore."""

    def __init__(self, store: Store, stream: FactStream, volumes: Path, host_uuid: str) -> None:
        self._store = store
        self._stream = stream
        self.volumes = volumes
        self._host_uuid = host_uuid
        self._vms: dict[str, VmFact] = {}
        # Threads change files while VMs are registered. Never taken in the event loop's own.
        self._changes = threading.Lock()
        self._refusing: list[Callable[[VmFact, Path], None]] = []
        self._coming: dict[object, VmFact] = {}
        self._changing: dict[object, tuple[frozenset[Path], bool]] = {}

    def publish_all(self, cpu_mhz: int, memory_mib: int) -> None:
        """Publish pool, datastores and every registered VM (as powered off)."""
        self._stream.publish(
            PoolFact(
                ROOT_POOL,
                "Resources",
                "",
                Allocation(reservation=cpu_mhz, expandable=True),
                Allocation(reservation=memory_mib, expandable=True),
            )
        )
        self.refresh_datastores()
        for stored in self._store.vms():
            self._publish_stored(stored)

    def refresh_datastores(self) -> None:
        """Publish size and free space of every datastore."""
        for place in sorted(p for p in self.volumes.iterdir() if p.is_dir()):
            space = os.statvfs(place)
            self._stream.publish(
                DatastoreFact(
                    datastore=str(uuid.uuid5(uuid.UUID(self._host_uuid), place.name)),
                    name=place.name,
                    path=str(place),
                    capacity=space.f_blocks * space.f_frsize,
                    free=space.f_bavail * space.f_frsize,
                )
            )

    def datastore(self, datastore: str) -> DatastoreFact:
        """Return a datastore. Raises NotFoundError."""
        fact = self._stream.fact("DatastoreFact", datastore)
        if not isinstance(fact, DatastoreFact):
            raise NotFoundError("There is no such datastore.", component=datastore)
        return fact

    def place_of(self, path: str) -> Destination:
        """Return the datastore of a datastore path as what privileges are checked on.

        One that there is not has a place as well, below the folder of all datastores.
        """
        name = path.partition("]")[0].removeprefix("[")
        return Destination(datastore=str(uuid.uuid5(uuid.UUID(self._host_uuid), name)))

    def datastores(self) -> tuple[DatastoreFact, ...]:
        """Return all datastores."""
        return tuple(fact for fact in self._stream.facts() if isinstance(fact, DatastoreFact))

    def demand_datastore(self, name: str) -> None:
        """Raise DatastorePathError where no datastore has the name."""
        if not any(fact.name == name for fact in self.datastores()):
            raise DatastorePathError(f"there is no datastore {name[:80]!r}", file=f"[{name[:80]}]")

    def make_datastore(self, name: str) -> str:
        """Make an empty datastore and return its id.

        Raises:
            ArgumentError: The name is none, or is taken.
            HostError: It cannot be made.
        """
        if not _DATASTORE.fullmatch(name):
            raise ArgumentError(f"{name[:80]!r} is not the name of a datastore", argument="name")
        try:
            (self.volumes / name).mkdir(mode=0o755)
        except FileExistsError:
            reason = f"there is a datastore {name} already"
            raise ArgumentError(reason, argument="name") from None
        except OSError as error:
            raise from_os_error(f"cannot make {name}", error, component=name) from error
        self.refresh_datastores()
        return str(uuid.uuid5(uuid.UUID(self._host_uuid), name))

    def remove_datastore(self, datastore: str) -> None:
        """Remove an empty datastore. Raises HostError: something is on it."""
        fact = self.datastore(datastore)
        try:
            Path(fact.path).rmdir()
        except OSError as error:
            reason = f"{fact.name} is not removed"
            raise from_os_error(reason, error, component=fact.name) from error
        self._stream.retract(DatastoreFact, datastore)

    def vm(self, vm: str) -> VmFact:
        """Return a VM. Raises NotFoundError."""
        try:
            return self._vms[vm]
        except KeyError:
            raise NotFoundError(
                "The object has already been deleted or has not been completely created",
                component=vm,
            ) from None

    def vms(self) -> tuple[VmFact, ...]:
        """Return all VMs."""
        return tuple(self._vms.values())

    def update(self, fact: VmFact) -> None:
        """Publish a VM as it is now."""
        self._vms[fact.vm] = fact
        self._stream.publish(fact)

    def demand_pool(self, pool: str) -> None:
        """Raise NotFoundError where there is no such pool."""
        if pool != ROOT_POOL and self._stream.fact("PoolFact", pool) is None:
            raise NotFoundError(f"there is no pool {pool[:40]!r}", component=pool[:40])

    async def register(
        self, path: str, pool: str = ROOT_POOL, *, allow: Callable[[VmFact], None]
    ) -> str:
        """Register the VM of a .vmx file and return its id. Raises our errors; then nothing is.

        ``allow`` is shown what is to be registered, and refuses by raising.
        """
        self._demand_new(path, pool)
        self._demand_fit(await asyncio.to_thread(self._read_fact, path, pool), allow)
        async with self._claimed(lambda: self._read_fact(path, pool)) as fact:
            # Its file may be another by now, and others may have come.
            self._demand_new(path, pool)
            self._demand_fit(fact, allow)
            number = self._store.add_vm(path, pool)
            self.update(replace(fact, vm=str(number)))
        return str(number)

    def _read_fact(self, path: str, pool: str) -> VmFact:
        return self._fact("", self._read(path), pool)

    def _demand_new(self, path: str, pool: str) -> None:
        self.demand_pool(pool)
        if any(stored.vmx_path == path for stored in self._store.vms()):
            raise ArgumentError(f"{path} is registered already", argument="path", component=path)

    def _demand_fit(self, fact: VmFact, allow: Callable[[VmFact], None]) -> None:
        if any(one.config.uuid == fact.config.uuid for one in self._vms.values()):
            raise ArgumentError(
                f"a VM with the uuid {fact.config.uuid} is registered already",
                argument="path",
                component=fact.config.vmx_path,
            )
        self.demand_name(fact.config.name)
        allow(fact)

    @contextmanager
    def guarded(
        self,
        refuse: Callable[[VmFact, Path], None],
        changed: Sequence[tuple[Path, str]] = (),
        *,
        present: bool = True,
        shared: bool = False,
    ) -> Iterator[None]:
        """Let no VM come to have files so that ``refuse`` refuses it.

        It is asked about those that are coming, and where ``present`` about those there are. Reads
        files: not for the event loop.

        Args:
            refuse: Raises FileLockedError.
            changed: What is changed meanwhile, and by nobody else: (place, datastore path) each.
            present: Whether it is asked about the VMs that there are.
            shared: Others that are ``shared`` may change it too: they ask each other.

        Raises:
            FileLockedError: It refuses one of them, or somebody else changes one of the files.
        """
        key = object()
        with self._changes:
            self._demand_unchanged(changed, shared=shared)
            # In this order: who has come is among the present before it is no longer coming.
            asked = tuple(self._coming.values())
            for fact in (*asked, *(self.vms() if present else ())):
                try:
                    place = self.directory(fact)
                except ArgumentError:
                    continue
                refuse(fact, place)
            self._refusing.append(refuse)
            self._changing[key] = frozenset(place for place, _ in changed), shared
        try:
            yield
        finally:
            del self._changing[key]
            self._refusing.remove(refuse)

    def _demand_unchanged(self, changed: Sequence[tuple[Path, str]], *, shared: bool) -> None:
        for places, both in tuple(self._changing.values()):
            if shared and both:
                continue
            above = {up for place in places for up in place.parents}
            for place, shown in changed:
                if place in places or place in above or not places.isdisjoint(place.parents):
                    raise FileLockedError(
                        f"{shown} is being changed by another task",
                        file=shown,
                        remedy="Wait till that task has ended, or cancel it.",
                    )

    @asynccontextmanager
    async def admitting(self, fact: VmFact) -> AsyncIterator[None]:
        """Let a VM come to have files that nobody changes meanwhile, and keep it so till it has.

        Raises:
            FileLockedError: One is being changed.
        """
        async with self._claimed(lambda: fact):
            yield

    @asynccontextmanager
    async def _claimed(self, read: Callable[[], VmFact]) -> AsyncIterator[VmFact]:
        """Give a VM that nobody refuses; whoever begins to refuse is asked about it."""
        key = object()

        def claim() -> VmFact:
            with self._changes:
                fact = read()
                place = self.directory(fact)
                for refuse in tuple(self._refusing):
                    refuse(fact, place)
                self._coming[key] = fact
            return fact

        try:
            yield await asyncio.to_thread(claim)
        finally:
            self._coming.pop(key, None)

    def demand_name(self, name: str, vm: str = "") -> None:
        """Raise DuplicateNameError where another VM than ``vm`` has the name."""
        for fact in self._vms.values():
            if fact.config.name == name and fact.vm != vm:
                raise DuplicateNameError(
                    f"The name {name!r} already exists.",
                    name=name,
                    holder=f"VirtualMachine:{fact.vm}",
                )

    def reread(self, vm: str) -> VmFact:
        """Read a VM's files again, publish it and return it. Raises our errors."""
        fact = self.vm(vm)
        snapshots, current, unread = self._snapshots(fact.config.vmx_path)
        fact = replace(
            fact,
            config=self._read(fact.config.vmx_path),
            snapshots=snapshots,
            current_snapshot=current,
            unread=unread,
        )
        if fact.power is not PowerState.POWERED_ON:
            fact = replace(fact, power=resting_state(fact.config))
        self.update(fact)
        return fact

    def unregister(self, vm: str) -> None:
        """Forget a VM; its files stay. Raises NotFoundError."""
        self.vm(vm)
        self._store.remove_vm(int(vm))
        del self._vms[vm]
        self._stream.retract(VmFact, vm)

    def directory(self, fact: VmFact) -> Path:
        """Return the directory of a VM's files."""
        return self.resolve(fact.config.vmx_path).parent

    def resolve(self, path: str) -> Path:
        """Return the file of a datastore path. Raises ArgumentError where it leads elsewhere."""
        found = _PATH.fullmatch(path)
        parts = found[2].split("/") if found else []
        # A datastore called "." would be all of them, past the privileges on each.
        if not found or any(part in ("", ".", "..") for part in (found[1], *parts)):
            raise ArgumentError(
                f"{path!r} is not a datastore path like [datastore1] folder/file.vmx",
                argument="path",
                component=path,
            )
        place = self.volumes / found[1]
        for part in parts:
            if place.is_symlink():
                break
            place /= part
        if place.is_symlink() or not place.resolve().is_relative_to(self.volumes.resolve()):
            raise ArgumentError(f"{path} leads out of the datastore", argument="path")
        return place

    def _read(self, path: str) -> VmConfig:
        place = self.resolve(path)
        try:
            handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise NotFoundError(f"{path}: {error.strerror}", component=path) from error
        with open(handle, "rb") as file:  # noqa: PTH123  (a descriptor, not a path)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ArgumentError(f"{path} is not a file", argument="path", component=path)
            config = vm_config(vmx.parse(file.read(VMX_LIMIT + 1)), path)
        # As VMware's own: without one it follows from the machine and the place of the file.
        own = str(uuid.uuid5(uuid.UUID(self._host_uuid), path))
        with VmDirectory(place.parent, volumes=self.volumes) as directory:
            disks = _with_capacities(directory, config.disks)
        return replace(config, uuid=config.uuid or own, disks=disks)

    def _snapshots(self, path: str) -> tuple[tuple[SnapshotSpec, ...], int, bool]:
        """Read the list of a VM's snapshots; a broken one shows none, and tells so."""
        place = self.resolve(path)
        try:
            with VmDirectory(place.parent) as directory:
                name = place.name.removesuffix(".vmx") + ".vmsd"
                if not directory.exists(name):
                    return (), 0, False
                return *snapshots_of(vmx.parse(directory.read(name, VMX_LIMIT))), False
        except CasemateError as error:
            _log.warning("snapshots of %s: %s", path, error.reason)
            return (), 0, True

    def _publish_stored(self, stored: StoredVm) -> None:
        try:
            fact = self._fact(str(stored.number), self._read(stored.vmx_path), stored.pool)
        except CasemateError as error:
            config = replace(
                _unreadable(stored), annotation=f"{error.reason} {error.remedy}".strip()
            )
            fact = replace(self._fact(str(stored.number), config, stored.pool), unread=True)
        self.update(fact)

    def _fact(self, vm: str, config: VmConfig, pool: str) -> VmFact:
        found = _PATH.fullmatch(config.vmx_path)
        name = found[1] if found else ""
        snapshots, current, unread = self._snapshots(config.vmx_path)
        return VmFact(
            vm=vm,
            config=config,
            power=resting_state(config),
            pool=pool,
            datastore=str(uuid.uuid5(uuid.UUID(self._host_uuid), name)),
            snapshots=snapshots,
            current_snapshot=current,
            unread=unread,
        )


def _with_capacities(directory: VmDirectory, specs: tuple[DiskSpec, ...]) -> tuple[DiskSpec, ...]:
    """Fill in the sizes of disks; one that is missing or broken keeps 0 until power-on tells."""
    found = []
    for spec in specs:
        try:
            found += [source.disk for source in disks.resolve(directory, (spec,))]
        except CasemateError:
            found.append(spec)
    return tuple(found)


def _unreadable(stored: StoredVm) -> VmConfig:
    name = stored.vmx_path.rpartition("/")[2].removesuffix(".vmx")
    return VmConfig(
        name=name or "unreadable",
        uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, stored.vmx_path)),
        vmx_path=stored.vmx_path,
        guest_id="otherGuest",
        cpus=1,
        memory_mib=0,
        firmware="bios",
    )
