"""Telling others what waits in the outbox: a webhook and syslog, each from a thread of its own.

A webhook gets JSON with the header ``x-casemate-signature``: HMAC-SHA-256 of the body under a
secret that both sides know, in hex. A notice may come twice, with the same ``id``, and later than
one that was made after it: its ``time`` counts.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import logging
import logging.handlers
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import SplitResult, urlsplit

from casemate.errors import ArgumentError, CasemateError
from casemate.formats.text import escape
from casemate.verifier import outbox
from casemate.verifier.database import Database, Transaction
from casemate.verifier.outbox import Leased, Notice

_LOG = logging.getLogger("verifier.alarms")

TIMEOUT = 10.0
"""Seconds for one call."""

POLL = 0.5
"""Seconds between two looks for notices that are due."""

WEBHOOK = "webhook"
SYSLOG = "syslog"


class Notifier:
    """Passes on what waits in the store. ``syslog`` is ``host:port`` (UDP) or a path of a socket.

    Raises ArgumentError for a webhook that is none.
    """

    def __init__(
        self, database: Database, webhook: str = "", secret: str = "", syslog: str = ""
    ) -> None:
        parts = urlsplit(webhook)
        if webhook and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise ArgumentError(
                "a webhook is http://... or https://...", argument="webhook", component=webhook
            )
        self._database = database
        self._stop = threading.Event()
        self._syslog = _syslog(syslog)
        senders: dict[str, Callable[[Leased], None]] = {}
        if webhook:
            senders[WEBHOOK] = partial(_post, parts, secret.encode())
        if self._syslog:
            senders[SYSLOG] = partial(_emit, self._syslog)
        self._threads = {  # each of its own: none waits for another that is away
            name: threading.Thread(target=self._run, args=(name, send), name=name, daemon=True)
            for name, send in senders.items()
        }
        for thread in self._threads.values():
            thread.start()

    def tell(self, step: Transaction, notices: Sequence[Notice]) -> None:
        """Have notices passed on once the transaction is committed."""
        for notice in notices:
            _LOG.warning("%s", _line(notice))
        if self._threads and notices:
            outbox.put(step, self._threads, notices)

    def close(self) -> None:
        """Deliver what is taken at once, and end; what waits stays in the store."""
        self._stop.set()
        for thread in self._threads.values():
            thread.join(3 * TIMEOUT)
        if self._syslog:
            self._syslog.close()

    def _run(self, destination: str, send: Callable[[Leased], None]) -> None:
        last = False
        while not last:
            last = self._stop.wait(POLL)
            end = time.monotonic() + TIMEOUT
            try:
                while self._one(destination, send):
                    if self._stop.is_set() and time.monotonic() > end:
                        break
            except CasemateError as error:
                _LOG.warning("%s", error.reason)
            except Exception:  # noqa: BLE001 (a dead thread would tell nobody anything)
                _LOG.exception("%s", destination)

    def _one(self, destination: str, send: Callable[[Leased], None]) -> bool:
        """Send one notice that is due; False where none is, or it was not taken."""
        leased = outbox.lease(self._database, destination)
        if leased is None:
            return False
        try:
            send(leased)
        except (OSError, ValueError, http.client.HTTPException) as error:
            # ValueError: a name that no resolver takes.
            pause = outbox.put_off(self._database, leased)
            what = escape(f"{leased.notice.code} of {leased.notice.host or 'verifier'}: {error}")
            _LOG.warning("the %s did not take %s; again in %g s", destination, what, pause)
            return False
        outbox.taken(self._database, leased)
        return True


def _line(notice: Notice) -> str:
    return escape(f"{notice.code} {notice.host or 'verifier'}: {notice.sentence}")


def _post(target: SplitResult, secret: bytes, leased: Leased) -> None:
    """Call the webhook. Raises OSError, ValueError or HTTPException where it does not take it."""
    notice = leased.notice
    body = json.dumps(
        {
            "id": leased.identifier,
            "host": notice.host,
            "code": notice.code,
            "sentence": notice.sentence,
            "time": notice.time,
        }
    ).encode()
    host = target.hostname or ""
    connection = (
        http.client.HTTPSConnection(
            host, target.port, timeout=TIMEOUT, context=ssl.create_default_context()
        )
        if target.scheme == "https"
        else http.client.HTTPConnection(host, target.port, timeout=TIMEOUT)
    )
    mark = hmac.new(secret, body, hashlib.sha256).hexdigest()
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    headers = {"content-type": "application/json", "x-casemate-signature": mark}
    try:
        connection.request("POST", path, body, headers)
        status = connection.getresponse().status
    finally:
        connection.close()
    if status >= http.client.MULTIPLE_CHOICES:
        raise OSError(f"HTTP status {status}")


class _Syslog(logging.handlers.SysLogHandler):
    """The library's, which says so when nobody takes a line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (its name in the library)
        del record
        if (error := sys.exception()) is not None:
            raise error


def _emit(syslog: _Syslog, leased: Leased) -> None:
    """Write a line. Raises OSError where nobody takes it; over UDP that is not seen."""
    text = f"casemate-verifier: {_line(leased.notice)} [id {leased.identifier}]"
    syslog.emit(logging.LogRecord("verifier", logging.WARNING, "", 0, text, None, None))


def _syslog(address: str) -> _Syslog | None:
    if not address:
        return None
    host, colon, port = address.rpartition(":")
    where = (host, int(port)) if colon and port.isdigit() else address
    return _Syslog(where)
