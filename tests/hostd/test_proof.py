"""Anyone may ask for proof: within limits, strictly decoded."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from casemate.calls import evidence
from casemate.calls.messages import ActivateCredential, EvidenceReply, IdentityReply, Quote
from casemate.errors import CasemateError
from casemate.hostd.kernelclient import RefusedError
from casemate.hostd.proof import CLIENT, FAMILIAR, FAMILIAR_KEPT, FAMILIAR_SECONDS, TOTAL, RateLimit
from casemate.machine.facts import FaultFact
from casemate.testing.fakekernel import FakeKernel

GOOD = Quote(b"n" * 32, ("sha256",), (0, 17))


def test_identity_needs_no_login(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await host.anonymous.send("GET", evidence.IDENTITY_PATH)
        assert reply.status == 200
        assert evidence.decode(IdentityReply, reply.text.encode()) == host.kernel.proof.identity

    play(story)


def test_evidence_answers_the_nonce(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        reply = await host.anonymous.send("POST", evidence.EVIDENCE_PATH, evidence.encode(GOOD))
        proof = evidence.decode(EvidenceReply, reply.text.encode())
        assert proof.quotes == ((b"attest " + GOOD.nonce, b"signature"),)

    play(story)


def test_activation_is_passed_on(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        body = evidence.encode(ActivateCredential(b"abc", b"secret"))
        reply = await host.anonymous.send("POST", evidence.ACTIVATE_PATH, body)
        assert json.loads(reply.text) == {"secret": "Y2Jh"}

    play(story)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{}", 400),
        (b"[" * 10_000, 400),
        (b" " * (evidence.REQUEST_LIMIT + 1), 413),
        (evidence.encode(Quote(b"short", ("sha256",), (0,))), 400),
        (evidence.encode(Quote(b"n" * 65, ("sha256",), (0,))), 400),
        (evidence.encode(Quote(b"n" * 32, ("md5",), (0,))), 400),
        (evidence.encode(Quote(b"n" * 32, (), (0,))), 400),
        (evidence.encode(Quote(b"n" * 32, ("sha256",), (24,))), 400),
        (evidence.encode(Quote(b"n" * 32, ("sha256",), ())), 400),
    ],
)
def test_bad_requests_never_reach_the_tpm(
    body: bytes, status: int, play: Callable[..., None]
) -> None:
    async def story(host) -> None:
        before = len(host.kernel.asked)
        reply = await host.anonymous.send("POST", evidence.EVIDENCE_PATH, body)
        assert reply.status == status
        assert "error" in json.loads(reply.text)
        assert len(host.kernel.asked) == before

    play(story)


@pytest.mark.parametrize("path", ["/attestation/v1/secret", "/attestation/", "/attestation/v2/x"])
def test_other_paths_do_not_exist(path: str, play: Callable[..., None]) -> None:
    async def story(host) -> None:
        assert (await host.anonymous.send("GET", path)).status == 404

    play(story)


def test_who_asks_too_often_has_to_wait(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        codes = [
            (await host.anonymous.send("GET", evidence.IDENTITY_PATH)).status
            for _ in range(int(CLIENT.burst) + 3)
        ]
        assert codes[0] == 200
        assert codes[-1] == 429
        host.anonymous.peer = "192.0.2.77"
        assert (await host.anonymous.send("GET", evidence.IDENTITY_PATH)).status == 200

    play(story)


def test_a_refusal_by_the_kernel_is_told_apart_from_its_absence(
    play: Callable[..., None],
) -> None:
    class Refusing(FakeKernel):
        async def ask(self, request: object, kind: type) -> object:
            if isinstance(request, ActivateCredential):
                raise RefusedError(FaultFact("SystemError", "tpm", "wrong secret", "enrol again"))
            if isinstance(request, Quote):
                raise CasemateError("gone", code="kernel-unreachable")
            return await super().ask(request, kind)

    async def story(host) -> None:
        body = evidence.encode(ActivateCredential(b"abc", b"secret"))
        refused = await host.anonymous.send("POST", evidence.ACTIVATE_PATH, body)
        assert refused.status == 422
        told = {"code": "tpm", "reason": "wrong secret", "remedy": "enrol again"}
        assert json.loads(refused.text)["error"] == told
        absent = await host.anonymous.send("POST", evidence.EVIDENCE_PATH, evidence.encode(GOOD))
        assert absent.status == 503

    play(story, Refusing())


def test_many_clients_together_are_bounded_too() -> None:
    limit = RateLimit(lambda: 0.0)
    admitted = sum(limit.admit(f"client {number}") for number in range(1000))
    assert admitted == int(TOTAL.burst)


class Time:
    """A clock that is turned by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_flood_of_strangers_keeps_no_verifier_away_that_has_been_here() -> None:
    clock = Time()
    limit = RateLimit(clock)
    assert limit.admit("192.0.2.1")
    refused, strangers = 0, 0
    for second in range(1, 3601):
        clock.now = float(second)
        for number in range(200):
            strangers += limit.admit(f"198.51.{second % 250}.{number}")
        if second % 30 == 0:
            refused += not limit.admit("192.0.2.1")
    assert refused == 0
    sure = FAMILIAR_KEPT * (FAMILIAR.rate * 3600 + FAMILIAR.burst)
    assert strangers <= TOTAL.rate * 3600 + TOTAL.burst + sure


def test_the_places_of_familiar_peers_are_bounded_and_given_up_by_the_silent_alone() -> None:
    clock = Time()
    limit = RateLimit(clock)
    for number in range(FAMILIAR_KEPT + 10):
        clock.now += 1.0
        assert limit.admit(f"192.0.2.{number}")
    late = f"192.0.2.{FAMILIAR_KEPT + 5}"
    while limit.admit(f"203.0.113.{int(clock.now) % 250}"):
        clock.now += 0.001
    assert limit.admit("192.0.2.1", busy=True)
    assert not limit.admit(late, busy=True)
    clock.now += FAMILIAR_SECONDS
    assert limit.admit(late)
    assert limit.admit(late, busy=True)


def test_a_whole_ipv6_subscriber_is_one_peer() -> None:
    limit = RateLimit(Time())
    admitted = sum(limit.admit(f"2001:db8::{number:x}") for number in range(100))
    assert admitted == int(CLIENT.burst)
    assert limit.admit("2001:db8:0:1::1")


def test_waiting_helps() -> None:
    now = [0.0]
    limit = RateLimit(lambda: now[0])
    while limit.admit("x"):
        pass
    now[0] += 1.5
    assert limit.admit("x")
    assert not limit.admit("x")
