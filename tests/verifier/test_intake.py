"""Evidence taken in together: each round counts once, and none is judged for another."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.verifier.conftest import Engine

from casemate.calls import evidence as wire
from casemate.calls.messages import EvidenceReply, Quote
from casemate.errors import (
    AppraisalError,
    BusyError,
    CasemateError,
    FormatError,
    HostError,
    NotAuthenticatedError,
    NotFoundError,
)
from casemate.testing.minifleet import HonestHost
from casemate.testing.smallhost import SmallHost, SmallImage
from casemate.verifier import roundstore, rulestore
from casemate.verifier.attempts import HEAVY, Answer, Arrival, Begun
from casemate.verifier.enrol import Wanted, token_digest
from casemate.verifier.intake import HEAVY_THREADS, Intake
from casemate.verifier.reading import Reader
from casemate.verifier.results import FAULT, Finished


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
            return len(roundstore.rounds_of(step, self.name))


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


def stumble(engine: Engine, monkeypatch: pytest.MonkeyPatch, where: str, unforeseen: bytes) -> None:
    """Let the verifier meet what nobody foresaw in these bytes."""

    def stumbles(*given: Any) -> bool:
        return any(one == unforeseen or getattr(one, "reply", None) == unforeseen for one in given)

    thing: object = {"whole": engine.rounds._reader, "written": engine.ledger._results}.get(
        where, engine.rounds
    )
    honest = getattr(thing, where)

    def method(*given: Any) -> Any:
        if stumbles(*given):
            raise RuntimeError("nobody foresaw this")
        return honest(*given)

    monkeypatch.setattr(thing, where, method)


@pytest.mark.parametrize("where", ["whole", "_appraised", "written", "record"])
def test_what_nobody_foresaw_in_one_hosts_evidence_costs_no_other_its_verdict(
    engine: Engine,
    hosts: Hosts,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    fleet = hosts(5)
    lot = [one.arrival() for one in fleet]
    if where == "record":
        with engine.database.transaction() as step:
            step.run("UPDATE host SET record='{}' WHERE name='h2'")
    else:
        stumble(engine, monkeypatch, where, lot[2].body)
    answers = engine.rounds.take_in(lot)
    stumbled = answers.pop(2)
    assert [good(one).state.value for one in answers] == ["trusted"] * 4
    assert [one.rounds() for one in fleet if one.name != "h2"] == [1] * 4
    assert "h2" in caplog.text
    if where in {"_appraised", "written"}:  # a round of its own says so
        told = good(stumbled)
        assert (told.state.value, FAULT.reason in told.verdict) == ("error", True)
        assert fleet[2].rounds() == 1
        monkeypatch.undo()
        assert good(engine.rounds.take_in([fleet[2].arrival()])[0]).state == "trusted"
    else:
        assert isinstance(stumbled, HostError)
        assert (stumbled.code, fleet[2].rounds()) == (FAULT.code, 0)


def test_host_whose_round_cannot_be_written_is_not_asked_again_at_once(
    engine: Engine, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = hosts(1)
    sent = one.arrival()
    stumble(engine, monkeypatch, "written", sent.body)
    assert good(engine.rounds.take_in([sent])[0]).wait > 0


def entries(count: int, made: bytes = b"honest") -> list[bytes]:
    """What stands for each entry of an audit log."""
    return [made + number.to_bytes(4, "big") for number in range(count)]


def test_audit_log_that_grows_is_asked_for_from_where_it_was(engine: Engine, hosts: Hosts) -> None:
    (one,) = hosts(1)
    asked = None
    for size in (5, 5, 9, 30):
        one.host.host.audit = entries(size)
        answer = good(engine.rounds.take_in([one.arrival(asked)])[0])
        assert (answer.state.value, answer.wait > 0) == ("trusted", True)
        asked = answer.asked
        assert asked is not None
        assert asked.entry == size
    question = engine.rounds.ask(one.secret)[1]
    assert question is not None
    assert question.entry == 30


@pytest.mark.parametrize(
    ("left", "code"),
    [
        (entries(4), "audit-truncated"),
        (entries(5, b"forged"), "audit-changed"),
        ([*entries(4), *entries(9, b"forged")], "audit-changed"),
        ([], "audit-missing"),
    ],
)
def test_audit_log_that_lost_its_end_latches_until_an_operator_clears_it(
    engine: Engine, hosts: Hosts, left: list[bytes], code: str
) -> None:
    (one,) = hosts(1)
    one.host.host.audit = entries(5)
    assert good(engine.rounds.take_in([one.arrival()])[0]).state == "trusted"
    one.host.host.audit = left
    assert good(engine.rounds.take_in([one.arrival()])[0]).state == "failed-latched"
    with engine.database.transaction() as step:
        kept = roundstore.latest_round(step, "h0")
    assert kept is not None
    assert code in {finding["code"] for finding in json.loads(kept.result)["findings"]}
    one.host.host.audit = entries(5)  # to put it back does not help
    assert good(engine.rounds.take_in([one.arrival()])[0]).state == "failed-latched"
    one.host.host.audit = left
    assert good(engine.rounds.take_in([one.arrival()])[0]).state == "failed-latched"
    engine.enrolment.clear("h0", "olga", "the state was set up anew")
    assert good(engine.rounds.take_in([one.arrival()])[0]).state == "trusted"


def test_failure_of_another_kind_that_is_cleared_does_not_excuse_the_audit_log(
    engine: Engine, hosts: Hosts
) -> None:
    (one,) = hosts(1)
    one.host.host.audit = entries(5)
    good(engine.rounds.take_in([one.arrival()])[0])
    one.host.host.reboot(SmallImage(contents={"qemu.v00": b"evil"}))
    assert good(engine.rounds.take_in([one.arrival()])[0]).state == "failed-latched"
    engine.enrolment.clear("h0", "olga", "found harmless")
    one.host.host.reboot(SmallImage())
    one.host.host.audit = entries(4)
    assert good(engine.rounds.take_in([one.arrival()])[0]).state == "failed-latched"


def test_host_that_shows_another_entry_than_it_was_asked_for_is_asked_again_a_few_times(
    engine: Engine, hosts: Hosts
) -> None:
    (one,) = hosts(1)
    one.host.host.audit = entries(5)
    good(engine.rounds.take_in([one.arrival()])[0])
    one.host.host.audit = entries(9)
    told = []
    for _ in range(4):
        question = engine.rounds.ask(one.secret)[1]
        assert question is not None
        (answer,) = engine.rounds.take_in([one.arrival(replace(question, entry=3))])
        told.append((good(answer).state.value, good(answer).wait > 0))
    assert told == [("trusted", False)] * 3 + [("failed-latched", True)]


def altered(sent: Arrival, change: Callable[[dict[str, object]], object]) -> Arrival:
    told = json.loads(sent.body)
    change(told)
    return replace(sent, body=json.dumps(told, separators=(",", ":")).encode())


def test_host_that_is_older_than_its_verifier_is_trusted_without_an_audit_log(
    engine: Engine, hosts: Hosts
) -> None:
    (one,) = hosts(1)
    for _ in range(2):
        question = engine.rounds.ask(one.secret)[1]
        assert question is not None
        assert b"entry" not in wire.encode(question)  # which such a host would refuse
        sent = altered(one.arrival(question), lambda told: told.pop("heads"))
        assert good(engine.rounds.take_in([sent])[0]).state == "trusted"


def test_host_that_is_newer_than_its_verifier_fails_until_an_operator_clears_it(
    engine: Engine, hosts: Hosts
) -> None:
    (one,) = hosts(1)
    sent = altered(one.arrival(), lambda told: told.update(later=[]))
    answer = good(engine.rounds.take_in([sent])[0])
    assert (answer.state.value, "unknown field 'later'" in answer.verdict) == (
        "failed-latched",
        True,
    )
    assert good(engine.rounds.take_in([one.arrival()])[0]).state == "failed-latched"
    engine.enrolment.clear("h0", "olga", "its verifier was updated")
    assert good(engine.rounds.take_in([one.arrival()])[0]).state == "trusted"


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


def heavy(host: Pusher) -> Arrival:
    """Evidence with a list that takes long to judge."""
    (_, asked) = host.engine.rounds.ask(host.secret)
    assert asked is not None
    reply = replace(host.host.evidence(asked), measurements=bytes(HEAVY))
    return Arrival(host.secret, asked.nonce, wire.encode(reply))


def test_heavy_evidence_holds_up_nobody_elses_round(
    engine: Engine, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = hosts(HEAVY_THREADS + 5)
    heavies, quick = fleet[: HEAVY_THREADS + 1], fleet[HEAVY_THREADS + 1 :]
    judged, begun, go_on = engine.rounds._appraised, threading.Semaphore(0), threading.Event()

    def appraised(attempt: Any, body: bytes) -> Finished:
        if len(body) > HEAVY:  # it takes as long as all the others
            begun.release()
            assert go_on.wait(600)
        return judged(attempt, body)

    monkeypatch.setattr(engine.rounds, "_appraised", appraised)
    intake = Intake(engine.rounds)
    lots = [[one.arrival() for one in quick] for _ in range(2)]
    large = [heavy(one) for one in heavies]

    async def together() -> None:
        # In one lot with the others, and all the threads that judge such evidence are taken.
        slow = [asyncio.ensure_future(intake.push(one)) for one in large]
        for lot in lots:
            answers = await asyncio.gather(*map(intake.push, lot))
            assert {one.state.value for one in answers} == {"trusted"}
        for _ in range(HEAVY_THREADS):
            assert await asyncio.to_thread(begun.acquire, timeout=600)
        assert not any(one.done() for one in slow)
        # One of a host at a time: who floods gets nobody else's turn.
        with pytest.raises(BusyError):
            await intake.push(heavy(heavies[0]))
        go_on.set()
        assert len(await asyncio.gather(*slow)) == len(heavies)

    try:
        asyncio.run(together())
    finally:
        go_on.set()
        intake.close()
    assert [one.rounds() for one in fleet] == [1] * len(heavies) + [2] * len(quick)


def test_more_heavy_evidence_than_there_is_room_for_comes_again(
    engine: Engine, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casemate.verifier.intake.HEAVY_BYTES", HEAVY)
    one, other = hosts(2)
    go_on = threading.Event()
    finish = engine.rounds.finish

    def finished(begun: Sequence[Begun]) -> list[Answer | CasemateError]:
        if begun:
            assert go_on.wait(600)
        return finish(begun)

    monkeypatch.setattr(engine.rounds, "finish", finished)
    intake = Intake(engine.rounds)
    first, second = heavy(one), heavy(other)

    async def together() -> None:
        begun = asyncio.ensure_future(intake.push(first))
        while not intake._weights:  # noqa: ASYNC110  # nobody tells of it
            await asyncio.sleep(0.01)
        with pytest.raises(BusyError) as caught:
            await intake.push(second)
        assert caught.value.code == "heavy-evidence"
        go_on.set()
        await begun
        assert await intake.push(second)  # its nonce is still good

    try:
        asyncio.run(together())
    finally:
        go_on.set()
        intake.close()


def test_short_body_that_goes_on_with_a_long_list_is_heavy_too(
    engine: Engine, hosts: Hosts
) -> None:
    (one,) = hosts(1)
    engine.rounds.take_in([heavy(one)])
    (_, asked) = engine.rounds.ask(one.secret)
    assert asked is not None
    reply = replace(one.host.evidence(asked), measurements=bytes(HEAVY) + b"more")
    for size, code in ((HEAVY, ""), (100, ""), (2 * HEAVY, "send-whole")):
        body = wire.continued(reply, size)
        if code:
            body = wire.continued(replace(reply, measurements=bytes(size)), size)
        (begun,) = engine.rounds.begin([Arrival(one.secret, asked.nonce, body)])
        assert isinstance(begun, Begun)
        assert begun.heavy
        assert begun.body == body  # nothing was read for it yet
    (refused,) = engine.rounds.finish([begun])
    assert isinstance(refused, NotFoundError)
    assert refused.code == "send-whole"
    body = wire.continued(reply, HEAVY)
    good(engine.rounds.take_in([Arrival(one.secret, asked.nonce, body)])[0])
    with engine.database.transaction() as step:
        assert wire.decode(EvidenceReply, roundstore.last_evidence(step, one.name)) == reply


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
        kept = roundstore.latest_round(step, "h0")
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
