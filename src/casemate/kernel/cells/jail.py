"""Carries out a cell's plan: from a value to a confined process.

The cell's root is built in the cell's own mount namespace, on mounts that nobody else sees, and
files of the VM's directory are opened without following links: nothing that a datastore's users
prepare can redirect what the privileged side does.
"""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from casemate.errors import FormatError, HostError
from casemate.formats import qcow2
from casemate.formats.datastorepath import in_volume, show
from casemate.kernel.cells.cgroups import attach_self
from casemate.kernel.sys import mounts
from casemate.kernel.sys.files import lock, open_beneath, open_directory, write_all
from casemate.kernel.sys.libc import from_os_error
from casemate.kernel.sys.namespaces import Namespace, restrict_memfd_execution, unshare
from casemate.kernel.sys.process import die_with_parent, end_for_memory
from casemate.kernel.sys.seccomp import refuse_commands
from casemate.kernel.sys.spawn import Child, Identity, Program, execute, spawn_detached
from casemate.machine.callfilters import WIRE_COMMANDS
from casemate.machine.cellplan import CellPlan, Isolation, Limit, PassedFile
from casemate.machine.planaudit import audit

_NAMESPACES: Final = {
    Isolation.MOUNT: Namespace.MOUNT,
    Isolation.PID: Namespace.PID,
    Isolation.NET: Namespace.NET,
    Isolation.IPC: Namespace.IPC,
    Isolation.UTS: Namespace.UTS,
    Isolation.CGROUP: Namespace.CGROUP,
}
_LIMITS: Final = {
    Limit.CORE: resource.RLIMIT_CORE,
    Limit.NOFILE: resource.RLIMIT_NOFILE,
    Limit.NPROC: resource.RLIMIT_NPROC,
    Limit.FSIZE: resource.RLIMIT_FSIZE,
    Limit.MEMLOCK: resource.RLIMIT_MEMLOCK,
}
_DEVICES: Final = {"null": (1, 3), "zero": (1, 5), "urandom": (1, 9)}
_DEV_SIZE: Final = 65536
_OTHERS_READ: Final = stat.S_IROTH


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a plan is carried out with: places and descriptors of the host."""

    visor_root: Path
    stage: Path
    vm_dir: Path
    sockets: Mapping[str, int]
    log: int
    cgroup_directories: tuple[Path, ...]
    volumes: Path | None = None
    taps: Mapping[int, int] = field(default_factory=dict)


def start(plan: CellPlan, around: Surroundings) -> Child:
    """Start the cell; it is nobody's child and outlives the caller.

    Args:
        plan: What to do; refused if its audit finds anything.
        around: ``stage`` is an empty directory on which the root is built, ``vm_dir`` the VM's
            directory, ``sockets`` listeners and peers by name, ``taps`` interfaces by card,
            ``log`` takes stdout and stderr.

    Raises:
        HostError: A step failed; nothing of the cell stays but its cgroup, which is the caller's.
    """
    findings = audit(plan)
    if findings:
        raise HostError(findings[0].reason, code=findings[0].code, component=plan.vm)
    with ExitStack() as opened:
        directory = open_directory(around.vm_dir)
        opened.callback(os.close, directory)
        fds = {1: around.log, 2: around.log}
        fds |= {listener.fd: around.sockets[listener.name] for listener in plan.listeners}
        fds |= {peer.fd: around.sockets[peer.name] for peer in plan.peers}
        fds |= {tap.fd: around.taps[tap.card] for tap in plan.taps}
        for passed in plan.passed:
            fds[passed.fd] = open_disk(directory, around.volumes, passed)
            opened.callback(os.close, fds[passed.fd])
        return _launch(plan, around, fds)


def _launch(plan: CellPlan, around: Surroundings, fds: Mapping[int, int]) -> Child:
    """Fork, isolate, build the root, and run the program."""
    kinds = Namespace(0)
    for isolation in plan.isolation:
        kinds |= _NAMESPACES[isolation]
    program = Program(argv=plan.argv, env=dict(plan.env), fds=fds, cwd=plan.cwd)
    identity = Identity(plan.uid, plan.gid)
    limits = {_LIMITS[limit]: value for limit, value in plan.rlimits}
    # The pid namespace gives itself to children only, all else to the intermediate process.
    name = f"vm-{plan.vm}".encode()

    def isolate() -> None:
        # A start that nobody waits for any more must not come true.
        die_with_parent()
        os.setsid()
        attach_self(around.cgroup_directories)
        end_for_memory(0)
        unshare(kinds)

    def become(report: int) -> None:
        restrict_memfd_execution()
        _sethostname(name)
        mounts.make_private()
        _build_root(plan, around)
        mounts.pivot_root(around.stage)
        refuse_commands(WIRE_COMMANDS.values())
        execute(program, report=report, identity=identity, rlimits=limits)

    return spawn_detached(isolate, become, what=f"the cell of VM {plan.vm}")


def _build_root(plan: CellPlan, around: Surroundings) -> None:
    """Mount what the cell sees, at ``stage``: all read-only but its scratch space."""
    stage = around.stage
    mounts.bind(around.visor_root, stage, mounts.READ_ONLY_CODE)
    for scratch in plan.scratch:
        mounts.tmpfs(_inside(stage, scratch.target), size=scratch.size, mode=scratch.mode)
    _make_devices(plan, stage / "dev")
    place = _inside(stage, plan.cwd)
    place.mkdir(mode=0o755)
    # Opened here: a mount can only be made of files opened in its own namespace.
    directory = open_directory(around.vm_dir)
    for file in plan.shown:
        point = _inside(stage, file.target)
        point.touch()
        if file.writable:
            descriptor = _open_owned(directory, file.file_name, plan.uid)
        else:
            descriptor = _open_shown(directory, file.file_name)
        access = mounts.DATA if file.writable else mounts.READ_ONLY_DATA
        mounts.bind(f"/proc/self/fd/{descriptor}", point, access)
    mounts.restrict(_inside(stage, "/run"), mounts.READ_ONLY_DATA)


def _make_devices(plan: CellPlan, place: Path) -> None:
    """Fill a private, then read-only /dev with the nodes of the plan."""
    access = mounts.Access.NO_SUID | mounts.Access.NO_EXEC
    mounts.tmpfs(place, size=_DEV_SIZE, mode=0o755, access=access)
    for name in plan.devices:
        node = place / name
        if name == "kvm":
            os.mknod(node, stat.S_IFCHR | 0o600, Path("/dev/kvm").stat().st_rdev)
            os.chown(node, plan.uid, plan.gid)
        else:
            os.mknod(node, stat.S_IFCHR, os.makedev(*_DEVICES[name]))
            node.chmod(0o666)
    mounts.restrict(place, mounts.Access.READ_ONLY)


def _inside(stage: Path, target: str) -> Path:
    """Return an absolute path of the cell as seen from outside."""
    return stage / target.removeprefix("/")


def _sethostname(name: bytes) -> None:
    try:
        socket.sethostname(name.decode())
    except OSError as error:
        raise from_os_error("cannot set the name of the cell", error) from error


def _open(directory: int, path: str, passed: PassedFile, shown: str) -> int:
    """Open a disk: a regular file, long enough, below a directory."""
    flags = os.O_RDWR if passed.writable else os.O_RDONLY
    descriptor = open_beneath(directory, path, flags | os.O_NONBLOCK)
    try:
        _check_disk(descriptor, passed)
        lock(descriptor, shown, exclusive=passed.writable)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_scratch(directory: int, passed: PassedFile) -> int:
    """Make a delta that has no name, so that nothing of it stays wherever it ends."""
    flags = os.O_RDWR | os.O_TMPFILE
    descriptor = open_beneath(directory, ".", flags, mode=0o600)
    try:
        for offset, data in qcow2.empty(passed.scratch):
            write_all(descriptor, data, offset)
    except OSError as error:
        os.close(descriptor)
        raise from_os_error(f"cannot make {passed.file_name}", error) from error
    return descriptor


def open_disk(directory: int, volumes: Path | None, passed: PassedFile) -> int:
    """Open a disk or the image of a CD, in the VM's directory or on a datastore, and lock it.

    The lock is on the file, whatever it is called: two VMs never write to one.

    Raises:
        CasemateError: It is missing, in use, a link, no regular file, or too short.
    """
    if passed.scratch:
        return _open_scratch(directory, passed)
    elsewhere = in_volume(passed.file_name)
    if elsewhere is None:
        return _open(directory, passed.file_name, passed, passed.file_name)
    if volumes is None:
        raise HostError(
            f"{passed.file_name} is on no datastore of this host",
            code="disk-kind",
            component=passed.file_name,
        )
    place = open_directory(volumes)
    try:
        return _open(place, "/".join(elsewhere), passed, show(*elsewhere))
    finally:
        os.close(place)


def _check_disk(descriptor: int, passed: PassedFile) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise FormatError(
            f"the disk {passed.file_name} is not a regular file",
            component=passed.file_name,
            code="disk-kind",
        )
    if found.st_size < passed.minimum_size:
        raise FormatError(
            f"the disk {passed.file_name} has {found.st_size} bytes, not {passed.minimum_size}",
            component=passed.file_name,
            code="disk-short",
            remedy="Restore the disk from a backup, or correct its descriptor.",
        )


def _open_owned(directory: int, name: str, uid: int) -> int:
    """Open a file that the cell writes by path, and make it the cell's own."""
    descriptor = open_beneath(directory, name, os.O_RDWR | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise HostError(f"{name} is not a regular file", code="disk-kind", component=name)
    lock(descriptor, name, exclusive=True)
    os.fchown(descriptor, uid, uid)
    return descriptor


def _open_shown(directory: int, name: str) -> int:
    """Open a file that the cell reads by path; the cell's uid must be able to."""
    descriptor = open_beneath(directory, name, os.O_RDONLY | os.O_NONBLOCK)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_mode & _OTHERS_READ:
        return descriptor
    os.close(descriptor)
    raise HostError(
        f"{name} is not a regular file that everybody may read",
        code="file-mode",
        component=name,
        remedy=f"Make it readable: chmod a+r {name}",
    )
