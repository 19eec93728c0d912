"""Export and import of VMs as OVA: descriptor, manifest and compressed disks in one file."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Final

from casemate.calls import vms as c
from casemate.calls.files import WriteFile
from casemate.calls.messages import TaskReply
from casemate.errors import (
    ArgumentError,
    DigestError,
    FormatError,
    HostError,
    LimitError,
    NotSupportedError,
)
from casemate.formats import ova, ovf, streamvmdk, vmdk
from casemate.formats.tarball import BLOCK
from casemate.kernel.accounts import Session
from casemate.kernel.cells import disks, layers
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.host import Handler
from casemate.kernel.inventory import BROWSE
from casemate.kernel.longwork import in_own_thread
from casemate.kernel.sys.files import write_all
from casemate.kernel.sys.libc import from_os_error
from casemate.kernel.tasks import Job
from casemate.kernel.vmcontext import VmContext
from casemate.kernel.vms import Vms
from casemate.machine.facts import DiskSpec, NicSpec, VmConfig, VmFact
from casemate.machine.planstorage import DiskSource
from casemate.machine.power import Operation

Step = Callable[[int], None]
_CHUNK: Final = 1 << 20
_SUFFIX: Final = ".ova"


class Ova:
    """Handlers of export and import."""

    def __init__(
        self,
        context: VmContext,
        vms: Vms,
        check: Callable[[Session, str, object], None],
    ) -> None:
        self._context = context
        self._vms = vms
        self._check = check

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers by request."""
        return {c.ExportVm: self._export, c.ImportVm: self._import}

    async def _export(self, request: c.ExportVm, session: Session) -> TaskReply:
        fact = self._context.demand(request.vm, Operation.EXPORT)
        place = self._archive(request.path)
        self._check(session, WriteFile.privilege, self._context.inventory.place_of(request.path))

        async def work(fact: VmFact, job: Job) -> str:
            with self._context.open(fact) as directory:
                await in_own_thread(_write_archive, directory, fact.config, place, job)
            return request.path

        return self._context.start_long(fact, "exportVm", session, work)

    async def _import(self, request: c.ImportVm, session: Session) -> TaskReply:
        place = self._archive(request.path)
        self._check(session, BROWSE, self._context.inventory.place_of(request.path))
        self._vms.demand_space(session, request.path)
        datastore = request.path.partition("]")[0] + "]"

        async def work(job: Job) -> str:
            with VmDirectory(place.parent) as directory:
                handle = directory.open_file(place.name)
            with os.fdopen(handle, "rb") as stream:
                # Read twice: against the manifest, then into the disks.
                step = job.counter(2 * os.fstat(handle).st_size)
                archive = await in_own_thread(_Archive, stream, step)
                machine = archive.machine
                config = _config(machine, request.name or machine.name, datastore)

                def fill(target: VmDirectory, specs: tuple[DiskSpec, ...]) -> None:
                    for spec, disk in zip(specs, machine.disks, strict=True):
                        archive.unpack(disk, target, spec)

                return await self._vms.create(config, thin=True, fill=fill)

        task = self._context.tasks.start(
            *("ha-folder-vm", "Folder", "importVm", session.user, work),
            exclusive=False,
            cancellable=True,
        )
        return TaskReply(task)

    def _archive(self, path: str) -> Path:
        if not path.endswith(_SUFFIX):
            raise ArgumentError(f"{path[:80]!r} is not the path of an OVA", argument="path")
        return self._context.inventory.resolve(path)


def _write_archive(directory: VmDirectory, config: VmConfig, place: Path, job: Job) -> None:
    """Write an archive; on failure nothing of it stays.

    The disks are packed twice: their sizes and digests come before them.
    """
    sources = disks.resolve(directory, tuple(d for d in config.disks if d.kind == "disk"))
    step = job.counter(2 * sum(source.disk.capacity for source in sources))
    names = [f"{place.stem}-disk{number}.vmdk" for number in range(1, len(sources) + 1)]
    digests: dict[str, bytes] = {}
    described = []
    for source, name in zip(sources, names, strict=True):
        digest, size = hashlib.sha256(), 0
        for piece in packed(directory, source, name, step):
            digest.update(piece)
            size += len(piece)
        digests[name] = digest.digest()
        described.append(_described(source, name, size))
    text = ovf.write(_machine(config, tuple(described)))
    digests = {f"{place.stem}.ovf": hashlib.sha256(text).digest(), **digests}
    with VmDirectory(place.parent, volumes=directory.volumes) as target:
        target.demand_space(sum(disk.file_size for disk in described), place.name)
        watch = target.watched(step, place.name)
        handle = target.open_new(place.name)
        try:
            with os.fdopen(handle, "wb") as stream:
                _add(stream, f"{place.stem}.ovf", len(text), iter([text]))
                manifest = ova.write_manifest(digests)
                _add(stream, f"{place.stem}.mf", len(manifest), iter([manifest]))
                for source, disk in zip(sources, described, strict=True):
                    pieces = packed(directory, source, disk.file_name, watch)
                    _add(stream, disk.file_name, disk.file_size, pieces)
                stream.write(ova.END)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            target.remove(place.name)
            raise from_os_error(f"cannot write {place.name}", error) from error
        except BaseException:
            target.remove(place.name)
            raise


def packed(
    directory: VmDirectory, source: DiskSource, name: str, step: Step
) -> Generator[bytes, None, None]:
    """Yield a disk, as its guest sees it, as streamOptimized.

    ``step`` is told of every further bytes of it.

    Raises:
        CasemateError: A file of it is not in order, or in use.
    """
    with layers.opened(directory, source) as whole:

        def read(offset: int, size: int) -> bytes:
            step(size)
            return whole(offset, size)

        yield from streamvmdk.write(source.disk.capacity, read, name=name)


