"""What the data of an event says, and whether the log itself can prove it.

A replayed and quoted digest proves that somebody extended it. It proves the event's data only
where the digest is a hash of that data; for most code events the data is a mere remark. ``judge``
tells these apart; nothing that is not ``PROVEN`` may decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from casemate.errors import FormatError
from casemate.formats import eventtypes as ev
from casemate.formats import tagged, uefi
from casemate.formats.algorithms import digest
from casemate.formats.certificates import load_certificate
from casemate.formats.eventlog import STARTUP_LOCALITY_SIGNATURE, Event
from casemate.formats.informative import Informative, parse_informative, parse_spdm
from casemate.formats.reader import Reader
from casemate.formats.sipa import check_nesting, is_sipa
from casemate.formats.tagged import TAG_NAMES, TaggedEvent, parse_tagged
from casemate.formats.text import escape

OS_TAGS: Final[Mapping[int, str]] = {
    0x8F3B22EC: "initrd",
    0x8F3B22ED: "command line",
    0xF5BC582A: "loader.conf",
    0x6C46F751: "device tree",
    0x49DFFE0F: "initrd add-on",
    0xDAC08E1A: "microcode add-on",
    0x13AED6DB: "image profile",
}
"""Tags of Linux's EFI stub (``efistub.h``) and of systemd's boot loader (``measure.h``)."""
MAX_DESCRIPTION: Final = 160
"""Characters of a one-line description."""
SEPARATOR_SIZE: Final = 4
SEPARATOR_ERROR: Final = 1


@dataclass(frozen=True, slots=True)
class Text:
    """A string, without the NULs at its end."""

    text: str


@dataclass(frozen=True, slots=True)
class Separator:
    """EV_SEPARATOR: 0 or FFFFFFFF end of firmware's part, 1 firmware reports an error."""

    value: int


@dataclass(frozen=True, slots=True)
class StartupLocality:
    """The locality of TPM2_Startup."""

    locality: int


@dataclass(frozen=True, slots=True)
class Number:
    """A register or capability value of a TXT event, u32."""

    value: int


@dataclass(frozen=True, slots=True)
class Opaque:
    """Data of no known form."""

    data: bytes


UefiPayload = uefi.UefiVariable | uefi.ImageLoad | uefi.Gpt | uefi.FirmwareBlob | uefi.HandoffTables
Payload = (
    Text | Separator | StartupLocality | Number | Opaque | Informative | TaggedEvent | UefiPayload
)


class Claim(StrEnum):
    """How far an event's data can be believed once its digest is quoted."""

    PROVEN = "proven"
    UNPROVEN = "unproven"
    CONTRADICTED = "contradicted"


def _text(data: bytes) -> Payload:
    """Take UTF-8 or UTF-16LE for what it is; anything else stays opaque."""
    wide = len(data) % 2 == 0 and data[1:2] == b"\0"
    try:
        return Text(data.decode("utf-16-le" if wide else "utf-8").rstrip("\0"))
    except UnicodeDecodeError:
        return Opaque(data)


def _remark(data: bytes) -> Payload:
    """Take a text for a text where all of it can be shown: others have settings here."""
    found = _text(data)
    return found if isinstance(found, Text) and found.text.isprintable() else Opaque(data)


def _separator(data: bytes) -> Payload:
    if len(data) != SEPARATOR_SIZE:
        return _text(data)
    return Separator(int.from_bytes(data, "little"))


def _number(data: bytes) -> Payload:
    return Number(int.from_bytes(data, "little")) if len(data) == 4 else Opaque(data)  # noqa: PLR2004  # a u32


def _no_action(data: bytes) -> Payload:
    if data.startswith(STARTUP_LOCALITY_SIGNATURE):
        reader = Reader(data[len(STARTUP_LOCALITY_SIGNATURE) :], "StartupLocality", code=uefi.CODE)
        locality = StartupLocality(reader.u8())
        reader.end()
        return locality
    return parse_informative(data) or Opaque(data)


def _hash_start(data: bytes) -> Payload:
    # Ours names the launched module; Intel's SINIT logs something of its own here.
    try:
        return parse_tagged(data)
    except FormatError:
        return Opaque(data)


def _firmware_blob(data: bytes) -> Payload:
    # Some firmware logs a string here instead; 16 bytes are what the structure has.
    return uefi.parse_firmware_blob(data) if len(data) == 16 else _text(data)  # noqa: PLR2004


def _firmware_blob2(data: bytes) -> Payload:
    try:
        return uefi.parse_firmware_blob2(data)
    except FormatError:
        return _text(data)


def _spdm(data: bytes) -> Payload:
    try:
        return parse_spdm(data)
    except FormatError:
        return Opaque(data)


def _device_key(data: bytes) -> Payload:
    try:
        return uefi.parse_variable(data)
    except FormatError:
        return _spdm(data)


