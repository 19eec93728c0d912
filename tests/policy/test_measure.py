"""What a boot step leaves in log and PCRs."""

from __future__ import annotations

import gzip
import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from casemate.errors import FormatError, LimitError
from casemate.formats.eventlog import Event, parse, replay, replay_events, write_event
from casemate.formats.eventtypes import EV_EVENT_TAG, TXT_HASH_START
from casemate.formats.tagged import parse_tagged
from casemate.policy import measure
from casemate.policy.measure import BootMeasurer, PlannedEvent, measured_digests

GZIP = b"\x1f\x8b\x08"
DIGESTS = measured_digests(b"content", ("sha1", "sha256", "sha384"))


def _pcrs(planned: tuple[PlannedEvent, ...]) -> list[int]:
    return [p.event.pcr for p in planned]


def test_security_option_has_the_digest_of_a_real_esxi() -> None:
    (static, drtm) = BootMeasurer(("sha256",)).security_option("execInstalledOnly = FALSE")
    expected = "f0e0032641b9438941346480ae1564eee57ab378abb155c7cd49dbdd770d55af"
    assert static.event.digests == (("sha256", bytes.fromhex(expected)),)
    assert (static.event.pcr, drtm.event.pcr) == (14, 21)


def test_boot_complete_has_the_published_digest() -> None:
    (static, _) = BootMeasurer(("sha256",)).boot_complete()
    expected = "3c3c02fc92bb82d126b7333dddd788a3a64d27b01ac7e46787a5176e5b401281"
    assert static.event.digest("sha256") == bytes.fromhex(expected)


def test_command_line_is_measured_without_nul() -> None:
    (static, drtm) = BootMeasurer(("sha1",)).command_line("b.b00 debug")
    assert static.event.digest("sha1") == hashlib.sha1(b"b.b00 debug").digest()
    assert parse_tagged(static.event.data).data == b"b.b00 debug"
    assert parse_tagged(static.event.data).tag == 4
    assert drtm.event.pcr == 21


@pytest.mark.parametrize(
    ("name", "pcrs"),
    [
        ("b.b00", [12]),
        ("k.b00", [12, 19]),
        ("s.v00", [12, 19]),
        ("sb.v00", [12, 19]),
        ("esxupdt.v00", [11, 19]),
        ("qemu.v00", [13, 20]),
        ("imgdb.tgz", [13, 20]),
        ("bx.v00", [13, 20]),
    ],
)
def test_each_module_goes_to_its_pcrs(name: str, pcrs: list[int]) -> None:
    planned = BootMeasurer().component(name, DIGESTS)
    assert _pcrs(planned) == pcrs
    assert {p.event.type for p in planned} == {EV_EVENT_TAG}
    assert parse_tagged(planned[0].event.data).data == name.encode() + b"\0"


def test_launch_is_the_first_event_of_pcr_17_and_nobody_extends_it_again() -> None:
    (launch,) = BootMeasurer().launch("b.b00", DIGESTS)
    assert (launch.event.pcr, launch.event.type, launch.locality) == (17, TXT_HASH_START, 4)
    value = replay_events([launch.event], ("sha256",))["sha256"][17]
    assert value == hashlib.sha256(bytes(32) + DIGESTS["sha256"]).digest()


def test_without_a_launch_no_drtm_pcr_is_touched() -> None:
    measurer = BootMeasurer(drtm=False)
    planned = (
        *measurer.launch("b.b00", DIGESTS),
        *measurer.component("k.b00", DIGESTS),
        *measurer.asset_tag(b"rack 7"),
        *measurer.boot_complete(),
    )
    assert _pcrs(planned) == [12, 14, 14]


def test_every_dynamic_pcr_is_extended_from_locality_2_and_static_ones_from_0() -> None:
    measurer = BootMeasurer()
    planned = (
        *measurer.trust_anchor(("partner",), b"der"),
        *measurer.signer(b"der"),
        *measurer.version("k.b00", "kernel", "Casemate", "1"),
        *measurer.component("k.b00", DIGESTS),
        *measurer.component("qemu.v00", DIGESTS),
        *measurer.option("useropts.gz", DIGESTS),
        *measurer.asset_tag(b"rack 7"),
        *measurer.system_version("Casemate 1"),
        *measurer.runtime_component("x.ko", DIGESTS),
    )
    assert {(p.event.pcr >= 17, p.locality) for p in planned} == {(False, 0), (True, 2)}
    assert _pcrs(planned) == [
        14,
        18,
        14,
        18,
        13,
        20,
        12,
        19,
        13,
        20,
        14,
        21,
        14,
        22,
        13,
        20,
        13,
        20,
    ]


def test_anchor_levels_are_measured_with_the_certificate() -> None:
    one, _ = BootMeasurer().trust_anchor(("partner", "community"), b"der")
    other, _ = BootMeasurer().trust_anchor(("partner",), b"der")
    same, _ = BootMeasurer().trust_anchor(("community", "partner"), b"der")
    assert one.event.digests != other.event.digests
    assert one == same
    assert parse_tagged(one.event.data).tag == measure.TAG_TRUST_ANCHOR


@given(st.binary(max_size=4000), st.booleans())
def test_compressed_and_plain_files_have_the_same_digest(data: bytes, packed: bool) -> None:
    assume(packed or not data.startswith(GZIP))
    expected = hashlib.sha384(data or b"\0").digest()
    raw = gzip.compress(data) if packed else data
    assert measured_digests(raw, ("sha384",)) == {"sha384": expected}


@given(st.binary(max_size=200))
def test_broken_gzip_gives_only_our_error(tail: bytes) -> None:
    with pytest.raises(FormatError):
        measured_digests(GZIP + tail, ("sha256",))


def test_gzip_cut_off_or_followed_by_bytes_is_refused() -> None:
    packed = gzip.compress(b"x" * 10_000)
    with pytest.raises(FormatError):
        measured_digests(packed[:-9], ("sha256",))
    with pytest.raises(FormatError):
        measured_digests(packed + b"more", ("sha256",))


def test_a_digest_of_a_bank_that_is_lacking_is_refused() -> None:
    with pytest.raises(FormatError, match="sha384"):
        BootMeasurer().component("qemu.v00", {"sha256": bytes(32)})


def test_an_asset_tag_beyond_its_limit_is_refused() -> None:
    with pytest.raises(LimitError):
        BootMeasurer().asset_tag(bytes(513))


def test_a_written_log_parses_and_replays_in_every_bank() -> None:
    measurer = BootMeasurer()
    events: list[Event] = [
        p.event
        for planned in (
            measurer.launch("b.b00", DIGESTS),
            measurer.trust_anchor(("partner",), b"der"),
            measurer.component("k.b00", DIGESTS),
            measurer.boot_complete(),
        )
        for p in planned
    ]
    log = parse(measurer.header() + b"".join(write_event(e) for e in events))
    assert log.events == tuple(events)
    assert set(replay(log)) == {"sha256", "sha384"}
    assert set(replay(log)["sha384"]) == {12, 14, 17, 18, 19, 21}
