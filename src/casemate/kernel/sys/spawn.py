"""Starting processes: fork, prepare, exec, with the child's failures raised in the parent.

The child runs ordinary Python between fork and exec, so callers compute everything before and
do only system calls in it. A failure travels over a close-on-exec socket: end of stream without
a message means that exec succeeded.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from casemate.errors import CasemateError, HostError
from casemate.kernel.sys.libc import from_os_error
from casemate.kernel.sys.process import HIGH_FD, confine, install_fds, set_rlimits

# Seconds until a child that neither runs its program nor fails is given up and killed.
START_TIMEOUT: Final = 30.0
# Bytes of a failure message: a reason and a remedy.
_MESSAGE_LIMIT: Final = 16384
_FAILED: Final = 127


@dataclass(frozen=True, slots=True)
class Child:
    """A started process. The holder closes ``pidfd``."""

    pid: int
    pidfd: int


@dataclass(frozen=True, slots=True)
class Program:
    """What to execute: absolute path and arguments, the whole environment, all descriptors.

    ``fds`` maps the program's descriptor numbers to the caller's; what is missing in 0, 1 and 2
    is /dev/null.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    fds: Mapping[int, int] = field(default_factory=dict)
    cwd: str = "/"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the program runs as; it has no capabilities whoever it is."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def spawn(
    program: Program,
    *,
    identity: Identity | None = None,
    rlimits: Mapping[int, int] | None = None,
    prepare: Callable[[], None] | None = None,
    timeout: float = START_TIMEOUT,
) -> Child:
    """Start a program as a child of the caller and return once it runs.

    Args:
        program: What to execute.
        identity: Confine to this identity (see ``process.confine``); None keeps the caller's.
        rlimits: Resource limits, by ``resource.RLIMIT_*``.
        prepare: Run in the child first, with the caller's rights (namespaces, mounts, pdeathsig).
        timeout: Seconds for the start.

    Raises:
        HostError: A step in the child failed, or it took too long; the child is gone.
    """

    def body(report: int) -> None:
        os.setsid()
        if prepare is not None:
            prepare()
        execute(program, report=report, identity=identity, rlimits=rlimits)

    return _fork(body, what=program.argv[0], timeout=timeout)


def spawn_detached(
    outer: Callable[[], None],
    inner: Callable[[int], None],
    *,
    what: str,
    timeout: float = START_TIMEOUT,
) -> Child:
    """Start a process that is no child of the caller and so outlives it.

    Args:
        outer: Run in an intermediate process (unshare, cgroups); then it forks and ends.
        inner: Run in the process that stays; gets the descriptor that reports failures, which it
            keeps open until exec. It is the first of a pid namespace made by ``outer``.
        what: What is started, for errors.
        timeout: Seconds for the start.

    Returns:
        The process that stays; its pidfd was opened before the pid could be used again.

    Raises:
        HostError: A step failed, or it took too long; nothing stays.
    """

    def body(report: int) -> None:
        outer()
        pid = os.fork()
        if pid == 0:
            _run(inner, report)
        with socket.socket(fileno=os.dup(report)) as channel:
            socket.send_fds(channel, [f"{pid}".encode()], [_watched(pid)])
        os._exit(0)

    return _fork(body, what=what, timeout=timeout, detached=True)


def call_in_child(body: Callable[[], bytes], *, what: str, timeout: float) -> bytes:
    """Run ``body`` in a forked child and return its result, of at most 16 KiB.

    Raises:
        HostError: It failed, ended without a result, or took longer than ``timeout`` seconds.
    """
    reader, writer = os.pipe()

    def child(_report: int) -> None:
        os.write(writer, body()[:_MESSAGE_LIMIT])

    try:
        started = _fork(child, what=what, timeout=timeout)
        os.waitpid(started.pid, 0)
        os.close(started.pidfd)
    finally:
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            result = stream.read()
    if not result:
        raise HostError(f"{what} ended without a result", component=what)
    return result


