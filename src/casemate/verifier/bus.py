"""NATS JetStream as a way to the verifier, for agents of sites that cannot call it.

Agents publish what they would post (``AGENT`` endpoints) into a work-queue stream; any verifier
fetches it, does what its REST interface would do, answers to the agent's inbox and acknowledges.
What comes while all verifiers are away is kept until its nonce would be too old anyway. The bus
carries; it is not believed: secrets, nonces and quotes are checked as everywhere.

Subject ``casemate.agent.OPERATION``; headers ``secret``, ``nonce``, ``inbox``; answer as JSON
``{"status", "body"}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import ssl
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from casemate.errors import ArgumentError, CasemateError, HostError

_LOG = logging.getLogger("verifier.bus")

STREAM: Final = "CASEMATE"
SUBJECT: Final = "casemate.agent"
DURABLE: Final = "verifiers"
MAX_AGE: Final = 120
"""Seconds for which the stream keeps what nobody fetched: twice the life of a nonce."""
MAX_BYTES: Final = 1 << 30
"""Bytes of the stream: 10,000 hosts with 20 KiB, five times over."""
ACK_WAIT: Final = 30
"""Seconds until something is given to another verifier."""
FETCH: Final = 50
TOGETHER: Final = 8
"""Messages handled side by side."""
TIMEOUT: Final = 30.0
"""Seconds that an agent waits for an answer."""
PAUSE: Final = 2.0
_INBOX: Final = re.compile(r"_INBOX\.[A-Za-z0-9.]{1,100}", re.ASCII)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

Handler = Callable[[str, Mapping[str, str], bytes], tuple[int, object]]
"""Operation, headers, body → status and what is answered as JSON."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the NATS server is: ``tls://HOST:PORT``, anchors, and a credentials file."""

    url: str
    ca: Path | None = None
    credentials: Path | None = None

    def check(self) -> None:
        """Refuse a server to which secrets would travel in the open. Raises ArgumentError."""
        parts = urlsplit(self.url)
        if parts.scheme not in {"tls", "nats"} or not parts.hostname:
            raise ArgumentError("the NATS server is tls://HOST:PORT", argument="nats")
        if parts.scheme == "nats" and parts.hostname not in _LOOPBACK:
            raise ArgumentError("only tls:// leaves this machine", argument="nats")


async def connect(place: Place, *, wait: bool) -> Any:  # noqa: ANN401  # optional library
    """Return a connection; ``wait``: try for ever. Raises HostError."""
    place.check()
    try:
        import nats  # noqa: PLC0415  # only where a bus is used
    except ImportError as error:
        raise HostError(
            "NATS cannot be spoken to: nats-py is not installed",
            code="nats",
            component="nats-py",
            remedy="Install the package nats-py, or let agents call the verifier.",
        ) from error
    options: dict[str, Any] = {
        "connect_timeout": 5,
        "allow_reconnect": True,
        "max_reconnect_attempts": -1 if wait else 1,
        "reconnect_time_wait": 1,
        "error_cb": _say,
    }
    if place.url.startswith("tls:"):
        options["tls"] = ssl.create_default_context(cafile=str(place.ca) if place.ca else None)
    if place.credentials:
        options["user_credentials"] = str(place.credentials)
    try:
        return await nats.connect(place.url, **options)
    except Exception as error:  # the library raises whatever its socket does
        raise _away(place, error) from error


async def _say(error: Exception) -> None:
    _LOG.info("NATS: %s", error)


def _away(place: Place, error: BaseException) -> HostError:
    return HostError(
        f"the NATS server does not answer: {str(error) or type(error).__name__}",
        code="nats",
        component=place.url,
        remedy="Check its address and that JetStream is on; its certificate with --nats-ca.",
    )


