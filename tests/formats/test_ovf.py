"""OVF, OVA headers and compressed disks: read back as written, or refused by name."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError, LimitError, NotSupportedError
from casemate.formats import ova, ovf, streamvmdk, vmdk
from casemate.formats.ovf import OvfDisk, OvfMachine

TEXT = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=30)
MACHINES = st.builds(
    OvfMachine,
    name=TEXT,
    guest_id=st.just("debian12-64"),
    cpus=st.integers(1, 255),
    memory_mib=st.integers(4, 1 << 20),
    firmware=st.sampled_from(["bios", "efi"]),
    disks=st.lists(
        st.builds(
            OvfDisk,
            file_name=st.sampled_from(["a.vmdk", "b c.vmdk", "d&<.vmdk"]),
            file_size=st.integers(0, 1 << 40),
            capacity=st.integers(1, 1 << 40),
            bus=st.sampled_from(["ide", "scsi", "sata"]),
            bus_number=st.integers(0, 3),
            unit=st.integers(0, 14),
        ),
        unique_by=lambda disk: disk.file_name,
        max_size=3,
    ).map(tuple),
    nics=st.lists(st.tuples(TEXT, st.sampled_from(["e1000", "vmxnet3"])), max_size=3).map(tuple),
    annotation=TEXT | st.just(""),
)


@given(MACHINES)
def test_a_descriptor_is_read_back_as_written(machine):
    assert ovf.parse(ovf.write(machine)) == machine


@given(st.binary(max_size=300))
def test_whatever_the_bytes_only_our_error_escapes(data):
    for candidate in (data, b"<Envelope>" + data + b"</Envelope>"):
        with contextlib.suppress(FormatError, NotSupportedError):
            ovf.parse(candidate)
    with contextlib.suppress(FormatError):
        ova.member(data.ljust(512, b"\0")[:512], 0)
    with contextlib.suppress(FormatError):
        ova.parse_manifest(data)
    with contextlib.suppress(FormatError, NotSupportedError):
        list(streamvmdk.grains(lambda offset, size: data[offset : offset + size]))


@given(st.sampled_from(["a.ovf", "long name.vmdk"]), st.integers(0, 1 << 60))
def test_a_header_is_read_back_whatever_the_size(name, size):
    found = ova.member(ova.header(name, size), 1024)
    assert found == ova.Member(name, size, 1536)
    assert ova.following(found) % 512 == 0


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", "..", "x" * 101])
def test_a_name_that_is_a_path_is_neither_written_nor_read(name):
    with pytest.raises(FormatError):
        ova.header(name, 1)


@pytest.mark.parametrize(
    "text",
    ["SHA256(a)= 00", "MD5(a)= " + "0" * 40, "x" * 70_000, ("SHA1(a)= " + "0" * 40 + "\n") * 2],
)
def test_a_manifest_that_is_none_is_refused(text):
    with pytest.raises(FormatError):
        ova.parse_manifest(text.encode())


def packed(data: bytes) -> bytes:
    pieces = streamvmdk.write(len(data), lambda o, s: data[o : o + s], name="a.vmdk")
    return b"".join(pieces)


def unpacked(stream: bytes, size: int) -> bytes:
    out = bytearray(size)
    for offset, data in streamvmdk.grains(lambda o, s: stream[o : o + s]):
        out[offset : offset + len(data)] = data
    return bytes(out)


@given(
    st.integers(1, 700),
    st.lists(st.tuples(st.integers(0, 700), st.binary(min_size=1, max_size=900)), max_size=5),
)
def test_a_disk_is_unpacked_as_it_was_packed(sectors, pieces):
    data = bytearray(sectors * 512)
    for sector, piece in pieces:
        room = data[sector * 512 : sector * 512 + len(piece)]
        data[sector * 512 : sector * 512 + len(room)] = piece[: len(room)]
    stream = packed(bytes(data))
    assert unpacked(stream, len(data)) == data
    assert vmdk.parse(stream[:65536]).capacity == len(data)


def test_grains_beyond_the_end_doubled_or_bombs_are_refused():
    stream = bytearray(packed(b"x" * 65536 * 3))
    at = 128 * 512
    for lba in (1, 128 * 9, 1 << 60):
        changed = bytearray(stream)
        struct.pack_into("<Q", changed, at, lba)
        with pytest.raises(FormatError):
            unpacked(bytes(changed), 65536 * 3)
    second = bytearray(stream)
    struct.pack_into("<Q", second, at + 512, 0)
    with pytest.raises(FormatError, match="doubled"):
        unpacked(bytes(second), 65536 * 3)
    with pytest.raises(FormatError, match="cut off"):
        unpacked(bytes(stream[: at + 512]), 65536 * 3)


def test_what_is_not_imported_is_said():
    good = ovf.write(
        OvfMachine("n", "o", 1, 4, "bios", (OvfDisk("a", 1, 512, "ide", 0, 0),), (), "")
    )
    for old, new, error in (
        (b"VirtualSystem", b"VirtualSystemCollection", NotSupportedError),
        (b"ovf:fileRef", b'ovf:parentRef="x" ovf:fileRef', NotSupportedError),
        (b"ovf:href", b'ovf:chunkSize="7" ovf:href', NotSupportedError),
        (b"ovf:href", b'ovf:compression="gzip" ovf:href', NotSupportedError),
        (b'"a"', b'"../a"', FormatError),
        (b'"512"', b'"0"', LimitError),
        (b'"byte"', b'"furlongs"', FormatError),
    ):
        with pytest.raises(error):
            ovf.parse(good.replace(old, new))
