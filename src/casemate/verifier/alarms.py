"""Telling others: a webhook and syslog, from a thread of their own, so that nothing waits for them.

A webhook gets JSON with the header ``x-casemate-signature``: HMAC-SHA-256 of the body under a
secret that both sides know, in hex.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import logging
import logging.handlers
import queue
import ssl
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

from casemate.errors import ArgumentError
from casemate.formats.text import escape

_LOG = logging.getLogger("verifier.alarms")

TRIES = 3
"""Tries of one webhook call; the alarm stands in the store whether or not it was heard."""

WAITING = 1000
"""Calls that may wait; more are dropped with a line in the log."""

TIMEOUT = 10.0
"""Seconds for one call."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What happened to a host, or to a verifier (``host`` empty)."""

    host: str
    code: str
    sentence: str
    time: float


class Notifier:
    """Passes notices on. ``syslog`` is ``host:port`` (UDP) or a path of a socket."""

    def __init__(self, webhook: str = "", secret: str = "", syslog: str = "") -> None:
        parts = urlsplit(webhook)
        if webhook and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise ArgumentError(
                "a webhook is http://... or https://...", argument="webhook", component=webhook
            )
        self._webhook = parts if webhook else None
        self._secret = secret.encode()
        self._waiting: queue.Queue[Notice | None] = queue.Queue(WAITING)
        self._syslog = _syslog(syslog)
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
        self._thread.start()

    def tell(self, notice: Notice) -> None:
        """Pass a notice on, soon."""
        try:
            self._waiting.put_nowait(notice)
        except queue.Full:
            _LOG.error("notices are dropped: the webhook does not keep up")

    def close(self) -> None:
        """Deliver what waits, and end."""
        self._waiting.put(None)
        self._thread.join(TIMEOUT * TRIES)
        if self._syslog:
            self._syslog.close()

    def _run(self) -> None:
        while (notice := self._waiting.get()) is not None:
            what = escape(f"{notice.code} {notice.host or 'verifier'}: {notice.sentence}")
            _LOG.warning("%s", what)
            if self._syslog:
                text = f"casemate-verifier: {what}"
                self._syslog.emit(
                    logging.LogRecord("verifier", logging.WARNING, "", 0, text, None, None)
                )
            if self._webhook and not any(self._post(notice) for _ in range(TRIES)):
                _LOG.error("the webhook did not take %s of %s", notice.code, notice.host)

    def _post(self, notice: Notice) -> bool:
        target = self._webhook
        if target is None:
            return True
        body = json.dumps(
            {
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
        mark = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        try:
            connection.request(
                "POST",
                path,
                body,
                {"content-type": "application/json", "x-casemate-signature": mark},
            )
            return connection.getresponse().status < http.client.MULTIPLE_CHOICES
        except (OSError, ValueError, http.client.HTTPException) as error:
            # ValueError: a name that no resolver takes. Nothing may end the thread that tells.
            _LOG.info("webhook: %s", error)
            return False
        finally:
            connection.close()


def _syslog(address: str) -> logging.handlers.SysLogHandler | None:
    if not address:
        return None
    host, colon, port = address.rpartition(":")
    where = (host, int(port)) if colon and port.isdigit() else address
    return logging.handlers.SysLogHandler(where)
