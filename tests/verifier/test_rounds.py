"""A verifier and hosts in miniature over real HTTPS: found, kept, refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from tests.verifier.conftest import Engine

from casemate.errors import (
    ArgumentError,
    DigestError,
    PermissionDeniedError,
    StateError,
    VerificationError,
)
from casemate.machine.fleet import Mode
from casemate.policy.signedtext import join_signed
from casemate.testing.minifleet import HonestHost, MiniFleet
from casemate.testing.pki import NOW, issue, shared_pki
from casemate.testing.smallhost import SmallHost, SmallImage, sign_reference
from casemate.testing.softkeys import SoftEk, SoftKey
from casemate.verifier import alarmstore, audit, rounds, rulestore, store
from casemate.verifier.enrol import Wanted
from casemate.verifier.references import Anchors, ReferenceBook
from casemate.verifier.rehearsal import rehearse
from casemate.verifier.rulebook import RuleBook

Fleet = Callable[[int], MiniFleet]
EVIL = SmallImage(contents={"qemu.v00": b"qemu with a back door"})


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_good_host_becomes_trusted(engine: Engine, fleet: Fleet) -> None:
    engine.reference()
    engine.enrol(fleet(1))
    host = engine.round("host-001")
    assert host.state == "trusted"
    assert host.verdict.startswith("runs exactly")
    assert host.lease_owner == ""


def test_audit_log_of_a_host_that_is_asked_may_not_lose_its_end(
    engine: Engine, fleet: Fleet
) -> None:
    engine.reference()
    made = fleet(1)
    engine.enrol(made)
    host = made.hosts["host-001"]
    for size, state in ((5, "trusted"), (9, "trusted"), (8, "failed-latched")):
        host.audit = [number.to_bytes(4, "big") for number in range(size)]
        assert engine.round("host-001").state == state
    assert "audit log" in engine.host("host-001").verdict


def test_pending_host_is_never_asked(engine: Engine, fleet: Fleet) -> None:
    engine.reference()
    made = fleet(1)
    engine.enrolment.pull(Wanted("host-001", made.addresses["host-001"]), "anna")
    assert engine.round("host-001").state == "pending"


def test_without_reference_nothing_is_good(engine: Engine, fleet: Fleet) -> None:
    engine.enrol(fleet(1))
    host = engine.round("host-001")
    assert host.state == "not-appraised"
    assert "no reference" in host.verdict


def test_tampered_component_is_named_and_latches(engine: Engine, fleet: Fleet) -> None:
    engine.reference()
    made = fleet(1)
    engine.enrol(made)
    engine.round("host-001")
    made.hosts["host-001"].reboot(EVIL)
    bad = engine.round("host-001")
    assert bad.state == "failed-latched"
    assert "qemu.v00" in bad.verdict
    made.hosts["host-001"].reboot(SmallImage())
    again = engine.round("host-001")
    assert again.state == "failed-latched"
    assert "operator" in again.verdict
    with engine.database.transaction() as step:
        assert [alarm.code for alarm in alarmstore.alarms(step)] == ["failed-latched"]
    with pytest.raises(ArgumentError):
        engine.enrolment.clear("host-001", "anna", " ")
    engine.enrolment.clear("host-001", "anna", "image installed again")
    assert engine.round("host-001").state == "trusted"
    with engine.database.transaction() as step:
        assert alarmstore.alarms(step) == []


def test_update_with_overlap_raises_no_alarm(engine: Engine, fleet: Fleet) -> None:
    engine.reference()
    made = fleet(2)
    engine.enrol(made)
    new = SmallImage(versions={"qemu": "2.1-1"})
    engine.reference(new)
    made.hosts["host-002"].reboot(new)
    assert engine.round("host-001").state == "trusted"
    assert engine.round("host-002").state == "trusted"
    assert engine.host("host-001").reference != engine.host("host-002").reference
    with engine.database.transaction() as step:
        old = rulestore.references(step, whole=False)
        expiring = next(one for one in old if one.until is not None)
    engine.book.withdraw(expiring.identifier[:12], "anna", "all updated")
    assert engine.round("host-001").state == "failed-latched"
    assert engine.round("host-002").state == "trusted"


def test_silent_host_expires_instead_of_staying_trusted(engine: Engine, fleet: Fleet) -> None:
    engine.reference()
    made = fleet(1)
    engine.enrol(made, cadence=1.0)
    assert engine.round("host-001").state == "trusted"
    made.silence("host-001")
    time.sleep(3.2)
    engine.ledger.expire()
    assert engine.host("host-001").state == "expired"
    assert engine.round("host-001").verdict.startswith("no answer")


def test_new_attestation_key_of_the_same_tpm_is_proven(engine: Engine, fleet: Fleet) -> None:
    engine.reference()
    made = fleet(1)
    engine.enrol(made)
    engine.round("host-001")
    before = engine.host("host-001").identity
    made.hosts["host-001"].ak = SoftKey()
    assert engine.round("host-001").state == "trusted"
    assert engine.host("host-001").identity != before


def test_swapped_tpm_needs_two_people(engine: Engine, fleet: Fleet) -> None:
    engine.reference()
    made = fleet(1)
    engine.enrol(made)
    engine.round("host-001")
    pinned = engine.host("host-001").ek
    made.hosts["host-001"].ek, made.hosts["host-001"].ak = SoftEk(), SoftKey()
    host = engine.round("host-001")
    assert host.state == "failed-latched"
    assert "identity-conflict" in host.verdict
    assert host.ek == pinned
    engine.enrolment.propose("host-001", "anna", "new board")
    with pytest.raises(PermissionDeniedError):
        engine.enrolment.approve("host-001", "anna")
    assert engine.host("host-001").ek == pinned
    engine.enrolment.approve("host-001", "bert", "seen it")
    assert engine.host("host-001").ek != pinned
    assert engine.round("host-001").state == "trusted"


def test_one_tpm_cannot_be_two_hosts(engine: Engine, fleet: Fleet) -> None:
    made = fleet(1)
    engine.enrol(made)
    with pytest.raises(ArgumentError, match="same TPM"):
        engine.enrolment.pull(Wanted("other", made.addresses["host-001"]), "anna")


def test_host_approved_twice_is_refused(engine: Engine, fleet: Fleet) -> None:
    engine.enrol(fleet(1))
    with pytest.raises(StateError):
        engine.enrolment.approve("host-001", "anna")


def test_host_deleted_while_its_round_runs_stays_deleted(engine: Engine, fleet: Fleet) -> None:
    engine.reference()
    made = fleet(1)
    engine.enrol(made)
    (leased,) = store.lease_due(engine.database, "test", 60)
    engine.enrolment.remove("host-001", "anna")
    engine.rounds.pull(leased)
    assert engine.states() == {}


def test_result_of_a_lost_lease_is_dropped(engine: Engine, fleet: Fleet) -> None:
    engine.reference()
    engine.enrol(fleet(1))
    (leased,) = store.lease_due(engine.database, "slow", -1)
    (taken,) = store.lease_due(engine.database, "other", 60)
    engine.rounds.pull(leased)
    assert engine.host("host-001").state == "unknown"
    engine.rounds.pull(taken)
    assert engine.host("host-001").state == "trusted"


def test_an_image_that_was_updated_by_vibs_follows_the_one_before(engine: Engine) -> None:
    """The profile is then called "(Updated) ..."; the old reference runs out all the same."""
    from dataclasses import replace  # noqa: PLC0415 (used here and below)

    engine.reference()
    new = SmallImage(versions={"qemu": "2.1-1"}).reference()
    new = replace(new, profile_name=f"(Updated) {new.profile_name}", serial=new.serial + 1)
    added = engine.book.add(sign_reference(new), "anna")
    with engine.database.transaction() as step:
        until = {one.identifier: one.until for one in rulestore.references(step, whole=False)}
        named = [one.identifier for one in engine.book.in_force(step, "Casemate-small")]
        both = engine.book.in_force(step, new.profile_name)
    assert until.pop(added.identifier) is None
    assert all(until.values())
    assert {one.identifier for one in both} == {added.identifier, *until}
    assert not named


def test_older_reference_is_refused(engine: Engine) -> None:
    from dataclasses import replace  # noqa: PLC0415 (used here alone)

    engine.reference()
    old = replace(SmallImage(versions={"qemu": "1.9"}).reference(), serial=3)
    with pytest.raises(VerificationError) as caught:
        engine.book.add(sign_reference(old), "anna")
    assert caught.value.code == "reference-rollback"


def test_reference_by_a_stranger_is_refused(engine: Engine) -> None:
    with pytest.raises(VerificationError):
        engine.book.add(sign_reference(SmallImage().reference(), "community"), "anna")


def test_audit_log_shows_every_change(engine: Engine, fleet: Fleet) -> None:
    engine.enrol(fleet(2))
    with engine.database.transaction() as step:
        assert audit.check(step) == 4
        assert {entry.action for entry in audit.entries(step)} == {"enrol", "approve"}
        step.run("UPDATE audit SET who='nobody' WHERE number=2")
        with pytest.raises(DigestError) as caught:
            audit.check(step)
    assert caught.value.code == "audit-chain"


def test_rehearsal_says_who_would_fail_and_changes_nothing(engine: Engine, fleet: Fleet) -> None:
    engine.reference()
    made = fleet(3)
    engine.enrol(made)
    engine.round("host-001")
    new = SmallImage(versions={"qemu": "2.1-1"})
    made.hosts["host-002"].reboot(new)
    engine.round("host-002")
    before = engine.states()
    candidate = engine.book.check(sign_reference(new.reference()))
    told = {one.host: one for one in rehearse(engine.database, engine.anchors, candidate)}
    assert {name: one.would for name, one in told.items()} == {
        "host-001": "fail",
        "host-002": "pass",
        "host-003": "unknown",
    }
    assert "qemu" in told["host-001"].sentence
    assert engine.states() == before


@pytest.mark.parametrize("years", [0, 30])
def test_signer_that_expires_or_is_no_longer_trusted_stops_counting_by_itself(
    engine: Engine, anchors: Anchors, years: int
) -> None:
    now = [NOW]
    book = ReferenceBook(engine.database, anchors, lambda: now[0])
    rules = RuleBook(engine.database, anchors, lambda: now[0])
    book.add(sign_reference(SmallImage().reference()), "anna")
    body = b'policy "p" version 1\npcr 0 per-host\n'
    rules.add(join_signed(body, shared_pki().sign(body, "certified")), "anna")
    engine.enrolment.invite(Wanted("h"), "anna")
    rules.assign("h", "p", "anna")
    with engine.database.transaction() as step:
        found = store.current(step, "h")
        assert found is not None
        assert len(book.in_force(step, "", found.version)) == 1
        assert rules.of(step, found) is not None
        if years == 0:
            (anchors.place / "certified" / "ca.pem").unlink()
        now[0] += timedelta(days=365 * years, minutes=2)
        assert book.in_force(step, "", found.version) == ()
        with pytest.raises(ArgumentError):
            rules.of(step, found)


def test_of_two_tpms_that_were_challenged_at_once_only_the_first_is_pinned(engine: Engine) -> None:
    unpinned, _ = engine.enrolment.invite(Wanted("h", mode=Mode.PUSH), "anna")
    first, second = HonestHost(SmallHost()), HonestHost(SmallHost())
    challenge = engine.enrolment.introduce(unpinned, first.identity())
    assert challenge is not None
    pinned = engine.enrolment.prove(unpinned, first.activate(challenge).secret)
    engine.enrolment.approve("h", "anna")
    late = engine.enrolment.introduce(unpinned, second.identity())
    assert late is not None
    with pytest.raises(StateError):
        engine.enrolment.prove(unpinned, second.activate(late).secret)
    assert engine.host("h").identity == pinned.identity
    assert engine.host("h").ek == pinned.ek


def test_tpms_of_a_maker_that_is_pinned_no_more_stop_counting_by_themselves(
    engine: Engine, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "MAKERS_SECONDS", 0.0)
    engine.reference()
    engine.enrol(fleet(1))
    assert engine.round("host-001").state == "trusted"
    place = engine.anchors.place / "ek"
    (place / "other.pem").write_bytes(issue("Another maker", authority=True).pem)
    (place / "maker.pem").unlink()
    host = engine.round("host-001")
    assert host.state == "failed-latched"
    assert "no pinned authority" in host.verdict
