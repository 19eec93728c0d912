"""What firmware measures of a boot image: predicted, compared, and every change named."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.formats.eventlog import Event
from casemate.formats.manifest import ExpectedEvent
from casemate.policy.aboutfirmware import about_firmware
from casemate.policy.bootimage import BOOT_PCRS, BootImage, boot_image_events
from casemate.policy.compare import differences
from casemate.policy.explain import explain

BANKS = ("sha256", "sha384")
IMAGE = BootImage(
    loader={"sha256": b"\1" * 32, "sha384": b"\1" * 48},
    parts={".linux": b"kernel", ".osrel": b"ID=x", ".cmdline": b"quiet", ".initrd": b"root"},
    keys={"PK": b"owner", "KEK": b"exchange", "db": b"signers"},
    authority=b"\2" * 16 + b"certificate",
)


def found(image: BootImage) -> list[tuple[str, str]]:
    expected = [ExpectedEvent(event) for event in boot_image_events(IMAGE, BANKS)]
    findings = explain(differences(expected, boot_image_events(image, BANKS)), frozenset())
    return [(finding.code, finding.component) for finding in findings]


def test_the_same_image_differs_in_nothing_and_fills_its_pcrs() -> None:
    assert found(IMAGE) == []
    assert {event.pcr for event in boot_image_events(IMAGE, BANKS)} == set(BOOT_PCRS)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (".linux", {".linux"}),
        (".osrel", {".osrel"}),
        (".cmdline", {".cmdline", "command line of Linux"}),
        (".initrd", {".initrd", "first root of Linux"}),
    ],
)
def test_a_changed_part_is_named_in_every_pcr_that_shows_it(part: str, named: set[str]) -> None:
    changed = replace(IMAGE, parts={**IMAGE.parts, part: b"changed"})
    assert {("boot-image-changed", name) for name in named} == set(found(changed))


@pytest.mark.parametrize("key", ["PK", "KEK", "db"])
def test_another_key_in_the_firmware_is_named(key: str) -> None:
    changed = replace(IMAGE, keys={**IMAGE.keys, key: b"another"})
    assert found(changed) == [("secure-boot-changed", key)]


def test_another_loader_is_named() -> None:
    changed = replace(IMAGE, loader={"sha256": b"\3" * 32, "sha384": b"\3" * 48})
    assert found(changed) == [("boot-loader-changed", "boot image")]


def test_remarks_of_the_log_may_say_anything_under_the_right_digest() -> None:
    """Where an image lay in memory differs from boot to boot."""
    expected = [ExpectedEvent(event) for event in boot_image_events(IMAGE, BANKS)]
    events = [
        event._replace(data=bytes(32) + event.data) if event.type == 0x80000003 else event
        for event in boot_image_events(IMAGE, BANKS)
    ]
    assert differences(expected, events) == ()


def test_the_right_remark_under_another_digest_is_found() -> None:
    expected = [ExpectedEvent(event) for event in boot_image_events(IMAGE, BANKS)]
    digests = tuple((bank, hashlib.new(bank, b"liar").digest()) for bank in BANKS)
    for number in range(len(expected)):
        events = [one.event for one in expected]
        events[number] = events[number]._replace(digests=digests)
        assert differences(expected, events)


@given(st.integers(0, 0xFFFFFFFF) | st.sampled_from([0x80000001, 0x800000E0, 0xD]), st.binary())
def test_any_event_is_about_something_or_nothing(kind: int, data: bytes) -> None:
    about_firmware(kind, data)
    assert Event(4, kind, (), data).type == kind
