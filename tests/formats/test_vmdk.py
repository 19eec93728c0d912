"""A disk descriptor never makes a privileged process open what is not beside it."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError, LimitError, NotSupportedError
from casemate.formats import vmdk
from casemate.formats.vmdk import CreateType, Vmdk

HEAD = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
SPLIT = HEAD + 'createType="twoGbMaxExtentSparse"\n'
VMFS = HEAD + 'createType="vmfs"\n'
DELTA = HEAD + 'createType="custom"\nparentFileNameHint="{parent}"\nRW 9 QCOW2 "a.qcow2"\n'
DISKS = st.builds(
    Vmdk,
    create_type=st.sampled_from([CreateType.MONOLITHIC_FLAT, CreateType.VMFS]),
    extent=st.from_regex(r"[a-zA-Z0-9 ._\-]{1,40}", fullmatch=True).filter(vmdk.is_plain_name),
    sectors=st.integers(1, vmdk.CAPACITY_LIMIT),
    offset=st.integers(0, 1 << 30),
    read_only=st.booleans(),
    cid=st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    adapter=st.sampled_from(["ide", "lsilogic", "pvscsi"]),
    ddb=st.just((("ddb.virtualHWVersion", "19"),)),
)


@given(DISKS)
def test_what_is_written_is_read_back(disk):
    assert vmdk.parse(vmdk.write(disk)) == disk


@given(st.binary(max_size=300).map(lambda tail: VMFS.encode() + tail))
def test_whatever_the_bytes_only_our_error(data):
    try:
        vmdk.parse(data)
    except (FormatError, NotSupportedError):
        return


def test_a_descriptor_of_esxi():
    disk = vmdk.parse(
        b'# Disk DescriptorFile\nversion=1\nencoding="UTF-8"\n'
        b"CID=4b5f6d21\nparentCID=ffffffff\n"
        b'isNativeSnapshot="no"\ncreateType="vmfs"\n\n# Extent description\n'
        b'RW 33554432 VMFS "win-flat.vmdk"\n\n# The Disk Data Base\n#DDB\n\n'
        b'ddb.adapterType = "lsilogic"\nddb.thinProvisioned = "1"\n'
    )
    assert (disk.extent, disk.capacity, disk.offset) == ("win-flat.vmdk", 16 << 30, 0)
    assert disk.ddb == (("ddb.thinProvisioned", "1"),)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/shadow",
        "../other/disk-flat.vmdk",
        "sub/disk-flat.vmdk",
        "..",
        ".",
        "",
        "\\\\server\\share",
        "/vmfs/devices/disks/naa.600",
        "x" * 256,
        "tab\there",
    ],
)
def test_a_path_is_refused(name):
    with pytest.raises(FormatError) as caught:
        vmdk.parse(f'{VMFS}RW 63 VMFS "{name}"\n'.encode())
    assert caught.value.code == "vmdk-path"


@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        (
            HEAD + 'createType="vmfsRawDeviceMap"\nRW 63 VMFSRDM "a-rdm.vmdk"',
            NotSupportedError,
            "vmdk-type",
        ),
        (HEAD + 'createType="vmfsPassthroughRawDeviceMap"\n', NotSupportedError, "vmdk-type"),
        (HEAD + 'createType="fullDevice"\nRW 63 FLAT "/dev/sda" 0', NotSupportedError, "vmdk-type"),
        (SPLIT, FormatError, "vmdk-malformed"),
        (SPLIT + 'RW 9 SPARSE "a"\nRW 9 SPARSE "a"', FormatError, "vmdk-malformed"),
        (SPLIT + 'RW 9 SPARSE "a"\nRW 9 SPARSE "../b"', FormatError, "vmdk-path"),
        (SPLIT + 'RW 9 SPARSE "a"\nRW 9 FLAT "b" 0', FormatError, "vmdk-malformed"),
        (SPLIT.replace("parentCID=ffffffff", "parentCID=1"), NotSupportedError, "vmdk-parent"),
        (HEAD + 'createType="streamOptimized"\nRW 9 SPARSE "a"', FormatError, "vmdk-malformed"),
        (HEAD + 'createType="custom"\nRW 9 QCOW2 "a"', FormatError, "vmdk-path"),
        (DELTA.format(parent="../up.vmdk"), FormatError, "vmdk-path"),
        (DELTA.format(parent="/etc/shadow"), FormatError, "vmdk-path"),
        (HEAD, NotSupportedError, "vmdk-type"),
        (VMFS + 'RW 63 VMFSRDM "a.vmdk"', FormatError, "vmdk-malformed"),
        (VMFS + 'RW 63 FLAT "a.vmdk" 0', FormatError, "vmdk-malformed"),
        (VMFS + 'NOACCESS 63 VMFS "a.vmdk"', FormatError, "vmdk-malformed"),
        (VMFS + "RW 63 VMFS", FormatError, "vmdk-path"),
        (VMFS, NotSupportedError, "vmdk-extents"),
        (VMFS + 'RW 63 VMFS "a"\nRW 63 VMFS "b"', NotSupportedError, "vmdk-extents"),
        (
            VMFS.replace("parentCID=ffffffff", "parentCID=12345678"),
            NotSupportedError,
            "vmdk-parent",
        ),
        (VMFS + 'parentFileNameHint="/vmfs/volumes/x/base.vmdk"', NotSupportedError, "vmdk-parent"),
        (VMFS + 'createType="monolithicFlat"', FormatError, "vmdk-malformed"),
        (VMFS.replace("version=1", "version=9"), FormatError, "vmdk-malformed"),
        (VMFS + 'RW 63 VMFS "a"\nddb.adapterType = "evil"', FormatError, "vmdk-malformed"),
        ("KDMV", FormatError, "vmdk-malformed"),
        ("", FormatError, "vmdk-malformed"),
    ],
)
def test_what_is_no_plain_disk_is_refused_by_name(text, error, code):
    with pytest.raises(error) as caught:
        vmdk.parse(text.encode())
    assert caught.value.code == code


@pytest.mark.parametrize("sectors", [0, vmdk.CAPACITY_LIMIT + 1, 999_999_999_999_999_999])
def test_an_impossible_size_is_refused(sectors):
    with pytest.raises(LimitError):
        vmdk.parse(f'{VMFS}RW {sectors} VMFS "a"\n'.encode())


@pytest.mark.parametrize(
    "data", [b"#" * (vmdk.SIZE_LIMIT + 1), (VMFS + "\n" * vmdk.LINE_LIMIT).encode()]
)
def test_a_flood_is_refused(data):
    with pytest.raises(LimitError):
        vmdk.parse(data)


def test_a_binary_sparse_disk_is_refused():
    with pytest.raises(FormatError):
        vmdk.parse(b"KDMV\x01\x00\x00\x00" + bytes(range(256)))


def test_a_delta_names_its_parent_and_is_written_as_it_was_read():
    delta = vmdk.parse(DELTA.format(parent="base.vmdk").encode())
    assert (delta.parent, delta.extent, delta.format) == ("base.vmdk", "a.qcow2", "qcow2")
    assert vmdk.parse(vmdk.write(delta)) == delta


def sparse(inside: str, *, sectors: int = 2048, offset: int = 1) -> bytes:
    header = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, sectors, 128, offset, 20)
    return header.ljust(512, b"\0") + inside.encode().ljust(20 * 512, b"\0")


@pytest.mark.parametrize("kind", ["monolithicSparse", "streamOptimized"])
def test_a_sparse_disk_has_its_descriptor_inside(kind):
    disk = vmdk.parse(sparse(HEAD + f'createType="{kind}"\nRW 2048 SPARSE "any.vmdk"\n'))
    assert (disk.create_type, disk.extent, disk.format) == (kind, "", "vmdk")
    assert disk.capacity == 1 << 20


@pytest.mark.parametrize(
    "data",
    [
        sparse(HEAD + 'createType="monolithicSparse"\nRW 9 SPARSE "any.vmdk"\n'),
        sparse(HEAD + 'createType="monolithicSparse"\nRW 2048 FLAT "/etc/shadow" 0\n'),
        sparse(HEAD + 'createType="monolithicFlat"\nRW 2048 FLAT "x" 0\n'),
        sparse(VMFS + 'RW 2048 VMFS "x"\n', offset=0),
        sparse(VMFS + 'RW 2048 VMFS "x"\n', offset=1 << 60),
        sparse(HEAD + 'createType="monolithicSparse"\nRW 2048 SPARSE "x"\n', sectors=0),
    ],
)
def test_a_sparse_disk_that_hides_another_inside_is_refused(data):
    with pytest.raises(FormatError):
        vmdk.parse(data)


@given(st.binary(max_size=2000))
def test_whatever_follows_the_mark_of_a_sparse_disk_only_our_error_escapes(data):
    with contextlib.suppress(FormatError, NotSupportedError):
        vmdk.parse(b"KDMV" + data)
