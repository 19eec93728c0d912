"""The first process of a booted host: starts the kernel and hostd, and starts them again.

It runs as process 1 of the host's own pid namespace, so that nothing of the host can outlive it.
It keeps what must survive the kernel: the listening socket of the API (connections wait in it
while hostd restarts). It reads no input and has no other interface than signals: TERM stops the
host in order (the kernel first powers the VMs off), KILL stops it at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from casemate.errors import CasemateError

AGENTS_SIGNAL = signal.SIGHUP
"""Asks init to restart hostd."""
RESTART_SIGNAL = signal.SIGUSR2
"""Asks init to stop, and to have the machine started again."""

_ASKED = frozenset({signal.SIGTERM, signal.SIGINT, AGENTS_SIGNAL, RESTART_SIGNAL})

STOP_SECONDS = 30.0
"""How long the kernel may take to power off the VMs before everything is killed."""

BACKOFF_START = 0.2
BACKOFF_LIMIT = 10.0
"""Seconds between restarts of a process that keeps dying: doubled each time, up to the limit."""

LOOK_SECONDS = 0.5
"""Between two looks whether a service that waits for something can start."""

STEADY_SECONDS = 60.0
"""A process that ran this long died of something new: its back-off starts again."""

_log = logging.getLogger("init")


@dataclass(slots=True)
class Service:
    """A process to be kept running; ``start`` forks it and returns its pid.

    An ``agent`` may be restarted when somebody asks for it. It starts once it is ``wanted``.
    """

    name: str
    start: Callable[[], int]
    agent: bool = False
    wanted: Callable[[], bool] = lambda: True
    pid: int = 0
    started: float = 0.0
    backoff: float = BACKOFF_START
    due: float = 0.0


@dataclass(slots=True)
class Init:
    """Keeps services running until told to stop."""

    services: list[Service]
    stopping: bool = False
    restart: bool = False

    def run(self) -> None:
        """Run until TERM. Returns when every service has ended or was killed."""
        signal.signal(signal.SIGTERM, self._stop)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # see ``ignore_keys``
            signal.signal(signal.SIGINT, self._stop)
        signal.signal(RESTART_SIGNAL, self._restart)
        signal.signal(AGENTS_SIGNAL, self._agents)
        signal.signal(signal.SIGCHLD, _awake)
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        deadline = 0.0
        while True:
            self._reap()
            now = time.monotonic()
            if self.stopping:
                deadline = deadline or now + STOP_SECONDS
                if not self._alive() or now > deadline:
                    return
            else:
                self._start_due(now)
            _wait(read_end, self._sleep(now))

    def _start_due(self, now: float) -> None:
        for service in self.services:
            if not service.pid and now >= service.due:
                if service.wanted():
                    self._start(service, now)
                else:
                    service.due = now + LOOK_SECONDS

    def _start(self, service: Service, now: float) -> None:
        service.started = now
        # A signal between fork and the noting of the pid would not reach the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ASKED)
        try:
            service.pid = service.start()
        except CasemateError as error:
            self._later(service, f"did not start: {error.reason}")
        else:
            _log.info("%s started as pid %d", service.name, service.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKED)

    def _sleep(self, now: float) -> float:
        if self.stopping:
            return 0.2
        waiting = [s.due - now for s in self.services if not s.pid]
        return max(min(waiting, default=60.0), 0.01)

    def _alive(self) -> bool:
        return any(service.pid for service in self.services)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for service in self.services:
                if service.pid == pid:
                    self._ended(service, os.waitstatus_to_exitcode(status))

    def _ended(self, service: Service, code: int) -> None:
        service.pid = 0
        self._later(service, f"ended with {code}")

    def _later(self, service: Service, why: str) -> None:
        now = time.monotonic()
        if now - service.started > STEADY_SECONDS:
            service.backoff = BACKOFF_START
        service.due = now + service.backoff
        service.backoff = min(service.backoff * 2, BACKOFF_LIMIT)
        if not self.stopping:
            _log.warning("%s %s; again in %.1f s", service.name, why, service.due - now)

    def _restart(self, *_: object) -> None:
        self.restart = True
        self._stop()

    def _agents(self, *_: object) -> None:
        for service in self.services:
            if service.agent and service.pid:
                _log.info("%s is restarted", service.name)
                os.kill(service.pid, signal.SIGTERM)

    def _stop(self, *_: object) -> None:
        if not self.stopping:
            self.stopping = True
            for service in self.services:
                if service.pid:
                    os.kill(service.pid, signal.SIGTERM)


def _awake(*_: object) -> None:
    """Do nothing: the handler exists so that the wakeup pipe is written."""


def _wait(read_end: int, seconds: float) -> None:
    select.select([read_end], [], [], seconds)
    with contextlib.suppress(BlockingIOError):
        while os.read(read_end, 512):
            pass


def configure_log(name: str) -> None:
    """Log to standard error: init points it at the process's file under run/log."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s {name} %(levelname)s %(message)s",
    )
