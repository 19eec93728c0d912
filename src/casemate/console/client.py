"""A simple end of the calls socket: one request, one reply, in turn."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from casemate.calls.codec import FrameReader, decode, encode_request
from casemate.calls.messages import Empty, FactReply, Refusal, Subscribe
from casemate.errors import CasemateError, HostError
from casemate.machine.facts import TaskFact, TaskState

_Reply = TypeVar("_Reply")

GONE = "kernel-gone"
"""Code of the error after which a connection is of no use."""
TIMEOUT = 60.0
"""Seconds for one reply; the kernel answers in milliseconds, and tasks run beside it."""


class RefusedError(CasemateError):
    """What the kernel refused, with the words it used."""

    default_code = "refused"

    def __init__(self, refusal: Refusal) -> None:
        fault = refusal.fault
        super().__init__(fault.reason, code=fault.code, remedy=fault.remedy)
        self.refusal = refusal


class Calls:
    """A connection to the kernel. Raises HostError when no kernel answers."""

    def __init__(self, path: Path, *, timeout: float = TIMEOUT) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._frames = FrameReader()
        self._number = 0
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise HostError(
                "no host is running here",
                code="not-running",
                component=str(path),
                remedy="Start it with casemate up (as root).",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def ask(self, request: object, reply: type[_Reply]) -> _Reply:
        """Send a request and return its reply. Raises RefusedError, HostError."""
        self._send(request)
        _, answer = self._receive((reply, Refusal))
        if isinstance(answer, Refusal):
            raise RefusedError(answer)
        assert isinstance(answer, reply)  # noqa: S101  (decode admits nothing else)
        return answer

    def become(self, request: object) -> tuple[socket.socket, bytes]:
        """Turn the connection into what the request asks for, without a time limit.

        Returns:
            The socket, which is closed with this, and what came on it already.

        Raises:
            RefusedError, HostError: As for ``ask``.
        """
        self.ask(request, Empty)
        self._socket.settimeout(None)
        return self._socket, self._frames.rest()

    def finished(
        self, task: str, seconds: float, report: Callable[[int], None] = lambda _: None
    ) -> TaskFact:
        """Follow the event stream until the task has ended. Raises HostError after ``seconds``.

        ``report`` is told the percent done.
        """
        self._send(Subscribe())
        self._socket.settimeout(seconds)
        while True:
            _, answer = self._receive((FactReply,))
            fact = answer.fact if isinstance(answer, FactReply) else None
            if not isinstance(fact, TaskFact) or fact.task != task:
                continue
            if fact.state in (TaskState.SUCCESS, TaskState.ERROR):
                return fact
            report(fact.progress)

    def _send(self, request: object) -> None:
        self._number += 1
        try:
            self._socket.sendall(encode_request(self._number, request))
        except OSError as error:
            raise _lost(error) from error

    def _receive(self, vocabulary: tuple[type, ...]) -> tuple[int, object]:
        while (body := self._frames.next()) is None:
            try:
                data = self._socket.recv(1 << 16)
            except OSError as error:
                raise _lost(error) from error
            if not data:
                raise _lost(ConnectionResetError("connection closed"))
            self._frames.feed(data)
        return decode(body, vocabulary)


def _lost(error: OSError) -> HostError:
    return HostError(
        f"the kernel does not answer: {error}",
        code=GONE,
        component="kernel",
        remedy="Look at run/log/kernel.log in the home.",
    )
