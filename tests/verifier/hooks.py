"""A web hook to send notices to, and how to wait for what they do."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable

from casemate.verifier import outbox
from casemate.verifier.database import Database


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def waits(database: Database) -> int:
    with database.transaction() as step:
        return outbox.waiting(step)


class Hook:
    """A web hook that answers with the statuses it is given, then 200.

    Instead of status 0 it hangs up, but not before ``released`` is set.
    """

    def __init__(self, *statuses: int) -> None:
        self.got: list[tuple[bytes, str]] = []
        self.released = released = threading.Event()
        left = list(statuses)
        got = self.got

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                got.append((body, self.headers["x-casemate-signature"]))
                status = left.pop(0) if left else 200
                if not status:
                    released.wait(120)
                    return
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the library
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?x=1"

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
