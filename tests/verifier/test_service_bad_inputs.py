"""The entries of the catalogue of bad inputs that only a running verifier can show.

A test is named after its entry, as in ``tests/policy/test_bad_inputs.py``.
"""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from tests.verifier.conftest import Engine, Web

from casemate.errors import ArgumentError
from casemate.testing.minifleet import MiniFleet
from casemate.verifier import alarmstore, scheduler, store
from casemate.verifier import web as webface
from casemate.verifier.endpoints import ENDPOINTS
from casemate.verifier.enrol import Wanted

Fleet = Callable[[int], MiniFleet]
GONE = (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError)
"""What a client sees where the answer came before its body was sent."""


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_bi_035_of_two_registrations_at_once_exactly_one_wins(engine: Engine, fleet: Fleet) -> None:
    made = fleet(4)
    lost: list[str] = []

    def enrol(address: str) -> None:
        try:
            engine.enrolment.pull(Wanted("host", address), "anna")
        except ArgumentError as error:
            lost.append(error.code)

    threads = [threading.Thread(target=enrol, args=(one,)) for one in made.addresses.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lost) == len(threads) - 1
    assert list(engine.states()) == ["host"]
    assert engine.host("host").address in made.addresses.values()


def test_bi_043_administration_without_a_login_is_refused(web: Web) -> None:
    body = {"name": "host", "push": True}
    answer = web.client.post("/api/v1/hosts", json=body)
    assert answer.status_code == 401
    assert web.client.get("/api/v1/fleet").status_code == 401
    answer = web.client.post("/api/v1/hosts", json=body, headers=web.login("vera"))
    assert answer.status_code == 403
    with web.service.database.transaction() as step:
        assert store.all_hosts(step) == []


def test_bi_107_the_leases_of_a_dead_verifier_run_out_and_an_alarm_stands(
    engine: Engine, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.reference()
    engine.enrol(fleet(4), cadence=60)
    with engine.database.transaction() as step:
        alarmstore.beat(step, "dead", step.now())
    held = store.lease_due(engine.database, "dead", 600)
    assert len(held) == 4
    assert store.lease_due(engine.database, "other", 60) == []
    with engine.database.transaction() as step:
        step.run("UPDATE host SET lease_until=lease_until-600")
    monkeypatch.setattr(scheduler, "DEAD_SECONDS", 0.5)
    monkeypatch.setattr(scheduler, "HOUSEKEEPING", 0.1)
    engine.worker("alive")
    wait_for(lambda: set(engine.states().values()) == {"trusted"})

    def alarmed() -> bool:
        with engine.database.transaction() as step:
            return "verifier-dead:dead" in {alarm.code for alarm in alarmstore.alarms(step)}

    wait_for(alarmed)


def test_bi_108_bodies_that_are_huge_packed_or_slow(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = web.service.enrolment.invite(Wanted("host"), "anna")
    headers = {"authorization": f"Bearer {secret}"}
    url = "/agent/v1/evidence?nonce=00"

    def endless(sent: list[int]) -> Iterator[bytes]:
        for _ in range(1 << 14):
            sent.append(1 << 16)
            yield bytes(1 << 16)

    # Announced or not, no more is read than the limit and what is on its way; of a stranger's
    # body nothing.
    huge = {**headers, "content-length": str(1 << 30)}
    for told, status in ((huge, 413), (headers, 413), ({"authorization": "Bearer x"}, 401)):
        sent: list[int] = []
        with contextlib.suppress(*GONE):
            assert web.client.post(url, content=endless(sent), headers=told).status_code == status
        assert sum(sent) < 64 << 20
    # What is packed stays packed: it is no JSON.
    packed = gzip.compress(bytes(10 << 20))
    answer = web.client.post(url, content=packed, headers={**headers, "content-encoding": "gzip"})
    assert answer.status_code in {400, 422}
    monkeypatch.setattr(webface, "READ_SECONDS", 0.3)

    dripped: list[int] = []

    def slow() -> Iterator[bytes]:
        for _ in range(500):
            dripped.append(1)
            yield b" "
            time.sleep(0.1)

    with contextlib.suppress(*GONE):
        answer = web.client.post(url, content=slow(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "timeout")
    assert len(dripped) < 500


def test_bi_109_a_fleet_that_boots_at_once_is_attested_without_a_false_alarm(
    engine: Engine, fleet: Fleet
) -> None:
    engine.reference()
    made = fleet(16)
    engine.enrol(made, cadence=30)
    for host in made.hosts.values():
        host.reboot(None)
    with engine.database.transaction() as step:
        store.due_now(step)
    engine.worker("one")
    wait_for(lambda: set(engine.states().values()) == {"trusted"})
    with engine.database.transaction() as step:
        assert alarmstore.alarms(step, standing=False) == []
        due = sorted(host.next_due for host in store.all_hosts(step))
    assert due[-1] - due[0] > 1  # they do not come together again


def test_bi_111_every_address_that_changes_something_asks_for_a_login(web: Web) -> None:
    guarded = [one for one in ENDPOINTS if one.agent or one.role is not None]
    assert {one.path for one in ENDPOINTS} - {one.path for one in guarded} == {
        "/api/v1/login",
        "/api/v1/keys",
    }
    for one in guarded:
        path = one.path.format(name="x", identifier="x", policy="x")
        answer = web.client.request(one.method, path, content=b"{}")
        assert answer.status_code == 401, path
    with web.service.database.transaction() as step:
        assert store.all_hosts(step) == []
        assert step.one("SELECT count(*) FROM nonce") == (0,)
