"""Event data: decoded within bounds, believed only where a digest proves it."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError
from casemate.formats import eventtypes as ev
from casemate.formats import uefi
from casemate.formats.algorithms import ALGORITHMS
from casemate.formats.eventdata import (
    Claim,
    Number,
    Separator,
    StartupLocality,
    Text,
    check_structure,
    decode,
    describe,
    judge,
)
from casemate.formats.eventlog import Event, EventLog, SpecId, parse
from casemate.formats.eventreview import MAX_FINDINGS, WARNINGS, review
from casemate.formats.tagged import (
    TAG_CMD_OPT,
    TAG_MOD,
    TaggedEvent,
    VersionRecord,
    parse_tagged,
    parse_version,
    write_tagged,
    write_version,
)

GUID = bytes(range(16))


def _event(event_type: int, data: bytes, *, measured: bytes | None = None, pcr: int = 7) -> Event:
    value = hashlib.sha256(data if measured is None else measured).digest()
    return Event(pcr, event_type, (("sha256", value),), data)


def _log(*entries: Event) -> EventLog:
    return EventLog((ALGORITHMS["sha256"],), entries)


def _variable(name: str, data: bytes) -> bytes:
    return GUID + struct.pack("<QQ", len(name), len(data)) + name.encode("utf-16-le") + data


def _codes(*entries: Event) -> list[str]:
    return [finding.code for finding in review(_log(*entries))]


def test_nothing_in_the_public_logs_is_contradicted_or_undecodable(corpus: Path) -> None:
    for entry in json.loads((corpus / "evlogs" / "INDEX.json").read_text()):
        raw = (corpus / "evlogs" / entry["file"]).read_bytes()
        log = parse(base64.b64decode(raw) if entry["file"].endswith(".b64") else raw)
        assert [f for f in review(log) if f.code not in WARNINGS] == [], entry["file"]


def test_the_public_logs_prove_what_they_should(corpus: Path) -> None:
    raw = (corpus / "evlogs" / "google+go-tpm-tools--rhel8-uefi.bin").read_bytes()
    claims = [(e, judge(e, "sha256")) for e in parse(raw).events if e.type != ev.EV_NO_ACTION]
    for event, claim in claims:
        external = {ev.EV_EFI_BOOT_SERVICES_APPLICATION, ev.EV_NONHOST_INFO}
        if event.type == ev.EV_IPL and event.data.startswith(b"grub_cmd "):
            assert claim is Claim.PROVEN
        elif event.type in external:
            assert claim is Claim.UNPROVEN or event.type == ev.EV_NONHOST_INFO


@pytest.mark.parametrize(
    ("event_type", "data"),
    [
        (ev.EV_SEPARATOR, bytes(4)),
        (ev.EV_EFI_ACTION, b"Exit Boot Services Invocation"),
        (ev.EV_EFI_VARIABLE_DRIVER_CONFIG, _variable("SecureBoot", b"\1")),
    ],
)
def test_data_changed_while_the_digest_was_kept(event_type: int, data: bytes) -> None:
    assert judge(_event(event_type, data), "sha256") is Claim.PROVEN
    forged = _event(event_type, data, measured=b"something else")
    assert judge(forged, "sha256") is Claim.CONTRADICTED
    assert _codes(forged) == ["event-data"]


def test_code_events_never_prove_their_data() -> None:
    event = _event(ev.EV_EFI_BOOT_SERVICES_APPLICATION, bytes(32), measured=b"the image")
    assert judge(event, "sha256") is Claim.UNPROVEN
    assert judge(event, "sha384") is Claim.UNPROVEN


@pytest.mark.parametrize(
    ("data", "measured"),
    [
        (b"grub_cmd: linux /vmlinuz\0", b"linux /vmlinuz"),
        (b"grub_cmd linux /vmlinuz\0", b"linux /vmlinuz\0"),
        (b"kernel_cmdline: /vmlinuz ro\0", b"/vmlinuz ro"),
    ],
)
def test_boot_loader_commands_prove_themselves(data: bytes, measured: bytes) -> None:
    event = _event(ev.EV_IPL, data, measured=measured, pcr=8)
    assert judge(event, "sha256") is Claim.PROVEN


def test_a_boot_variable_is_proven_by_its_value_alone() -> None:
    event = _event(ev.EV_EFI_VARIABLE_BOOT, _variable("Boot0000", b"value"), measured=b"value")
    assert judge(event, "sha256") is Claim.PROVEN


def test_firmware_that_reports_an_error() -> None:
    assert _codes(_event(ev.EV_SEPARATOR, b"\1\0\0\0")) == ["firmware-error"]
    assert _codes(_event(ev.EV_SEPARATOR, b"\xff" * 4)) == []


def test_an_informative_event_with_a_digest_is_only_worth_a_warning() -> None:
    assert _codes(_event(ev.EV_NO_ACTION, b"SP800-155 Event\0")) == ["no-action-digest"]


HOSTILE = {
    "variable name of 2^63 units": GUID + struct.pack("<QQ", 2**63, 0),
    "variable data of 2^64-1 bytes": GUID + struct.pack("<QQ", 0, 2**64 - 1),
    "variable cut in its name": GUID + struct.pack("<QQ", 4, 0) + b"abc",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_variables(data: bytes) -> None:
    _refused(ev.EV_EFI_VARIABLE_DRIVER_CONFIG, data)


def _refused(event_type: int, data: bytes) -> None:
    event = _event(event_type, data)
    with pytest.raises(FormatError) as caught:
        check_structure(event)
    assert caught.value.code == "event-data"
    assert describe(event)
    assert _codes(event) == ["event-data"]


@pytest.mark.parametrize(
    ("list_size", "header", "size"),
    [
        (60, 0, 0),
        (60, 0, 15),
        (60, 0, 33),
        (27, 0, 16),
        (60, 40, 16),
        (2**32 - 1, 0, 16),
        (61, 0, 32),
    ],
)
def test_hostile_signature_lists(list_size: int, header: int, size: int) -> None:
    data = GUID + struct.pack("<III", list_size, header, size) + bytes(32)
    _refused(ev.EV_EFI_VARIABLE_DRIVER_CONFIG, _variable("db", data))


def test_a_signature_list_is_read() -> None:
    kind = next(guid for guid, name in uefi.SIGNATURE_TYPES.items() if name == "sha256")
    data = kind.bytes_le + struct.pack("<III", 28 + 96, 0, 48) + (GUID + bytes(32)) * 2
    (one,) = uefi.parse_signature_lists(data)
    assert (one.kind, len(one.entries)) == ("sha256", 2)
    assert uefi.parse_signature_data(GUID + b"cert").data == b"cert"


@pytest.mark.parametrize(
    ("count", "size"), [(2**40, 128), (1, 0), (0, 0), (2**63, 2**31), (2, 128), (1, 127)]
)
def test_hostile_partition_tables(count: int, size: int) -> None:
    header = bytes(84) + struct.pack("<II", size, 0)
    _refused(ev.EV_EFI_GPT_EVENT, header + struct.pack("<Q", count) + bytes(128))


def test_a_partition_table_is_read() -> None:
    entry = (
        GUID + GUID + struct.pack("<QQQ", 1, 2, 0) + "root\0".encode("utf-16-le").ljust(72, b"\0")
    )
    data = bytes(84) + struct.pack("<II", 128, 0) + struct.pack("<Q", 1) + entry
    assert uefi.parse_gpt(data).partitions[0].name == "root"


@pytest.mark.parametrize(
    "path",
    [
        b"\4\4\0\0",
        b"\4\4\3\0",
        b"\4\4\xff\xff",
        b"\4",
        b"\x7f\xff\4\0" + b"\1\1\4\0",
    ],
    ids=["zero-length node", "short node", "node beyond the end", "cut", "after the end node"],
)
def test_hostile_device_paths(path: bytes) -> None:
    data = struct.pack("<QQQQ", 0, 0, 0, len(path)) + path
    _refused(ev.EV_EFI_BOOT_SERVICES_APPLICATION, data)


def test_a_device_path_longer_than_its_event() -> None:
    _refused(ev.EV_EFI_BOOT_SERVICES_APPLICATION, struct.pack("<QQQQ", 0, 0, 0, 2**64 - 1))


def test_an_image_names_its_file() -> None:
    name = "\\EFI\\BOOT\\x.efi\0".encode("utf-16-le")
    path = b"\4\4" + struct.pack("<H", 4 + len(name)) + name + b"\x7f\xff\4\0"
    data = struct.pack("<QQQQ", 1, 2, 3, len(path)) + path
    assert describe(_event(ev.EV_EFI_BOOT_SERVICES_APPLICATION, data)) == "\\EFI\\BOOT\\x.efi"


def test_terminal_escapes_bidi_marks_and_controls_come_out_harmless() -> None:
    nasty = "grub_cmd: \x1b[2J\u202erm\u200b\n<script>\x07"
    line = describe(_event(ev.EV_IPL, nasty.encode()))
    assert line.isprintable()
    assert line == "grub_cmd: \\x1b[2J\\u202erm\\u200b\\x0a<script>\\x07"


@given(st.sampled_from(sorted(ev.EVENT_NAMES)), st.binary(max_size=200))
def test_whatever_the_data_a_line_comes_out(event_type: int, data: bytes) -> None:
    event = _event(event_type, data)
    assert describe(event).isprintable()
    review(_log(event))
    try:
        decode(event)
    except FormatError as error:
        assert error.code == "event-data"  # noqa: PT017


@pytest.mark.parametrize(
    ("event_type", "data", "payload"),
    [
        (ev.EV_NO_ACTION, b"StartupLocality\0\3", StartupLocality(3)),
        (ev.EV_SEPARATOR, b"\xff\xff\xff\xff", Separator(0xFFFFFFFF)),
        (ev.TXT_LCP_CONTROL_HASH, bytes(4), Number(0)),
        (
            ev.EV_EVENT_TAG,
            write_tagged(TaggedEvent(TAG_MOD, b"k.b00\0")),
            TaggedEvent(2, b"k.b00\0"),
        ),
        (ev.EV_S_CRTM_VERSION, "v1\0".encode("utf-16-le"), Text("v1")),
        (ev.EV_EFI_PLATFORM_FIRMWARE_BLOB, struct.pack("<QQ", 1, 2), uefi.FirmwareBlob(1, 2)),
        (ev.EV_EFI_PLATFORM_FIRMWARE_BLOB2, b"\2ab" + bytes(16), uefi.FirmwareBlob(0, 0, "ab")),
        (ev.EV_EFI_HANDOFF_TABLES, bytes(8), uefi.HandoffTables(())),
        (ev.EV_EFI_HANDOFF_TABLES2, b"\1a" + bytes(8), uefi.HandoffTables((), "a")),
    ],
)
def test_payloads_by_type(event_type: int, data: bytes, payload: object) -> None:
    event = _event(event_type, data)
    assert decode(event) == payload
    assert describe(event)


@given(st.integers(0, 2**32 - 1), st.binary(max_size=50))
def test_tagged_events_come_back(tag: int, data: bytes) -> None:
    assert parse_tagged(write_tagged(TaggedEvent(tag, data))) == TaggedEvent(tag, data)


@given(st.binary(max_size=40))
def test_whatever_the_bytes_of_a_tagged_event_only_our_error(data: bytes) -> None:
    try:
        assert write_tagged(parse_tagged(data)) == data
    except FormatError as error:
        assert error.code == "event-data"  # noqa: PT017


def test_a_tagged_command_line_is_described() -> None:
    event = _event(ev.EV_EVENT_TAG, write_tagged(TaggedEvent(TAG_CMD_OPT, b"b.b00 quiet")))
    assert describe(event) == "CMD_OPT b.b00 quiet"


_NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(_NAMES, _NAMES, st.integers(0, 2**64 - 1))
def test_version_records_come_back(one: str, other: str, flags: int) -> None:
    record = VersionRecord(one, other, one, other, flags)
    assert parse_version(write_version(record)) == record


@given(st.binary(max_size=80))
def test_whatever_the_bytes_of_a_version_record_only_our_error(data: bytes) -> None:
    for candidate in (data, struct.pack("<II", len(data) + 8, 1) + data):
        try:
            parse_version(candidate)
        except FormatError as error:
            assert error.code == "event-data"  # noqa: PT017


def test_version_strings_with_nul_or_too_long_cannot_be_written() -> None:
    for text in ("a\0b", "x" * 70_000):
        with pytest.raises(FormatError):
            write_version(VersionRecord(text, "", "", ""))


def test_version_records_whose_strings_lie_outside_or_are_no_text() -> None:
    good = bytearray(write_version(VersionRecord("a", "b", "c", "d")))
    for position, value in ((16, 0xFF), (16, 0), (18, 0xFF), (32, 0xFF), (33, 1), (4, 9)):
        bad = bytearray(good)
        bad[position] = value
        with pytest.raises(FormatError):
            parse_version(bytes(bad))
    with pytest.raises(FormatError):
        parse_version(bytes(write_version(VersionRecord("ab", "", "", ""))).replace(b"ab", b"\0b"))


def test_a_hostile_log_gives_a_bounded_number_of_findings() -> None:
    event = _event(ev.EV_NO_ACTION, b"x")
    assert len(review(_log(*[event] * 5000))) == MAX_FINDINGS


def test_an_informative_spec_id_with_a_digest_is_worth_a_warning() -> None:
    log = EventLog((ALGORITHMS["sha256"],), (), SpecId(digest=b"\1" * 20))
    assert [finding.code for finding in review(log)] == ["no-action-digest"]


def test_structures_of_32_bit_firmware_are_read() -> None:
    guid = bytes(range(16))
    name = "SecureBoot".encode("utf-16-le")
    small = guid + struct.pack("<II", 10, 1) + name + b"\1"
    wide = guid + struct.pack("<QQ", 10, 1) + name + b"\1"
    assert uefi.parse_variable(small) == uefi.parse_variable(wide)
    assert uefi.parse_variable(small).data == b"\1"
    empty = uefi.parse_variable(guid + struct.pack("<II", 0, 0))
    assert (empty.name, empty.data) == ("", b"")
    path = bytes((4, 4, 8, 0)) + "x\0".encode("utf-16-le") + bytes((0x7F, 0xFF, 4, 0))
    image = uefi.parse_image_load(struct.pack("<QIII", 1 << 40, 2, 3, len(path)) + path)
    assert (image.location, image.length, image.file_path) == (1 << 40, 2, "x")
    tables = uefi.parse_handoff_tables(struct.pack("<I", 1) + guid + struct.pack("<I", 0xFFFF0000))
    assert tables.tables[0][1] == 0xFFFF0000
    both = uefi.parse_handoff_tables2(b"\3abc" + struct.pack("<Q", 1) + guid + struct.pack("<Q", 7))
    assert (both.description, both.tables[0][1]) == ("abc", 7)


@pytest.mark.parametrize("cut", range(1, 46, 3))
def test_structures_that_fit_neither_width_are_refused(cut: int) -> None:
    name = "SecureBoot".encode("utf-16-le")
    small = bytes(16) + struct.pack("<II", 10, 1) + name + b"\1"
    with pytest.raises(FormatError) as caught:
        uefi.parse_variable(small[:-cut])
    assert caught.value.code == "event-data"


def _counted(text: bytes) -> bytes:
    return bytes((len(text),)) + text


_GUID_BYTES = bytes(range(16))
_MANIFEST = struct.pack("<I", 11129) + _GUID_BYTES
_MADE_BY = b"".join(map(_counted, (b"Maker\0", b"Model\0", b"7\0", b"Firm\0")))
_RIM = struct.pack("<II", 2, 4) + b"uri\0" + struct.pack("<II", 0, 0)
_SPDM1 = b"SPDM Device Sec\0" + struct.pack("<HHIIBBH", 1, 60, 2, 1, 4, 1, 32) + bytes(32)
_SPDM2 = (
    b"SPDM Device Sec2"
    + struct.pack("<HBBIIIIQQ", 2, 0, 0, 80, 1, 1, 8, 7, 4)
    + b"\x7f\xff\4\0"
    + bytes(8)
)


@pytest.mark.parametrize(
    ("event_type", "data", "text"),
    [
        (ev.EV_NO_ACTION, b"SP800-155 Event\0" + _MANIFEST, "of vendor 11129"),
        (
            ev.EV_NO_ACTION,
            b"SP800-155 Event2" + _MANIFEST + _MADE_BY + bytes(4) + _counted(b"1.2\0"),
            "SP800-155 Event2: Maker Model 7 Firm 1.2",
        ),
        (
            ev.EV_NO_ACTION,
            b"SP800-155 Event3" + _MANIFEST + _MADE_BY + bytes(4) + _counted(b"1.2\0") + _RIM,
            "SP800-155 Event3: Maker Model 7 Firm 1.2",
        ),
        (ev.EV_NO_ACTION, b"H-CRTM CompMeas\0" + _counted(b"ACM") + bytes(3), "Meas: ACM"),
        (ev.EV_NO_ACTION, b"NvIndexInstance\0" + b"\1\0" + bytes(8), "version 1, 8 bytes"),
        (ev.EV_NO_ACTION, b"NvIndexDynamic\0\0" + b"\1\0", "version 1, 0 bytes"),
        (ev.EV_NO_ACTION, b"SP800-155 Event3", "undecodable: "),
        (ev.EV_EFI_SPDM_FIRMWARE_BLOB, _SPDM1, "PCI device: measurement block 4 of 32 bytes"),
        (ev.EV_EFI_SPDM_FIRMWARE_CONFIG, _SPDM2, "certificate chain of 8 bytes, authenticated"),
        (ev.EV_EFI_SPDM_DEVICE_AUTHORITY, _SPDM2, "SPDM Device Sec2: PCI device"),
        (ev.EV_EFI_SPDM_DEVICE_POLICY, b"\1\2", "0102"),
        (ev.EV_EFI_PLATFORM_FIRMWARE_BLOB2, b"FV_MAIN", "FV_MAIN"),
        (ev.EV_PLATFORM_CONFIG_FLAGS, b"ACPI DATA", "ACPI DATA"),
        (ev.EV_PLATFORM_CONFIG_FLAGS, b"\1\0\0\0", "01000000"),
    ],
    ids=range(14),
)
def test_informative_structures_of_the_profile_are_told(
    event_type: int, data: bytes, text: str
) -> None:
    assert text in describe(_event(event_type, data))
    for cut in range(len(data)):
        assert describe(_event(event_type, data[:cut])) is not None


@given(
    st.binary(max_size=90), st.sampled_from((b"", b"SP800-155 Event3", _SPDM1[:16], _SPDM2[:16]))
)
def test_whatever_an_informative_event_holds_it_is_told_in_a_line(data: bytes, head: bytes) -> None:
    for event_type in (ev.EV_NO_ACTION, ev.EV_EFI_SPDM_FIRMWARE_BLOB, ev.EV_EFI_VARIABLE_AUTHORITY):
        assert describe(_event(event_type, head + data)).isprintable()
