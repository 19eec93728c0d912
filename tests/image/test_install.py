"""The built disk on another disk: the same bytes, and nothing lost that nobody gave up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError, HostError, StateError
from casemate.formats.gpt import EFI_SYSTEM, HEAD, SECTOR, Entry, parse_gpt, write_gpt
from casemate.image.disk import ALIGNMENT, MEBIBYTE, Layout
from casemate.image.erofs import NAMESPACE
from casemate.image.install import choose, install, targets

NAMES = [part.name for part in Layout().partitions()]
SECTORS = (2 + len(NAMES)) * ALIGNMENT
NOISE = b"\xa5" * MEBIBYTE


def write_image(place: Path, names: list[str]) -> bytes:
    """Write a disk with partitions of 1 MiB, the last one empty, and return its bytes."""
    entries = [
        Entry(EFI_SYSTEM, NAMESPACE, (1 + number) * ALIGNMENT, ALIGNMENT, name)
        for number, name in enumerate(names)
    ]
    first, last = write_gpt(NAMESPACE, SECTORS, entries)
    inside = b"".join(bytes([65 + number]) * MEBIBYTE for number in range(len(names) - 1))
    data = first.ljust(MEBIBYTE, b"\0") + inside
    data = data.ljust(SECTORS * SECTOR - len(last), b"\0") + last
    place.write_bytes(data)
    return data


@pytest.fixture
def image(tmp_path: Path) -> Path:
    place = tmp_path / "disk.img"
    write_image(place, NAMES)
    return place


def test_a_disk_of_the_same_size_gets_the_same_bytes_whatever_was_there(image, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(NOISE * (SECTORS // ALIGNMENT))
    install(image, target, overwrite=True)
    assert target.read_bytes() == image.read_bytes()


@pytest.mark.parametrize("more", [MEBIBYTE, 5 * MEBIBYTE + SECTOR, 33 * SECTOR])
def test_a_larger_disk_gets_the_second_table_at_its_own_end(image, tmp_path, more):
    target = tmp_path / "target"
    size = SECTORS * SECTOR + more
    target.write_bytes((NOISE * (size // MEBIBYTE + 1))[:size])
    install(image, target, overwrite=True)
    written, wanted = target.read_bytes(), image.read_bytes()
    assert len(written) == size
    entries = parse_gpt(written[:HEAD])
    assert entries == parse_gpt(wanted[:HEAD])
    assert (written[:HEAD], written[-33 * SECTOR :]) == write_gpt(
        NAMESPACE, size // SECTOR, entries
    )
    inside = slice(HEAD, (1 + len(NAMES)) * MEBIBYTE)
    assert written[inside] == wanted[inside]


@pytest.mark.parametrize("place", [0, 510, 65_536 + 64, -1, -SECTOR, -600_000])
def test_a_disk_that_holds_something_stays_as_it_is(image, tmp_path, place):
    target = tmp_path / "target"
    data = bytearray(SECTORS * SECTOR)
    data[place] = 1
    target.write_bytes(data)
    with pytest.raises(StateError) as caught:
        install(image, target, overwrite=False)
    assert caught.value.code == "disk-not-empty"
    assert target.read_bytes() == data


def test_an_empty_disk_is_installed_without_being_told_so(image, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(bytes(SECTORS * SECTOR))
    install(image, target, overwrite=False)
    assert target.read_bytes() == image.read_bytes()


def test_a_disk_too_small_stays_as_it_is(image, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(bytes(SECTORS * SECTOR - 1))
    with pytest.raises(HostError) as caught:
        install(image, target, overwrite=True)
    assert caught.value.code == "disk-size"
    assert not any(target.read_bytes())


def test_an_installation_cut_off_leaves_a_disk_that_does_not_boot(image, tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.write_bytes(image.read_bytes())
    real, count = os.pwrite, iter(range(100))

    def failing(disk: int, data: bytes, place: int) -> int:
        if next(count) == 6:
            raise OSError(5, "Input/output error")
        return real(disk, data, place)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(HostError):
        install(image, target, overwrite=True)
    with pytest.raises(FormatError):
        parse_gpt(target.read_bytes()[:HEAD])


@pytest.mark.parametrize("names", [NAMES[:-1], [*NAMES[:-1], "data"]])
def test_another_disk_is_not_taken_for_the_image(tmp_path, names):
    other, target = tmp_path / "other", tmp_path / "target"
    write_image(other, names)
    target.write_bytes(bytes(SECTORS * SECTOR))
    with pytest.raises(FormatError):
        install(other, target, overwrite=True)
    assert not any(target.read_bytes())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(length=st.integers(0, SECTORS * SECTOR - 1))
def test_an_image_cut_short_is_not_installed(image, length):
    cut, target = image.with_name("cut"), image.with_name("target")
    cut.write_bytes(image.read_bytes()[:length])
    with target.open("wb") as stream:
        stream.truncate(SECTORS * SECTOR)
    with pytest.raises(CasemateError):
        install(cut, target, overwrite=True)
    assert not any(target.read_bytes())


def add(place: Path, name: str, **facts: str) -> None:
    facts = {"size": "4096", "ro": "0", "removable": "0", "queue/logical_block_size": "512"} | facts
    (place / name / "device").mkdir(parents=True)
    (place / name / "queue").mkdir()
    for file, text in facts.items():
        (place / name / file).write_text(f"{text}\n")


def test_only_whole_writable_disks_are_offered(tmp_path):
    add(tmp_path, "sdb", **{"device/model": "Fast"})
    add(tmp_path, "sda", removable="1")
    add(tmp_path, "sr0", ro="1")
    add(tmp_path, "sdc", size="0")
    add(tmp_path, "sdd", **{"queue/logical_block_size": "4096"})
    add(tmp_path, "sdb1", partition="1")
    (tmp_path / "loop0").mkdir()
    found = targets(tmp_path)
    assert [(one.name, one.model, one.size) for one in found] == [
        ("sda", "", 4096 * SECTOR),
        ("sdb", "Fast", 4096 * SECTOR),
    ]
    assert choose(found, "").name == "sdb"
    assert choose(found, "sda").path == Path("/dev/sda")
    with pytest.raises(HostError, match="no disk sdx"):
        choose(found, "sdx")
