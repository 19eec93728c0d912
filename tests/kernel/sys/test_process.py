"""A confined process has nothing left to give, and a failed start says why."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import signal
import time
from pathlib import Path

import pytest
from tests.forks import forked

from casemate.errors import HostError
from casemate.kernel.sys.libc import is_errno
from casemate.kernel.sys.namespaces import Namespace, restrict_memfd_execution, unshare
from casemate.kernel.sys.process import (
    HIGH_FD,
    close_all_but,
    confine,
    die_with_parent,
    refuses_writable_code,
)
from casemate.kernel.sys.spawn import (
    Child,
    Identity,
    Program,
    execute,
    kill,
    open_process,
    spawn,
    spawn_detached,
    wait_gone,
)

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]
SLEEP = Program(argv=("/usr/bin/sleep", "60"))
UID = 0x6FFFFFF0


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def open_files(pid: int) -> dict[str, str]:
    found = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[descriptor.name] = str(descriptor.readlink())
    return found


def end(child: Child) -> None:
    kill(child.pidfd)
    assert wait_gone(child.pidfd, 60)
    os.close(child.pidfd)
    try:
        os.waitpid(child.pid, 0)
    except ChildProcessError:
        return


def children() -> set[str]:
    """Return the processes, ended ones too, that this one has to wait for."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(stat.parent.name)
    return found


def test_a_confined_program_has_no_rights_left():
    child = spawn(SLEEP, identity=Identity(UID, UID), rlimits={resource.RLIMIT_CORE: 0})
    try:
        facts = status(child.pid)
        assert facts["Uid"].split() == [str(UID)] * 4
        assert facts["Gid"].split() == [str(UID)] * 4
        assert facts["Groups"] == ""
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(facts[name], 16) == 0, name
        assert facts["NoNewPrivs"] == "1"
        assert int(Path(f"/proc/{child.pid}/personality").read_text(), 16) == 0
        limits = Path(f"/proc/{child.pid}/limits").read_text()
        assert "Max core file size        0                    0" in limits
    finally:
        end(child)


def test_even_uid_0_has_no_capabilities_after_confinement():
    child = spawn(SLEEP, identity=Identity(0, 0))
    try:
        facts = status(child.pid)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(facts[name], 16) == 0, name
    finally:
        end(child)


def test_confined_code_gets_no_writable_and_executable_memory(in_child):
    def attack() -> tuple[bool, bool, bool]:
        confine(UID, UID)
        try:
            mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
            mapped = True
        except OSError:
            mapped = False
        page = mmap.mmap(-1, 4096)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        gained = ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), 4096, 5) == 0
        return refuses_writable_code(), mapped, gained

    assert in_child(attack) == (True, False, False)


def test_a_confined_process_cannot_become_root_again(in_child):
    def attack() -> str:
        confine(UID, UID)
        try:
            os.setuid(0)
        except PermissionError:
            return "refused"
        return "root"

    assert in_child(attack) == "refused"


def test_inherited_descriptors_do_not_leak_into_the_program(tmp_path):
    secret = os.open("/etc/shadow", os.O_RDONLY)
    os.set_inheritable(secret, True)
    high = os.dup2(secret, HIGH_FD + 300)
    wanted = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    child = spawn(Program(argv=SLEEP.argv, fds={1: wanted, 7: wanted}))
    try:
        expected = {
            "0": "/dev/null",
            "1": str(tmp_path / "log"),
            "2": "/dev/null",
            "7": str(tmp_path / "log"),
        }
        # The program opens its libraries for a moment.
        deadline = time.monotonic() + 60
        while (links := open_files(child.pid)) != expected:
            assert time.monotonic() < deadline, links
            assert "/etc/shadow" not in links.values()
    finally:
        end(child)
        for descriptor in (secret, high, wanted):
            os.close(descriptor)


