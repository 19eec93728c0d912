"""The attestation report shows what the log says, and says so when the log explains too little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError
from casemate.formats import eventlog
from casemate.formats.eventlog import Event
from casemate.formats.eventtypes import EV_EVENT_TAG
from casemate.formats.tagged import TAG_MOD, TaggedEvent, parse_version, write_tagged
from casemate.policy.measure import BootMeasurer, PlannedEvent, measured_digests
from casemate.policy.report import EVENT_LIMIT, PREBOOT, Origin, attestation_report
from casemate.vim25 import encode, versions
from casemate.vim25.shapes import Kind, TypeRef
from casemate.vim25.values import Obj

BANKS = ("sha256", "sha384")
K = {"k.b00": Origin("casemate-kernel", "0.1.0-1", "Casemate")}


def boot() -> list[PlannedEvent]:
    measurer = BootMeasurer(BANKS)
    code = measured_digests(b"code", BANKS)
    return [
        *measurer.launch("b.b00", code),
        *measurer.command_line("b.b00 runweasel"),
        *measurer.security_option("execInstalledOnly = TRUE"),
        *measurer.signer(b"\x30\x82certificate"),
        *measurer.version("k.b00", "kernel", "Casemate", "0.1.0"),
        *measurer.component("k.b00", code),
        *measurer.option("useropts.gz", code),
        *measurer.asset_tag(b"rack 7"),
        *measurer.system_version("casemate-0.1.0"),
        *measurer.boot_complete(),
    ]


def log_of(events: list[Event]) -> bytes:
    return eventlog.write_header(BANKS) + b"".join(map(eventlog.write_event, events))


def report(events: list[Event], values: dict[int, bytes] | None = None, **more: bool) -> Obj:
    replayed = eventlog.replay_events(events, BANKS)["sha256"]
    complete = more.get("complete", True)
    return attestation_report(
        log_of(events), replayed if values is None else values, K, complete=complete
    )


EVENTS = [planned.event for planned in boot()]


def details(of: Obj) -> list[Obj]:
    return [entry.get("eventDetails") for entry in of.get("tpmEvents")]


def test_every_class_of_event_is_shown() -> None:
    kinds = {detail.type for detail in details(report(EVENTS))}
    short = {kind.removeprefix("HostTpm").removesuffix("EventDetails") for kind in kinds}
    assert short == {
        *("SoftwareComponent", "Command", "BootSecurityOption", "Signer", "Version"),
        *("Option", "NvTag", "SystemVersion", "BootComplete"),
    }


def test_components_name_the_vib_they_come_from() -> None:
    shown = details(report(EVENTS))
    kernel = next(d for d in shown if d.get("componentName") == "k.b00")
    assert kernel.get("vibName") == "casemate-kernel"
    assert kernel.get("vibVendor") == "Casemate"
    loader = next(d for d in shown if d.get("componentName") == "b.b00")
    assert loader.get("vibName") == ""


def test_texts_are_what_was_measured() -> None:
    shown = details(report(EVENTS))
    assert any(d.get("commandLine") == "b.b00 runweasel" for d in shown)
    assert any(d.get("bootSecurityOption") == "execInstalledOnly = TRUE" for d in shown)
    assert any(d.get("systemVersion") == "casemate-0.1.0" for d in shown)
    record = next(d.get("version") for d in shown if d.type == "HostTpmVersionEventDetails")
    assert parse_version(record).product == "Casemate"


def test_a_log_that_explains_the_registers_is_reliable() -> None:
    assert report(EVENTS).get("tpmLogReliable") is True


@pytest.mark.parametrize("gone", [0, 5, len(EVENTS) - 1])
def test_an_event_taken_out_makes_the_log_unreliable(gone: int) -> None:
    replayed = eventlog.replay_events(EVENTS, BANKS)["sha256"]
    shorter = EVENTS[:gone] + EVENTS[gone + 1 :]
    assert report(shorter, replayed).get("tpmLogReliable") is False


def test_a_boot_that_is_not_complete_is_unreliable() -> None:
    assert report(EVENTS, complete=False).get("tpmLogReliable") is False


def test_a_log_longer_than_the_report_is_unreliable() -> None:
    many = EVENTS[:1] + EVENTS[1:2] * (EVENT_LIMIT + 5)
    made = report(many)
    assert len(made.get("tpmEvents")) == EVENT_LIMIT
    assert made.get("tpmLogReliable") is False


def test_a_bank_that_the_log_lacks_is_unreliable() -> None:
    only = [Event(e.pcr, e.type, e.digests[1:], e.data) for e in EVENTS]
    text = eventlog.write_header(("sha384",)) + b"".join(map(eventlog.write_event, only))
    made = attestation_report(text, {}, K, complete=True)
    assert made.get("tpmEvents") == ()
    assert made.get("tpmLogReliable") is False


def test_a_log_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(FormatError):
        attestation_report(b"nonsense", {}, K, complete=True)


@pytest.mark.parametrize("data", [b"", b"\xff", write_tagged(TaggedEvent(TAG_MOD, b"\xff\xfe"))])
def test_events_that_cannot_be_understood_are_still_shown(data: bytes) -> None:
    digests = (("sha256", bytes(32)), ("sha384", bytes(48)))
    made = report([Event(13, EV_EVENT_TAG, digests, data)])
    name = details(made)[0].get("componentName")
    assert name == PREBOOT or name.startswith("sha256:")


@given(st.binary(max_size=80))
def test_whatever_was_measured_can_be_sent(data: bytes) -> None:
    digests = (("sha256", bytes(32)), ("sha384", bytes(48)))
    made = report([Event(13, EV_EVENT_TAG, digests, data)])
    ref = TypeRef(Kind.DATA, "HostTpmAttestationReport")
    assert encode.encoder(versions.NEWEST).element("r", made, ref)
