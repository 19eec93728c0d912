"""What a machine's disk and firmware hold: GPT, UEFI variables, module information, DHCP."""

from __future__ import annotations

import contextlib
import ipaddress
import struct
import zlib
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, FormatError
from casemate.formats import dhcp
from casemate.formats.efivars import (
    GLOBAL,
    IMAGE_SECURITY,
    KEY_ATTRIBUTES,
    Variable,
    certificate_list,
    efi_time,
    variable_data,
    write_store,
)
from casemate.formats.gpt import EFI_SYSTEM, LINUX_DATA, RESERVED, SECTOR, Entry, write_gpt
from casemate.formats.modinfo import parse_modinfo
from casemate.formats.uefi import parse_gpt, parse_signature_lists, parse_variable
from casemate.testing.linuxmodules import relocatable

DISK = UUID(int=1)
OWNER = UUID(int=2)


def entry(start: int, sectors: int, name: str = "bootbank") -> Entry:
    return Entry(LINUX_DATA, UUID(int=start), start, sectors, name)


def test_a_written_gpt_reads_as_firmware_measures_it() -> None:
    entries = [Entry(EFI_SYSTEM, UUID(int=9), 2048, 4096, "EFI"), entry(6144, 2048)]
    first, last = write_gpt(DISK, 10240, entries)
    head, table = first[SECTOR : SECTOR + 92], first[2 * SECTOR :]
    gpt = parse_gpt(head + (2).to_bytes(8, "little") + table[:256])
    assert gpt.disk == DISK
    assert [(p.name, p.first_block, p.last_block) for p in gpt.partitions] == [
        ("EFI", 2048, 6143),
        ("bootbank", 6144, 8191),
    ]
    for header in (first[SECTOR:][:SECTOR], last[-SECTOR:]):
        checksum = struct.unpack_from("<I", header, 16)[0]
        assert zlib.crc32(header[:16] + bytes(4) + header[20:92]) == checksum
        assert struct.unpack_from("<I", header, 88)[0] == zlib.crc32(table)
    assert (len(first), len(last)) == ((1 + RESERVED) * SECTOR, RESERVED * SECTOR)


@pytest.mark.parametrize(
    "entries",
    [[entry(2, 10)], [entry(2048, 10), entry(2050, 10)], [entry(9000, 4000)], [entry(2048, 0)]],
)
def test_partitions_that_overlap_anything_are_refused(entries: list[Entry]) -> None:
    with pytest.raises(ArgumentError):
        write_gpt(DISK, 10240, entries)


def empty_store(size: int = 4096) -> bytes:
    guid = UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
    volume = (bytes(40) + b"_FVH" + bytes(4) + struct.pack("<H", 72)).ljust(72, b"\0")
    return volume + guid + struct.pack("<IBBHI", size, 0x5A, 0xFE, 0, 0) + b"\xff" * (size - 28)


@given(st.binary(min_size=1, max_size=300))
def test_a_certificate_list_reads_back(certificate: bytes) -> None:
    (one,) = parse_signature_lists(certificate_list(OWNER, [certificate]))
    assert one.kind == "x509"
    assert [(e.owner, e.data) for e in one.entries] == [(OWNER, certificate)]


@given(st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=20), st.binary())
def test_what_is_measured_of_a_variable_reads_back(name: str, data: bytes) -> None:
    read = parse_variable(variable_data(Variable(name, GLOBAL, 0, data)))
    assert (read.guid, read.name, read.data) == (GLOBAL, name, data)


def test_variables_lie_in_the_store_one_after_the_other() -> None:
    written = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)
    variables = [
        Variable("PK", GLOBAL, KEY_ATTRIBUTES, b"owner", written),
        Variable("db", IMAGE_SECURITY, KEY_ATTRIBUTES, b"certificate", written),
    ]
    template = empty_store()
    store = write_store(template, variables)
    assert len(store) == len(template)
    first = store[100:]
    assert first[:4] == b"\xaa\x55\x3f\x00"
    assert first[16:32] == efi_time(written)
    assert first[60:66] == "PK\0".encode("utf-16-le")
    assert first[66:71] == b"owner"
    assert first[72:74] == b"\xaa\x55"
    with pytest.raises(ArgumentError):
        write_store(store, variables)


def test_variables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ArgumentError):
        write_store(empty_store(256), [Variable("db", GLOBAL, 7, bytes(300))])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_store_or_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="firmware variables"):
        write_store(data, [])


def test_a_module_names_its_needs_and_its_devices() -> None:
    info = parse_modinfo(
        relocatable(
            b"license=GPL\0alias=virtio:d1v*\0alias=pci:v1\0depends=virtio_ring,virtio\0name=net\0"
        )
    )
    assert (info.name, info.license) == ("net", "GPL")
    assert info.depends == ("virtio_ring", "virtio")
    assert info.aliases == ("virtio:d1v*", "pci:v1")


@given(st.integers(0, 300), st.binary(min_size=1, max_size=16))
def test_a_damaged_module_is_read_or_refused(at: int, patch: bytes) -> None:
    data = bytearray(relocatable(b"license=GPL\0depends=\0name=x\0"))
    data[at : at + len(patch)] = patch
    with contextlib.suppress(FormatError):
        parse_modinfo(bytes(data))


HARDWARE = bytes.fromhex("525400123456")


def reply(kind: int, options: bytes = b"", transaction: int = 5) -> bytes:
    request = bytearray(dhcp.write_request(transaction, HARDWARE, "host")[:240])
    request[0] = 2
    request[16:20] = ipaddress.IPv4Address("10.0.2.15").packed
    common = bytes([53, 1, kind, 1, 4, 255, 255, 255, 0, 54, 4, 10, 0, 2, 2])
    return bytes(request) + common + options + b"\xff"


def test_an_offer_is_asked_for_and_acknowledged() -> None:
    offer = dhcp.parse_reply(reply(2, bytes([3, 4, 10, 0, 2, 2])), 5, HARDWARE)
    assert offer is not None
    assert str(offer.address) == "10.0.2.15/24"
    assert str(offer.gateway) == "10.0.2.2"
    request = dhcp.write_request(5, HARDWARE, "host", offer)
    assert bytes([50, 4, 10, 0, 2, 15]) in request
    assert bytes([54, 4, 10, 0, 2, 2]) in request


@pytest.mark.parametrize("answer", [reply(6), reply(2, transaction=6)])
def test_refusals_and_answers_for_others_are_passed_over(answer: bytes) -> None:
    assert dhcp.parse_reply(answer, 5, HARDWARE) is None


@given(st.binary(max_size=400) | st.binary(max_size=80).map(lambda b: reply(2)[:240] + b))
def test_any_packet_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        dhcp.parse_reply(data, 5, HARDWARE)
