"""Bad inputs, what firmware logs: entries BI-044 to BI-064 of the catalogue, a test each."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from casemate.formats import eventtypes as ev
from casemate.formats.algorithms import ALGORITHMS, digest
from casemate.formats.eventlog import (
    STARTUP_LOCALITY_SIGNATURE,
    Event,
    EventLog,
    parse,
    replay,
    write,
)
from casemate.policy.appraise import Verdict, appraise
from casemate.policy.firmware import FirmwareRules, appraise_firmware, compare_quoted
from casemate.policy.statemachine import (
    Outcome,
    Result,
    Settings,
    State,
    appraised,
    enrolled,
)
from casemate.policy.tpmidentity import check_identity
from casemate.testing.expect import codes, refused
from casemate.testing.firmwarelogs import event, image, machine, variable
from casemate.testing.pki import NOW
from casemate.testing.smallhost import SmallHost, SmallImage, ek_maker

T0 = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
NONCE = b"\x11" * 32


def firmware(log: EventLog, rules: FirmwareRules | None = None) -> set[str]:
    return codes(appraise_firmware(log, rules).findings)


def warned(log: EventLog) -> set[str]:
    result = appraise_firmware(log)
    assert not result.findings
    return codes(result.warnings)


def mismatch(log: EventLog, quoted_from: EventLog) -> set[tuple[str, str]]:
    found = compare_quoted(log, replay(quoted_from), replay(log))
    return {(finding.code, finding.component) for finding in found}


def swapped(log: EventLog, one: int, other: int) -> EventLog:
    events = list(log.events)
    events[one], events[other] = events[other], events[one]
    return replace(log, events=tuple(events))


def test_a_plausible_log_is_good() -> None:
    log = machine()
    result = appraise_firmware(log, FirmwareRules(require_secure_boot=True))
    assert (result.findings, result.warnings, result.secure_boot) == ((), (), True)
    assert mismatch(log, log) == set()


def test_bi_044_data_changed_and_digest_kept() -> None:
    off = variable("SecureBoot", b"\0")
    for kind, data, measured in (
        (ev.EV_EFI_VARIABLE_DRIVER_CONFIG, off, variable("SecureBoot", b"\1")),
        (ev.EV_EFI_ACTION, b"harmless", b"UEFI Debug Mode"),
    ):
        log = machine()
        lie = replace(log, events=(event(7, kind, data, measured), *log.events))
        assert "event-data" in firmware(lie)


def test_bi_045_event_retyped_to_an_unknown_type() -> None:
    for kind in (ev.EV_UNUSED, 0x1234, 0x8000_00FF):
        hidden = machine(event(4, kind, image(), b"evil"))
        assert firmware(hidden) == {"unknown-event-type"}


def test_bi_046_boot_loader_retyped_as_firmware() -> None:
    hidden = machine(event(4, ev.EV_EFI_PLATFORM_FIRMWARE_BLOB, bytes(16), b"evil"))
    assert firmware(hidden) == {"illegal-type-for-pcr"}


def test_bi_047_events_of_one_pcr_swapped() -> None:
    log = machine()
    assert mismatch(swapped(log, 2, 3), log) == {("replay-mismatch", "PCR 7")}


def test_bi_048_events_of_two_pcrs_swapped() -> None:
    log = machine()
    assert mismatch(swapped(log, 1, 2), log) == set()


def test_bi_049_event_removed_added_or_log_cut() -> None:
    log = machine(event(4, ev.EV_EFI_BOOT_SERVICES_APPLICATION, image(), b"grub"))
    for place in range(len(log.events)):
        gone = replace(log, events=log.events[:place] + log.events[place + 1 :])
        twice = replace(log, events=(*log.events[: place + 1], *log.events[place:]))
        for wrong in (gone, twice):
            found = {code for code, _ in mismatch(wrong, log)}
            assert found & {"replay-mismatch", "quote-behind-log"}, place
        cut = replace(log, events=log.events[:place])
        assert mismatch(cut, log)


def test_bi_050_log_ahead_of_the_quote() -> None:
    log = machine()
    longer = machine(event(4, ev.EV_EFI_BOOT_SERVICES_APPLICATION, image(), b"grub"))
    assert mismatch(longer, log) == {("quote-behind-log", "PCR 4")}
    race = Result(Outcome.BAD, T0, T0, 1, frozenset({"quote-behind-log"}))
    record_ = enrolled(T0, 1, approved=True)
    for _ in range(3):
        step = appraised(record_, race, Settings())
        assert (step.record.state, step.again) == (State.UNKNOWN, True)
        record_ = step.record
    assert appraised(record_, race, Settings()).record.state is State.LATCHED


def test_bi_051_quote_ahead_of_the_log() -> None:
    host = SmallHost()
    evidence = host.evidence(NONCE)
    del host.log[-2:]
    who = check_identity(host.claim(), [ek_maker().certificate], NOW)
    short = replace(evidence, log=host.log_bytes())
    found = appraise(short, SmallImage().reference(), who, NONCE)
    assert found.verdict is not Verdict.TRUSTED
    race = Result(Outcome.BAD, T0, T0, 1, frozenset(codes(found.findings)))
    assert appraised(enrolled(T0, 1, approved=True), race, Settings()).again


def test_bi_052_separator_that_reports_an_error() -> None:
    error = machine(event(6, ev.EV_SEPARATOR, b"\1\0\0\0"), without=(6,))
    assert firmware(error) == {"firmware-error"}
    ones = machine(event(6, ev.EV_SEPARATOR, b"\xff" * 4), without=(6,))
    assert firmware(ones) == set()


def test_bi_053_separator_with_other_data_than_its_digest() -> None:
    lie = machine(event(6, ev.EV_SEPARATOR, bytes(4), b"\1\0\0\0"), without=(6,))
    assert firmware(lie) == {"event-data"}


def test_bi_054_second_separator() -> None:
    assert firmware(machine(event(7, ev.EV_SEPARATOR))) == {"duplicate-separator"}
    disguised = machine(event(4, ev.EV_EFI_ACTION, bytes(4)))
    assert firmware(disguised) == {"duplicate-separator"}
    other = machine(event(4, ev.EV_EFI_BOOT_SERVICES_APPLICATION, image(), b"\xff" * 4))
    assert firmware(other) == {"duplicate-separator"}


def test_bi_055_secure_boot_variable_late_or_of_odd_size() -> None:
    late = event(7, ev.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\1"))
    assert firmware(machine(late)) == {"event-order"}
    for data in (b"", b"\1\0"):
        odd = event(7, ev.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", data))
        log = machine()
        kept = [one for one in log.events if b"S\0e\0c\0u\0r\0e" not in one.data]
        result = appraise_firmware(replace(log, events=(odd, *kept)))
        assert (result.secure_boot, codes(result.warnings)) == (False, {"secure-boot-variable"})
        strict = FirmwareRules(require_secure_boot=True)
        assert firmware(replace(log, events=(odd, *kept)), strict) == {"secure-boot-off"}


def test_secure_boot_that_another_pcr_or_a_second_event_speaks_of_is_off() -> None:
    log = machine()
    kept = [one for one in log.events if b"S\0e\0c\0u\0r\0e" not in one.data]
    off = event(7, ev.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\0"))
    strict = FirmwareRules(require_secure_boot=True)
    for pcr in (1, 3, 5, 7):
        on = event(pcr, ev.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\1"))
        for events in ((off, on, *kept), (on, off, *kept), (on, *kept)):
            said = firmware(replace(log, events=events), strict)
            assert ("secure-boot-off" in said) is (off in events or pcr != 7), (pcr, events)


@pytest.mark.parametrize(
    ("text", "code"),
    [("UEFI Debug Mode", "firmware-debug"), ("DMA Protection Disabled", "dma-protection-off")],
)
def test_bi_056_firmware_in_debug_mode(text: str, code: str) -> None:
    log = machine(event(7, ev.EV_EFI_ACTION, text.encode()))
    assert firmware(log) == {code}
    assert firmware(log, FirmwareRules(allow_debug=True, allow_dma=True)) == set()


def test_bi_057_no_separator_in_pcr_4() -> None:
    assert warned(machine(without=(4,))) == {"missing-exit-boot-services"}


def test_bi_058_informative_event_with_a_digest() -> None:
    log = machine(event(0, ev.EV_NO_ACTION, b"SP800-155 Event\0" + bytes(20)))
    assert replay(log) == replay(machine())
    assert warned(log) == {"no-action-digest"}


def _locality(value: bytes, pcr: int = 0) -> Event:
    return Event(pcr, ev.EV_NO_ACTION, (("sha256", bytes(32)),), STARTUP_LOCALITY_SIGNATURE + value)


def test_bi_059_startup_locality_3() -> None:
    log = machine()
    started = replace(log, events=(_locality(b"\3"), *log.events))
    value = bytes(31) + b"\3"
    for one in log.events:
        if one.pcr == 0:
            value = digest("sha256", value + one.digests[0][1])
    assert replay(started)["sha256"][0] == value


def test_bi_060_impossible_startup_locality() -> None:
    log = machine()
    for events in (
        (*log.events, _locality(b"\3")),
        (_locality(b"\3"), _locality(b"\3"), *log.events),
        (_locality(b"\5"), *log.events),
        (_locality(b""), *log.events),
    ):
        wrong = replace(log, events=events)
        assert refused(lambda one=wrong: replay(one)) == "malformed-locality"


def test_bi_061_hcrtm_starts_at_4() -> None:
    log = EventLog((ALGORITHMS["sha256"],), (event(0, ev.EV_EFI_HCRTM_EVENT, b"HCRTM", b"crtm"),))
    start = bytes(31) + b"\4"
    assert replay(log)["sha256"][0] == digest("sha256", start + digest("sha256", b"crtm"))


def test_bi_062_sp800_155_events_are_not_extended() -> None:
    for mark in (b"SP800-155 Event\0", b"SP800-155 Event2\0", b"SP800-155 Event3\0"):
        more = Event(0, ev.EV_NO_ACTION, (("sha256", bytes(32)),), mark + bytes(40))
        assert replay(machine(more)) == replay(machine())


def test_bi_063_windows_event_at_no_pcr() -> None:
    log = machine(Event(0xFFFFFFFF, ev.EV_NO_ACTION, (("sha256", bytes(32)),), b"WBCL"))
    assert replay(parse(write(log))) == replay(machine())
    assert firmware(log) == set()
