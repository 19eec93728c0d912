"""Alarms reach those who wait for them, as plain text, and end when their cause has."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.verifier.conftest import Engine, Web
from tests.verifier.hooks import Hook, wait_for, waits

from casemate.errors import ArgumentError, NotFoundError, StateError
from casemate.verifier import alarmstore, outbox
from casemate.verifier.alarms import Notifier
from casemate.verifier.database import Database
from casemate.verifier.outbox import Notice

NOTICE = Notice("h", "failed-latched", "qemu\n<13>forged \x1b[31m \u202e changed", 1.0)


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook(500, 503)
    yield made
    made.close()


def tell(database: Database, notifier: Notifier, *notices: Notice) -> None:
    with database.transaction() as step:
        notifier.tell(step, notices or [NOTICE])


def test_webhook_gets_signed_json_and_is_asked_again(
    engine: Engine, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.01)
    notifier = Notifier(engine.database, hook.url, "secret")
    tell(engine.database, notifier)
    wait_for(lambda: not waits(engine.database))
    notifier.close()
    assert len(hook.got) == 3
    body, mark = hook.got[-1]
    assert hmac.compare_digest(mark, hmac.new(b"secret", body, hashlib.sha256).hexdigest())
    assert json.loads(body)["sentence"] == NOTICE.sentence
    assert len({json.loads(body)["id"] for body, _ in hook.got}) == 1


def test_webhook_that_is_away_stops_nothing(engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    notifier = Notifier(engine.database, f"http://127.0.0.1:{port}/")
    tell(engine.database, notifier)
    notifier.close()
    assert waits(engine.database) == 1
    with pytest.raises(ArgumentError):
        Notifier(engine.database, "ftp://x/")


@pytest.mark.parametrize("family", ["udp", "unix"])
def test_syslog_gets_one_plain_line(family: str, tmp_path: Path, engine: Engine) -> None:
    kind = socket.AF_INET if family == "udp" else socket.AF_UNIX
    with socket.socket(kind, socket.SOCK_DGRAM) as listener:
        listener.settimeout(60)
        if family == "udp":
            listener.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{listener.getsockname()[1]}"
        else:
            where = str(tmp_path / "log")
            listener.bind(where)
        notifier = Notifier(engine.database, syslog=where)
        tell(engine.database, notifier)
        notifier.close()
        line = listener.recv(4096).rstrip(b"\0").decode()
    assert "casemate-verifier: failed-latched h: qemu" in line
    assert line.isprintable()


def test_what_syslog_does_not_take_waits(engine: Engine, tmp_path: Path) -> None:
    notifier = Notifier(engine.database, syslog=str(tmp_path / "nobody"))
    tell(engine.database, notifier)
    notifier.close()
    assert waits(engine.database) == 1


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
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(engine.database, f"http://{'a' * 70}.example/")
    tell(engine.database, notifier, NOTICE, NOTICE)
    wait_for(lambda: caplog.text.count("the webhook did not take") >= 2)
    notifier.close()
    assert waits(engine.database) == 2
