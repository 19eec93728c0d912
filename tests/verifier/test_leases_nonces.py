"""Leases and nonces under any interleaving: one holder at a time, each nonce spent once."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from casemate.errors import AppraisalError
from casemate.machine.fleet import FleetHost, Mode, Round
from casemate.policy.statemachine import State, enrolled
from casemate.verifier import nonces, roundstore, store
from casemate.verifier.database import Database, Sqlite, SteadyClock, open_database
from casemate.verifier.packing import Packer
from casemate.verifier.records import moment, write_record
from casemate.verifier.schema import SCHEMA

HOSTS = ("a", "b", "c", "d")
WORKERS = ("one", "two")
LEASE = 60.0


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def new_host(name: str, now: float) -> FleetHost:
    record = replace(enrolled(moment(now), 0, approved=True), state=State.UNKNOWN)
    return FleetHost(
        name=name, address=name, mode=Mode.PULL.value, state=record.state.value,
        record=write_record(record), ek=name, issuer="", identity="", profile="", cadence=60.0,
        next_due=now, lease_owner="", lease_until=0.0, last_tried=0.0, last_good=0.0, policy=0,
        reference="", verdict="", counters="", token="", added=now,
    )  # fmt: skip


def memory(clock: Clock) -> Database:
    return Sqlite(Path(":memory:"), SCHEMA, clock)


class Leases(RuleBasedStateMachine):
    """Two verifiers, a clock, and a model of who may hold what."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.database = memory(self.clock)
        self.held: dict[str, tuple[str, float]] = {}
        with self.database.transaction() as step:
            for name in HOSTS:
                store.add_host(step, new_host(name, self.clock()))

    def teardown(self) -> None:
        self.database.close()

    @rule(worker=st.sampled_from(WORKERS), limit=st.integers(1, 4))
    def lease(self, worker: str, limit: int) -> None:
        got = [host.name for host in store.lease_due(self.database, worker, LEASE, limit)]
        for name in got:
            assert name not in self.held or self.held[name][1] < self.clock()
            self.held[name] = (worker, self.clock() + LEASE)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), worker=st.sampled_from(WORKERS))
    def finish(self, data: st.DataObject, worker: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        with self.database.transaction() as step:
            current = store.get_host(step, name)
            mine = replace(current, lease_owner=worker)
            done = replace(current, next_due=self.clock() + 60, lease_owner="")
            wrote = store.update_host(step, mine, done)
        assert wrote == (self.held[name][0] == worker)
        if wrote:
            del self.held[name]

    @rule(seconds=st.sampled_from([1.0, 59.0, 61.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(worker=st.sampled_from(WORKERS))
    def stop(self, worker: str) -> None:
        with self.database.transaction() as step:
            store.release(step, worker)
        self.held = {name: one for name, one in self.held.items() if one[0] != worker}

    @invariant()
    def store_agrees(self) -> None:
        with self.database.transaction() as step:
            owners = {host.name: host.lease_owner for host in store.all_hosts(step)}
        assert owners == {name: self.held.get(name, ("",))[0] for name in HOSTS}

    @invariant()
    def nothing_is_lost(self) -> None:
        """Whatever happened, in time each host can be leased again."""
        before = self.clock.now
        self.clock.now += 1000
        with self.database.transaction() as step:
            rows = step.all(store._DUE, self.clock(), "pending", "removed", self.clock(), 50)
        self.clock.now = before
        assert len(rows) == len(HOSTS)


class NonceWorld(RuleBasedStateMachine):
    """Nonces handed out, brought back by anybody, changed, early and late, and days apart."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.database = memory(self.clock)
        self.nonces = (nonces.Nonces(), nonces.Nonces())  # two verifiers share the keys
        self.out: dict[bytes, tuple[str, float, int]] = {}

    def teardown(self) -> None:
        self.database.close()

    @rule(host=st.sampled_from(HOSTS), version=st.integers(0, 2**32 - 1), maker=st.integers(0, 1))
    def issue(self, host: str, version: int, maker: int) -> None:
        with self.database.transaction() as step:
            nonce = self.nonces[maker].issue(step, host, version)
        assert nonce not in self.out
        self.out[nonce] = (host, self.clock(), version)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), host=st.sampled_from(HOSTS), reader=st.integers(0, 1))
    def read(self, data: st.DataObject, host: str, reader: int) -> None:
        nonce = data.draw(st.sampled_from(sorted(self.out)))
        owner, issued, version = self.out[nonce]
        good = owner == host and 0 <= self.clock() - issued <= 60
        try:
            with self.database.transaction() as step:
                found = self.nonces[reader].read(step, nonce, host)
        except AppraisalError:
            assert not good
        else:
            assert good
            assert found.version == version
            assert found.issued.timestamp() == pytest.approx(issued, abs=1e-5)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), place=st.integers(0, 31), bit=st.integers(0, 7))
    def change(self, data: st.DataObject, place: int, bit: int) -> None:
        nonce = bytearray(data.draw(st.sampled_from(sorted(self.out))))
        nonce[place] ^= 1 << bit
        host = self.out[bytes(data.draw(st.sampled_from(sorted(self.out))))][0]
        with (
            self.database.transaction() as step,
            pytest.raises(AppraisalError, match="none of ours"),
        ):
            self.nonces[0].read(step, bytes(nonce), host)

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0, 86_400.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def forget(self) -> None:
        with self.database.transaction() as step:
            nonces.forget(step)
            kept = step.all("SELECT name FROM value")
        assert len(kept) <= 4


QUICK = settings(
    max_examples=25, stateful_step_count=25, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
TestLeases = Leases.TestCase
TestLeases.settings = QUICK
TestNonces = NonceWorld.TestCase
TestNonces.settings = QUICK


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.host)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    where = request.getfixturevalue("postgres") if request.param == "postgres" else None
    made = open_database(where or str(tmp_path / "verifier.db"), SCHEMA)
    with made.transaction() as step:
        for table in ("host", "nonce", "reference"):
            step.run(f"DELETE FROM {table}")
    yield made
    made.close()


def test_many_verifiers_at_once_never_lease_a_host_twice(database: Database) -> None:
    with database.transaction() as step:
        for number in range(200):
            store.add_host(step, new_host(f"h{number}", step.now() - 1))
    taken: list[str] = []
    turn = threading.Lock()

    def work(name: str) -> None:
        while got := store.lease_due(database, name, LEASE, 7):
            with turn:
                taken.extend(host.name for host in got)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 200
    assert max(Counter(taken).values()) == 1


def test_round_sent_by_many_at_once_is_written_once(database: Database) -> None:
    packer = Packer()
    round_ = Round(0, "a", 1.0, "good", "trusted", "", 0, 1.0, os.urandom(32), b"{}", b"{}")
    spent: list[bytes] = []

    def work() -> None:
        with database.transaction() as step:
            spent.extend(roundstore.add_rounds(step, [round_], packer))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spent == [round_.nonce]
    with database.transaction() as step:
        assert roundstore.spent_nonces(step, [round_.nonce, bytes(32)]) == {round_.nonce}


def test_stepping_the_clock_of_the_machine_moves_no_lifetime() -> None:
    wall, ticks = Clock(), Clock()
    steady = SteadyClock(wall, ticks)
    before = steady()
    wall.now += 86_400
    ticks.now += 5
    assert steady() - before == pytest.approx(5)