def _add(stream: IO[bytes], name: str, size: int, pieces: Iterator[bytes]) -> None:
    stream.write(ova.header(name, size))
    for piece in pieces:
        stream.write(piece)
    stream.write(bytes(-size % BLOCK))


def _described(source: DiskSource, name: str, size: int) -> ovf.OvfDisk:
    bus = source.disk.controller.rstrip("0123456789")
    if bus not in {"ide", "scsi", "sata"}:
        raise NotSupportedError(
            f"a disk on {source.disk.controller} is not exported", component=name
        )
    number = int(source.disk.controller.removeprefix(bus))
    return ovf.OvfDisk(name, size, source.disk.capacity, bus, number, source.disk.unit)


def _machine(config: VmConfig, described: tuple[ovf.OvfDisk, ...]) -> ovf.OvfMachine:
    return ovf.OvfMachine(
        name=config.name,
        guest_id=config.guest_id,
        cpus=config.cpus,
        memory_mib=config.memory_mib,
        firmware=config.firmware,
        disks=described,
        nics=tuple((nic.network, nic.model) for nic in config.nics),
        annotation=config.annotation,
    )


def _config(machine: ovf.OvfMachine, name: str, datastore: str) -> VmConfig:
    return VmConfig(
        name=name,
        uuid="",
        vmx_path=datastore,
        guest_id=machine.guest_id,
        cpus=machine.cpus,
        memory_mib=machine.memory_mib,
        firmware=machine.firmware,
        disks=tuple(
            DiskSpec("", "disk", "vmdk", disk.capacity, f"{disk.bus}{disk.bus_number}", disk.unit)
            for disk in machine.disks
        ),
        nics=tuple(NicSpec("", network, model) for network, model in machine.nics),
        annotation=machine.annotation,
    )


class _Archive:
    """An OVA that was read through once: all digests hold before anything is unpacked."""

    def __init__(self, stream: IO[bytes], step: Step) -> None:
        self._handle = stream.fileno()
        self._step = step
        self._members = {member.name: member for member in self._walk()}
        descriptors = [name for name in self._members if name.endswith(".ovf")]
        manifests = [name for name in self._members if name.endswith(".mf")]
        if len(descriptors) != 1 or len(manifests) > 1:
            raise FormatError("an OVA has one descriptor and one manifest", code="ova-malformed")
        self.machine = ovf.parse(self._whole(descriptors[0], ovf.SIZE_LIMIT))
        for disk in self.machine.disks:
            if disk.file_name not in self._members:
                raise FormatError(f"the OVA lacks {disk.file_name}", code="ova-malformed")
        if manifests:
            self._check(manifests[0])

    def unpack(self, disk: ovf.OvfDisk, target: VmDirectory, spec: DiskSpec) -> None:
        """Write a disk's content into the empty disk that was made for it.

        Raises:
            FormatError: It is not what the descriptor says.
        """
        found = self._members[disk.file_name]

        def read(offset: int, size: int) -> bytes:
            wanted = max(0, min(size, found.size - offset))
            self._step(wanted)
            return os.pread(self._handle, wanted, found.offset + offset)

        if vmdk.parse(read(0, vmdk.SIZE_LIMIT)).capacity != disk.capacity:
            raise FormatError(
                f"{disk.file_name} is not as large as the descriptor says", code="ova-malformed"
            )
        extent = disks.resolve(target, (spec,))[0].file_name
        handle = target.open_file(extent, os.O_RDWR)
        try:
            for offset, data in streamvmdk.grains(read):
                target.demand_space(0, extent)
                write_all(handle, data, offset)
            os.fsync(handle)
        except OSError as error:
            raise from_os_error(f"cannot write {extent}", error, component=extent) from error
        finally:
            os.close(handle)

    def _walk(self) -> Iterator[ova.Member]:
        position = 0
        names: set[str] = set()
        while (found := ova.member(os.pread(self._handle, BLOCK, position), position)) is not None:
            if found.name in names or len(names) >= ova.MEMBER_LIMIT:
                raise LimitError(
                    f"{found.name} is doubled, or there are too many", code="ova-malformed"
                )
            names.add(found.name)
            yield found
            position = ova.following(found)

    def _whole(self, name: str, limit: int) -> bytes:
        found = self._members[name]
        if found.size > limit:
            raise LimitError(f"{name} has more than {limit} bytes", component=name)
        return os.pread(self._handle, found.size, found.offset)

    def _check(self, manifest: str) -> None:
        """Compare every file with the manifest."""
        digests = ova.parse_manifest(self._whole(manifest, ova.MANIFEST_LIMIT))
        loose = set(self._members) - set(digests) - {manifest}
        loose = {name for name in loose if not name.endswith(".cert")}
        if loose or set(digests) - set(self._members):
            raise DigestError("the manifest is of other files", component=manifest)
        for name, (algorithm, expected) in digests.items():
            found = self._members[name]
            digest = hashlib.new(algorithm)
            for offset in range(0, found.size, _CHUNK):
                size = min(_CHUNK, found.size - offset)
                self._step(size)
                data = os.pread(self._handle, size, found.offset + offset)
                if len(data) < size:
                    raise HostError(f"{name} is cut off", code="ova-cut", component=name)
                digest.update(data)
            if not hmac.compare_digest(digest.digest(), expected):
                raise DigestError(f"{name} is not what the manifest says", component=name)