_DECODERS: Final[Mapping[int, Callable[[bytes], Payload]]] = {
    ev.EV_NO_ACTION: _no_action,
    ev.EV_SEPARATOR: _separator,
    ev.EV_ACTION: _text,
    ev.EV_EVENT_TAG: parse_tagged,
    ev.TXT_HASH_START: _hash_start,
    ev.EV_S_CRTM_CONTENTS: _text,
    ev.EV_S_CRTM_VERSION: _text,
    ev.EV_POST_CODE: _firmware_blob,
    ev.EV_POST_CODE2: _firmware_blob2,
    ev.EV_IPL: _text,
    ev.CEL_CONTENT: _text,
    ev.EV_COMPACT_HASH: _text,
    ev.EV_NONHOST_INFO: _text,
    ev.EV_OMIT_BOOT_DEVICE_EVENTS: _text,
    ev.EV_EFI_VARIABLE_DRIVER_CONFIG: uefi.parse_variable,
    ev.EV_EFI_VARIABLE_BOOT: uefi.parse_variable,
    ev.EV_EFI_VARIABLE_BOOT2: uefi.parse_variable,
    ev.EV_EFI_VARIABLE_AUTHORITY: uefi.parse_variable,
    ev.EV_EFI_BOOT_SERVICES_APPLICATION: uefi.parse_image_load,
    ev.EV_EFI_BOOT_SERVICES_DRIVER: uefi.parse_image_load,
    ev.EV_EFI_RUNTIME_SERVICES_DRIVER: uefi.parse_image_load,
    ev.EV_EFI_GPT_EVENT: uefi.parse_gpt,
    ev.EV_EFI_GPT_EVENT2: uefi.parse_gpt,
    ev.EV_EFI_ACTION: _text,
    ev.EV_EFI_HCRTM_EVENT: _text,
    ev.EV_EFI_PLATFORM_FIRMWARE_BLOB: _firmware_blob,
    ev.EV_EFI_PLATFORM_FIRMWARE_BLOB2: _firmware_blob2,
    ev.EV_EFI_HANDOFF_TABLES: uefi.parse_handoff_tables,
    ev.EV_EFI_HANDOFF_TABLES2: uefi.parse_handoff_tables2,
    ev.EV_EFI_SPDM_FIRMWARE_BLOB: _spdm,
    ev.EV_EFI_SPDM_FIRMWARE_CONFIG: _spdm,
    ev.EV_EFI_SPDM_DEVICE_POLICY: _device_key,
    ev.EV_EFI_SPDM_DEVICE_AUTHORITY: _device_key,
    ev.EV_TABLE_OF_DEVICES: _remark,
    ev.EV_PLATFORM_CONFIG_FLAGS: _remark,
    ev.TXT_CPU_SCRTM_STAT: _number,
    ev.TXT_LCP_CONTROL_HASH: _number,
    ev.TXT_OSSINITDATA_CAP_HASH: _number,
    ev.TXT_CAP_VALUE: _number,
    ev.TBOOT_MODULE: _text,
    ev.SLAUNCH_EVENT: _text,
    ev.SLAUNCH_START: _text,
    ev.SLAUNCH_END: _text,
}


def decode(event: Event) -> Payload:
    """Decode an event's data by its type.

    Raises:
        FormatError: ``event-data``: not what the type promises.
    """
    return _DECODERS.get(event.type, Opaque)(event.data)


_STRICT: Final = frozenset(
    {
        ev.EV_EFI_VARIABLE_DRIVER_CONFIG,
        ev.EV_EFI_ACTION,
        ev.EV_EFI_GPT_EVENT,
    }
)
"""Types whose digest is always the hash of their data (held on all of 511 events of 74 logs)."""
_BOOT_LOADER_PREFIXES: Final = (
    b"grub_cmd: ",
    b"kernel_cmdline: ",
    b"module_cmdline: ",
    b"grub_cmd ",
    b"grub_kernel_cmdline ",
)

SIGNATURE_VARIABLES: Final = frozenset({"PK", "KEK", "db", "dbx", "dbr", "dbt"})
_STRUCTURED: Final = frozenset(
    {
        ev.EV_EFI_VARIABLE_DRIVER_CONFIG,
        ev.EV_EFI_VARIABLE_BOOT,
        ev.EV_EFI_BOOT_SERVICES_APPLICATION,
        ev.EV_EFI_BOOT_SERVICES_DRIVER,
        ev.EV_EFI_RUNTIME_SERVICES_DRIVER,
        ev.EV_EFI_GPT_EVENT,
    }
)
"""Types whose structure firmware keeps to; the data of others varies by vendor."""


def check_structure(event: Event) -> None:
    """Check the data of the types whose structure is reliable, signature lists included.

    Raises:
        FormatError: ``event-data``.
        LimitError: ``depth-limit``: events of Windows nested without end.
    """
    if event.type == ev.EV_EVENT_TAG and is_sipa(event.data):
        check_nesting(event.data)
    if event.type not in _STRUCTURED:
        return
    payload = decode(event)
    if (
        event.type == ev.EV_EFI_VARIABLE_DRIVER_CONFIG
        and isinstance(payload, uefi.UefiVariable)
        and payload.name in SIGNATURE_VARIABLES
    ):
        uefi.check_signature_lists(payload.data)


