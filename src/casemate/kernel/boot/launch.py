"""The launcher: from nothing to the loader, in namespaces of the host's own.

It does what firmware and the D-RTM launch do on bare metal: reads b.b00 once into sealed memory,
verifies that copy like every other component, starts the TPM, has it hash the copy at locality 4
(PCR 17), and runs it from there. The host's first process becomes number 1 of a new pid namespace:
when it ends, everything ends.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from casemate.errors import BootError
from casemate.kernel.boot.component import SIZE_LIMIT
from casemate.kernel.boot.loader import verify_loader
from casemate.kernel.boot.progress import Progress
from casemate.kernel.boot.settings import Settings
from casemate.kernel.home import Home
from casemate.kernel.sys import mounts, spawn
from casemate.kernel.sys.memfd import mapped, sealed_copy
from casemate.kernel.sys.namespaces import Namespace, unshare
from casemate.kernel.sys.process import close_all_but, randomize_addresses
from casemate.kernel.tpm import swtpm
from casemate.kernel.tpm.control import Control
from casemate.policy.measure import BANKS

_STUB = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    "from casemate.kernel.boot.stage import main; sys.exit(main())"
)
START_SECONDS = 120.0
"""Until the loader runs: a TPM that is manufactured first takes some seconds of RSA keys."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The host's first process, as the machine sees it."""

    pid: int
    pidfd: int


def launch(home: Home, settings: Settings, loader_file: str, tell: Progress) -> Launched:
    """Start the TPM, launch the loader of the bank, and return once the loader runs.

    Raises HostError or TpmError where a step fails; nothing stays then.
    """
    sealed, digests = _seal_loader(home.path / settings.bank / loader_file)
    try:
        sha256 = bytes.fromhex(digests["sha256"])
        size = os.fstat(sealed).st_size
        verify_loader(home.path / settings.bank, home.trust, loader_file, sha256, size)
        tell.tell("launch", file=loader_file, sha256=digests["sha256"])
        settings = replace(settings, loader=sealed, launch_digests=digests)
        child = spawn.spawn_detached(
            lambda: unshare(Namespace.MOUNT | Namespace.PID | Namespace.IPC | Namespace.UTS),
            _first_process(home, settings),
            what="the loader",
            timeout=START_SECONDS,
        )
    finally:
        os.close(sealed)
    return Launched(child.pid, child.pidfd)


def _seal_loader(path: Path) -> tuple[int, dict[str, str]]:
    try:
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BootError(
            f"{path.name} cannot be read: {os.strerror(error.errno or 0)}",
            code="component-missing",
            component=path.name,
        ) from error
    try:
        sealed = sealed_copy(source, path.name, limit=SIZE_LIMIT)
    finally:
        os.close(source)
    with mapped(sealed) as view:
        digests = {name: hashlib.new(name, view).hexdigest() for name in BANKS}
    return sealed, digests


def _first_process(home: Home, settings: Settings) -> Callable[[int], None]:
    def run(report: int) -> None:
        os.setsid()
        own = (settings.loader, settings.progress, settings.listener)
        close_all_but({0, 1, 2, report, *(one for one in own if one >= 0)})
        # Whoever calls us under setarch -R must not take the randomness from the whole host.
        randomize_addresses()
        _redirect(home.log / "boot.log")
        mounts.make_private()
        mounts.proc("/proc")
        socket.sethostname(settings.host_name)
        tpm = swtpm.start(home)
        with mapped(settings.loader) as view, Control(tpm.control) as control:
            control.launch(view)
        for descriptor in own:
            if descriptor >= 0:
                os.set_inheritable(descriptor, True)
        path = f"/proc/self/fd/{settings.loader}"
        argv = [sys.executable, "-I", "-B", "-c", _STUB, path, settings.dump()]
        environment = {"PATH": os.environ.get("PATH", "/usr/bin"), "LANG": "C.UTF-8"}
        os.execve(sys.executable, argv, environment)  # noqa: S606 (no shell is the point)

    return run


def _redirect(log: Path) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(null)
    os.close(handle)


def boot_time() -> float:
    """Return the wall clock at launch, in Unix seconds."""
    return time.time()