def execute(
    program: Program,
    *,
    report: int,
    identity: Identity | None = None,
    rlimits: Mapping[int, int] | None = None,
) -> NoReturn:
    """Become the program: descriptors, limits, confinement, exec. Only in a forked child."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    install_fds({0: null, 1: null, 2: null, **program.fds}, keep=(report,))
    reset_signals()
    os.chdir(program.cwd)
    set_rlimits(rlimits or {})
    if identity is not None:
        confine(identity.uid, identity.gid, identity.groups)
    try:
        os.execve(program.argv[0], list(program.argv), dict(program.env))  # noqa: S606 (no shell is the point)
    except OSError as error:
        raise from_os_error(
            f"cannot run {program.argv[0]}", error, component=program.argv[0]
        ) from error


def reset_signals() -> None:
    """Give every signal its default action and unblock all: both survive exec otherwise."""
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _fork(
    body: Callable[[int], None], *, what: str, timeout: float, detached: bool = False
) -> Child:
    """Fork, run ``body`` in the child, and wait until it has executed a program or failed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        try:
            report = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
            try:
                pid = os.fork()
                if pid == 0:
                    _run(body, report)
            finally:
                os.close(report)
            first = Child(pid, _watched(pid))
        except OSError as error:
            raise from_os_error(f"cannot start {what}", error, component=what) from error
        theirs.close()
        stays: Child | None = None
        try:
            stays = _outcome(ours, what, timeout)
        except BaseException:
            kill(first.pidfd)
            os.waitpid(first.pid, 0)
            os.close(first.pidfd)
            raise
    if not detached:
        return first
    os.waitpid(first.pid, 0)
    os.close(first.pidfd)
    if stays is None:
        raise HostError(f"{what} ended before it was started", component=what)
    return stays


def _watched(pid: int) -> int:
    """Return a pidfd of a child; without one it is ended."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        # Not waited for yet, so the number is still the child's.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _outcome(channel: socket.socket, what: str, timeout: float) -> Child | None:
    """Read the child's messages to the end of the stream.

    Returns:
        The process announced by a detached start, or None.

    Raises:
        HostError: The child failed or took longer than ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    poller = select.poll()
    poller.register(channel, select.POLLIN)
    stays: Child | None = None
    try:
        while True:
            late = not poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
            message, descriptors = _receive(channel, what, timeout, late=late)
            if descriptors:
                stays = Child(int(message), descriptors[0])
            elif not message:
                return stays
    except BaseException:
        if stays is not None:
            kill(stays.pidfd)
            os.close(stays.pidfd)
        raise


def _receive(
    channel: socket.socket, what: str, timeout: float, *, late: bool
) -> tuple[bytes, list[int]]:
    """Return one message that is no failure, with its descriptors; raise one that is."""
    if late:
        raise HostError(
            f"{what} did not start within {timeout:.0f} s",
            code="start-timeout",
            component=what,
            remedy="Look at the load of the host and try again.",
        )
    message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_LIMIT, 1)
    if message and not descriptors:
        raise HostError(**json.loads(message))
    return message, descriptors


def _run(body: Callable[[int], None], report: int) -> NoReturn:
    """Run ``body`` in a forked child; whatever happens, this process never returns."""
    try:
        gc.disable()
        body(report)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 (a forked child must never unwind into its parent's code)
        if not isinstance(error, CasemateError):
            error = HostError(f"cannot start the process: {error!r}")
        message = {
            "reason": error.reason,
            "code": error.code,
            "component": error.component,
            "remedy": error.remedy,
        }
        with contextlib.suppress(OSError):
            os.write(report, json.dumps(message).encode()[:_MESSAGE_LIMIT])
        os._exit(_FAILED)


def kill(pidfd: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal to the process behind ``pidfd``; tell whether it was still there."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    except OSError as error:
        raise from_os_error("cannot send a signal", error) from error
    return True


def wait_gone(pidfd: int, timeout: float) -> bool:
    """Wait up to ``timeout`` seconds for the process to end (as a zombie too); tell whether."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


def open_process(pid: int) -> int:
    """Return a pidfd for ``pid``.

    Raises:
        HostError: There is no such process.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise from_os_error(f"cannot open process {pid}", error) from error


def reap(pids: Iterable[int]) -> None:
    """Collect the exit status of children that have ended, without waiting."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
