"""Init's main program: the first process inside the visor root.

    casemate-python -I -B -m casemate.kernel.start SETTINGS

It starts two processes and keeps them running: the kernel, which stays root, and hostd, which
runs as its own user, without capabilities, and sees of the home only the calls socket and its
certificate.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from casemate.errors import BootError, HostError
from casemate.formats.bootcfg import BootState
from casemate.kernel import confine
from casemate.kernel.boot.firstwords import NAME
from casemate.kernel.boot.lastword import CONSOLES, named, say
from casemate.kernel.boot.settings import ENVIRONMENT, PYTHON, Settings, load_settings
from casemate.kernel.home import Home
from casemate.kernel.init import Init, Service, configure_log
from casemate.kernel.ownroot import hide_all_but
from casemate.kernel.roots import visor_root
from casemate.kernel.sys.memfd import sealed_bytes
from casemate.kernel.sys.namespaces import Namespace, unshare
from casemate.kernel.sys.power import Power, end_machine
from casemate.kernel.sys.process import end_for_memory
from casemate.kernel.sys.spawn import Program
from casemate.machine.processplan import CONSOLE, HOSTD, INIT, KERNEL, TERMINALS, ProcessPlan

SPARED = -900
"""Of the host's processes where Linux must end one for its memory: VMs end before they do."""
TRIAL_SECONDS = 600
"""Until a machine's boot must be complete; a bank that does not get there is not booted again."""

_LISTENER = 3
_PROGRESS = 4
MOUNTS = 5
"""Descriptor of the kernel: the mounts that the boot made, in sealed memory that init keeps."""


def _log_file(home: Home, name: str) -> int:
    return os.open(
        home.log / f"{name}.log",
        os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC,
        0o644,
    )


def _start(
    plan: ProcessPlan, program: Program, log: int, prepare: Callable[[], None] = lambda: None
) -> int:
    try:
        child = confine.start(plan, program, prepare=prepare)
    finally:
        os.close(log)
    os.close(child.pidfd)
    return child.pid


def _command(plan: ProcessPlan, *arguments: str) -> tuple[str, ...]:
    return (PYTHON, "-I", "-B", "-m", "casemate.kernel.enter", plan.name, *arguments)


def start_kernel(settings: Settings, home: Home, mounts: int) -> int:
    """Start the kernel: root, but no writable code and no way to gain more.

    ``mounts`` is the list of the mounts that the boot made: every life of the kernel compares with
    that, and not with what it finds.
    """
    log = _log_file(home, "kernel")
    fds = {1: log, 2: log, MOUNTS: mounts}
    if settings.progress >= 0:
        fds[_PROGRESS] = settings.progress
    argv = _command(KERNEL, settings.dump())
    return _start(KERNEL, Program(argv, ENVIRONMENT, fds), log)


def start_hostd(settings: Settings, home: Home) -> int:
    """Start hostd in its own user, without capabilities, with next to nothing of the home."""
    log = _log_file(home, "hostd")
    argv = _command(
        HOSTD,
        *("--socket-fd", str(_LISTENER)),
        *("--calls", str(home.calls_socket)),
        *("--tls", str(home.tls)),
    )
    program = Program(argv, ENVIRONMENT, {1: log, 2: log, _LISTENER: settings.listener})

    def prepare() -> None:
        hide_all_but(home.calls_socket.parent, home.tls, root=visor_root())

    return _start(HOSTD, program, log, prepare=prepare)


def start_console(home: Home, terminal: str) -> int:
    """Start the direct console on a terminal of the machine, as a user of its own."""
    log = _log_file(home, "console")
    argv = _command(
        CONSOLE,
        f"/dev/{terminal}",
        *("--calls", str(home.calls_socket)),
        *("--certificate", str(home.tls / "rui.crt")),
        *("--first", str(home.console / NAME)),
    )
    program = Program(argv, ENVIRONMENT, {1: log, 2: log})
    kept = (home.calls_socket.parent, home.console, home.tls)

    def prepare() -> None:
        unshare(Namespace.NET)
        hide_all_but(*kept, root=visor_root())

    return _start(CONSOLE, program, log, prepare=prepare)


def end_trial(home: Home, bank: str, end: Callable[[Power], object] = end_machine) -> None:
    """Start the machine again where its boot is not complete by now: the other bank boots then."""
    from casemate.kernel.boot.bank import read_bank  # noqa: PLC0415  (2 MiB for once in a lifetime)

    config = read_bank(home, bank).config
    if config is None or config.bootstate is not BootState.VALID:
        late = BootError(
            f"the boot is not complete after {TRIAL_SECONDS} s",
            code="boot-late",
            component=bank,
            remedy="Look at the logs of kernel and hostd; the other bank boots next.",
        )
        say(late, CONSOLES)
        end(Power.RESTART)


def main() -> int:
    """Run init until told to stop."""
    settings = load_settings(sys.argv[1])
    try:
        restart = _serve(settings)
    except BaseException as error:
        if settings.own_machine:  # Linux panics when its first process ends
            say(named(error, "init"), CONSOLES)
            end_machine(Power.RESTART)
        raise
    if settings.own_machine:
        end_machine(Power.RESTART if restart else Power.OFF)
    return 0


def _serve(settings: Settings) -> bool:
    """Serve until told to stop; return whether the machine shall start again."""
    with suppress(HostError):  # a container may not
        end_for_memory(SPARED)
    confine.enter(INIT)
    home = settings.home_inside
    log = _log_file(home, "init")
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    configure_log("init")
    mounts = sealed_bytes(Path("/proc/self/mountinfo").read_bytes(), "mounts")
    services = [
        Service("kernel", lambda: start_kernel(settings, home, mounts)),
        Service("hostd", lambda: start_hostd(settings, home), agent=True),
    ]
    logging.getLogger("init").info("visor root entered, bank %s", settings.bank)
    if settings.own_machine:
        services += (
            Service(
                f"console-{name}",
                partial(start_console, home, name),
                wanted=home.calls_socket.exists,  # until then it could only wait
            )
            for name in TERMINALS
            if Path("/dev", name).is_char_device()
        )
        signal.signal(signal.SIGALRM, lambda *_: end_trial(home, settings.bank))
        signal.alarm(TRIAL_SECONDS)
    init = Init(services)
    init.run()
    return init.restart


if __name__ == "__main__":
    sys.exit(main())
