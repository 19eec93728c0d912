"""Evidence of many hosts that comes at once is judged and written down together.

What a transaction costs (its commit waits for the disk) is shared by all that wait for one: while
one lot is written, the next gathers. Nobody waits for others to come. Heavy evidence, which is a
long IMA list, is taken out of its lot and judged by itself on a thread of its own: the others do
not wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from casemate.errors import BusyError, CasemateError, HostError
from casemate.verifier.attempts import Answer, Arrival, Begun
from casemate.verifier.rounds import Rounds

_LOG = logging.getLogger("verifier.intake")

T = TypeVar("T")
R = TypeVar("R")

LOT = 64
"""Rounds of one transaction: judging them takes some 30 ms."""

THREADS = 2
"""Lots in work: one waits for the disk while the other is judged."""

HEAVY_THREADS = 2
"""Heavy ones in work: what is judged in Python takes turns on a processor anyway."""

HEAVY_BYTES = 128 << 20
"""Bytes of heavy evidence that is judged or waits for it; more is told to come again."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    arrival: Arrival
    future: asyncio.Future[Answer]
    loop: asyncio.AbstractEventLoop


_Heavy = tuple[_Waiting, Begun]


class Intake:
    """Takes evidence in; its threads start with the first."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._heavy: queue.SimpleQueue[_Heavy | None] = queue.SimpleQueue()
        self._weights: dict[str, int] = {}
        self._turn = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._heavy_threads: list[threading.Thread] = []

    async def push(self, arrival: Arrival) -> Answer:
        """Take in what an agent sent; raises what ``Rounds.take_in`` returns as an error."""
        if not self._threads:
            self._start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._queue.put(_Waiting(arrival, future, loop))
        return await future

    def close(self) -> None:
        """Finish what waits, and end."""
        for waiting, threads in ((self._queue, self._threads), (self._heavy, self._heavy_threads)):
            for _ in threads:
                waiting.put(None)
            for thread in threads:
                thread.join()

    def _start(self) -> None:
        with self._turn:
            if self._threads:
                return
            self._heavy_threads = [
                threading.Thread(target=self._run_heavy, name=f"intake-heavy-{n}", daemon=True)
                for n in range(HEAVY_THREADS)
            ]
            self._threads = [
                threading.Thread(target=self._run, name=f"intake-{n}", daemon=True)
                for n in range(THREADS)
            ]
            for thread in (*self._heavy_threads, *self._threads):
                thread.start()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            lot = [first]
            while len(lot) < LOT:
                try:
                    one = self._queue.get_nowait()
                except queue.Empty:
                    break
                if one is None:
                    self._queue.put(None)
                    break
                lot.append(one)
            self._do(lot)

    def _run_heavy(self) -> None:
        while (one := self._heavy.get()) is not None:
            waiting, begun = one
            (answer,) = _safely(self._rounds.finish, [begun])
            with self._turn:
                del self._weights[begun.host]
            _send([(waiting, answer)])

    def _do(self, lot: list[_Waiting]) -> None:
        begun = _safely(self._rounds.begin, [one.arrival for one in lot])
        light: list[_Waiting] = []
        lighter: list[Begun] = []
        answers: list[tuple[_Waiting, Answer | CasemateError]] = []
        for waiting, one in zip(lot, begun, strict=True):
            if isinstance(one, CasemateError):
                answers.append((waiting, one))
            elif not one.heavy:
                light.append(waiting)
                lighter.append(one)
            elif (refusal := self._set_apart(waiting, one)) is not None:
                answers.append((waiting, refusal))
        answers += zip(light, _safely(self._rounds.finish, lighter), strict=True)
        _send(answers)

    def _set_apart(self, waiting: _Waiting, begun: Begun) -> BusyError | None:
        """Let heavy evidence wait for its turn, if there is room for it."""
        with self._turn:
            if begun.host in self._weights:
                return BusyError("This host's evidence is being judged.", code="heavy-evidence")
            # One is always taken, however heavy.
            if self._weights and sum(self._weights.values()) + begun.weight > HEAVY_BYTES:
                return BusyError("Too much evidence waits to be judged.", code="heavy-evidence")
            self._weights[begun.host] = begun.weight
        self._heavy.put((waiting, begun))
        return None


def _safely(
    work: Callable[[list[T]], list[R | CasemateError]], given: list[T]
) -> list[R | CasemateError]:
    try:
        return work(given)
    except CasemateError as error:
        return [error] * len(given)
    except Exception:  # noqa: BLE001 (a dead thread would leave all agents waiting)
        _LOG.exception("intake")
        return [HostError("the verifier failed on this request")] * len(given)


def _send(answers: list[tuple[_Waiting, Answer | CasemateError]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Waiting, Answer | CasemateError]]] = {}
    for one, answer in answers:
        by_loop.setdefault(one.loop, []).append((one, answer))
    for loop, pairs in by_loop.items():
        loop.call_soon_threadsafe(_tell, pairs)


def _tell(pairs: list[tuple[_Waiting, Answer | CasemateError]]) -> None:
    for one, answer in pairs:
        if one.future.done():
            continue  # the agent hung up
        if isinstance(answer, CasemateError):
            one.future.set_exception(answer)
        else:
            one.future.set_result(answer)
