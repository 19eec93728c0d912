"""Disks in many files, as VMware's desktop products make them: read as a whole, given to nobody."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from casemate.errors import CasemateError, FormatError, NotSupportedError
from casemate.kernel.cells import disks, layers
from casemate.kernel.cells.directory import VmDirectory
from casemate.machine.facts import DiskSpec
from casemate.machine.planstorage import block_node

MIB = 1 << 20
SPEC = DiskSpec("split.vmdk", "disk", "vmdk", 0, "scsi0", 0)
# qemu-img begins another extent at 2 GiB.
SIZE = (2 << 30) + 3 * MIB
MARKS = (0, 4096 + 17, MIB, (2 << 30) - 7000, (2 << 30) - 100, (2 << 30) + 65536, SIZE - 5000)
FORMS = ("twoGbMaxExtentSparse", "twoGbMaxExtentFlat")


def convert(place: Path, form: str) -> None:
    words = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={form}"]
    subprocess.run(
        [*words, "plain", "split.vmdk"], cwd=place, check=True, capture_output=True, timeout=120
    )


@pytest.fixture(scope="module", params=FORMS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a disk with a few marks in holes."""
    if shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img")
    place = tmp_path_factory.mktemp("split")
    numbers = random.Random(3)
    with (place / "plain").open("wb") as stream:
        for mark in MARKS:
            stream.seek(mark)
            stream.write(numbers.randbytes(5000))
        stream.truncate(SIZE)
    convert(place, request.param)
    return place


def test_a_disk_in_many_files_reads_as_what_it_was_made_of(made: Path) -> None:
    with VmDirectory(made) as directory, (made / "plain").open("rb") as plain:
        assert len(directory.files_of("split.vmdk")) == 3
        (source,) = disks.resolve(directory, (SPEC,))
        assert source.disk.capacity == SIZE
        with layers.opened(directory, source) as read:
            numbers = random.Random(4)
            wanted = [(max(0, mark - 3000), 20_000) for mark in MARKS]
            wanted += [(numbers.randrange(SIZE), 100_000) for _ in range(20)]
            for offset, size in wanted:
                plain.seek(offset)
                assert read(offset, size) == plain.read(size)


def test_no_guest_is_given_one_and_nothing_is_put_above_it(made: Path) -> None:
    with VmDirectory(made) as directory:
        (source,) = disks.resolve(directory, (SPEC,))
        for use in (
            lambda: block_node(source, {"split.vmdk": 10}),
            lambda: directory.make_delta(SPEC),
        ):
            with pytest.raises(NotSupportedError) as refused:
                use()
            assert refused.value.code == "disk-split"
            assert "CopyVirtualDisk_Task" in refused.value.remedy


def test_an_extent_that_is_none_or_leads_out_is_refused(tmp_path: Path) -> None:
    head = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
    head += 'createType="twoGbMaxExtentSparse"\n'
    (tmp_path / "a.vmdk").write_bytes(b"KDMV".ljust(4096, b"\1"))
    (tmp_path / "linked.vmdk").symlink_to("/etc/passwd")
    for extent in ('"a.vmdk"', '"gone.vmdk"', '"linked.vmdk"', '"one.vmx"'):
        (tmp_path / "split.vmdk").write_text(f"{head}RW 64 SPARSE {extent}\n")
        with pytest.raises(CasemateError):
            begin(tmp_path)


def begin(place: Path) -> bytes:
    with VmDirectory(place) as directory:
        (source,) = disks.resolve(directory, (SPEC,))
        with layers.opened(directory, source) as read:
            return read(0, 512)


def test_an_extent_of_another_size_is_refused(tmp_path: Path) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img")
    (tmp_path / "plain").write_bytes(b"x" * MIB)
    convert(tmp_path, "twoGbMaxExtentSparse")
    assert begin(tmp_path) == b"x" * 512
    text = (tmp_path / "split.vmdk").read_text()
    (tmp_path / "split.vmdk").write_text(text.replace("RW 2048 ", "RW 2040 "))
    with pytest.raises(FormatError, match="sectors"):
        begin(tmp_path)