def is_firmware_error(event: Event) -> bool:
    """Tell whether the event is a separator by which firmware reports an error."""
    return event.type == ev.EV_SEPARATOR and _separator(event.data) == Separator(SEPARATOR_ERROR)


def judge(event: Event, bank: str) -> Claim:
    """Compare an event's data with its digest in one bank.

    ``CONTRADICTED`` is said only where the type leaves no other explanation than a changed log.
    An event without a digest for the bank is ``UNPROVEN``.
    """
    value = event.digest(bank)
    if value is None:
        return Claim.UNPROVEN
    if any(digest(bank, candidate) == value for candidate in _measured(event)):
        return Claim.PROVEN
    return Claim.CONTRADICTED if _is_strict(event) else Claim.UNPROVEN


def is_contradicted(event: Event, banks: Iterable[str]) -> bool:
    """Tell whether ``judge`` says ``CONTRADICTED`` for one of ``banks``, at less cost."""
    if not _is_strict(event):
        return False
    return any(judge(event, bank) is Claim.CONTRADICTED for bank in banks)


def _is_strict(event: Event) -> bool:
    return event.type in _STRICT or (
        event.type == ev.EV_SEPARATOR and len(event.data) == SEPARATOR_SIZE
    )


def _measured(event: Event) -> Iterator[bytes]:
    """Yield what may have been hashed, if it is in the log at all."""
    data = event.data
    yield data
    try:
        if event.type == ev.EV_EFI_VARIABLE_BOOT:
            yield uefi.parse_variable(data).data
        elif event.type == ev.EV_EVENT_TAG:
            yield parse_tagged(data).data
    except FormatError:
        return
    if event.type == ev.EV_IPL:
        # systemd's stub tells in UTF-16 what it hashed, with or without the NULs at its end.
        yield data.removesuffix(b"\0\0")
        for prefix in _BOOT_LOADER_PREFIXES:
            if data.startswith(prefix):
                yield data[len(prefix) :]
                yield data[len(prefix) :].removesuffix(b"\0")


def describe(event: Event) -> str:
    """Return one printable line on an event's data; never raises, everything is escaped."""
    try:
        text = _line(decode(event))
        if event.type == ev.EV_EFI_VARIABLE_AUTHORITY:
            text += _authority(event.data)
    except FormatError as error:
        text = f"undecodable: {error.reason}"
    text = escape(text)
    return text if len(text) <= MAX_DESCRIPTION else text[: MAX_DESCRIPTION - 1] + "…"


def _authority(data: bytes) -> str:
    """Return whose certificate allowed something, where the event carries it."""
    try:
        entry = uefi.parse_signature_data(uefi.parse_variable(data).data)
        return f": {_subject(entry.data)}"
    except FormatError:
        return ""


def _line(payload: Payload) -> str:
    match payload:
        case Text(line):
            pass
        case Separator(value):
            line = "error" if value == SEPARATOR_ERROR else f"{value:08x}"
        case StartupLocality(locality):
            line = f"startup locality {locality}"
        case Number(value):
            line = f"0x{value:x}"
        case Informative(signature, told):
            line = f"{signature}: {told}" if told else signature
        case Opaque(data):
            line = data[: MAX_DESCRIPTION // 2].hex()
        case TaggedEvent():
            line = _tagged_line(payload)
        case _:
            line = _uefi_line(payload)
    return line


def _uefi_line(payload: UefiPayload) -> str:
    match payload:
        case uefi.UefiVariable(_, name, data):
            return f"{name} ({len(data)} bytes)"
        case uefi.ImageLoad():
            return payload.file_path or f"image of {payload.length} bytes"
        case uefi.Gpt(disk, partitions):
            return f"disk {disk}: " + ", ".join(p.name or str(p.type) for p in partitions)
        case uefi.FirmwareBlob(base, length, description):
            return f"{description} {length} bytes at 0x{base:x}".strip()
        case uefi.HandoffTables(tables, description):
            return f"{description} {len(tables)} tables".strip()


def _tagged_line(event: TaggedEvent) -> str:
    name = TAG_NAMES.get(event.tag) or OS_TAGS.get(event.tag) or f"tag 0x{event.tag:08x}"
    try:
        match event.tag:
            case tagged.TAG_SIGNER:
                return f"{name} {_subject(event.data)}"
            case tagged.TAG_TRUST_ANCHOR:
                levels, _, certificate = event.data.partition(b"\0")
                return f"{name} {levels.decode('ascii', 'replace')}: {_subject(certificate)}"
            case tagged.TAG_VERSION:
                record = tagged.parse_version(event.data)
                return f"{name} {record.file_name} {record.component} {record.version}"
            case _:
                pass
        decoded = _text(event.data[: 2 * MAX_DESCRIPTION])
        text = decoded.text if isinstance(decoded, Text) else ""
    except (FormatError, UnicodeDecodeError):
        text = ""
    return f"{name} {text}" if text.isprintable() and text else f"{name} {len(event.data)} bytes"


def _subject(certificate: bytes) -> str:
    return load_certificate(certificate).subject.rfc4514_string()[:MAX_DESCRIPTION]