class Bus:
    """A verifier's end: a thread with a loop that fetches and answers until it is closed."""

    def __init__(self, place: Place, handler: Handler) -> None:
        place.check()
        self._place = place
        self._handler = handler
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name="bus", daemon=True
        )

    def start(self) -> None:
        """Begin; a server that is away is waited for."""
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        """Finish what is being answered, and end."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        while not self._stop.is_set():
            try:
                connection = await connect(self._place, wait=False)
            except HostError as error:
                _LOG.warning("%s", error.reason)
                await self._pause()
                continue
            try:
                await self._serve(connection)
            except Exception:  # noqa: BLE001  # a dead bus would go unnoticed
                _LOG.exception("bus")
                await self._pause()
            finally:
                with contextlib.suppress(Exception):
                    await connection.close()

    async def _pause(self) -> None:
        if self._stop is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), PAUSE)

    async def _serve(self, connection: Any) -> None:  # noqa: ANN401
        from nats.errors import TimeoutError as NatsTimeout  # noqa: PLC0415
        from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig  # noqa: PLC0415

        stream = connection.jetstream()
        await stream.add_stream(
            StreamConfig(
                name=STREAM,
                subjects=[f"{SUBJECT}.*"],
                retention=RetentionPolicy.WORK_QUEUE,
                max_age=MAX_AGE,
                max_bytes=MAX_BYTES,
            )
        )
        config = ConsumerConfig(ack_wait=ACK_WAIT, max_deliver=3, max_ack_pending=4 * FETCH)
        source = await stream.pull_subscribe(f"{SUBJECT}.*", durable=DURABLE, config=config)
        room = asyncio.Semaphore(TOGETHER)
        running: set[asyncio.Task[None]] = set()
        while self._stop is not None and not self._stop.is_set():
            try:
                messages = await source.fetch(FETCH, timeout=1)
            except (TimeoutError, NatsTimeout):
                continue
            for message in messages:
                await room.acquire()
                task = asyncio.create_task(self._one(connection, message, room))
                running.add(task)
                task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running)

    async def _one(self, connection: Any, message: Any, room: asyncio.Semaphore) -> None:  # noqa: ANN401
        try:
            headers = dict(message.headers or {})
            inbox = headers.get("inbox", "")
            operation = message.subject.removeprefix(f"{SUBJECT}.")
            status, body = await asyncio.to_thread(self._handler, operation, headers, message.data)
            if _INBOX.fullmatch(inbox):
                answer = json.dumps({"status": status, "body": body}).encode()
                await connection.publish(inbox, answer)
            await message.ack()
        except Exception:  # noqa: BLE001  # one message must not stop the others; it is given out again
            _LOG.exception("bus: %s", message.subject)
        finally:
            room.release()


class BusClient:
    """An agent's end: one question after the other."""

    def __init__(self, place: Place, secret: str) -> None:
        self._place = place
        self._secret = secret
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bus", daemon=True)
        self._thread.start()
        self._connection: Any = None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._wait(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, operation: str, body: bytes, nonce: str = "") -> tuple[int, dict[str, Any]]:
        """Send something and return status and answer. Raises HostError."""
        try:
            data = self._wait(self._ask(operation, body, nonce))
            value = json.loads(data)
            return int(value["status"]), dict(value["body"])
        except CasemateError:
            raise
        except Exception as error:  # the library raises whatever its socket does
            raise _away(self._place, error) from error

    def _wait(self, what: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(2 * TIMEOUT)

    async def _ask(self, operation: str, body: bytes, nonce: str) -> bytes:
        if self._connection is None or self._connection.is_closed:
            self._connection = await connect(self._place, wait=False)
        connection = self._connection
        inbox = connection.new_inbox()
        answers = await connection.subscribe(inbox, max_msgs=1)
        try:
            headers = {"secret": self._secret, "nonce": nonce, "inbox": inbox}
            await self._publish(connection, f"{SUBJECT}.{operation}", body, headers)
            message = await answers.next_msg(timeout=TIMEOUT)
        finally:
            with contextlib.suppress(Exception):
                await answers.unsubscribe()
        return bytes(message.data)

    async def _publish(
        self,
        connection: Any,  # noqa: ANN401
        subject: str,
        body: bytes,
        headers: dict[str, str],
    ) -> None:
        """Put a message into the stream; one that a verifier has yet to make is waited for."""
        from nats.js.errors import NoStreamResponseError  # noqa: PLC0415

        stream = connection.jetstream()
        async with asyncio.timeout(TIMEOUT):
            while True:
                try:
                    await stream.publish(subject, body, timeout=TIMEOUT, headers=headers)
                except NoStreamResponseError:
                    await asyncio.sleep(0.2)
                else:
                    return
