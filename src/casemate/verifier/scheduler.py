"""Who is asked when: due hosts are leased, asked side by side, and given back.

Every verifier runs one scheduler. They share nothing but the store: a verifier that was not heard
for ``DEAD_SECONDS`` loses its leases to the others, which go on with its hosts and raise an alarm.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from casemate.errors import CasemateError
from casemate.machine.fleet import FleetHost
from casemate.verifier import alarmstore, nonces, outbox, store
from casemate.verifier.alarms import Notifier
from casemate.verifier.alarmstore import DEAD_SECONDS, VERIFIER_DEAD
from casemate.verifier.database import Database
from casemate.verifier.ledger import Ledger
from casemate.verifier.outbox import Notice
from casemate.verifier.rounds import ROUND_SECONDS, Rounds

_LOG = logging.getLogger("verifier.scheduler")

LEASE_SECONDS = 120.0
"""How long a lease holds: longer than any round with all its repetitions."""

THREADS = 32
"""Rounds side by side: they mostly wait for TPMs."""

SILENT_THREADS = 8
"""Rounds side by side with hosts that gave no answer the last time: those hold up no others."""

SILENT_SECONDS = 10.0
"""Seconds for all answers of such a host: one that is there again has answered in two."""

PUT_OFF_SECONDS = 10.0
"""Until such a host is looked at again where others like it are in its way."""

PAUSE = 0.25
"""Seconds between two looks for due hosts."""

HOUSEKEEPING = 2.0
"""Seconds between heartbeats, and between two looks for what has expired."""


class _Lane:
    """Some rounds side by side; as many more may wait for their turn."""

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._running: dict[str, Future[None]] = {}

    def room(self) -> int:
        """Return how many rounds may be added."""
        self._running = {name: one for name, one in self._running.items() if not one.done()}
        return 2 * self._threads - len(self._running)

    def add(self, name: str, work: Callable[[], None]) -> None:
        """Add the round of a host."""
        self._running[name] = self._pool.submit(work)

    def has(self, name: str) -> bool:
        """Tell whether a host's round runs or waits."""
        return name in self._running and not self._running[name].done()

    def close(self) -> None:
        """Finish what runs."""
        self._pool.shutdown(wait=True)


class Scheduler:
    """Leases due hosts and runs their rounds until told to stop."""

    def __init__(
        self, database: Database, rounds: Rounds, ledger: Ledger, notifier: Notifier, name: str
    ) -> None:
        self.name = name
        self._database = database
        self._rounds = rounds
        self._ledger = ledger
        self._notifier = notifier
        self._stop = threading.Event()
        self._lane, self._aside = _Lane(THREADS, "round"), _Lane(SILENT_THREADS, "silent")
        self._silent: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._kept = 0.0
        self._started = time.time()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the running rounds and give the leases back."""
        self._stop.set()
        self._thread.join()
        self._lane.close()
        self._aside.close()
        with self._database.transaction() as step:
            store.release(step, self.name)
            alarmstore.stop_worker(step, self.name)

    def _run(self) -> None:
        while not self._stop.is_set():
            leased = 0
            try:
                self._keep_house()
                leased = self._lease()
            except CasemateError as error:
                _LOG.warning("%s", error.reason)
            except Exception:  # noqa: BLE001 (a dead scheduler would go unnoticed)
                _LOG.exception("scheduler")
            self._stop.wait(0.01 if leased else PAUSE)

    def _lease(self) -> int:
        room, aside = min(store.LEASE_BATCH, self._lane.room()), self._aside.room()
        if room <= 0:
            return 0
        hosts = store.lease_due(self._database, self.name, LEASE_SECONDS, room)
        for host in hosts:
            if host.name not in self._silent:
                self._lane.add(host.name, partial(self._one, host, ROUND_SECONDS))
            elif aside > 0:
                aside -= 1
                self._aside.add(host.name, partial(self._one, host, SILENT_SECONDS))
            else:
                with self._database.transaction() as step:
                    store.put_off(step, self.name, host.name, PUT_OFF_SECONDS)
        return len(hosts)

    def _one(self, host: FleetHost, seconds: float) -> None:
        try:
            done = self._rounds.pull(host, seconds)
            (self._silent.add if done.silent else self._silent.discard)(host.name)
            _LOG.info("%s: %s: %s", host.name, done.state.value, done.sentence)
        except CasemateError as error:
            _LOG.warning("%s: %s", host.name, error.reason)
        except Exception:  # noqa: BLE001 (one host must not stop the others)
            _LOG.exception("round of %s", host.name)

    def _keep_house(self) -> None:
        now = time.monotonic()
        if now - self._kept < HOUSEKEEPING:
            return
        self._kept = now
        with self._database.transaction() as step:
            alarmstore.beat(step, self.name, self._started)
            nonces.forget(step)
            for name in store.leased(step, self.name):
                if not (self._lane.has(name) or self._aside.has(name)):
                    store.release(step, self.name, name)  # its round ended without the store
            for name in alarmstore.silent_workers(step, DEAD_SECONDS):
                store.release(step, name)  # should it live, what it writes of them is not taken
                words = f"verifier {name} was not heard for {DEAD_SECONDS:g} s"
                if alarmstore.raise_alarm(step, "", f"{VERIFIER_DEAD}:{name}", words):
                    self._notifier.tell(step, [Notice("", VERIFIER_DEAD, words, step.now())])
            alarmstore.clear_alarms(step, "", f"{VERIFIER_DEAD}:{self.name}")
            alarmstore.forget_stopped(step)
        self._ledger.expire()
        if dropped := outbox.drop_old(self._database):
            _LOG.error("%d notices are dropped: webhook or syslog did not take them", dropped)
