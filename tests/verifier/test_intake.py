"""Evidence taken in together: each round counts once, and none is judged for another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from tests.verifier.conftest import Engine

from casemate.calls import evidence as wire
from casemate.calls.messages import Quote
from casemate.errors import (
    AppraisalError,
    CasemateError,
    FormatError,
    NotAuthenticatedError,
    NotFoundError,
)
from casemate.testing.minifleet import HonestHost
from casemate.testing.smallhost import SmallHost, SmallImage
from casemate.verifier import rulestore, store
from casemate.verifier.enrol import Wanted, token_digest
from casemate.verifier.intake import Intake
from casemate.verifier.reading import Reader
from casemate.verifier.rounds import Answer, Arrival


@dataclass
class Pusher:
    """A host that pushes, enrolled and approved."""

    engine: Engine
    name: str
    cadence: float = 10.0

    def __post_init__(self) -> None:
        self.host = HonestHost(SmallHost())
        _, token = self.engine.enrolment.invite(Wanted(self.name, cadence=self.cadence), "anna")
        self.secret = token_digest(token)
        found = self.engine.host(self.name)
        challenge = self.engine.enrolment.introduce(found, self.host.identity())
        assert challenge is not None
        self.engine.enrolment.prove(found, self.host.activate(challenge).secret)
        self.engine.enrolment.approve(self.name, "anna")

    def arrival(self, asked: Quote | None = None) -> Arrival:
        quote = asked or self.engine.rounds.ask(self.secret)[1]
        assert quote is not None
        return Arrival(self.secret, quote.nonce, wire.encode(self.host.evidence(quote)))

    def rounds(self) -> int:
        with self.engine.database.transaction() as step:
            return len(store.rounds_of(step, self.name))


Hosts = Callable[[int], list[Pusher]]


@pytest.fixture
def hosts(engine: Engine) -> Hosts:
    engine.reference()
    return lambda count: [Pusher(engine, f"h{n}") for n in range(count)]


def good(answer: Answer | CasemateError) -> Answer:
    assert isinstance(answer, Answer), answer
    return answer


def test_many_hosts_are_judged_each_by_its_own_evidence(engine: Engine, hosts: Hosts) -> None:
    fleet = hosts(5)
    fleet[2].host.host.reboot(SmallImage(contents={"qemu.v00": b"evil"}))
    answers = [good(one) for one in engine.rounds.take_in([one.arrival() for one in fleet])]
    states = [one.state.value for one in answers]
    assert states == ["trusted", "trusted", "failed-latched", "trusted", "trusted"]
    assert "qemu.v00" in answers[2].verdict
    assert [one.rounds() for one in fleet] == [1] * 5


def test_replay_spoils_nobody_elses_round(engine: Engine, hosts: Hosts) -> None:
    one, other = hosts(2)
    sent = one.arrival()
    engine.rounds.take_in([sent])
    again, fine = engine.rounds.take_in([sent, other.arrival()])
    assert isinstance(again, AppraisalError)
    assert again.code == "nonce-reused"
    assert good(fine).state == "trusted"
    assert (one.rounds(), other.rounds()) == (1, 1)


def test_same_evidence_twice_in_one_lot_counts_once(engine: Engine, hosts: Hosts) -> None:
    one, other = hosts(2)
    sent = one.arrival()
    first, second, fine = engine.rounds.take_in([sent, sent, other.arrival()])
    assert {type(first), type(second)} == {Answer, AppraisalError}
    assert good(fine).state == "trusted"
    assert one.rounds() == 1


def test_two_rounds_of_one_host_in_one_lot_are_both_written(engine: Engine, hosts: Hosts) -> None:
    (one,) = hosts(1)
    before = one.arrival()
    one.host.host.reboot(SmallImage(contents={"qemu.v00": b"evil"}))
    answers = engine.rounds.take_in([before, one.arrival()])
    assert [good(answer).state.value for answer in answers] == ["trusted", "failed-latched"]
    assert one.rounds() == 2
    assert engine.host("h0").state == "failed-latched"


def test_nonce_of_another_host_a_forged_one_and_a_stranger_are_no_verdict(
    engine: Engine, hosts: Hosts
) -> None:
    one, other = hosts(2)
    mine, theirs = one.arrival(), other.arrival()
    lot = [
        replace(mine, nonce=theirs.nonce),
        replace(mine, nonce=bytes(32)),
        replace(mine, secret=token_digest("stolen")),
        replace(mine, secret=""),
    ]
    answers = engine.rounds.take_in(lot)
    kinds = [AppraisalError, AppraisalError, NotAuthenticatedError, NotAuthenticatedError]
    assert [type(answer) for answer in answers] == kinds
    assert (one.rounds(), other.rounds()) == (0, 0)
    assert good(engine.rounds.take_in([mine])[0]).state == "trusted"  # nothing was spent


def test_answer_brings_the_next_nonce_where_the_cadence_is_short(
    engine: Engine, hosts: Hosts
) -> None:
    (one,) = hosts(1)
    slow = Pusher(engine, "slow", cadence=60.0)
    answer, none = map(good, engine.rounds.take_in([one.arrival(), slow.arrival()]))
    assert none.asked is None
    for _ in range(3):
        assert answer.asked is not None
        answer = good(engine.rounds.take_in([one.arrival(answer.asked)])[0])
        assert answer.state == "trusted"
    assert one.rounds() == 4


def test_nonce_from_before_an_operator_cleared_a_failure_proves_nothing(
    engine: Engine, hosts: Hosts
) -> None:
    (one,) = hosts(1)
    answer = good(engine.rounds.take_in([one.arrival()])[0])
    early = one.arrival(answer.asked)  # quoted while all was well
    one.host.host.reboot(SmallImage(contents={"qemu.v00": b"evil"}))
    assert good(engine.rounds.take_in([one.arrival()])[0]).state == "failed-latched"
    engine.enrolment.clear("h0", "olga", "found harmless")
    told = good(engine.rounds.take_in([early])[0])
    assert (told.state.value, told.wait) == ("unknown", 0.0)
    assert engine.host("h0").state == "unknown"


def test_evidence_for_a_question_under_older_rules_is_no_verdict(
    engine: Engine, hosts: Hosts
) -> None:
    (one,) = hosts(1)
    answer = good(engine.rounds.take_in([one.arrival()])[0])
    with engine.database.transaction() as step:
        rulestore.next_policy(step)
    told = good(engine.rounds.take_in([one.arrival(answer.asked)])[0])
    assert (told.state.value, told.wait) == ("trusted", 0.0)
    assert one.rounds() == 1
    assert good(engine.rounds.take_in([one.arrival(told.asked)])[0]).state == "trusted"
    assert one.rounds() == 2


def test_intake_answers_all_that_come_at_once(engine: Engine, hosts: Hosts) -> None:
    fleet = hosts(6)
    intake = Intake(engine.rounds)
    lot = [one.arrival() for one in fleet]

    async def together() -> list[Answer | BaseException]:
        stranger = intake.push(Arrival(token_digest("stolen"), bytes(32), b"{}"))
        return await asyncio.gather(*map(intake.push, lot), stranger, return_exceptions=True)

    try:
        *answers, refused = asyncio.run(together())
    finally:
        intake.close()
    assert all(isinstance(one, Answer) and one.state == "trusted" for one in answers)
    assert isinstance(refused, NotAuthenticatedError)


def test_part_that_was_sent_before_need_not_be_sent_again(engine: Engine, hosts: Hosts) -> None:
    one, other = hosts(2)
    short = replace(sent := one.arrival(), body=wire.shorten(sent.body)[0])
    (unknown,) = engine.rounds.take_in([short])
    assert isinstance(unknown, NotFoundError)
    assert unknown.code == "send-whole"
    assert good(engine.rounds.take_in([sent])[0]).state == "trusted"  # the nonce was not spent
    again = one.arrival()
    short = replace(again, body=wire.shorten(again.body)[0])
    assert len(short.body) < len(again.body) / 5
    assert good(engine.rounds.take_in([short])[0]).state == "trusted"
    with engine.database.transaction() as step:
        kept = store.latest_round(step, "h0")
    assert kept is not None
    assert kept.evidence == again.body
    other.host.host.reboot(SmallImage(contents={"qemu.v00": b"evil"}))
    evil = other.arrival()  # a host that changed says that nothing has
    place, lie = wire.split(evil.body), wire.shorten(again.body)[0]
    assert place is not None
    quotes, same = evil.body[: place[0]], lie[lie.index(b',"same":') :]
    told = good(engine.rounds.take_in([replace(evil, body=quotes + same)])[0])
    assert told.state == "failed-latched"


def test_parts_read_apart_are_the_whole(hosts: Hosts) -> None:
    (one,) = hosts(1)
    body, reader = one.arrival().body, Reader()
    first, again = reader.read(body), reader.read(body)
    assert first == again
    assert first.key
    unusual = json.dumps(json.loads(body), indent=1).encode()
    assert reader.read(unusual).evidence == first.evidence
    assert reader.read(unusual).key == b""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b',"pcrs":', b',"pcrs":[],"pcrs":'),
        (b',"bootComplete":', b',"more":1,"bootComplete":'),
        (b'"quotes":[', b'"quotes":[{"a":1,"pcrs":1,"bootComplete":1},'),
        (b',"pcrs":', b'],"pcrs":'),
        (b'"quotes":', b'"quotes":"'),
        (b"}]", b"}]}"),
        (b',"bootComplete":', b',"log":"AAAA","bootComplete":'),
    ],
    ids=["twice", "unknown", "nested", "cut", "text", "closed", "log-twice"],
)
def test_bent_bodies_are_refused_whether_or_not_their_part_is_known(
    hosts: Hosts, old: bytes, new: bytes
) -> None:
    (one,) = hosts(1)
    body, reader = one.arrival().body, Reader()
    assert old in body
    for _ in range(2):
        with pytest.raises(FormatError):
            reader.read(body.replace(old, new, 1))
        reader.read(body)