def test_a_program_that_is_not_there_is_reported_with_its_name():
    before = children()
    with pytest.raises(HostError, match="cannot run /nowhere/program: No such file") as caught:
        spawn(Program(argv=("/nowhere/program",)), identity=Identity(UID, UID))
    assert caught.value.component == "/nowhere/program"
    assert children() <= before


def test_a_foreign_error_in_the_child_arrives_as_ours():
    def prepare() -> None:
        raise ZeroDivisionError("surprise")

    with pytest.raises(HostError, match="surprise"):
        spawn(SLEEP, prepare=prepare)


def test_a_child_that_hangs_is_given_up_and_killed():
    before = children()
    with pytest.raises(HostError) as caught:
        spawn(SLEEP, prepare=lambda: time.sleep(60), timeout=0.2)
    assert caught.value.code == "start-timeout"
    assert children() <= before


def test_a_detached_program_is_first_of_its_pid_namespace_and_no_child_of_ours():
    child = spawn_detached(
        lambda: unshare(Namespace.PID | Namespace.NET),
        lambda report: execute(SLEEP, report=report, identity=Identity(UID, UID)),
        what="sleep",
    )
    try:
        facts = status(child.pid)
        assert facts["NSpid"].split() == [str(child.pid), "1"]
        assert int(facts["PPid"]) != os.getpid()
        assert Path(f"/proc/{child.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        with pytest.raises(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)
    finally:
        end(child)


def test_a_detached_start_that_fails_leaves_nothing():
    def refuse(_report: int) -> None:
        raise HostError("no", code="because", remedy="ask again")

    with pytest.raises(HostError) as caught:
        spawn_detached(lambda: None, refuse, what="nothing")
    assert (caught.value.code, caught.value.remedy) == ("because", "ask again")


def test_no_executable_memory_files_in_a_pid_namespace_of_our_own():
    mfd_exec = 0x10

    def attack() -> None:
        restrict_memfd_execution()
        try:
            os.memfd_create("x", mfd_exec)
        except PermissionError as error:
            raise HostError("refused", code="refused") from error

    with pytest.raises(HostError) as caught:
        spawn_detached(lambda: unshare(Namespace.PID), lambda _: attack(), what="memfd attack")
    assert caught.value.code == "refused"


def test_a_child_bound_to_its_parent_dies_with_it():
    reader, writer = os.pipe()

    def parent() -> None:
        child = spawn(SLEEP, prepare=die_with_parent)
        os.write(writer, str(child.pid).encode())
        signal.pause()

    middle = forked(parent)
    pid = int(os.read(reader, 32))
    pidfd = open_process(pid)
    os.kill(middle, signal.SIGKILL)
    os.waitpid(middle, 0)
    assert wait_gone(pidfd, 60)
    for descriptor in (reader, writer, pidfd):
        os.close(descriptor)


def test_a_pid_that_does_not_exist_is_our_error():
    with pytest.raises(HostError) as caught:
        open_process(2**22 - 1)
    assert is_errno(caught.value, 3)


def test_descriptors_that_a_caller_left_open_are_closed() -> None:
    """A lock that is inherited by a host would be held as long as the host runs."""
    reading, writing = os.pipe()
    left = os.dup(reading)
    os.set_inheritable(left, True)
    child = os.fork()
    if child == 0:
        close_all_but({0, 1, 2, writing})
        for descriptor in (reading, left):
            with contextlib.suppress(OSError):
                os.fstat(descriptor)
                os.write(writing, b"open ")
        os.write(writing, b"done")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"done"
    for descriptor in (reading, writing, left):
        os.close(descriptor)


@pytest.mark.parametrize("step", ["fork", "pidfd_open"])
def test_a_start_that_linux_refuses_leaves_no_descriptor_and_no_child(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EAGAIN, "no more")

    before = open_files(os.getpid())
    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(HostError, match="cannot start"):
        spawn(SLEEP)
    monkeypatch.undo()
    assert open_files(os.getpid()) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
