"""Alarms reach those who wait for them, as plain text, and end when their cause has."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.verifier.conftest import Web

from casemate.errors import ArgumentError, NotFoundError, StateError
from casemate.verifier import alarmstore
from casemate.verifier.alarms import Notice, Notifier

NOTICE = Notice("h", "failed-latched", "qemu\n<13>forged \x1b[31m \u202e changed", 1.0)


class Hook:
    """A web hook that answers with the statuses it is given, then 200."""

    def __init__(self, *statuses: int) -> None:
        self.got: list[tuple[bytes, str]] = []
        left = list(statuses)
        got = self.got

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                got.append((body, self.headers["x-casemate-signature"]))
                self.send_response(left.pop(0) if left else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the library
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?x=1"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook(500, 503)
    yield made
    made.close()


def test_webhook_gets_signed_json_and_is_asked_again(hook: Hook) -> None:
    notifier = Notifier(hook.url, "secret")
    notifier.tell(NOTICE)
    notifier.close()
    assert len(hook.got) == 3
    body, mark = hook.got[-1]
    assert hmac.compare_digest(mark, hmac.new(b"secret", body, hashlib.sha256).hexdigest())
    assert json.loads(body)["sentence"] == NOTICE.sentence


def test_webhook_that_is_away_stops_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    notifier = Notifier(f"http://127.0.0.1:{port}/")
    notifier.tell(NOTICE)
    notifier.close()
    with pytest.raises(ArgumentError):
        Notifier("ftp://x/")


@pytest.mark.parametrize("family", ["udp", "unix"])
def test_syslog_gets_one_plain_line(family: str, tmp_path: Path) -> None:
    kind = socket.AF_INET if family == "udp" else socket.AF_UNIX
    with socket.socket(kind, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        if family == "udp":
            listener.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{listener.getsockname()[1]}"
        else:
            where = str(tmp_path / "log")
            listener.bind(where)
        notifier = Notifier(syslog=where)
        notifier.tell(NOTICE)
        notifier.close()
        line = listener.recv(4096).rstrip(b"\0").decode()
    assert "casemate-verifier: failed-latched h: qemu" in line
    assert line.isprintable()


def test_dead_verifier_is_forgotten_by_an_operator_and_a_living_one_is_not(web: Web) -> None:
    service = web.service
    with service.database.transaction() as step:
        for name in ("dead", "alive"):
            alarmstore.beat(step, name, 0.0)
        step.run("UPDATE worker SET seen=seen-60 WHERE name='dead'")
        assert alarmstore.silent_workers(step, alarmstore.DEAD_SECONDS) == ["dead"]
        alarmstore.raise_alarm(step, "", "verifier-dead:dead", "not heard")
    csrf = web.browse("olga")
    assert "It is gone for good" in web.client.get("/alarms").text
    told = web.client.post("/verifiers/dead/forget", data={"csrf": csrf}, follow_redirects=True)
    assert "It is gone for good" not in told.text
    with service.database.transaction() as step:
        assert alarmstore.count_alarms(step) == 0
        assert [name for name, _, _ in alarmstore.workers(step)] == ["alive"]
    with pytest.raises(StateError):
        service.forget_verifier("alive", "olga")
    with pytest.raises(NotFoundError):
        service.forget_verifier("dead", "olga")
    answer = web.client.request(
        "DELETE", "/api/v1/verifiers/alive", headers=web.login("vera"), json={}
    )
    assert answer.status_code == 403


def test_verifiers_that_stopped_in_order_are_forgotten_after_a_day(web: Web) -> None:
    with web.service.database.transaction() as step:
        for name in ("gone", "fresh"):
            alarmstore.beat(step, name, 0.0)
            alarmstore.stop_worker(step, name)
        step.run("UPDATE worker SET seen=seen-90000 WHERE name='gone'")
        alarmstore.forget_stopped(step)
        assert [name for name, _, _ in alarmstore.workers(step)] == ["fresh"]


def test_webhook_whose_name_no_resolver_takes_ends_no_alarm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notifier = Notifier(f"http://{'a' * 70}.example/")
    notifier.tell(NOTICE)
    notifier.tell(NOTICE)
    notifier.close()
    assert caplog.text.count("the webhook did not take") == 2
