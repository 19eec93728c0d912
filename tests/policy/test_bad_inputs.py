"""The catalogue of bad inputs: each one refused, or accepted, for the stated reason.

A test is named after its entry. They stand in the ``test_bad_*`` files beside this one; states of
a host are here. What only a running service can show is in ``SERVICE``.
"""

from __future__ import annotations

import ast
import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from casemate.formats.eventdata import describe
from casemate.formats.eventlog import (
    parse,
    replay,
)
from casemate.formats.imafields import measurement
from casemate.formats.imareplay import replay_ima
from casemate.formats.imatext import parse_ima_any
from casemate.policy.enrolment import (
    Issued,
    check_nonce_record,
)
from casemate.policy.firmware import appraise_firmware, compare_quoted
from casemate.policy.hostpolicy import apply_policy
from casemate.policy.ima import RuntimePolicy, appraise_ima
from casemate.policy.statemachine import Event as HostEvent
from casemate.policy.statemachine import (
    Outcome,
    Result,
    Settings,
    State,
    appraised,
    enrolled,
    operator,
    policy_changed,
    tick,
)
from casemate.testing.expect import codes, refused
from casemate.testing.firmwarelogs import machine

SERVICE = Path(__file__).parent.parent / "verifier" / "test_service_bad_inputs.py"
"""Entries that need the running service are tests there."""

NONCE = b"\x11" * 32
T0 = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


def test_bi_101_no_policy_is_never_a_pass() -> None:
    log = machine()
    result = apply_policy(None, [], log, replay(log), None, T0)
    assert (codes(result.findings), result.is_good) == ({"not-appraised"}, False)
    step = appraised(
        enrolled(T0, 1, approved=True), Result(Outcome.NOT_APPRAISED, T0, T0, 1), Settings()
    )
    assert step.record.state is State.NOT_APPRAISED


TRUSTED = appraised(
    enrolled(T0, 1, approved=True), Result(Outcome.GOOD, T0, T0, 1), Settings()
).record
FAILED = appraised(
    TRUSTED, Result(Outcome.BAD, T0, T0, 1, frozenset({"component-changed"})), Settings()
).record
LATER = T0 + timedelta(hours=1)


def test_bi_102_a_failed_host_stays_failed() -> None:
    assert TRUSTED.state is State.TRUSTED
    again = appraised(FAILED, Result(Outcome.GOOD, LATER, LATER, 1), Settings())
    assert again.record.state is State.LATCHED
    cleared = operator(FAILED, HostEvent.CLEAR, LATER, people=("ada",)).record
    good = appraised(cleared, Result(Outcome.GOOD, LATER, LATER, 1), Settings())
    assert good.record.state is State.TRUSTED


def test_bi_103_silence_does_not_overwrite_a_failure() -> None:
    assert tick(FAILED, LATER).record.state is State.LATCHED
    assert tick(TRUSTED, LATER).record.state is State.EXPIRED


def test_bi_104_a_fault_of_the_verifier_is_no_verdict() -> None:
    step = appraised(TRUSTED, Result(Outcome.FAULT, LATER, LATER, 1), Settings())
    assert (step.record.state, step.alarm, step.again) == (State.ERROR, True, True)


def test_bi_105_a_removed_host_does_not_come_back() -> None:
    gone = operator(TRUSTED, HostEvent.REMOVE, LATER, people=("ada",)).record
    step = appraised(gone, Result(Outcome.GOOD, LATER, LATER, 1), Settings())
    assert step.record.state is State.REMOVED


def test_bi_106_a_result_under_an_older_policy_is_asked_again() -> None:
    newer = policy_changed(TRUSTED, 2).record
    step = appraised(newer, Result(Outcome.GOOD, LATER, LATER, 1), Settings())
    assert (step.record, step.again) == (newer, True)


def test_bi_110_a_clock_that_jumps_makes_no_nonce_younger() -> None:
    record_ = Issued("h", NONCE, T0, timedelta(seconds=60))
    for step in (timedelta(days=1), -timedelta(days=1)):
        assert refused(lambda by=step: check_nonce_record(record_, "h", T0 + by)) == "nonce-expired"


def test_every_entry_has_its_test(corpus: Path) -> None:
    catalogue = {entry["id"] for entry in json.loads((corpus / "bad_inputs.json").read_text())}
    here = {
        node.name[5:11].upper().replace("_", "-")
        for file in (*Path(__file__).parent.glob("test_bad_*.py"), SERVICE)
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_bi_")
    }
    assert len(catalogue) == 111
    assert here == catalogue


def test_every_public_log_is_judged_and_none_is_refused(corpus: Path) -> None:
    for entry in json.loads((corpus / "evlogs" / "INDEX.json").read_text()):
        data = (corpus / "evlogs" / entry["file"]).read_bytes()
        log = parse(base64.b64decode(data) if entry["file"].endswith(".b64") else data)
        assert appraise_firmware(log).findings == (), entry["file"]
        values = replay(log)
        assert compare_quoted(log, values, values) == (), entry["file"]
        for one in log.events:
            assert describe(one).isprintable()


def test_the_public_lists_are_judged(corpus: Path) -> None:
    for name in ("charra-binary_runtime_measurements", "rust-keylime-ascii_runtime_measurements"):
        listed = parse_ima_any((corpus / "ima" / name).read_bytes())
        assert listed.entries
        digests: dict[bytes, set[bytes]] = {}
        for entry in listed.entries:
            found = measurement(entry)
            label = found.algorithm.encode() + b":\0" + found.digest
            digests.setdefault(found.path, set()).add(label)
        policy = RuntimePolicy(1, {path: frozenset(known) for path, known in digests.items()})
        values = {"sha256": {10: replay_ima(listed.entries, "sha256")}}
        result = appraise_ima(listed, values, policy, T0)
        assert (result.findings, result.appraised) == ((), len(listed.entries))
        assert codes(result.warnings) == {"boot-aggregate-unchecked"}
