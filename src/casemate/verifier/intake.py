"""Evidence of many hosts that comes at once is judged and written down together.

What a transaction costs (its commit waits for the disk) is shared by all that wait for one: while
one lot is written, the next gathers. Nobody waits for others to come.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from dataclasses import dataclass

from casemate.errors import CasemateError, HostError
from casemate.verifier.rounds import Answer, Arrival, Rounds

_LOG = logging.getLogger("verifier.intake")

LOT = 64
"""Rounds of one transaction: judging them takes some 30 ms."""

THREADS = 2
"""Lots in work: one waits for the disk while the other is judged."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    arrival: Arrival
    future: asyncio.Future[Answer]
    loop: asyncio.AbstractEventLoop


class Intake:
    """Takes evidence in; its threads start with the first."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._threads: list[threading.Thread] = []

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
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _start(self) -> None:
        with self._turn:
            if self._threads:
                return
            self._threads = [
                threading.Thread(target=self._run, name=f"intake-{n}", daemon=True)
                for n in range(THREADS)
            ]
            for thread in self._threads:
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

    def _do(self, lot: list[_Waiting]) -> None:
        answers: list[Answer | CasemateError]
        try:
            answers = self._rounds.take_in([one.arrival for one in lot])
        except CasemateError as error:
            answers = [error] * len(lot)
        except Exception:  # noqa: BLE001 (a dead thread would leave all agents waiting)
            _LOG.exception("intake")
            answers = [HostError("the verifier failed on this request")] * len(lot)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Waiting, Answer | CasemateError]]] = {}
        for one, answer in zip(lot, answers, strict=True):
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
